"""ACT: saved activations, logits and attention scores."""

from typing import ClassVar

from planner.recommend.rules.base import Case, Scope, seconds
from planner.result import Reason
from planner.units import format_bytes, format_count


class FullLogits:
    """ACT001: the loss materialises the logits of every token.

    Why it matters: each token costs 10 to 14 bytes per vocabulary entry; at 8192 tokens and a vocabulary of 152k to
                    262k that is 12 to 30 GB, often more than the model.
    What helps:     --loss chunked or fused: the head is applied to a few tokens at a time. Pairs have their trainer's
                    own way: TRL 1.15 and newer makes no logits of them, others fewer with a shorter --seq-len.
    Source:         transformers 5.23 loss/loss_utils.py::ForCausalLMLoss; Liger fused linear cross-entropy; TRL 1.16
                    trl/kernels/chunked_logprob.py.
    """

    code: ClassVar[str] = "ACT001"
    slug: ClassVar[str] = "full-logits"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.train.loss != "full":
            return None
        logits = max(memory.logits for memory in case.subject.estimate.phases.values())
        pairs = case.train.objective == "dpo"
        saved = logits if pairs else case.saved_by(loss="chunked")
        if not case.noteworthy(saved):
            return None
        helps = f"--loss chunked lowers the requirement by {format_bytes(saved)}"
        if pairs:  # another trainer is no help to who exports or checks the files of this one
            newer = case.scenario.stack.name == "trl"
            helps = "TRL 1.15 and newer makes none of them: --stack trl" if newer else "a shorter --seq-len makes fewer"
        text = (
            f"logits of all {case.train.tokens} tokens over {format_count(case.scenario.model.vocab_size)} vocabulary "
            f"entries take {format_bytes(logits)}: {helps}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes", severity="warning")


class EagerScores:
    """ACT002: eager attention keeps the scores of every pair of tokens.

    Why it matters: scores grow with the square of the length; a fused kernel never writes them.
    What helps:     --attention flash, or sdpa where the card cannot.
    Source:         Dao et al. 2022, arXiv:2205.14135, section 3.1; transformers integrations: eager_attention_forward.
    """

    code: ClassVar[str] = "ACT002"
    slug: ClassVar[str] = "eager-scores"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.train.attention != "eager":
            return None
        offered = case.scenario.model.attends
        better = "flash" if case.scenario.cluster.gpu.supports_flash and "flash" in offered else "sdpa"
        saved = case.saved_by(attention=better) if better in offered else 0
        if not case.noteworthy(saved):
            return None
        text = (
            f"eager attention writes {case.train.seq_len} x {case.train.seq_len} scores per head: "
            f"--attention {better} lowers the requirement by {format_bytes(saved)}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes", severity="warning")


class CheckpointingOff:
    """ACT003: activations of every layer are kept, because gradient checkpointing is off.

    Why it matters: without it every layer's saved tensors live until the backward; with it, one input per layer and one
                    layer's tensors.
    What helps:     --gradient-checkpointing: a recomputed forward, 20 to 27 % of step time as measured.
    Source:         Chen et al. 2016, arXiv:1604.06174. Time: recomputed for this case; torchtune Llama-3.2-3B table,
                    -21.4 % tokens per second.
    """

    code: ClassVar[str] = "ACT003"
    slug: ClassVar[str] = "checkpointing-off"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.train.gradient_checkpointing:
            return None
        saved = case.saved_by(gradient_checkpointing=True)
        if not case.noteworthy(saved):
            return None
        text = f"gradient checkpointing is off, which costs {format_bytes(saved)} at the peak{_spared_time(case)}"
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


class CheckpointingSpare:
    """ACT004: the step fits even without gradient checkpointing.

    Why it matters: checkpointing recomputes the forward; where memory is to spare that is time for nothing.
    What helps:     --no-gradient-checkpointing: one forward less per step, 20 to 27 % of step time as measured.
    Source:         as ACT003. Said only when the upper bound without checkpointing still fits.
    """

    code: ClassVar[str] = "ACT004"
    slug: ClassVar[str] = "checkpointing-spare"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not (case.is_choice and case.train.gradient_checkpointing):
            return None
        if "activations" in case.train.offload and case.scenario.stack.offloads_activations == "checkpoints":
            return None  # what is moved to the host are the checkpoints
        without = case.what_if(gradient_checkpointing=False).peak
        if without.high_bytes > case.usable:
            return None
        extra = max(without.required_bytes - case.required, 0)
        text = (
            f"without gradient checkpointing {case.subject.method} still fits, at {format_bytes(extra)} more: "
            f"--no-gradient-checkpointing saves {_saved_time(case)}"
        )
        return Reason(code=self.code, text=text, number=extra, unit="bytes")


class MathAttention:
    """ACT005: sdpa has no fused kernel for this card's shared key and value heads, and writes all scores.

    Why it matters: without the flash kernel torch serves shared heads by its math path, in fp32: memory grows with the
                    square of the length, as in eager attention.
    What helps:     shorter sequences; a card of compute capability 8.0 or newer.
    Source:         torch 2.13 nn/functional.py, scaled_dot_product_attention: enable_gqa works for flash and math only;
                    transformers 5.23 integrations/sdpa_attention.py, use_gqa_in_sdpa.
    """

    code: ClassVar[str] = "ACT005"
    slug: ClassVar[str] = "math-attention"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not case.scenario.model.blocks:
            return None  # of a model without closed form nobody knows the heads
        train, attention = case.train, case.scenario.model.blocks[0].attention
        shared = attention.num_key_value_heads < attention.num_attention_heads and attention.latent is None
        gpu = case.scenario.cluster.gpu
        served = gpu.supports_flash or gpu.is_cpu or case.scenario.stack.repeats_kv
        if train.attention != "sdpa" or not shared or served:
            return None
        scores = 4 * attention.num_attention_heads * train.micro_batch_size * train.seq_len**2
        text = (
            f"sdpa has no fused kernel for shared heads on {gpu.name}: every layer writes "
            f"{format_bytes(scores)} of fp32 scores, which grow with the square of the length"
        )
        return Reason(code=self.code, text=text, number=scores, unit="bytes", severity="warning")


def _spared_time(case: Case) -> str:
    """What not recomputing the forward spares, in seconds where they are known."""
    step, recomputed = case.subject.step, case.step_if(gradient_checkpointing=True)
    if step is None or recomputed is None or recomputed.seconds <= step.seconds:
        return ""
    return f" and spares {seconds(recomputed.seconds - step.seconds)} of a step of {seconds(recomputed.seconds)}"


def _saved_time(case: Case) -> str:
    """What leaving out the recomputed forward saves, in seconds where they are known."""
    step, without = case.subject.step, case.step_if(gradient_checkpointing=False)
    if step is None or without is None or without.seconds >= step.seconds:
        return "a forward per step"
    return f"a forward per step, {seconds(step.seconds - without.seconds)} of {seconds(step.seconds)}"
