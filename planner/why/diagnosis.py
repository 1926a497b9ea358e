"""The comparison: what was observed against what is predicted, and which changes of the settings close the gap.

Differences are computed by closed forms. Where the plan itself is traced, they are added to what the trace predicts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from planner.closed_form import estimate as closed_form
from planner.errors import PlannerError, UnsupportedScenario, UsageError
from planner.estimators import Estimator, estimator_for, remember
from planner.planning import as_installed
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.names import understand
from planner.recommend.request import Ask, Request, Setting, command
from planner.recommend.verdict import judge
from planner.result import Candidate, Estimate
from planner.spec import MOMENTS, Method, Scenario
from planner.why.changes import Variant, variant, variants
from planner.why.clues import clues
from planner.why.known import made
from planner.why.message import Failure
from planner.why.table import LONGER
from planner.why.traceback import Hint, Place
from planner.why.values import Clue, Diagnosis, Difference, Observation

CLOSE = 0.02
"""Share of the observed bytes within which a change explains them: twice the estimators' own error against one
another (docs/validation.md)."""

FINE = 0.005
"""Share below which two changes explain equally well."""

LONGEST = 2**20
"""Tokens up to which a length is looked for."""

PADDED = 8
"""Lengths are looked for in these steps, to which trainers pad."""

MOST_PAIRED = 14
PAIRS = 3


def read(failure: Failure, place: Place | None) -> Diagnosis:
    """What a message tells without the settings of the run."""
    return Diagnosis(failure=failure, place=place, clues=clues(failure, None))


def diagnose(
    request: Request,
    *,
    failure: Failure | None = None,
    place: Place | None = None,
    hints: Sequence[Hint] = (),
    observed: Observation | None = None,
) -> Diagnosis:
    """Hold an observation, or a message's, against the plan for ``request``, which names one method.

    ``place`` and ``hints`` are what the frames of its traceback tell.
    """
    question, scenario, notes = _planned(request, place)
    estimate = estimator_for(request.evidence)(scenario)
    candidate = Candidate(scenario=scenario, estimate=estimate, verdict=judge(estimate, question.cluster))
    seen = _observation(failure, place, estimate) or observed
    found = Diagnosis(
        failure=failure,
        place=place,
        clues=(*(clues(failure, candidate) if failure else ()), *_frames(hints, question, scenario)),
        notes=(*notes, *_about(seen, scenario)),
        observation=seen,
        candidate=candidate,
        command=command(question.request),
    )
    return found if seen is None else _compared(found, question, seen, hints)


def _frames(hints: Sequence[Hint], question: Ask, scenario: Scenario) -> Iterator[Clue]:
    """WHY010: frames that the planned run would not go through."""
    if not hints:
        return
    possible = {change.code: change for one in variants(question, scenario) for change in one.changes}
    for hint in hints:
        if hint.code in possible:
            text = (
                f"the traceback goes through {hint.frame.function} ({hint.frame.place}), as a run does where "
                f"{possible[hint.code].words} ({hint.code}); that was not planned"
            )
            yield Clue(code="WHY010", text=text)


def _planned(request: Request, place: Place | None) -> tuple[Ask, Scenario, tuple[str, ...]]:
    """The question, its one scenario and notes; with the moment in which the run failed where that can be planned."""
    asked = _with_moment(request, place)
    question, notes = understand(as_installed(asked))
    method = _one_method(question)
    try:
        return question, scenario_of(question, method), notes
    except UnsupportedScenario as error:
        if asked is request:
            raise
        question, notes = understand(as_installed(request))
        return question, scenario_of(question, method), (*notes, f"the step is compared alone: {error}")


def _with_moment(request: Request, place: Place | None) -> Request:
    """The request, with the moment besides steps in which the run failed."""
    if place is None or place.phase not in MOMENTS or "moments" in request.settings:
        return request
    return replace(request, settings={**request.settings, "moments": place.phase})


def _one_method(question: Ask) -> Method:
    if len(question.methods) != 1:
        raise UsageError("--method is missing: name the one that the run used: full, lora or qlora")
    return question.methods[0]


def _observation(failure: Failure | None, place: Place | None, estimate: Estimate) -> Observation | None:
    """The tensors that a failure wanted at once: of its phase, where the estimate has that."""
    if failure is None or failure.wanted is None:
        return None
    phase = place.phase if place and place.phase in estimate.phases else None
    return Observation("allocated", failure.wanted, at_least=True, phase=phase)


def _about(seen: Observation | None, scenario: Scenario) -> Iterator[str]:
    total = scenario.cluster.gpu.memory_bytes
    if seen and seen.metric != "allocated" and seen.amount.high > NEARLY_FULL * total:
        yield (
            f"{seen.metric} bytes of a nearly full card say little, since torch keeps what it once had: "
            "torch.cuda.max_memory_allocated() tells more (--metric allocated)"
        )


NEARLY_FULL = 0.9


# ---------------------------------------------------------------- the gap


def level(estimate: Estimate, seen: Observation) -> int:
    """The predicted bytes that an observation is held against."""
    if seen.metric == "reserved":
        return estimate.peak.reserved_bytes
    if seen.metric == "device":
        return estimate.peak.device_bytes
    return estimate.phases[seen.phase].total if seen.phase else estimate.peak.allocated_bytes


def visible(estimate: Estimate, seen: Observation, card_bytes: int) -> int:
    """As much of it as a card can show: what torch keeps with memory to spare may be more than there is."""
    count = level(estimate, seen)
    return count if seen.metric == "allocated" else min(count, card_bytes)


def _compared(found: Diagnosis, question: Ask, seen: Observation, hints: Sequence[Hint]) -> Diagnosis:
    assert found.candidate is not None
    estimate, scenario = found.candidate.estimate, found.candidate.scenario
    peak, count = estimate.peak, visible(estimate, seen, scenario.cluster.gpu.memory_bytes)
    low, high = (count * bound // max(peak.required_bytes, 1) for bound in (peak.low_bytes, peak.high_bytes))
    gap = seen.amount.middle - count
    agrees = seen.amount.low <= high and (seen.at_least or seen.amount.high >= low)
    compared = replace(found, expected=(count, low, high), gap_bytes=gap, agrees=agrees)
    try:
        search = Search(question, scenario, seen, level(estimate, seen), found.failure, hints)
    except UnsupportedScenario as error:
        return replace(compared, notes=(*compared.notes, f"no differences can be worked out: {error}"))
    if question.request.evidence != "closed-form":
        compared = replace(compared, notes=(*compared.notes, ADDED))
    singles = search.singles()
    pairs = () if agrees or any(one.explains and not one.solved for one in singles) else search.pairs()
    return replace(compared, differences=singles, pairs=pairs)


ADDED = "differences are closed-form estimates, added to what the trace predicts"


class _Tried(NamedTuple):
    """A variant with the bytes that are predicted for it, and what is left of the gap."""

    variant: Variant
    predicted: int
    remaining: int


class Search:
    """Every change, estimated; raise ``UnsupportedScenario`` where the planned scenario has no closed form."""

    def __init__(
        self,
        question: Ask,
        scenario: Scenario,
        seen: Observation,
        predicted: int,
        failure: Failure | None = None,
        hints: Sequence[Hint] = (),
    ) -> None:
        self.question, self.scenario, self.seen, self.predicted = question, scenario, seen, predicted
        self.estimate: Estimator = remember(closed_form)
        self.offset = predicted - level(self.estimate(scenario), seen)
        self.requested = failure.requested if failure else None
        self.functions = {hint.code: hint.frame.function for hint in hints}
        self.exact = failure is not None and failure.kind == "cpu"
        self.known = self._made(scenario)
        self.tried = self._distinct([*self._all(), *self._lengths()])

    def singles(self) -> tuple[Difference, ...]:
        """Single changes that bring the prediction nearer, the likeliest first."""
        return tuple(self._difference(one) for one in sorted(filter(self._helps, self.tried), key=self._order))

    def pairs(self) -> tuple[Difference, ...]:
        """Two changes at once that explain what no single one does."""
        useful = sorted((one for one in self.tried if self._helps(one) and not one.variant.solved), key=self._order)
        found = []
        for first, second in combinations([one.variant.changes[0] for one in useful[:MOST_PAIRED]], 2):
            if first.axis.isdisjoint(second.axis):
                both = self._try(variant(self.question, self.scenario.train.method, (first, second)))
                if both is not None and self._explains(both):
                    found.append(both)
        return tuple(self._difference(one) for one in sorted(found, key=self._order)[:PAIRS])

    # ---------------------------------------------------------------- candidates

    def _all(self) -> Iterator[_Tried]:
        for one in variants(self.question, self.scenario):
            tried = self._try(one)
            if tried is not None:
                yield tried

    def _try(self, one: Variant | None) -> _Tried | None:
        if one is None:
            return None
        try:
            estimate = self.estimate(one.scenario)
        except PlannerError:
            return None
        if self.seen.phase is not None and self.seen.phase not in estimate.phases:
            return None
        predicted = level(estimate, self.seen) + self.offset
        return _Tried(one, predicted, self.seen.beyond(predicted))

    def _lengths(self) -> Iterator[_Tried]:
        """The length of sequences that would explain the bytes: it always can, so it comes after what also can."""
        low, high = 1, LONGEST // PADDED
        target = self.seen.amount.middle
        while low < high:
            middle = (low + high) // 2
            tried = self._of_length(middle * PADDED)
            if tried is None or tried.predicted >= target:
                high = middle
            else:
                low = middle + 1
        found = [one for one in map(self._of_length, (low * PADDED, (low - 1) * PADDED or 1)) if one is not None]
        if found:
            best = min(found, key=lambda one: abs(one.remaining))
            if best.variant.scenario != self.scenario and self._explains(best):
                yield best

    def _of_length(self, tokens: int) -> _Tried | None:
        words = f"{LONGER.words.format(f'{tokens:,}')}, not {self.scenario.train.seq_len:,}"
        change = replace(LONGER, words=words, settings={"seq_len": tokens})
        return self._try(variant(self.question, self.scenario.train.method, (change,), solved=True))

    def _distinct(self, found: list[_Tried]) -> list[_Tried]:
        """One of each scenario: the most usual change that leads to it."""
        kept: dict[Scenario, _Tried] = {}
        for one in sorted(found, key=lambda one: one.variant.usual):
            kept.setdefault(one.variant.scenario, one)
        return list(kept.values())

    # ---------------------------------------------------------------- judgement

    def _left(self, one: _Tried) -> int:
        """What is left of the gap; a failure leaves open how much more would have been wanted."""
        return max(one.remaining, 0) if self.seen.at_least else abs(one.remaining)

    def _explains(self, one: _Tried) -> bool:
        return self._left(one) <= CLOSE * self.seen.amount.middle

    def _helps(self, one: _Tried) -> bool:
        """Whether the change brings the prediction nearer, or makes the request that failed known."""
        gap = self.seen.beyond(self.predicted)
        before = max(gap, 0) if self.seen.at_least else abs(gap)
        return self._left(one) < before or self._told(one)

    def _told(self, one: _Tried) -> bool:
        """Whether the message itself speaks for the change: its request, or a frame of its traceback."""
        return bool(self._matched(one) or self._function(one))

    def _function(self, one: _Tried) -> str:
        return next(
            (self.functions[change.code] for change in one.variant.changes if change.code in self.functions), ""
        )

    def _matched(self, one: _Tried) -> str:
        """The tensor of the changed scenario, and of none that was planned, that the failed request is."""
        return "" if self.known or one.variant.solved else self._made(one.variant.scenario)

    def _made(self, scenario: Scenario) -> str:
        return made(scenario, self.requested, exact=self.exact) if self.requested else ""

    def _order(self, one: _Tried) -> tuple[float, ...]:
        """What the message speaks for, what explains, what was not chosen to fit; then how near, and how usual."""
        grain = 20 * FINE if self.seen.at_least else FINE
        size = max(self.seen.amount.middle, 1)
        explains = self._explains(one)
        nearness = abs(one.remaining) / size
        told = self._told(one)
        return (
            not told,
            not explains,
            one.variant.solved,
            round(nearness / grain) if explains else 0 if told else nearness,
            one.variant.usual,
            nearness,
        )

    def _difference(self, one: _Tried) -> Difference:
        found = one.variant
        return Difference(
            codes=tuple(change.code for change in found.changes),
            text=found.words,
            settings=_settings(self.question, found.ask),
            bytes=one.predicted - self.predicted,
            predicted_bytes=one.predicted,
            remaining_bytes=one.remaining,
            explains=self._explains(one),
            solved=found.solved,
            matched=self._matched(one),
            frame=self._function(one),
            command=command(found.ask.request),
        )


def _settings(question: Ask, changed: Ask) -> dict[str, Setting]:
    """What is set otherwise, the trainer and the method included."""
    names: dict[str, Setting] = {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in changed.request.settings.items()
        if question.request.settings.get(name) != value
    }
    if changed.request.stack != question.request.stack:
        names["stack"] = changed.request.stack
    if changed.methods != question.methods:
        names["method"] = changed.methods[0]
    return names
