"""GPU: what the card and its drivers allow."""

from typing import ClassVar

from planner.recommend.rules.base import Case, Scope
from planner.result import Reason
from planner.units import format_bytes

CUDA_WHEELS_FROM = (7, 5)
"""Lowest compute capability that the current CUDA 13 wheels of torch serve: CUDA 13.0 dropped Maxwell, Pascal and Volta
(CUDA 13.0 release notes, "Deprecated architectures")."""

OVERFLOWING = ("gemma3",)
"""Starts of ``model_type`` whose activations exceed fp16."""

MEMORY_FIELDS = {"memory_bytes": "memory", "system_bytes": "what the operating system holds"}
"""Profile fields on which usable bytes rest, in words."""


class NoCurrentWheels:
    """GPU001: current CUDA wheels of torch no longer serve this card.

    Why it matters: pip installs a torch that refuses the card, so none of its memory is usable with the assumed stack.
    What helps:     a torch build for CUDA 12.6 or older, with library versions to match; a newer card.
    Source:         CUDA 13.0 release notes: offline compilation for compute capability below 7.5 was removed.
    """

    code: ClassVar[str] = "GPU001"
    slug: ClassVar[str] = "no-current-wheels"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu = case.scenario.cluster.gpu
        if gpu.compute_capability is None or gpu.compute_capability >= CUDA_WHEELS_FROM:
            return None
        major, minor = gpu.compute_capability
        text = (
            f"{gpu.name} has compute capability {major}.{minor}, which torch wheels for CUDA 13 do not serve: "
            f"its {format_bytes(case.usable)} count only with a build for CUDA 12.6 or older"
        )
        return Reason(code=self.code, text=text, number=case.usable, unit="bytes", severity="warning")


class NoBf16:
    """GPU002: the card has no bf16, so the plan takes fp16 with a gradient scaler.

    Why it matters: fp16 overflows at 65504; the scaler skips steps, and trained weights must be kept in fp32.
    What helps:     an Ampere or newer card.
    Source:         Micikevicius et al. 2018, arXiv:1710.03740, section 3; torch.amp.GradScaler refuses to unscale fp16
                    gradients.
    """

    code: ClassVar[str] = "GPU002"
    slug: ClassVar[str] = "no-bf16"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu, train = case.scenario.cluster.gpu, case.train
        if gpu.supports_bf16:
            return None
        held = case.subject.estimate.peak_memory.weights
        text = (
            f"{gpu.name} has no bf16: {format_bytes(held)} of {train.weights_dtype} weights, "
            f"autocast {train.autocast}" + (" with a gradient scaler" if train.autocast == "fp16" else "")
        )
        return Reason(code=self.code, text=text, number=held, unit="bytes", severity="warning")


class EstimatedFigures:
    """GPU003: nobody has measured how much memory this card offers.

    Why it matters: the verdict compares a requirement with a figure that is derived or second-hand.
    What helps:     reading torch.cuda.get_device_properties(0).total_memory on the device.
    Source:         the profile marks such figures with estimated = true.
    """

    code: ClassVar[str] = "GPU003"
    slug: ClassVar[str] = "estimated-figures"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu = case.scenario.cluster.gpu
        guessed = [words for name, words in MEMORY_FIELDS.items() if name in gpu.estimated]
        if not guessed:
            return None
        margin = case.usable - case.required
        text = (
            f"{gpu.name}: {' and '.join(guessed)} is estimated, not measured; "
            f"an error of {format_bytes(abs(margin))} would turn the verdict"
        )
        return Reason(code=self.code, text=text, number=abs(margin), unit="bytes", severity="warning")


class UnifiedMemory:
    """GPU004: CPU and GPU share one memory.

    Why it matters: loading the weights, the data loader and every other program take from the same bytes, and
                    paged or offloaded states save nothing.
    What helps:     --headroom for whatever else runs; loading shard by shard; adapters instead of paged optimizers.
    Source:         NVIDIA's CUDA programming guide, "integrated" devices; facts in hardware_profiles of the device.
    """

    code: ClassVar[str] = "GPU004"
    slug: ClassVar[str] = "unified-memory"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu, peak = case.scenario.cluster.gpu, case.subject.estimate.peak
        if not gpu.unified_memory or case.subject.verdict == "does_not_fit":
            return None
        left = max(case.usable - peak.required_bytes, 0)
        text = (
            f"{gpu.name} shares its memory with the CPU: {format_bytes(left)} are left "
            "for loading, data and whatever else runs"
        )
        return Reason(code=self.code, text=text, number=left, unit="bytes", severity="warning")


class HalfOverflows:
    """GPU005: this family's activations do not fit into fp16.

    Why it matters: fp16 ends at 65504. Gemma 3's residual stream goes beyond, so that activations and gradients become
                    infinite, and a loss scaler skips every step.
    What helps:     a card with bf16 (Ampere and newer); fp32, at the bytes that the number names; a trainer that keeps
                    these layers in fp32.
    Source:         Unsloth's Gemma 3 page (infinite activations in float16 on T4 and V100); Gemma 3 is published in
                    bf16 (config.json, torch_dtype).
    """

    code: ClassVar[str] = "GPU005"
    slug: ClassVar[str] = "half-overflows"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        train, model = case.train, case.scenario.model
        if not model.model_type.startswith(OVERFLOWING) or "fp16" not in (train.weights_dtype, train.autocast):
            return None
        extra = -case.saved_by(weights_dtype="fp32", autocast="none")
        card = case.scenario.cluster.gpu.name
        text = (
            f"activations of {model.name} exceed fp16, and {card} has no bf16: fp32 throughout would take "
            f"{format_bytes(extra)} more"
        )
        return Reason(code=self.code, text=text, number=extra, unit="bytes", severity="warning")
