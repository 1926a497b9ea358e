"""What follows from recorded steps, without torch: the peak, the memory that a card must have, the estimate."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

from planner.allocator.capacity import RESOLUTION, smallest_capacity
from planner.allocator.config import Settings
from planner.allocator.events import Instant, Trace, peaks
from planner.allocator.replay import DEFAULT, Replay, replay, uncached
from planner.formulas.overhead import NCCL
from planner.result import ALL_PHASES, Estimate, Memory, Parameters, Peak, Phase
from planner.spec import MOMENTS, Cluster, Scenario
from planner.trace.layers import Depth


class Traced(NamedTuple):
    """Recorded steps at full depth; ``depth`` says of how many layers they were written down."""

    trace: Trace
    parameters: Parameters
    managed_bytes: int
    depth: Depth


class Finding(NamedTuple):
    """An estimate with what it rests on."""

    estimate: Estimate
    traced: Traced
    replay: Replay
    peak: Instant


def judge(scenario: Scenario, traced: Traced, settings: Settings = DEFAULT) -> Finding:
    """The estimate that follows from recorded steps under the allocator's ``settings``."""
    if scenario.cluster.gpu.is_cpu:
        return _on_processor(scenario, traced)
    free = replay(traced.trace, settings)
    instants = peaks(traced.trace, free.handed_out)
    chosen = telling_step(instants)
    highest = max(chosen, key=lambda instant: instant.memory.total)
    capacity = smallest_capacity(traced.trace, settings, resolution=resolution(free.reserved))
    peak = _peak(scenario.cluster, highest, max(free.reserved, capacity), capacity, traced.managed_bytes)
    found = Estimate("traced", traced.parameters, MappingProxyType(highest_by_phase(chosen)), peak)
    return Finding(found, traced, free, highest)


def _on_processor(scenario: Scenario, traced: Traced) -> Finding:
    """A processor's allocator hands out what is asked for, and gives back what is released."""
    instants = peaks(traced.trace)
    chosen = telling_step(instants)
    highest = max(chosen, key=lambda instant: instant.memory.total)
    top = highest.memory.total
    peak = _peak(scenario.cluster, highest, top, top, traced.managed_bytes)
    found = Estimate("traced", traced.parameters, MappingProxyType(highest_by_phase(chosen)), peak)
    return Finding(found, traced, uncached(traced.trace), highest)


APART = ("load", *MOMENTS)
"""Phases that belong to no step."""


def telling_step(instants: Sequence[Instant]) -> tuple[Instant, ...]:
    """Instants of the step that counts: the last, steady step, unless an earlier one goes higher; and what is apart."""
    tops: dict[int, int] = {}
    for instant in instants:
        if instant.phase not in APART:
            tops[instant.step] = max(tops.get(instant.step, 0), instant.memory.total)
    steady = max(tops)
    step = max(tops, key=lambda number: (tops[number], number == steady))
    return tuple(instant for instant in instants if instant.phase in APART or instant.step == step)


def highest_by_phase(instants: Sequence[Instant]) -> dict[Phase, Memory]:
    """The highest instant of each phase; micro-batches repeat some."""
    found: dict[Phase, Memory] = {}
    for instant in sorted(instants, key=lambda instant: (ALL_PHASES.index(instant.phase), instant.memory.total)):
        found[instant.phase] = instant.memory
    return found


def _peak(cluster: Cluster, highest: Instant, reserved: int, capacity: int, managed: int) -> Peak:
    outside = cluster.gpu.context_bytes + (NCCL if cluster.world_size > 1 else 0)
    required = outside + capacity + (managed if cluster.gpu.unified_memory else 0)
    return Peak(
        phase=highest.phase,
        allocated_bytes=highest.memory.total,
        reserved_bytes=reserved,
        device_bytes=outside + reserved,
        required_bytes=required,
        low_bytes=required,
        high_bytes=required,
        managed_bytes=managed,
        host_bytes=managed,
    )


def resolution(reserved: int) -> int:
    """Steps in which a capacity is looked for: a few thousandths of it, in whole pages of the driver (bytes).

    >>> resolution(16 * 2**30) // 2**20
    40
    """
    return max(1, reserved // PARTS // RESOLUTION) * RESOLUTION


PARTS = 400
