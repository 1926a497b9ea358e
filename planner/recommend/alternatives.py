"""The nearest alternatives to what is recommended: other methods first, then other settings of the same method."""

from collections.abc import Iterator

from planner.estimators import Estimator
from planner.recommend.changes import as_way
from planner.recommend.pareto import INFINITE, Axes, axes, front
from planner.recommend.quality import RISKS
from planner.recommend.request import Ask
from planner.recommend.tuning import points, tuned
from planner.result import Alternative, Candidate, Cost, Way
from planner.spec import Method
from planner.units import format_bytes

SHOWN = 2


def alternatives(ask: Ask, chosen: Way, order: tuple[Method, ...], estimate: Estimator) -> tuple[Alternative, ...]:
    """At most two ways that run: the best of every other method in question, then the front of the chosen one."""
    found: list[Alternative] = []
    for one in _others(ask, chosen, order, estimate):
        if one.candidate.scenario != chosen.candidate.scenario:
            found.append(held_against(one, chosen))
        if len(found) == SHOWN:
            break
    return tuple(found)


def _others(ask: Ask, chosen: Way, order: tuple[Method, ...], estimate: Estimator) -> Iterator[Way]:
    mine = chosen.candidate.scenario.train.method
    for method in order:
        if method != mine and method in ask.methods and (found := tuned(ask, method, estimate)) is not None:
            yield found
    tried = tuple(points(ask.using(mine, {}), mine, chosen.candidate.verdict, estimate))
    ends = front(tried, lambda pair: axes(pair[1]))
    for pair in sorted(ends, key=lambda pair: axes(pair[1]).required_bytes):
        yield as_way(ask, *pair)


def held_against(one: Way, chosen: Way) -> Alternative:
    """What ``one`` gains and costs."""
    mine, theirs = axes(one.candidate), axes(chosen.candidate)
    bytes_ = int(mine.required_bytes - theirs.required_bytes)
    ratio = None if INFINITE in (mine.seconds, theirs.seconds) else mine.seconds / theirs.seconds
    usd = _dearer(one.candidate.cost, chosen.candidate.cost)
    text = _trade(one.candidate, bytes_, ratio, usd, mine, theirs)
    return Alternative(way=one, required_bytes=bytes_, time_ratio=ratio, usd=usd, text=text)


def _dearer(one: Cost | None, other: Cost | None) -> float | None:
    """Dollars that a run of ``one`` costs more; ``None`` where either is unknown."""
    if one is None or other is None or one.usd is None or other.usd is None:
        return None
    return one.usd - other.usd


def _trade(one: Candidate, bytes_: int, ratio: float | None, usd: float | None, mine: Axes, theirs: Axes) -> str:
    """The trade in words: memory, time, money, quality, as far as they differ."""
    words = [f"{format_bytes(abs(bytes_))} {'more' if bytes_ > 0 else 'less'} per card"]
    if ratio is not None:
        words.append(_pace(ratio))
    if usd is not None and abs(usd) >= 0.01:
        words.append(f"${abs(usd):,.2f} {'more' if usd > 0 else 'less'} a run")
    if mine.risk != theirs.risk:
        words.append(RISKS[mine.risk])
    if one.verdict == "tight":
        words.append("tight")
    return ", ".join(words)


def _pace(ratio: float) -> str:
    """Time per sequence in words.

    >>> _pace(1.25), _pace(0.8), _pace(1.004)
    ('1.25 times the time', '0.80 times the time', 'about the same time')
    """
    return "about the same time" if abs(ratio - 1) < 0.03 else f"{ratio:.2f} times the time"
