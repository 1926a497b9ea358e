"""What each method is, in sentences that carry this model's numbers."""

from dataclasses import dataclass

from planner.recommend.capacity import TOKENS_PER_PARAM
from planner.recommend.quality import NEWER_VOCABULARY, ROBUST_MODEL, TINY_MODEL
from planner.recommend.rules.base import percent
from planner.recommend.rules.qlt import LORA_BATCH
from planner.result import Candidate
from planner.throughput.ratios import Range
from planner.units import format_bytes, format_count, span


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """One method by principle, resources, effect, limits and scenarios."""

    principle: str
    resources: str
    effect: str
    limits: str
    scenarios: str


def describe(one: Candidate, time: Range | None) -> Prose:
    """The page of one method; ``time`` is a step of it for each one of LoRA's."""
    makers = {"full": _full, "lora": _lora, "qlora": _qlora}
    return makers[one.method](one, time)


def _full(one: Candidate, time: Range | None) -> Prose:
    return Prose(
        principle=f"every one of {format_count(one.estimate.parameters.total)} parameters is trained",
        resources=_resources(one),
        effect="no limit of capacity; the reference that the others are held against. On 20,000 examples LoRA matched "
        "it (PEFT benchmark, 3B: 47.2 % full, 47.8 % LoRA), beyond a billion tokens it leads (Biderman et al. 2024)",
        limits=f"optimizer and gradients for every parameter; one whole model per task; {_pace(time)}",
        scenarios="continued pre-training, more data than adapters hold, models of some 3B and less",
    )


def _lora(one: Candidate, time: Range | None) -> Prose:
    counts, train = one.estimate.parameters, one.scenario.train
    tokens = TOKENS_PER_PARAM * counts.trainable
    return Prose(
        principle=f"the base is frozen in {train.weights_dtype}; {format_count(counts.trainable)} new parameters "
        f"({percent(counts.trainable / counts.total)}) in pairs of rank-{train.lora_rank} matrices are trained",
        resources=_resources(one),
        effect="matches full fine-tuning on small and medium data; usually forgets less, not always",
        limits=f"rank {train.lora_rank} holds about {format_count(tokens)} supervised tokens; "
        f"at most {LORA_BATCH} sequences per optimizer step",
        scenarios="instruction tuning, style, format, preferences, reinforcement learning, many adapters on one base",
    )


def _qlora(one: Candidate, time: Range | None) -> Prose:
    counts, train = one.estimate.parameters, one.scenario.train
    kept = counts.total - counts.quantized
    return Prose(
        principle=f"as LoRA, but {format_count(counts.quantized)} of the base parameters are stored as {train.quant} "
        f"and dequantised for each use; {format_count(kept)} ({percent(kept / counts.total)}) stay as they are",
        resources=_resources(one),
        effect=_penalty(one),
        limits=f"{_pace(time)}; merging into 16-bit weights is not exact",
        scenarios="when LoRA on 16-bit weights does not fit: large models on one card, long sequences",
    )


def _resources(one: Candidate) -> str:
    memory = one.estimate.phases["optimizer_step"]
    states = memory.optimizer + one.estimate.peak.managed_bytes
    return (
        f"weights {format_bytes(memory.weights)}, adapters {format_bytes(memory.adapters)}, gradients "
        f"{format_bytes(memory.gradients)}, optimizer {format_bytes(states)}; "
        f"needs {format_bytes(one.estimate.peak.required_bytes)} per card"
    )


def _pace(time: Range | None) -> str:
    if time is None:
        return "time unknown on this card"
    return f"a step takes {span(time.low, time.high, '{:.2f}'.format)} times LoRA's"


def _penalty(one: Candidate) -> str:
    total = one.estimate.parameters.total
    newer = one.scenario.model.vocab_size >= NEWER_VOCABULARY
    if total <= TINY_MODEL:
        return "4-bit weights cost models of this size 8 to 11 % of validation loss (litgpt)"
    if newer and total < ROBUST_MODEL:
        return "4-bit weights cost newer models of this size about 5 % of validation loss (litgpt)"
    return "4-bit weights cost models of this size or age about 1 % of validation loss (litgpt)"
