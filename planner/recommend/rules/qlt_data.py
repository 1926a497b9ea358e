"""QLT, by data and task: what adapters hold, what a task needs, how much there is to learn from."""

from math import ceil
from typing import ClassVar

from planner.recommend.capacity import capacity, full_from, rank_for
from planner.recommend.rates import LONG_RUN, SHORT_RUN
from planner.recommend.rules.base import Case, Scope, graver, percent
from planner.recommend.rules.qlt import hold
from planner.result import Reason
from planner.spec import Task
from planner.units import format_bytes, format_count

RL_RANKS = 32
"""Rank up to which reinforcement learning was shown to need no more (TRL, lora_without_regret.md)."""

SMALLEST_SET = 1000
"""Examples of the smallest set on which full fine-tuning is known to have worked (LIMA, arXiv:2305.11206)."""

EPOCHS: dict[Task, float] = {"sft": 3, "dpo": 3, "cpt": 4}
"""Passes over the data after which more of them is unusual. Unsloth's guide: 1 to 3. Muennighoff et al. 2023,
arXiv:2305.16264: up to 4 are nearly as good as new data."""

NOTABLE_CUT = 0.01
"""Share of all tokens whose loss by truncation is worth a line (ours)."""


class AdapterCapacity:
    """QLT008: the adapters have room for what the data says.

    Why it matters: up to its capacity LoRA reaches the loss of full fine-tuning, at a fraction of the memory; beyond it
                    training gets less efficient.
    What helps:     nothing to do; --lora-rank raises the number in proportion.
    Source:         2 bits per parameter (arXiv:2404.05405) at about 1 bit per supervised token ("LoRA Without Regret",
                    Thinking Machines 2025): an order of magnitude. Up to some 100,000 instructions LoRA was as good as
                    full fine-tuning (tinker's LoRA primer; Biderman et al. 2024, arXiv:2405.09673). Gates C1 and C4.
    """

    code: ClassVar[str] = "QLT008"
    slug: ClassVar[str] = "adapter-capacity"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        tokens, task = case.job.learned_tokens, case.job.task
        if not case.per_rank or tokens is None or task in ("rl", "dpo"):
            return None
        held, most = capacity(case.per_rank, case.train.lora_rank), full_from(case.per_rank, task)
        if tokens > held or (most is not None and tokens > most):
            return None
        text = (
            f"adapters of rank {case.train.lora_rank} hold about {format_count(held)} supervised tokens, and there are "
            f"{format_count(tokens)}: full fine-tuning would learn no more"
        )
        return Reason(code=self.code, text=text, number=held, unit="tokens")


class RankTooLow:
    """QLT009: the data asks for a higher rank.

    Why it matters: adapters that are full learn less from each further token.
    What helps:     --lora-rank; memory grows in proportion to it, time hardly. Leave it open and the plan sets it.
    Source:         as QLT008; TRL takes rank 256 for supervised fine-tuning of any size (lora_without_regret.md).
    """

    code: ClassVar[str] = "QLT009"
    slug: ClassVar[str] = "rank-too-low"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        tokens, rank = case.job.learned_tokens, case.train.lora_rank
        if not case.per_rank or tokens is None:
            return None
        needed = rank_for(tokens, case.per_rank, case.job.task)
        held = capacity(case.per_rank, rank)
        if needed <= rank or tokens <= held:
            return None
        extra = -case.saved_by(lora_rank=needed)
        text = (
            f"{format_count(tokens)} supervised tokens are more than the {format_count(held)} that adapters of rank "
            f"{rank} hold: --lora-rank {needed} raises the requirement by {format_bytes(extra)}"
        )
        return Reason(code=self.code, text=text, number=tokens - held, unit="tokens", severity="warning")


class BeyondCapacity:
    """QLT010: there is more data than adapters of any rank hold.

    Why it matters: beyond capacity LoRA falls behind full fine-tuning. The loss still falls, but less for each token.
    What helps:     full fine-tuning; where it does not fit, LoRA of rank 256 and a gap in quality; more cards.
    Source:         as QLT008, at rank 256; in continued pretraining from about a billion tokens on (Biderman et al.
                    2024, arXiv:2405.09673: at 20 B tokens LoRA was far behind). Gates C2 and C3.
    """

    code: ClassVar[str] = "QLT010"
    slug: ClassVar[str] = "beyond-capacity"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        tokens = case.job.learned_tokens
        most = full_from(case.per_rank_of_targets, case.job.task)
        if tokens is None or most is None or tokens <= most:
            return None
        why = f"{hold(most, case.job.task)}, and there are {format_count(tokens)}"
        if case.subject.method == "full":
            text = f"full fine-tuning because {why}"
        else:
            text = f"{why}: full fine-tuning would learn more{_price_of_full(case)}"
        grave = graver(case.subject.method != "full")
        return Reason(code=self.code, text=text, number=tokens - most, unit="tokens", severity=grave)


class ContinuedPretraining:
    """QLT011: continued pretraining outgrows adapters sooner than instruction tuning does.

    Why it matters: what full fine-tuning changes in a new domain has 10 to 100 times the rank of usual adapters. At
                    20 B tokens of code or mathematics LoRA stayed far behind; on instructions it did not.
    What helps:     full fine-tuning from about a billion tokens on; until then a high --lora-rank. New facts that
                    change often are a matter for retrieval: they are learned slowly, and once learned make a model
                    invent more (Gekhman et al. 2024, arXiv:2405.05904).
    Source:         Biderman et al. 2024, arXiv:2405.09673, abstract. Gate C3 of our decision table.
    """

    code: ClassVar[str] = "QLT011"
    slug: ClassVar[str] = "continued-pretraining"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        most = full_from(case.per_rank, case.job.task)
        if case.job.task != "cpt" or most is None or (case.job.learned_tokens or 0) > most:
            return None
        known = case.job.learned_tokens is not None
        text = f"{hold(most, 'cpt')}: beyond that, full fine-tuning" + ("" if known else "; say --dataset-tokens")
        return Reason(code=self.code, text=text, number=most, unit="tokens")


class ReinforcementLearning:
    """QLT012: reinforcement learning needs little capacity.

    Why it matters: an episode tells about one bit, so that adapters of rank 1 to 32 learn as much as all weights: rank
                    1 matched full fine-tuning of a 3B model over 500 steps.
    What helps:     LoRA at a rank of 16, which servers take unasked. The plan covers the update; sampling needs its own
                    memory (--moments generation, or a server), and its own time.
    Source:         TRL docs, lora_without_regret.md: table of ranks, and its SmolLM3-3B run. Gate C5.
    """

    code: ClassVar[str] = "QLT012"
    slug: ClassVar[str] = "reinforcement-learning"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.job.task != "rl":
            return None
        trained = case.subject.estimate.parameters.trainable
        rank = case.train.lora_rank if case.per_rank else None
        if rank is not None and rank <= RL_RANKS:
            text = f"reinforcement learning asks for ranks of 1 to {RL_RANKS}: rank {rank} trains "
        elif rank is not None:
            text = f"rank {rank} is beyond the 1 to {RL_RANKS} that reinforcement learning was seen to use: it trains "
        else:
            text = f"adapters of rank 1 to {RL_RANKS} matched full fine-tuning in reinforcement learning; this trains "
        text += f"{format_count(trained)} parameters"
        grave = graver(rank is None or rank > RL_RANKS)
        return Reason(code=self.code, text=text, number=trained, unit="parameters", severity=grave)


class Preferences:
    """QLT013: preference optimisation holds the model against a frozen copy of itself.

    Why it matters: with adapters the frozen base is that copy, for a forward more. Under full fine-tuning a second
                    model is loaded, which the plan's bytes do not hold.
    What helps:     LoRA of rank 16 to 64; precomputed reference log-probabilities. Each pair is two sequences: count
                    both in --micro-batch-size.
    Source:         Rafailov et al. 2023, arXiv:2305.18290, equation 7; TRL 1.16 trainer/dpo_trainer.py (ref_model is
                    built unless the model has adapters or precompute_ref_log_probs is set). Gate C6.
    """

    code: ClassVar[str] = "QLT013"
    slug: ClassVar[str] = "preferences"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.job.task != "dpo":
            return None
        estimate = case.subject.estimate
        copy = estimate.phases["load"].weights if "load" in estimate.phases else estimate.peak_memory.weights
        if case.train.uses_adapters:
            text = f"the frozen base is its own reference model: a copy of {format_bytes(copy)} is spared"
            return Reason(code=self.code, text=text, number=copy, unit="bytes")
        text = (
            f"a frozen reference model of {format_bytes(copy)} per card comes on top of the plan's bytes: "
            "adapters or precomputed reference log-probabilities spare it"
        )
        return Reason(code=self.code, text=text, number=copy, unit="bytes", severity="warning")


class Forgetting:
    """QLT014: adapters usually forget less than full fine-tuning, not always.

    Why it matters: skills outside the new data fade while it is learned. On code and mathematics LoRA kept more of
                    them; but in PEFT's own benchmark full fine-tuning at a tenth of the rate forgot least (0.030
                    against 0.050 of LoRA on query and value): the size of the update decides, not the method's name.
    What helps:     a low learning rate and a low rank; few epochs; some of the old kind of data among the new.
    Source:         Biderman et al. 2024, arXiv:2405.09673; PEFT method_comparison/MetaMathQA results, Llama-3.2-3B.
                    Preference P1 of our decision table.
    """

    code: ClassVar[str] = "QLT014"
    slug: ClassVar[str] = "forgetting"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not case.job.keep_skills:
            return None
        counts = case.subject.estimate.parameters
        share = counts.trainable / counts.total
        if case.train.uses_adapters:
            text = (
                f"adapters usually forget less, not always: they train {percent(share)} as many parameters as the base "
                "has; keep the learning rate and the rank low"
            )
            return Reason(code=self.code, text=text, number=share, unit="ratio")
        text = (
            f"full fine-tuning changes all {format_count(counts.total)} parameters and usually forgets more than "
            "adapters: take a tenth of their learning rate"
        )
        return Reason(code=self.code, text=text, number=share, unit="ratio", severity="warning")


class SmallData:
    """QLT015: few examples for full fine-tuning.

    Why it matters: every weight may change to fit a handful of examples; the loss on held-out ones rises while the
                    training loss still falls.
    What helps:     LoRA, which has fewer ways to overfit; one or two epochs; a held-out set.
    Source:         LIMA (Zhou et al. 2023, arXiv:2305.11206) is the smallest full fine-tuning that is known to have
                    worked: 1,000 chosen examples, and perplexity rose there too. PEFT method_comparison: LoRA matched
                    full fine-tuning on 20,000.
    """

    code: ClassVar[str] = "QLT015"
    slug: ClassVar[str] = "small-data"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        sequences = case.job.sequences
        if case.train.uses_adapters or case.job.task != "sft" or not sequences or sequences >= SMALLEST_SET:
            return None
        per_example = case.subject.estimate.parameters.trainable / sequences
        text = (
            f"{sequences} examples are fewer than the {SMALLEST_SET:,} of the smallest full fine-tuning that is known "
            f"to have worked: {format_count(round(per_example))} trained parameters for each"
        )
        return Reason(code=self.code, text=text, number=per_example, unit="ratio", severity="warning")


class FewSteps:
    """QLT016: too few optimizer steps to learn much.

    Why it matters: adapters start at zero and need steps to move: 100 at least, a thousand at best.
    What helps:     a smaller batch (8 sequences are enough for LoRA), more epochs, for LoRA a learning rate of 15
                    instead of 10 times that of full fine-tuning.
    Source:         tinker's LoRA primer (100 steps and more, best 1,000 and more); "LoRA Without Regret", Thinking
                    Machines 2025 (15 times for short runs). Preference P5 of our decision table.
    """

    code: ClassVar[str] = "QLT016"
    slug: ClassVar[str] = "few-steps"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        steps = case.steps
        if not steps or steps >= SHORT_RUN:
            return None
        epochs = ceil(case.job.epochs * SHORT_RUN / steps)
        text = (
            f"{steps} optimizer steps are few: {SHORT_RUN} are the least and {LONG_RUN:,} the best that adapters were "
            f"seen to want; at this batch that takes {epochs} epochs"
        )
        return Reason(code=self.code, text=text, number=steps, unit="steps", severity="warning")


class ManyEpochs:
    """QLT017: more passes over the same data than usual.

    Why it matters: what is repeated is learned by heart: the training loss falls, the loss on new data rises.
    What helps:     fewer --epochs; a held-out set that says when to stop. (InstructGPT went on for 16 and gained in
                    preference while its validation loss rose after one: arXiv:2203.02155, section 3.5.)
    Source:         Unsloth's guide: 1 to 3 epochs. Muennighoff et al. 2023, arXiv:2305.16264: up to 4 passes are nearly
                    as good as new data, beyond that their worth decays.
    """

    code: ClassVar[str] = "QLT017"
    slug: ClassVar[str] = "many-epochs"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        usual = EPOCHS.get(case.job.task)
        if usual is None or case.job.epochs <= usual:
            return None
        ratio = case.job.epochs / usual
        text = f"{case.job.epochs:g} epochs are {ratio:.2g} times the {usual:g} after which repeats teach little"
        return Reason(code=self.code, text=text, number=ratio, unit="ratio", severity="warning")


class Truncation:
    """QLT018: sequences are cut off.

    Why it matters: what lies beyond --seq-len is not learned, and in a chat that is the last answer.
    What helps:     a longer --seq-len; splitting the long ones.
    Source:         TRL 1.16 trainer/sft_config.py (max_length, 1024 unless set); lengths of the data set.
    """

    code: ClassVar[str] = "QLT018"
    slug: ClassVar[str] = "truncation"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        lengths, limit = case.job.lengths, case.train.seq_len
        if lengths is None or not lengths.tokens or lengths.longest <= limit:
            return None
        lost = lengths.tokens - lengths.truncated(limit).tokens
        if lost < NOTABLE_CUT * lengths.tokens:
            return None
        text = (
            f"sequences of up to {lengths.longest} tokens are cut at {limit}: {percent(lost / lengths.tokens)} of all "
            "tokens are not learned"
        )
        return Reason(code=self.code, text=text, number=lost, unit="tokens", severity="warning")


def _price_of_full(case: Case) -> str:
    full = case.other("full")
    return f", at {format_bytes(full.estimate.peak.required_bytes)} per card" if full else ""
