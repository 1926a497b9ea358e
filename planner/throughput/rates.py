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
        "Ampere GA100": Chip(0.75, 250, (FMS, TUNE, FOUNDRY)),
        "Hopper": Chip(0.55, 170, (FOUNDRY, TUNE)),
        "Ada AD102": Chip(0.8, 6, (FSDP_QLORA,)),
        "Ampere GA102": Chip(0.8, 8, (FSDP_QLORA,)),
    }
)
ELSEWHERE = Chip(0.6)


class Rates(NamedTuple):
    """What seconds follow from, for one card and stack."""

    flops_per_s: float
    wide_flops_per_s: float
    attention_flops_per_s: float
    bytes_per_s: float
    dequant_bytes_per_s: float
    link_bytes_per_s: float
    host_bytes_per_s: float
    kernel_s: float
    gather_s: float
    retried: float
    chip: Chip


ATTENTION = 0.7
MEMORY = 0.8
DEQUANT = 0.20
LINK = 0.35
KERNEL_S = 20e-6
GATHER_S = 0.0
RETRIED = 1.0


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
    gpu = scenario.cluster.gpu
    peak, link = peak_of(gpu), link_of(scenario)
    if peak is None or (link is None and scenario.cluster.world_size > 1):
        return None
    chip = chip_of(gpu)
    return Rates(
        flops_per_s=peak * chip.share,
        wide_flops_per_s=gpu.peak_flops_per_s.get("fp32", peak / 16) * chip.share,
        attention_flops_per_s=peak * chip.share * ATTENTION,
        bytes_per_s=gpu.bandwidth_bytes_per_s * MEMORY,
        dequant_bytes_per_s=gpu.bandwidth_bytes_per_s * DEQUANT,
        link_bytes_per_s=(link or 1.0) * LINK,
        host_bytes_per_s=gpu.pcie_bytes_per_s or gpu.bandwidth_bytes_per_s,
        kernel_s=KERNEL_S,
        gather_s=GATHER_S,
        retried=RETRIED,
        chip=chip,
    )
