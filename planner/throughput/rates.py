"""How fast a card and a stack do their work: constants with what they rest on."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.spec import Gpu, Scenario

FMS, TUNE, FOUNDRY, FSDP_QLORA, PEFT = "fms-acceleration", "torchtune", "llm-foundry", "fsdp_qlora", "PEFT benchmark"


class Chip(NamedTuple):
    """Share of the dense 16-bit peak that products reach, with the number of runs it rests on; 0: a prior."""

    share: float
    n: int = 0
    sources: tuple[str, ...] = ()


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "Ampere GA100": Chip(0.655, 250, (FMS, TUNE, FOUNDRY)),
        "Hopper": Chip(0.39, 170, (FOUNDRY, TUNE)),
        "Ada AD102": Chip(0.95, 6, (FSDP_QLORA,)),
        "Ada AD104": Chip(0.4),
        "Ada": Chip(0.45),
        "Ampere GA102": Chip(0.72, 8, (FSDP_QLORA,)),
        "Blackwell GB202": Chip(0.85),
        "Blackwell": Chip(0.38),
        "Volta": Chip(0.6),
        "Turing": Chip(0.5),
    }
)
ELSEWHERE = Chip(0.45)


class Rates(NamedTuple):
    """What seconds follow from, for one card and stack; ``update_bytes`` are those of one trained parameter."""

    flops_per_s: float
    adapted: float
    """More time for each unfused adapted matrix of a layer."""
    dequant_bytes_per_s: float
    link_bytes_per_s: float
    host_bytes_per_s: float
    update_bytes: float
    memory_bytes_per_s: float
    launch_s: float
    chip: Chip


UNFUSED = 0.81
KBIT = 0.80
ADAPTED = 0.034
DEQUANT = 0.20
UPDATE_BYTES: Mapping[str, float] = MappingProxyType({"adamw_fused": 30.0})
UPDATE_BYTES_ELSEWHERE = 60.0
LAUNCH_S = (2.8e-3, 5.2e-3)
LAUNCH_ZERO3 = 2.2
LINK = 0.35
HALF_HIDDEN = 1000
HIDDEN = 4096


def peak_of(gpu: Gpu) -> float | None:
    """Dense 16-bit peak: bf16, or fp16 where the card has no bf16."""
    return gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s.get("fp16")


def chip_of(gpu: Gpu) -> Chip:
    """The constants of the card's chip, of its family, or of any."""
    return next((chip for name, chip in CHIPS.items() if gpu.architecture.startswith(name)), ELSEWHERE)


def link_of(scenario: Scenario) -> float | None:
    """Bytes per second, one way, of the link between the ranks; ``None`` where the profile names none."""
    cluster, gpu = scenario.cluster, scenario.cluster.gpu
    if cluster.nodes > 1:
        return gpu.pcie_bytes_per_s  # a network card beside each GPU, on the like link
    bridge = gpu.bridge_bytes_per_s if cluster.gpus == 2 else None
    return gpu.nvlink_bytes_per_s or bridge or gpu.pcie_bytes_per_s


def rates_of(scenario: Scenario) -> Rates | None:
    """Rates of a scenario's card and stack; ``None`` where the card's 16-bit peak, or a link it needs, is unknown."""
    gpu, train = scenario.cluster.gpu, scenario.train
    peak, link = peak_of(gpu), link_of(scenario)
    if peak is None or (link is None and scenario.cluster.world_size > 1):
        return None
    chip = chip_of(gpu)
    share = chip.share * (1.0 if train.kernels == "fused" else UNFUSED)
    if train.quantized and scenario.stack.kbit_upcast == "all":
        share *= KBIT
    hidden = scenario.model.hidden_size
    share *= (hidden / (hidden + HALF_HIDDEN)) / (HIDDEN / (HIDDEN + HALF_HIDDEN))
    return Rates(
        flops_per_s=peak * share,
        adapted=ADAPTED,
        dequant_bytes_per_s=gpu.bandwidth_bytes_per_s * DEQUANT,
        link_bytes_per_s=(link or 1.0) * LINK,
        host_bytes_per_s=gpu.pcie_bytes_per_s or gpu.bandwidth_bytes_per_s,
        update_bytes=UPDATE_BYTES.get(train.optimizer, UPDATE_BYTES_ELSEWHERE),
        memory_bytes_per_s=gpu.bandwidth_bytes_per_s,
        launch_s=LAUNCH_S[int(train.gradient_checkpointing)] * (LAUNCH_ZERO3 if train.sharding == "zero3" else 1.0),
        chip=chip,
    )
