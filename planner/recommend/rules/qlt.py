"""QLT: which method, and what it costs or saves in quality. What data and use ask for: ``qlt_data``, ``qlt_use``."""

from typing import ClassVar

from planner.errors import PlannerError
from planner.recommend.batches import largest_batch
from planner.recommend.candidates import candidate
from planner.recommend.capacity import LARGEST_RANK, full_from
from planner.recommend.quality import NEWER_VOCABULARY, NOTABLE_RISK, SMALL_MODEL, quality_risk
from planner.recommend.request import Setting
from planner.recommend.rules.base import Case, Scope, percent
from planner.result import Candidate, Reason
from planner.spec import Task
from planner.units import format_bytes, format_count

LORA_BATCH = largest_batch("lora", "sft")
"""Sequences per optimizer step that LoRA tolerates well (TRL, lora_without_regret.md: effective batch below 32)."""

SHARED = (
    "seq_len", "micro_batch_size", "grad_accumulation", "gradient_checkpointing", "sharding", "optimizer", "kernels",
    "loss", "attention",
)  # fmt: skip
"""Settings in which two methods must agree for their bytes to be compared."""


class LoraBeforeQlora:
    """QLT001: LoRA on 16-bit weights fits with its margin, so 4-bit weights would cost quality for nothing.

    Why it matters: rounding the base to 4 bits loses 1 % of validation loss on Llama-2-7B and 6 to 11 % on newer and
                    smaller models, and dequantisation takes time in every pass.
    What helps:     nothing to do; QLoRA is the answer once length or batch outgrow the card.
    Source:         litgpt config_hub/finetune table (LoRA against QLoRA); arXiv:2404.14047. Gate G2 of our decision
                    table.
    """

    code: ClassVar[str] = "QLT001"
    slug: ClassVar[str] = "lora-before-qlora"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        qlora = case.other("qlora")
        if not case.is_choice or case.subject.method != "lora" or case.subject.verdict != "fits" or qlora is None:
            return None
        spare = case.usable - case.subject.estimate.peak.high_bytes
        saving = case.required - (_as_qlora(case) or qlora).estimate.peak.required_bytes
        saves = f"save {format_bytes(saving)}" if saving > 0 else f"take {format_bytes(-saving)} more"
        text = (
            f"LoRA before QLoRA: 16-bit weights fit with {format_bytes(spare)} beyond the upper bound; "
            f"4-bit weights would {saves}, and cost quality and time"
        )
        return Reason(code=self.code, text=text, number=spare, unit="bytes")


class OnlyFourBit:
    """QLT002: LoRA on 16-bit weights does not fit with its margin; 4-bit weights do.

    Why it matters: this is what QLoRA is for: a 65B model on one 48 GB card at 16-bit task performance.
    What helps:     a card with the missing bytes, which the number names.
    Source:         Dettmers et al. 2023, arXiv:2305.14314, abstract. Gate G3 of our decision table.
    """

    code: ClassVar[str] = "QLT002"
    slug: ClassVar[str] = "only-four-bit"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        lora = case.other("lora")
        if not case.is_choice or case.subject.method != "qlora" or lora is None or lora.verdict == "fits":
            return None
        missing = lora.estimate.peak.high_bytes - case.usable
        text = (
            f"QLoRA because LoRA on 16-bit weights needs {format_bytes(lora.estimate.peak.required_bytes)}: "
            f"with its margin {format_bytes(missing)} more than the {format_bytes(case.usable)} usable"
        )
        return Reason(code=self.code, text=text, number=missing, unit="bytes")


class FullAffordable:
    """QLT003: full fine-tuning fits too, and the model is small enough for it to pay.

    Why it matters: at 3B and below nothing has to be approximated; on 20,000 examples LoRA matched it, so this is an
                    alternative, not a correction.
    What helps:     --method full, with a ten times smaller learning rate.
    Source:         PEFT method_comparison/MetaMathQA, Llama-3.2-3B: 47.2 % full against 47.8 % LoRA r32. Rule P6.
    """

    code: ClassVar[str] = "QLT003"
    slug: ClassVar[str] = "full-affordable"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        full = case.other("full")
        if not case.is_choice or full is None or full.verdict != "fits":
            return None
        total = full.estimate.parameters.total
        if total > SMALL_MODEL or case.subject.method == "full":
            return None
        extra = full.estimate.peak.required_bytes - case.asked.estimate.peak.required_bytes
        text = (
            f"full fine-tuning of these {format_count(total)} parameters fits too, at {format_bytes(abs(extra))} "
            f"{'more' if extra >= 0 else 'less'}: an affordable alternative"
        )
        return Reason(code=self.code, text=text, number=abs(extra), unit="bytes")


class FullForLargeData:
    """QLT004: full fine-tuning fits, but pays only beyond what adapters can hold.

    Why it matters: up to the adapters' capacity LoRA reaches full fine-tuning; beyond it training gets less efficient.
    What helps:     --method full when supervised tokens exceed the number; until then a higher rank.
    Source:         capacity of 2 bits per parameter (arXiv:2404.05405), tinker's LoRA primer; an order of magnitude,
                    not a limit. Gate C2 of our decision table.
    """

    code: ClassVar[str] = "QLT004"
    slug: ClassVar[str] = "full-for-large-data"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        full, tokens = case.other("full"), full_from(case.per_rank, case.job.task)
        if not case.is_choice or case.subject.method != "lora" or full is None or full.verdict == "does_not_fit":
            return None
        small = full.estimate.parameters.total <= SMALL_MODEL
        if small or tokens is None or case.job.learned_tokens is not None:  # of known data QLT008 and QLT010 speak
            return None
        text = (
            f"full fine-tuning would run too, but {hold(tokens, case.job.task)}: "
            "below that it buys nothing that was measured"
        )
        return Reason(code=self.code, text=text, number=tokens, unit="tokens")


def hold(tokens: int, task: Task) -> str:
    """Up to where adapters keep up, in words.

    >>> hold(1_342_177_280, "sft")
    'adapters of rank 256 hold about 1.34B supervised tokens'
    """
    if task == "cpt":
        return f"adapters keep up with about {format_count(tokens)} tokens of continued pretraining"
    return f"adapters of rank {LARGEST_RANK} hold about {format_count(tokens)} supervised tokens"


def _as_qlora(case: Case) -> Candidate | None:
    """QLoRA on the settings of the subject; ``None`` where it cannot take them."""
    settings: dict[str, Setting] = {name: getattr(case.train, name) for name in SHARED}
    try:
        return candidate(case.ask.using("qlora", settings), "qlora", case.estimate)
    except PlannerError:
        return None


class FourBitPenalty:
    """QLT005: 4-bit weights cost small and newer models more than large and older ones.

    Why it matters: litgpt's validation losses, LoRA against QLoRA: +1 % Llama-2-7B and Mistral-7B, +6 % Llama-3-8B, +8
                    % Llama-3.2-1B, +11 % Gemma-2B. (The Llama-3 pairs also differ in micro-batch size.)
    What helps:     LoRA on 16-bit weights, which for 1 to 2B needs less than 8 GB; a shorter sequence; a larger card.
                    A model that is served in 4 bits anyway pays there, whatever it was trained on (ours).
    Source:         litgpt config_hub/finetune/README.md; arXiv:2404.14047 (4-bit Llama-3: about 2 % on average, 70B
                    most robust). "Newer" is read off a vocabulary of 100,000 and more.
    """

    code: ClassVar[str] = "QLT005"
    slug: ClassVar[str] = "four-bit-penalty"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        risk = quality_risk(case.subject)
        if risk < NOTABLE_RISK:
            return None
        total = case.subject.estimate.parameters.total
        newer = case.scenario.model.vocab_size >= NEWER_VOCABULARY
        seen = "about 5 %" if risk == NOTABLE_RISK else "8 to 11 %"
        text = (
            f"4-bit weights cost a model of {format_count(total)} parameters{' of this generation' if newer else ''} "
            f"{seen} of validation loss where it was measured"
        )
        return Reason(code=self.code, text=text, number=total, unit="parameters", severity="warning")


class LargeBatch:
    """QLT006: LoRA tolerates large batches worse than full fine-tuning.

    Why it matters: the loss gap grows with the batch, and a higher rank does not close it.
    What helps:     at most 32 sequences per optimizer step: less accumulation, or fewer cards.
    Source:         TRL docs, lora_without_regret.md (effective batch below 32); tinker's LoRA primer. Rule P4.
    """

    code: ClassVar[str] = "QLT006"
    slug: ClassVar[str] = "large-batch"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        train = case.train
        sequences = train.micro_batch_size * train.grad_accumulation * case.scenario.layout.sequences
        if not train.uses_adapters or sequences <= LORA_BATCH:
            return None
        text = (
            f"{sequences} sequences per optimizer step are {sequences / LORA_BATCH:.1f} times the {LORA_BATCH} "
            "up to which LoRA is known to keep up with full fine-tuning"
        )
        return Reason(code=self.code, text=text, number=sequences / LORA_BATCH, unit="ratio", severity="warning")


class BeyondPositions:
    """QLT007: sequences are longer than the positions that the model was trained for.

    Why it matters: models with position tables fail; models with rotary positions degrade unless these are rescaled.
    What helps:     a shorter --seq-len, or rope scaling with enough data to learn it.
    Source:         max_position_embeddings of the model's config.json.
    """

    code: ClassVar[str] = "QLT007"
    slug: ClassVar[str] = "beyond-positions"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        limit = case.scenario.model.max_position_embeddings
        if limit is None or case.train.seq_len <= limit:
            return None
        beyond = case.train.seq_len - limit
        text = (
            f"sequences of {case.train.seq_len} tokens are {beyond} longer than the {limit} positions of "
            f"{case.scenario.model.name} ({percent(beyond / limit)} more)"
        )
        return Reason(code=self.code, text=text, number=beyond, unit="tokens", severity="warning")
