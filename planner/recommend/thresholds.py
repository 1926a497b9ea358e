"""What would change the plan's mind: the nearest amount of memory, data or length at which another method is chosen.

Estimates do not depend on how much memory a card has, so thresholds of memory are exact. Those of length are found by
bisection over the same decision. All of them leave offloading as it is: states go to host memory where nothing else
runs, and what they gain there is no matter of a few GiB.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import product

from planner.estimators import Estimator
from planner.recommend.candidates import judged, scenario
from planner.recommend.capacity import token_marks
from planner.recommend.changes import RANKS, SHORTEST, mild
from planner.recommend.informed import per_rank, with_tokens
from planner.recommend.order import preference
from planner.recommend.request import Ask
from planner.recommend.tuning import BATCHES, GOALS, Batch, may_offload, starts
from planner.recommend.verdict import lacks_ram
from planner.result import Candidate, Side, Threshold, Verdict
from planner.spec import Method
from planner.stacks.values import checked
from planner.units import format_count, format_gib

LENGTH_STEP = 64
"""Tokens to which a threshold of length is found: lengths are padded to such multiples."""


TRIES: tuple[tuple[Batch, Verdict], ...] = tuple(product(BATCHES, GOALS))
"""What is tried, in this order, before less is taken: see ``choose``."""

Reach = tuple[int, ...]
"""Least bytes that a card must offer for a method, for each of ``TRIES``; open settings may be changed."""
Reaches = Mapping[Method, Reach]


def reach(ask: Ask, method: Method, estimate: Estimator) -> Reach | None:
    """What ``method`` takes at least; ``None`` where it is not planned."""
    found: list[int] = []
    for batch in BATCHES:
        peaks = [one.estimate.peak for one in _variants(ask, method, batch, estimate)]
        if not peaks:
            return None
        found += [min(peak.high_bytes for peak in peaks), min(peak.required_bytes for peak in peaks)]
    return tuple(found)


def decide(reaches: Reaches, order: tuple[Method, ...], usable: int) -> Method | None:
    """The first method of ``order`` that fits, else the first that is tight; else the same with the batch asked for.

    >>> reaches = {"lora": (24, 20, 24, 20), "qlora": (12, 10, 12, 9)}
    >>> [decide(reaches, ("lora", "qlora"), usable) for usable in (8, 9, 11, 23, 24)]
    [None, 'qlora', 'qlora', 'qlora', 'lora']
    """
    known = [method for method in order if method in reaches]
    return next((m for place in range(len(TRIES)) for m in known if reaches[m][place] <= usable), None)


def decided(ask: Ask, order: tuple[Method, ...], estimate: Estimator) -> Method | None:
    """As ``decide`` on the card of ``ask``, looking no further than it must."""
    asked = [method for method in order if method in ask.methods]
    best = cache(lambda batch, method: _best(_variants(ask, method, batch, estimate, near=True)))
    tries = ((batch, goal, method) for batch, goal in TRIES for method in asked)
    return next((method for batch, goal, method in tries if best(batch, method) >= RANKS[goal]), None)


def _best(variants: Iterable[Candidate]) -> int:
    """Rank of the best verdict, that of the first which fits; below all where there is no variant."""
    found = -1
    for one in variants:
        found = max(found, RANKS[one.verdict])
        if found == RANKS["fits"]:
            break
    return found


def _variants(
    ask: Ask, method: Method, batch: Batch, estimate: Estimator, *, near: bool = False
) -> Iterator[Candidate]:
    """All that a method may be turned into with a batch, as far as the card is near; none where it is not planned."""
    for start in starts(ask, method, batch):
        if (first := judged(start, method, estimate)) is not None:
            yield from (one for _, one in mild(start, first, estimate, near=near))


def thresholds(
    ask: Ask, candidates: tuple[Candidate, ...], chosen: Method | None, estimate: Estimator
) -> tuple[Threshold, ...]:
    """The nearest thresholds on every side: memory up and down, data, length up and down."""
    if any(lacks_ram(one.estimate, ask.cluster) for one in candidates):
        return ()  # RAM decides here, and marks are of the card's memory
    found = {method: reach(ask, method, estimate) for method in ask.methods}
    reaches: Reaches = {method: one for method, one in found.items() if one is not None}
    if chosen is not None and chosen not in reaches:
        return ()  # chosen by its trace, and closed forms do not know it
    order = preference(ask, candidates)
    tokens = _tokens(ask, candidates, chosen, estimate)
    return (*_memory(ask, reaches, order, chosen), *tokens, *_lengths(ask, order, chosen, estimate))


def _memory(ask: Ask, reaches: Reaches, order: tuple[Method, ...], chosen: Method | None) -> tuple[Threshold, ...]:
    """Usable bytes at which the decision changes next, above and below what there is."""
    usable = ask.cluster.usable_bytes
    marks = sorted({mark for one in reaches.values() for mark in one})
    above = next((m for m in marks if m > usable and decide(reaches, order, m) != chosen), None)
    below = next((m for m in reversed(marks) if m <= usable and decide(reaches, order, m - 1) != chosen), None)
    found = []
    if above is not None:
        found.append(_of_memory(ask, above, "above", decide(reaches, order, above)))
    if below is not None:
        found.append(_of_memory(ask, below, "below", decide(reaches, order, below - 1)))
    return tuple(found)


def _of_memory(ask: Ask, mark: int, side: Side, method: Method | None) -> Threshold:
    usable = ask.cluster.usable_bytes
    share = abs(mark - usable) / usable * 100 if usable else 0.0
    text = {
        "above": f"with {share:.0f} % more memory ({format_gib(mark)} GiB usable per card): {method}",
        "below": f"below {format_gib(mark)} GiB usable per card ({share:.0f} % less): {_named(ask, method)}",
    }[side]
    return Threshold(quantity="memory_bytes", value=mark, side=side, method=method, text=text)


def _tokens(
    ask: Ask, candidates: tuple[Candidate, ...], chosen: Method | None, estimate: Estimator
) -> tuple[Threshold, ...]:
    """Supervised tokens at which the decision changes next: by a larger rank, or since adapters hold no more."""
    if chosen is None:
        return ()
    now = ask.job.learned_tokens or 0
    found: list[Threshold] = []
    marks = token_marks(per_rank(ask), ask.job.task)
    sides: tuple[tuple[Side, list[int]], ...] = (
        ("above", [mark for mark in marks if mark >= now]),
        ("below", [mark for mark in reversed(marks) if mark < now]),
    )
    for side, ahead in sides:
        for mark in ahead:
            other = with_tokens(ask, mark + (side == "above"))
            method = decided(other, preference(other, candidates), estimate)
            if method != chosen:
                found.append(_of_tokens(mark, side, method, other))
                break
    return tuple(found)


def _of_tokens(mark: int, side: Side, method: Method | None, other: Ask) -> Threshold:
    word = "above" if side == "above" else "at most"
    rank = other.request.settings.get("lora_rank") if method not in ("full", None) else None
    at = f" at rank {rank}" if rank else ""
    text = f"{word} {format_count(mark)} supervised tokens: {_named(other, method)}{at}"
    return Threshold(quantity="tokens", value=mark, side=side, method=method, text=text)


def _lengths(ask: Ask, order: tuple[Method, ...], chosen: Method | None, estimate: Estimator) -> tuple[Threshold, ...]:
    """Sequence lengths at which the decision changes next: longer, then shorter."""
    if chosen is None or not ask.model.blocks:
        return ()
    now = scenario(ask, chosen).train.seq_len

    @cache
    def at(seq_len: int) -> Method | None:
        return decided(ask.setting({"seq_len": seq_len}), order, estimate)

    return (*_longer(ask, now, chosen, at), *_shorter(now, chosen, at))


def _longer(ask: Ask, now: int, chosen: Method, at: Callable[[int], Method | None]) -> tuple[Threshold, ...]:
    most = (ask.model.max_position_embeddings or now) // LENGTH_STEP
    low = now // LENGTH_STEP
    high = low + 1
    while high < most and at(high * LENGTH_STEP) == chosen:
        low, high = high, min(high * 2, most)
    if high > most or at(high * LENGTH_STEP) == chosen:
        return ()
    low, high = _between(low, high, lambda step: at(step * LENGTH_STEP) == chosen)
    method = at(high * LENGTH_STEP)
    text = f"above {low * LENGTH_STEP:,} tokens per sequence: {_named(ask, method)}"
    return (Threshold(quantity="seq_len", value=low * LENGTH_STEP, side="above", method=method, text=text),)


def _shorter(now: int, chosen: Method, at: Callable[[int], Method | None]) -> tuple[Threshold, ...]:
    least, most = SHORTEST // LENGTH_STEP, now // LENGTH_STEP
    if least >= most or at(SHORTEST) == chosen:
        return ()
    low, _ = _between(least, most, lambda step: at(step * LENGTH_STEP) != chosen)
    method = at(low * LENGTH_STEP)
    if method is None:
        return ()  # so short is no such job, as where completions alone are longer
    text = f"at most {low * LENGTH_STEP:,} tokens per sequence: {method}"
    return (Threshold(quantity="seq_len", value=low * LENGTH_STEP, side="below", method=method, text=text),)


def _named(ask: Ask, method: Method | None) -> str:
    """The method; for none how far that was looked for: offloading is left as it is."""
    if method is not None:
        return method
    if checked("offload", ask.request.settings.get("offload", ())):  # a file that moves nothing says so, too
        return "nothing with this offloading"
    return "nothing without offloading" if may_offload(ask) else "nothing"


def _between(low: int, high: int, holds: Callable[[int], bool]) -> tuple[int, int]:
    """Neighbours between ``low``, where ``holds`` is true, and ``high``, where it is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high
