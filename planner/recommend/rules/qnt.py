"""QNT: what quantisation reaches, and what it does not."""

from dataclasses import replace
from typing import ClassVar

from planner.formulas.host import checkpoint_bytes
from planner.formulas.params import model_params
from planner.recommend.rules.base import Case, Scope, percent
from planner.result import Reason
from planner.units import format_bytes, format_count

MOSTLY = 0.5
"""Below this quantised share of all parameters, quantisation misses its purpose (ours)."""

LOW_BITS = ("mxfp4", "float8", "int4")
"""Starts of the dtypes of checkpoints that are unpacked before they are trained."""

TOUCHY_FAMILIES = ("qwen3_5",)
"""Starts of ``model_type`` whose makers or trainers advise against 4-bit training."""


class FusedExperts:
    """QNT001: bitsandbytes leaves fused experts in 16 bits.

    Why it matters: transformers 5 stores a layer's experts as 3-D parameters, and bitsandbytes swaps only nn.Linear.
                    Most of a mixture-of-experts model then stays 16-bit: QLoRA saves little, and where PEFT prepares
                    the model for k-bit training these experts even become fp32.
    What helps:     LoRA on 16-bit weights; a trainer with its own expert quantiser; transformers 4, where experts are
                    separate nn.Linear modules.
    Source:         transformers 5.23 quantizers/base.py; bitsandbytes issue 1849; Unsloth's Qwen3.5 page (MoE QLoRA not
                    recommended). Probe: a default Qwen3-MoE has 0.23 B of 15.4 B parameters quantised.
    """

    code: ClassVar[str] = "QNT001"
    slug: ClassVar[str] = "fused-experts"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        if not poorly_quantized(case):
            return None
        counts = case.subject.estimate.parameters
        kept = counts.total - counts.quantized
        dtype = "fp32" if case.scenario.stack.kbit_upcast in ("experts", "all") else case.train.weights_dtype
        text = (
            f"qlora on this mixture of experts is not 4-bit: {format_count(kept)} of {format_count(counts.total)} "
            f"parameters ({percent(kept / counts.total)}) stay {dtype}, as bitsandbytes skips fused experts"
        )
        return Reason(code=self.code, text=text, number=kept, unit="parameters", severity="warning")


class SingleQuant:
    """QNT002: the constants of the 4-bit blocks are not quantised themselves.

    Why it matters: 4.5 bits per parameter instead of 4.127.
    What helps:     --double-quant; transformers leaves it off unless asked.
    Source:         Dettmers et al. 2023, arXiv:2305.14314, section 3, "Double Quantization".
    """

    code: ClassVar[str] = "QNT002"
    slug: ClassVar[str] = "single-quant"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not case.train.quantized or case.train.double_quant or case.train.quant == "int8":
            return None
        saved = case.saved_by(double_quant=True)
        if saved <= 0:
            return None
        text = f"--double-quant lowers the requirement by {format_bytes(saved)}"
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


class KbitUpcasts:
    """QNT003: PEFT's k-bit preparation turns the parameters that are not quantised into fp32.

    Why it matters: embeddings, head and norms take twice their bytes, and the residual stream becomes fp32, so that
                    each saved layer input doubles.
    What helps:     a trainer that does not prepare (TRL 0.26 and newer), or casting them back after loading.
    Source:         peft 0.21 utils/other.py::prepare_model_for_kbit_training.
    """

    code: ClassVar[str] = "QNT003"
    slug: ClassVar[str] = "kbit-upcasts"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not (case.train.quantized and case.scenario.stack.kbit_upcast != "none"):
            return None
        plain = replace(case.scenario, stack=replace(case.scenario.stack, kbit_upcast="none"))
        cost = case.required - case.estimate(plain).peak.required_bytes
        if not case.noteworthy(cost):
            return None
        text = (
            f"k-bit preparation by the {case.scenario.stack.name} stack upcasts what is not quantised to fp32: "
            f"{format_bytes(cost)} at the peak"
        )
        return Reason(code=self.code, text=text, number=cost, unit="bytes")


class TouchyFamily:
    """QNT004: this model family loses more than others to 4-bit weights.

    Why it matters: training starts from a visibly worse model.
    What helps:     LoRA on 16-bit weights; a comparison of losses over the first hundred steps. One public comparison
                    (Qwen3.5-27B, 100 steps) saw loss curves correlate at 0.995, so this is a warning, not a refusal.
    Source:         Unsloth's Qwen3.5 fine-tuning page: "not recommended to do QLoRA (4-bit)"; NVIDIA NeMo Automodel
                    pull request 2358.
    """

    code: ClassVar[str] = "QNT004"
    slug: ClassVar[str] = "touchy-family"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        model = case.scenario.model
        if not case.train.quantized or not model.model_type.startswith(TOUCHY_FAMILIES):
            return None
        quantized = case.subject.estimate.parameters.quantized
        text = (
            f"{model.name}: its family is known for larger quantisation errors, and qlora would round "
            f"{format_count(quantized)} parameters"
        )
        return Reason(code=self.code, text=text, number=quantized, unit="parameters", severity="warning")


class NativeLowBits:
    """QNT005: the checkpoint is stored in fewer than 16 bits, and training unpacks it.

    Why it matters: what loads for inference in 4 or 8 bits needs two bytes a parameter as soon as it is trained, and
                    the rounding of the published weights stays in them.
    What helps:     counting on 16-bit weights, as this plan does; a trainer that keeps the packed experts frozen.
    Source:         transformers 5.23 quantizers/quantizer_mxfp4.py (is_trainable: false, "MXFP4 quantization don't
                    support training") and quantizer_finegrained_fp8.py; OpenAI cookbook, fine-tuning gpt-oss
                    (Mxfp4Config(dequantize=True)).
    """

    code: ClassVar[str] = "QNT005"
    slug: ClassVar[str] = "native-low-bits"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        model = case.scenario.model
        native = (model.native_dtype or "").split()
        if not native or not native[0].startswith(LOW_BITS) or not model.blocks:
            return None
        stored, trained = checkpoint_bytes(model), 2 * model_params(model)
        text = (
            f"{model.name} is published in {native[0]}, {format_bytes(stored)}, which is not trained as it is: "
            f"16-bit weights take {format_bytes(trained)}"
        )
        return Reason(code=self.code, text=text, number=trained - stored, unit="bytes", severity="warning")


def poorly_quantized(case: Case) -> bool:
    """Whether the subject is QLoRA of a mixture of experts whose experts stay as they are."""
    counts = case.subject.estimate.parameters
    experts = case.scenario.model.is_moe and case.scenario.stack.fused_experts
    return case.train.quantized and experts and counts.quantized < MOSTLY * counts.total
