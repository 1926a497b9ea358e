"""What would change the plan's mind: the nearest amount of memory, data or length at which another method is chosen.

Estimates do not depend on how much memory a card has, so thresholds of memory are exact. Those of length are found by
bisection over the same decision.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.candidates import candidate, scenario
from planner.recommend.capacity import full_from
from planner.recommend.changes import RANKS, SHORTEST, mild
from planner.recommend.informed import per_rank
from planner.recommend.order import preference
from planner.recommend.request import Ask
from planner.result import Candidate, Threshold, Verdict
from planner.spec import Method
from planner.units import format_count, format_gib

LENGTH_STEP = 64
"""Tokens to which a threshold of length is found: lengths are padded to such multiples."""


class Reach(NamedTuple):
    """Least bytes that a card must offer for a method: to fit, and to be tight; open settings may be changed."""

    fits: int
    tight: int


Reaches = Mapping[Method, Reach]


def reach(ask: Ask, method: Method, estimate: Estimator) -> Reach | None:
    """What ``method`` takes at least; ``None`` where it is not planned."""
    asked = ask.using(method, {})
    try:
        peaks = [one.estimate.peak for _, one in mild(asked, candidate(asked, method, estimate), estimate)]
    except UnsupportedScenario:
        return None
    return Reach(min(peak.high_bytes for peak in peaks), min(peak.required_bytes for peak in peaks))


def decide(reaches: Reaches, order: tuple[Method, ...], usable: int) -> Method | None:
    """The first method of ``order`` that fits, else the first that is tight.

    >>> reaches = {"lora": Reach(24, 20), "qlora": Reach(12, 10)}
    >>> [decide(reaches, ("lora", "qlora"), usable) for usable in (9, 11, 23, 24)]
    [None, 'qlora', 'qlora', 'lora']
    """
    known = [method for method in order if method in reaches]
    fitting = (method for method in known if reaches[method].fits <= usable)
    tight = (method for method in known if reaches[method].tight <= usable)
    return next(fitting, next(tight, None))


def thresholds(
    ask: Ask, candidates: tuple[Candidate, ...], chosen: Method | None, estimate: Estimator
) -> tuple[Threshold, ...]:
    """The nearest thresholds on every side: memory up and down, data, length up and down."""
    found = {method: reach(ask, method, estimate) for method in ask.methods}
    reaches: Reaches = {method: one for method, one in found.items() if one is not None}
    if chosen is not None and chosen not in reaches:
        return ()  # chosen by its trace, and closed forms do not know it
    order = preference(ask, candidates)
    tokens = _tokens(ask, candidates, reaches, chosen)
    return (*_memory(ask, reaches, order, chosen), *tokens, *_lengths(ask, order, chosen, estimate))


def _memory(ask: Ask, reaches: Reaches, order: tuple[Method, ...], chosen: Method | None) -> tuple[Threshold, ...]:
    """Usable bytes at which the decision changes next, above and below what there is."""
    usable = ask.cluster.usable_bytes
    marks = sorted({mark for one in reaches.values() for mark in one})
    above = next((m for m in marks if m > usable and decide(reaches, order, m) != chosen), None)
    below = next((m for m in reversed(marks) if m <= usable and decide(reaches, order, m - 1) != chosen), None)
    found = []
    if above is not None:
        found.append(_of_memory(above, usable, "above", decide(reaches, order, above)))
    if below is not None:
        found.append(_of_memory(below, usable, "below", decide(reaches, order, below - 1)))
    return tuple(found)


def _of_memory(mark: int, usable: int, side: str, method: Method | None) -> Threshold:
    share = abs(mark - usable) / usable * 100 if usable else 0.0
    if side == "above":
        text = f"with {share:.0f} % more memory ({format_gib(mark)} GiB usable per card): {method}"
        return Threshold(quantity="memory_bytes", value=mark, side="above", method=method, text=text)
    text = f"below {format_gib(mark)} GiB usable per card ({share:.0f} % less): {method or 'nothing'}"
    return Threshold(quantity="memory_bytes", value=mark, side="below", method=method, text=text)


def _tokens(
    ask: Ask, candidates: tuple[Candidate, ...], reaches: Reaches, chosen: Method | None
) -> tuple[Threshold, ...]:
    """Supervised tokens from which every weight should be trained, or below which adapters hold them."""
    mark = full_from(per_rank(ask), ask.job.task)
    if mark is None or chosen is None:
        return ()
    usable = ask.cluster.usable_bytes
    sides = {"above": preference(ask, candidates, tokens=mark + 1), "below": preference(ask, candidates, tokens=mark)}
    for side, order in sides.items():
        method = decide(reaches, order, usable)
        if method not in (chosen, None):
            word = "above" if side == "above" else "at most"
            text = f"{word} {format_count(mark)} supervised tokens: {method}"
            return (Threshold(quantity="tokens", value=mark, side=side, method=method, text=text),)  # type: ignore[arg-type]
    return ()


def _lengths(ask: Ask, order: tuple[Method, ...], chosen: Method | None, estimate: Estimator) -> tuple[Threshold, ...]:
    """Sequence lengths at which the decision changes next: longer, then shorter."""
    if chosen is None or not ask.model.blocks:
        return ()
    now = scenario(ask, chosen).train.seq_len

    def at(seq_len: int) -> Method | None:
        return _decided(ask.setting({"seq_len": seq_len}), order, estimate)

    return (*_longer(ask, now, chosen, at), *_shorter(now, chosen, at))


def _decided(ask: Ask, order: tuple[Method, ...], estimate: Estimator) -> Method | None:
    """As ``decide``, looking no further than it must."""
    goals: tuple[Verdict, ...] = ("fits", "tight")
    asked = [method for method in order if method in ask.methods]
    return next((method for goal in goals for method in asked if _reaches(ask, method, goal, estimate)), None)


def _reaches(ask: Ask, method: Method, goal: Verdict, estimate: Estimator) -> bool:
    asked = ask.using(method, {})
    try:
        start = candidate(asked, method, estimate)
        return any(RANKS[one.verdict] >= RANKS[goal] for _, one in mild(asked, start, estimate))
    except UnsupportedScenario:
        return False


def _longer(ask: Ask, now: int, chosen: Method, at: Callable[[int], Method | None]) -> tuple[Threshold, ...]:
    most = (ask.model.max_position_embeddings or now) // LENGTH_STEP
    low = now // LENGTH_STEP
    high = low + 1
    while high < most and at(high * LENGTH_STEP) == chosen:
        low, high = high, min(high * 2, most)
    if high > most or (method := at(high * LENGTH_STEP)) == chosen:
        return ()
    low, high = _between(low, high, lambda step: at(step * LENGTH_STEP) == chosen)
    method = at(high * LENGTH_STEP)
    text = f"above {low * LENGTH_STEP:,} tokens per sequence: {method or 'nothing'}"
    return (Threshold(quantity="seq_len", value=low * LENGTH_STEP, side="above", method=method, text=text),)


def _shorter(now: int, chosen: Method, at: Callable[[int], Method | None]) -> tuple[Threshold, ...]:
    least, most = SHORTEST // LENGTH_STEP, now // LENGTH_STEP
    if least >= most or at(SHORTEST) == chosen:
        return ()
    low, _ = _between(least, most, lambda step: at(step * LENGTH_STEP) != chosen)
    method = at(low * LENGTH_STEP)
    text = f"at most {low * LENGTH_STEP:,} tokens per sequence: {method}"
    return (Threshold(quantity="seq_len", value=low * LENGTH_STEP, side="below", method=method, text=text),)


def _between(low: int, high: int, holds: Callable[[int], bool]) -> tuple[int, int]:
    """Neighbours between ``low``, where ``holds`` is true, and ``high``, where it is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high
