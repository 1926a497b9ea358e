"""The smallest device on which a whole trace still runs: replays under a cap, by bisection."""

from collections.abc import Callable

from planner.allocator.config import Settings
from planner.allocator.constants import Constants
from planner.allocator.events import Trace
from planner.allocator.replay import DEFAULT, replay

RESOLUTION = 2 * 2**20
"""Devices are taken in steps of this (bytes): what cudaMalloc deals in."""

CHECKS = 3
"""Capacities between the one that was found and the unlimited reserved peak that are tried as well."""

FIRST_STEP, GROWTH = 256, 4
"""The first step up is this part of reserved less allocated, and each next one so many times longer. Of the choices
tried it took the fewest replays: 10 to 20 for a step of an 8B model, most of them cut short by their failure."""

Runs = Callable[[int], bool]


def smallest_capacity(
    trace: Trace,
    settings: Settings = DEFAULT,
    *,
    sizes: Constants | None = None,
    resolution: int = RESOLUTION,
    checks: int = CHECKS,
) -> int:
    """Bytes that the device must be able to give to the allocator, a multiple of ``resolution``.

    Search: no less than what is requested at once can do. From the allocated peak of an unlimited replay upwards, in
    growing steps, for a capacity that does; then bisection.

    An allocator is not monotone in its cap: with more room it may cut its segments otherwise and fail where it ran with
    less. So ``checks`` capacities, evenly spaced between the result and the unlimited reserved peak, are tried too; if
    one fails, the search goes on above it. That makes a larger card that fails unlikely, not impossible.

    >>> from planner.allocator.events import OUTSIDE, Block, Mark
    >>> one = Trace((Block(3 * 2**20, "weights", "w"),), (0,), (OUTSIDE,), (Mark(0, "load", 0),))
    >>> smallest_capacity(one) // 2**20
    20
    """
    free = replay(trace, settings, sizes=sizes)
    if free.reserved == 0:
        return 0

    def runs(steps: int) -> bool:
        return replay(trace, settings, capacity=steps * resolution, sizes=sizes).completed

    impossible = (free.requested - 1) // resolution
    start, top = max(impossible + 1, free.allocated // resolution), -(-free.reserved // resolution)
    step = max(1, (top - start) // FIRST_STEP)
    found = _least(runs, impossible, start, step)
    failed = [point for point in _spaced(found, top, checks) if not runs(point)]
    if failed:
        found = _least(runs, failed[-1], failed[-1] + 1, step)
    return found * resolution


def _least(runs: Runs, fails: int, start: int, step: int) -> int:
    """Up from ``start`` by growing steps to a capacity that runs, then by bisection down to where one fails."""
    while not runs(start):
        fails, start, step = start, start + step, GROWTH * step
    while start - fails > 1:
        middle = (fails + start) // 2
        fails, start = (fails, middle) if runs(middle) else (middle, start)
    return start


def _spaced(found: int, top: int, count: int) -> list[int]:
    """Up to ``count`` points strictly between, in order."""
    return sorted({found + (top - found) * number // (count + 1) for number in range(1, count + 1)} - {found, top})
