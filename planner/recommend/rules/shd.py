"""SHD: what sharding divides, what it leaves whole, and what it moves."""

from typing import ClassVar

from planner.formulas.collectives import ring_share
from planner.recommend.rules.base import WORTH_A_LINE, Case, Scope, seconds
from planner.result import Reason
from planner.spec import SHARDS_WEIGHTS
from planner.throughput.exchanges import passes_of, stored_bytes
from planner.units import GB, format_bytes


class QuantStorage:
    """SHD001: the plan stores 4-bit weights as bf16 words, since uint8 ones would not be sharded.

    Why it matters: FSDP skips uint8 parameters: every card would hold the whole quantised model.
    What helps:     bnb_4bit_quant_storage=torch.bfloat16 when loading; the bits are the same.
    Source:         accelerate 1.15 utils/fsdp_utils.py (Params4bit excluded unless its storage is floating);
                    fsdp_qlora.
    """

    code: ClassVar[str] = "SHD001"
    slug: ClassVar[str] = "quant-storage"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        train, chosen_by_user = case.train, case.scenario.origins.get("quant_storage") == "user"
        if (
            not (train.quantized and train.sharding in SHARDS_WEIGHTS)
            or chosen_by_user
            or train.quant_storage == "uint8"
        ):
            return None
        saved = -case.saved_by(quant_storage="uint8")
        if saved <= 0:
            return None
        text = (
            f"quant storage is set to {train.quant_storage}: as uint8 the quantised weights would not be sharded, "
            f"which costs {format_bytes(saved)} per card"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


class WholeAtLoad:
    """SHD013: a card does not hold the 4-bit model that transformers puts on it before the engine divides it.

    Why it matters: without a device_map, transformers 5 quantises onto the rank's own card. The run stops while it
                    loads, though its steps would fit.
    What helps:     device_map={"": "cpu"} in from_pretrained: bitsandbytes quantises there, and the engine moves each
                    rank's shard; the RAM of the machine then holds one such model per rank.
    Source:         transformers 5.23 quantizers/quantizer_bnb_4bit.py, update_device_map, and modeling_utils.py,
                    which leaves quantised weights out of what only the first rank loads.
    """

    code: ClassVar[str] = "SHD013"
    slug: ClassVar[str] = "whole-at-load"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        host, cluster = case.subject.estimate.host, case.scenario.cluster
        if not case.is_choice or host.loading_on(cluster) <= host.load:
            return None
        whole = host.whole
        text = (
            f"transformers puts all {format_bytes(whole)} of quantised weights on each card before "
            f"{case.train.sharding} divides them, and {format_bytes(case.usable)} are usable: load them with "
            f"device_map={{'': 'cpu'}}, which takes {format_bytes(host.loading_on(cluster))} of RAM in each machine"
        )
        return Reason(code=self.code, text=text, number=whole, unit="bytes", severity="warning")


class ReplicatedQuant:
    """SHD002: 4-bit weights are stored as uint8 and therefore whole on every card.

    Why it matters: sharding then divides nothing but adapters.
    What helps:     --quant-storage bf16, or leaving it to the plan.
    Source:         as SHD001.
    """

    code: ClassVar[str] = "SHD002"
    slug: ClassVar[str] = "replicated-quant"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        train = case.train
        if not (train.quantized and train.sharding in SHARDS_WEIGHTS and train.quant_storage == "uint8"):
            return None
        better = "bf16" if case.scenario.cluster.gpu.supports_bf16 else "fp16"
        saved = case.saved_by(quant_storage=better)
        if saved <= 0:
            return None
        text = (
            f"uint8 quant storage is replicated under {train.sharding}: "
            f"--quant-storage {better} lowers the requirement by {format_bytes(saved)} per card"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes", severity="warning")


class PcieGathers:
    """SHD003: weights are gathered over PCIe in every micro-step.

    Why it matters: forward and backward each gather all weights, once per micro-batch, so gradient accumulation
                    multiplies the traffic; 24 GB cards reach some 2 to 5 GB/s effective where NVLink reaches 95 and
                    more.
                    Beside long computing they pass unnoticed: two 4090s with QLoRA took 466 s sharded and 450 s whole.
    What helps:     larger micro-batches; QLoRA, which gathers a quarter of the bytes (two 3090s: 1082 s against 2597
                    s); cards with NVLink; plain data parallelism where the model fits on each card.
    Source:         Rajbhandari et al. 2020, arXiv:1910.02054, section 7; fsdp_qlora benchmarks (Answer.AI, 2024).
    """

    code: ClassVar[str] = "SHD003"
    slug: ClassVar[str] = "pcie-gathers"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        rate = case.scenario.cluster.gpu.pcie_bytes_per_s
        if not gathers_over_pcie(case) or not rate:
            return None
        moved, step = gathered_bytes(case), case.subject.step
        if step is not None and case.share("communicate") < WORTH_A_LINE:
            return None
        what = f"{case.train.sharding} over PCIe: a card receives about {format_bytes(moved)} of weights per micro-step"
        if step is None:
            text = f"{what}: {moved / rate:.1f} s at the link's nominal {rate / GB:.0f} GB/s"
        else:
            taken, step_s = seconds(step.parts["communicate"]), seconds(step.seconds)
            text = f"{what}: exchanges of a whole step take {taken} by themselves, and the step {step_s}"
        return Reason(code=self.code, text=text, number=moved, unit="bytes", severity="warning")


class ReplicatedWeights:
    """SHD004: this kind of data parallelism keeps all weights on every card.

    Why it matters: more cards then make the job faster, not smaller.
    What helps:     --sharding fsdp or zero3, which divide the weights as well.
    Source:         Rajbhandari et al. 2020, arXiv:1910.02054, figure 1.
    """

    code: ClassVar[str] = "SHD004"
    slug: ClassVar[str] = "replicated-weights"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        replicating = case.scenario.cluster.world_size > 1 and case.train.sharding not in SHARDS_WEIGHTS
        if not replicating or case.subject.verdict == "fits":
            return None
        better = {"quant_storage": "bf16"} if case.train.quantized else {}
        saved = case.saved_by(sharding="fsdp", **better)
        if saved <= 0:
            return None
        text = (
            f"{case.train.sharding} keeps all weights on each of {case.scenario.cluster.world_size} cards: "
            f"--sharding fsdp lowers the requirement of {case.named} by {format_bytes(saved)}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes", severity="warning")


class WideShards:
    """SHD005: FSDP under mixed precision keeps its shards of what is trained in fp32.

    Why it matters: weights, gradients and states then take 16 bytes a parameter before they are divided, twice what
                    16-bit weights take on one card: two cards may hold no more than one.
    What helps:     --autocast none, which trains 16-bit shards as they are; more cards; LoRA.
    Source:         accelerate 1.15 utils/fsdp_utils.py, fsdp2_prepare_model: upcast where mixed_precision is on.
    """

    code: ClassVar[str] = "SHD005"
    slug: ClassVar[str] = "wide-shards"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        train = case.train
        widened = train.shards_by_fsdp and train.method == "full" and train.autocast != "none"
        if not widened or train.weights_dtype == "fp32":
            return None
        if case.subject.verdict == "fits" and not case.is_choice:
            return None
        saved = case.saved_by(autocast="none")
        if not case.noteworthy(saved):
            return None
        text = (
            f"{train.sharding} under {train.autocast} autocast trains fp32 shards of {train.weights_dtype} weights: "
            f"--autocast none lowers the requirement of {case.named} by {format_bytes(saved)} per card"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


def gathers_over_pcie(case: Case) -> bool:
    """Whether weights are gathered in every micro-step between cards without NVLink."""
    cluster = case.scenario.cluster
    shards = case.train.sharding in SHARDS_WEIGHTS and cluster.world_size > 1
    return shards and not cluster.gpu.nvlink_bytes_per_s


def gathered_bytes(case: Case) -> int:
    """Weights that one card receives in one micro-step: what the other ranks hold, for every gather."""
    train, layout = case.train, case.scenario.layout
    gathers = passes_of(train) // train.grad_accumulation
    return int(gathers * stored_bytes(train, case.subject.estimate.parameters) * ring_share(layout.shard))
