"""FIT: the verdict, by how much, and how sure it is."""

from dataclasses import asdict
from typing import ClassVar

from planner.calibration import words_of
from planner.recommend.request import as_option
from planner.recommend.rules.base import Case, Scope, largest_owner
from planner.recommend.verdict import lacks_ram
from planner.result import Reason
from planner.units import format_bytes


class DoesNotFit:
    """FIT001: a step needs more memory than the card has.

    Why it matters: the run stops with an out-of-memory error in the named phase, often not in the first step.
    What helps:     whatever shrinks the largest owner in that phase: see the ACT, QNT and SHD rules, and the plan's
                    ways out.
    Source:         docs/glossary.md, does not fit: required bytes above the card's usable bytes.
    """

    code: ClassVar[str] = "FIT001"
    slug: ClassVar[str] = "does-not-fit"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        if case.subject.verdict != "does_not_fit":
            return None
        excess = case.required - case.usable
        if excess <= 0:  # the card would do; what is missing is RAM
            return None
        estimate = case.subject.estimate
        owner, owned = largest_owner(estimate.peak_memory)
        text = (
            f"{case.named} does not fit: it needs {format_bytes(case.required)}, {format_bytes(excess)} above "
            f"the {format_bytes(case.usable)} usable; the peak is in {_words(estimate.peak.phase)}, "
            f"where {_OWNER_WORDS.get(owner, owner)} take {format_bytes(owned)}"
        )
        return Reason(
            code=self.code, text=text, number=excess, unit="bytes", severity="info" if case.chosen else "warning"
        )


class Tight:
    """FIT002: a step fits by the best estimate, but not by the upper bound.

    Why it matters: an estimate that is low by less than its interval ends in an out-of-memory error; a longer
                    batch than the plan assumes does too. Near the limit the allocator retries: on 80 GB cards one
                    published run did 2264 tokens/s at 81.1 GB, and 3342 with a loss kernel that left it at 63.6 GB.
    What helps:     one of the plan's changes; expandable segments; measuring a few steps on the device.
    Source:         docs/glossary.md, tight: required <= usable < high. Speed: fms-acceleration tables, Llama-3-8B,
                    batch 8.
    """

    code: ClassVar[str] = "FIT002"
    slug: ClassVar[str] = "tight"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        if case.subject.verdict != "tight":
            return None
        beyond = case.subject.estimate.peak.high_bytes - case.usable
        text = (
            f"{case.named} is tight: it needs {format_bytes(case.required)} of {format_bytes(case.usable)} "
            f"usable, and the upper bound lies {format_bytes(beyond)} above that"
        )
        return Reason(code=self.code, text=text, number=beyond, unit="bytes", severity="warning")


class Interval:
    """FIT003: how wide the interval is, and what it rests on.

    Why it matters: a verdict is only as good as the interval that it is judged by.
    What helps:     plan measure, once, for a few steps: a run of this very scenario narrows the interval to 1 %, a run
                    of another shape to 2 to 5 %, and both correct the estimate.
    Source:         errors of published runs and of replayed traces, by split conformal prediction:
                    docs/how-it-works/calibration.md; plan explain interval shows where each bound comes from.
    """

    code: ClassVar[str] = "FIT003"
    slug: ClassVar[str] = "bounds"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        estimate = case.subject.estimate
        peak, basis = estimate.peak, estimate.basis
        width = peak.high_bytes - peak.required_bytes
        if width <= 0:
            return None
        moved = basis.correction_bytes if basis else 0
        corrected = f", corrected by {'+' if moved > 0 else '-'}{format_bytes(abs(moved))}," if moved else ""
        text = (
            f"the {estimate.evidence} estimate of {format_bytes(peak.required_bytes)}{corrected} lies between "
            f"{format_bytes(peak.low_bytes)} and {format_bytes(peak.high_bytes)}, {words_of(basis)}"
        )
        return Reason(code=self.code, text=text, number=width, unit="bytes")


class NothingHelps:
    """FIT004: no change on this card and no hardware in the catalogue makes the job run as asked.

    Why it matters: the answer would otherwise look unfinished.
    What helps:     another method, a smaller model, a kind of sharding that divides the weights.
    Source:         the plan's own search: every change alone and in pairs, 2 to 1,024 of these cards, 1 to 8 of every
                    priced card, or else up to 128; then the same with a batch of 1 and shorter sequences.
    """

    code: ClassVar[str] = "FIT004"
    slug: ClassVar[str] = "nothing-helps"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.chosen is not None or case.ways is None or case.ways:
            return None
        cluster, needed = case.scenario.cluster, case.required
        where = f"on a card of {format_bytes(case.usable)}"
        if needed <= case.usable and lacks_ram(case.subject.estimate, cluster):
            needed = case.subject.estimate.host.required_on(cluster)
            where = f"of RAM in each machine, and {format_bytes(cluster.host_memory_bytes or 0)} may be taken"
        text = (
            f"nothing in the catalogue helps as asked: the nearest, {case.subject.method}, needs "
            f"{format_bytes(needed)} {where}"
        )
        return Reason(code=self.code, text=text, number=needed, unit="bytes", severity="warning")


class PagedStates:
    """FIT005: optimizer states are paged: managed memory, outside the allocator.

    Why it matters: while the card has room they sit on it; when it has none they move to host memory and every
                    optimizer step moves them over the bus.
    What helps:     an 8-bit optimizer, which needs a quarter; adapters, which have few states.
    Source:         bitsandbytes optim/optimizer.py: tensors of 100,000 elements and more are paged.
    """

    code: ClassVar[str] = "FIT005"
    slug: ClassVar[str] = "paged-states"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        managed = case.subject.estimate.peak.managed_bytes
        if not managed:
            return None
        text = (
            f"{format_bytes(managed)} of {case.train.optimizer} states are managed memory: "
            "not part of the requirement, and in host memory whenever the card is full"
        )
        return Reason(code=self.code, text=text, number=managed, unit="bytes")


class ChangedSettings:
    """FIT006: the recommendation changes settings that were left open.

    Why it matters: the method does better than as asked, and none of the changes touches what is learned.
    What helps:     naming the setting holds it: what the user sets is never swept.
    Source:         recomputed with the changed settings. 8-bit optimizer states: Dettmers et al. 2022,
                    arXiv:2110.02861.
    """

    code: ClassVar[str] = "FIT006"
    slug: ClassVar[str] = "changed-settings"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        asked = case.other(case.subject.method)
        if not case.is_choice or asked is None or asked.verdict == case.subject.verdict:
            return None
        before, after = asdict(asked.scenario.train), asdict(case.train)
        changed = [" ".join(as_option(name, after[name])) for name in after if after[name] != before[name]]
        saved = asked.estimate.peak.required_bytes - case.required
        text = (
            f"{case.subject.method} with {', '.join(changed)}: {format_bytes(saved)} less than as asked, which turns "
            f"{_VERDICT_WORDS[asked.verdict]} into {_VERDICT_WORDS[case.subject.verdict]}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


class LongerThanData:
    """FIT007: the plan holds memory for sequences longer than any in the data.

    Why it matters: without packing a batch is as long as its longest sequence; bytes beyond that are never used.
    What helps:     --seq-len at the longest sequence, or none, which takes it from the data; --packing, which fills it.
    Source:         lengths of the data set; TRL 1.16 trainer/sft_trainer.py pads a batch to its longest sequence
                    (DataCollatorForLanguageModeling).
    """

    code: ClassVar[str] = "FIT007"
    slug: ClassVar[str] = "longer-than-data"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        lengths = case.job.lengths
        if lengths is None or not lengths.longest or case.job.packing or lengths.longest >= case.train.seq_len:
            return None
        saved = case.saved_by(seq_len=lengths.longest)
        if not case.noteworthy(saved):
            return None
        text = (
            f"the longest sequence has {lengths.longest} tokens, and the plan {case.train.seq_len}: "
            f"--seq-len {lengths.longest} lowers the requirement by {format_bytes(saved)}"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


_VERDICT_WORDS = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}
_OWNER_WORDS = {"optimizer": "optimizer states"}
_PHASE_WORDS = {
    "optimizer_step": "the optimizer step",
    "rollout": "sampling completions",
    "scoring": "scoring completions",
    "reference": "the reference's pass",
    "save": "saving",
    "resume": "resuming from a checkpoint",
    "merge": "merging the adapters",
}


def _words(phase: str) -> str:
    """A phase in a sentence."""
    return _PHASE_WORDS.get(phase, phase)
