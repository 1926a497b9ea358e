"""The Pareto front: what nothing else beats in every respect at once. There are no weights and no score."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from planner.recommend.quality import quality_risk
from planner.result import Candidate

T = TypeVar("T")

INFINITE = float("inf")


class Axes(NamedTuple):
    """What a way to train costs; less is better in each. Unknown time and money are infinite, for all alike."""

    required_bytes: float
    seconds: float
    usd: float
    risk: int


def axes(one: Candidate) -> Axes:
    """Bytes that a card must have, seconds per sequence, dollars per run (else per sequence), and quality risk."""
    seconds = seconds_per_sequence(one)
    return Axes(one.estimate.peak.required_bytes, seconds, dollars(one), quality_risk(one))


def front(found: Sequence[T], costs: Callable[[T], tuple[float, ...]]) -> tuple[T, ...]:
    """Those that no other beats in one respect without losing in another, in their order; of equals the first.

    >>> front([(1, 5), (2, 2), (3, 3), (2, 2)], lambda pair: pair)
    ((1, 5), (2, 2))
    """
    priced = [(one, costs(one)) for one in found]
    return tuple(
        one
        for place, (one, price) in enumerate(priced)
        if not any(
            dominates(other, price) or (other == price and earlier < place) for earlier, (_, other) in enumerate(priced)
        )
    )


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether ``one`` is nowhere dearer than ``other`` and somewhere cheaper.

    >>> dominates((1, 2), (1, 3)), dominates((1, 2), (2, 1)), dominates((1, 2), (1, 2))
    (True, False, False)
    """
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def seconds_per_sequence(one: Candidate) -> float:
    """Step time over the sequences of a step, on all GPUs together; infinite where no time is known."""
    if one.step is None:
        return INFINITE
    train = one.scenario.train
    return one.step.seconds / (train.micro_batch_size * train.grad_accumulation * one.scenario.layout.sequences)


def dollars(one: Candidate) -> float:
    """The run at its typical price; for want of a run, one sequence; infinite without a price."""
    if one.cost is not None:
        return INFINITE if one.cost.usd is None else one.cost.usd
    price = one.scenario.cluster.gpu.price
    hourly = None if price is None else price.usd
    if hourly is None:
        return INFINITE
    return hourly * one.scenario.cluster.world_size * seconds_per_sequence(one) / 3600
