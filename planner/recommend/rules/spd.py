"""SPD: where time goes, in seconds of an optimizer step where the card's rates are known.

Parts of a step overlap, so their seconds sum to more than the step; a share is a part's own seconds over those of the
whole.
"""

from typing import ClassVar

from planner.formulas.params import active_params
from planner.recommend.rules.base import WORTH_A_LINE, Case, Scope, percent, seconds
from planner.recommend.rules.shd import gathers_over_pcie
from planner.result import Reason
from planner.spec import ModelSpec
from planner.units import format_bytes, format_count

LAUNCH_BOUND_TOKENS = 1024
"""Tokens per micro-step below which launching kernels, not computing, sets the pace of eager Hugging Face code: 4 to
5 ms per layer and micro-step whatever the GPU (Qwen 1.8B and 14B tables; PEFT benchmark on L40S). Asked where no time
is known."""

SLOW = 0.2
"""Share of the nominal rate under which a card is far from it: tables of A100, H100, 4090 reach 0.3 to 0.7 at 8k tokens
per micro-step; 0.12 to 0.26 where launches or the optimizer bound them (fms-acceleration, torchtune, PEFT's
benchmark)."""


class LaunchBound:
    """SPD001: so few tokens per micro-step that the GPU waits for the CPU.

    Why it matters: eager Hugging Face code takes 4 to 5 ms per layer and micro-step on any card; below one to two
                    thousand tokens a faster card changes nothing.
    What helps:     a larger --micro-batch-size with less --grad-accumulation; packing; compiled or fused kernels.
    Source:         QwenLM/Qwen tables (1.8B: 125 ms over 24 layers, 14B: 200 ms over 40); PEFT method_comparison on
                    L40S.
    """

    code: ClassVar[str] = "SPD001"
    slug: ClassVar[str] = "launch-bound"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, tokens = case.subject.step, case.train.tokens
        if not case.is_choice:
            return None
        if step is None:
            if tokens >= LAUNCH_BOUND_TOKENS:
                return None
            text = (
                f"{tokens} tokens per micro-step keep no GPU busy: "
                f"below {LAUNCH_BOUND_TOKENS}, kernel launches set the pace"
            )
            return Reason(code=self.code, text=text, number=tokens, unit="tokens")
        if step.bound != "launch":
            return None
        waits, works = step.parts["launch"], step.parts["compute"]
        text = (
            f"starting kernels takes {seconds(waits)} of a step of {seconds(step.seconds)}, computing only "
            f"{seconds(works)}: a larger micro-batch or packing fills the card"
        )
        return Reason(code=self.code, text=text, number=waits, unit="seconds", severity="warning")


class Dequantising:
    """SPD002: unpacking 4-bit weights takes a good part of the step.

    Why it matters: each micro-step unpacks every quantised matrix two or three times, whatever the batch, at a fifth of
                    the memory's bandwidth. At 16,000 tokens per micro-step that vanishes; at a few hundred it doubles
                    the step.
    What helps:     a larger --micro-batch-size with less --grad-accumulation, which divides the cost; LoRA where it
                    fits.
    Source:         bitsandbytes 0.50 autograd/_functions.py (dequantize_4bit in every pass); fractions of bandwidth
                    from litgpt, fms-acceleration and fsdp_qlora tables.
    """

    code: ClassVar[str] = "SPD002"
    slug: ClassVar[str] = "dequantising"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, share = case.subject.step, case.share("dequantise")
        if step is None or not case.is_choice or share < WORTH_A_LINE:
            return None
        text = (
            f"unpacking 4-bit weights takes {seconds(step.parts['dequantise'])} of a step of {seconds(step.seconds)} "
            f"({percent(share)}): it is paid per micro-step, of which there are {case.train.grad_accumulation}"
        )
        return Reason(code=self.code, text=text, number=step.parts["dequantise"], unit="seconds")


class OptimizerEveryStep:
    """SPD003: the optimizer takes a good part of the step, since gradients are not accumulated.

    Why it matters: updating every parameter moves all of its states through memory, as long for one sequence as for
                    many. Full fine-tuning of 3B at 840 tokens per step was three times slower than LoRA for it.
    What helps:     --grad-accumulation, or a larger micro-batch: the update is paid once per optimizer step; fused
                    AdamW.
    Source:         PEFT method_comparison on L40S (2316 against 7174 tokens per second); bytes moved per parameter:
                    docs/how-it-works/time.md.
    """

    code: ClassVar[str] = "SPD003"
    slug: ClassVar[str] = "optimizer-every-step"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, share = case.subject.step, case.share("optimizer")
        if step is None or not case.is_choice or case.train.grad_accumulation > 1 or share < WORTH_A_LINE:
            return None
        text = (
            f"the update of {format_count(case.subject.estimate.parameters.trainable)} parameters takes "
            f"{seconds(step.parts['optimizer'])} of a step of {seconds(step.seconds)} ({percent(share)}): "
            "--grad-accumulation pays it once for several micro-batches"
        )
        return Reason(code=self.code, text=text, number=step.parts["optimizer"], unit="seconds")


class LinkBound:
    """SPD004: cards wait for each other's data, though their link is fast or their shards are few.

    Why it matters: sharded weights travel twice or three times per micro-step; where the link is slower than the
                    computing, more cards add little.
    What helps:     larger micro-batches, since the traffic is paid per micro-step; --sharding ddp where the model fits
                    on each card; QLoRA, whose weights are a quarter; cards with NVLink; one machine instead of two.
    Source:         Rajbhandari et al. 2020, arXiv:1910.02054, section 7; fsdp_qlora benchmarks (two 3090s: 1082 s with
                    4-bit weights, 2597 s with 16-bit ones).
    """

    code: ClassVar[str] = "SPD004"
    slug: ClassVar[str] = "link-bound"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step = case.subject.step
        if step is None or not case.is_choice or step.bound != "communicate" or gathers_over_pcie(case):
            return None  # SHD003 says so
        text = (
            f"moving weights and gradients between {case.scenario.cluster.world_size} cards would take "
            f"{seconds(step.parts['communicate'])} of a step of {seconds(step.seconds)}, computing only "
            f"{seconds(step.parts['compute'])}"
        )
        return Reason(code=self.code, text=text, number=step.parts["communicate"], unit="seconds", severity="warning")


class CheckpointingTime:
    """SPD005: what recomputing the forward costs, where memory leaves no choice.

    Why it matters: gradient checkpointing trades time for memory: a third more computing under full fine-tuning and
                    half as much again under LoRA by count of FLOPs; 20 to 27 % as measured.
    What helps:     a card on which the step fits without; a smaller micro-batch without checkpointing, where the plan
                    has not found that slower.
    Source:         FLOPs per token (docs/how-it-works/time.md); torchtune Llama-3.2-3B table, -21.4 % tokens per
                    second; recomputed for this case.
    """

    code: ClassVar[str] = "SPD005"
    slug: ClassVar[str] = "checkpointing-time"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step = case.subject.step
        if step is None or not (case.is_choice and case.train.gradient_checkpointing):
            return None
        without, peak = case.step_if(gradient_checkpointing=False), case.what_if(gradient_checkpointing=False).peak
        if without is None or peak.high_bytes <= case.usable:
            return None  # it would fit: ACT004 says so
        saved = step.seconds - without.seconds
        if saved < WORTH_A_LINE * step.seconds:
            return None
        text = (
            f"gradient checkpointing costs {seconds(saved)} of a step of {seconds(step.seconds)} "
            f"({percent(saved / step.seconds)}); without it the step needs {format_bytes(peak.required_bytes)}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="seconds")


class PaddingWaste:
    """SPD006: much of what is computed is padding.

    Why it matters: a batch is as long as its longest sequence, and padding costs as much time as text.
    What helps:     --packing, which joins sequences to the full length; grouping by length.
    Source:         expected maximum of the batch, from the lengths of the data set; TRL 1.16 trainer/sft_config.py,
                    packing.
    """

    code: ClassVar[str] = "SPD006"
    slug: ClassVar[str] = "padding-waste"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        lengths = case.job.lengths
        if lengths is None or not lengths.counts or case.job.packing:
            return None
        cut = lengths.truncated(case.train.seq_len)
        padded = cut.padded(case.train.micro_batch_size)
        waste = 1 - cut.mean / padded
        if waste < WORTH_A_LINE:
            return None
        text = (
            f"{percent(waste)} of the tokens in batches of {case.train.micro_batch_size} are padding ({cut.mean:.0f} "
            f"tokens on average, {padded:.0f} with padding): packing would save that much computing"
        )
        return Reason(code=self.code, text=text, number=waste, unit="ratio", severity="warning")


class NearlyFull:
    """SPD007: the allocator would like more than the card has, and gives memory back to get it.

    Why it matters: torch keeps freed blocks to reuse them. Where they do not fit, it frees and asks again, which stops
                    the card: one published run did 2264 tokens per second at 81.1 GB, and 3342 at 63.6 GB with a
                    smaller loss.
    What helps:     PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True; a smaller micro-batch; fixed lengths.
    Source:         fms-acceleration tables, Llama-3-8B full fine-tuning on 4 A100-80GB, batch 8, with and without a
                    fused loss.
    """

    code: ClassVar[str] = "SPD007"
    slug: ClassVar[str] = "nearly-full"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        beyond = case.subject.estimate.peak.device_bytes - case.usable
        if not case.is_choice or case.subject.verdict == "does_not_fit" or beyond <= 0:
            return None
        text = (
            f"with memory to spare torch would take {format_bytes(beyond)} more than the {format_bytes(case.usable)} "
            "usable: it will free and ask again, which costs time"
        )
        return Reason(code=self.code, text=text, number=beyond, unit="bytes", severity="warning")


class ExpertLoop:
    """SPD008: this version of transformers runs experts one after another.

    Why it matters: a loop over experts starts many small kernels: grouped products were 2.8 to 4.4 times as fast.
    What helps:     transformers 5, which groups them (grouped_mm); scattermoe kernels.
    Source:         fms-acceleration's MoE table (Granite-3B-a800M: 1951 against 5441 tokens per second); transformers
                    5.23 modeling_utils.py, get_correct_experts_implementation.
    """

    code: ClassVar[str] = "SPD008"
    slug: ClassVar[str] = "expert-loop"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not case.is_choice or not case.scenario.model.is_moe or case.scenario.stack.fused_experts:
            return None
        experts = next(block.experts for block in case.scenario.model.blocks if block.experts)
        ratio = experts.num_experts / experts.top_k
        text = (
            f"transformers before 5 loops over {experts.num_experts} experts per layer, {ratio:.3g} times the "
            f"{experts.top_k} that a token uses: newer versions group them"
        )
        return Reason(code=self.code, text=text, number=ratio, unit="ratio", severity="warning")


class FarFromPeak:
    """SPD009: the card works far below its nominal rate.

    Why it matters: one pays for the whole card; a smaller one might be as fast.
    What helps:     what the named part asks for: larger micro-batches against launches and unpacking, accumulation
                    against the optimizer, fewer shards against the links.
    Source:         useful FLOPs per token (6 per active parameter, 4 where the base is frozen) over the dense 16-bit
                    peak; published runs at 8k tokens per micro-step reach 0.3 to 0.7.
    """

    code: ClassVar[str] = "SPD009"
    slug: ClassVar[str] = "far-from-peak"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, gpu = case.subject.step, case.scenario.cluster.gpu
        peak = gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s.get("fp16")
        if step is None or not case.is_choice or not peak or not case.scenario.model.blocks:
            return None
        per_token = (4 if case.train.uses_adapters else 6) * _multiplied(case.scenario.model)
        share = step.tokens_per_second * per_token / (peak * case.scenario.cluster.world_size)
        if share >= SLOW:
            return None
        text = (
            f"{step.tokens_per_second:,.0f} tokens per second use {percent(share)} of the nominal rate of {gpu.name}; "
            f"{_PART_WORDS[step.bound]} sets the pace"
        )
        return Reason(code=self.code, text=text, number=share, unit="ratio")


class PagedTraffic:
    """SPD010: optimizer states travel over the bus in every step.

    Why it matters: paged states cost nothing while the card has room for them. When it has none they go to host memory
                    and come back, at the rate of the bus.
    What helps:     --optimizer adamw_8bit, whose states are a quarter; more --grad-accumulation; adapters.
    Source:         bitsandbytes optim/optimizer.py (prefetch per tensor); PCIe rate of the profile.
    """

    code: ClassVar[str] = "SPD010"
    slug: ClassVar[str] = "paged-traffic"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, share = case.subject.step, case.share("offload")
        if step is None or not case.is_choice or share < WORTH_A_LINE:
            return None
        text = (
            f"optimizer states take {seconds(step.parts['offload'])} of a step of {seconds(step.seconds)} "
            f"({percent(share)}) to travel between the card and host memory"
        )
        return Reason(code=self.code, text=text, number=step.parts["offload"], unit="seconds", severity="warning")


def _multiplied(model: ModelSpec) -> int:
    """Parameters that a token is multiplied with: looking up its embedding is none, a tied head is."""
    looked_up = 0 if model.tie_word_embeddings else sum(table.params for table in model.embeddings)
    return active_params(model) - looked_up


_PART_WORDS = {
    "compute": "computing itself",
    "dequantise": "unpacking 4-bit weights",
    "launch": "starting kernels",
    "communicate": "the link between cards",
    "bubble": "the wait of stages for each other",
    "optimizer": "the optimizer",
    "offload": "the bus to host memory",
    "reference": "the reference model",
    "generate": "sampling completions",
}
