"""How long one optimizer step takes: the work of each phase at the rates that a card and a stack reach."""

from types import MappingProxyType

from planner.errors import UnsupportedScenario
from planner.result import Estimate, StepTime, TimeBasis
from planner.spec import Scenario
from planner.throughput.constants import constants
from planner.throughput.passes import ADDED, added_parts
from planner.throughput.rates import rates_of
from planner.throughput.record import CROWDED, IN_WORDS, records, regime_of
from planner.throughput.roofline import parts_of, seconds_by_axis, seconds_of
from planner.throughput.work import Load, work_of

__all__ = ["Load", "step_time"]


def step_time(scenario: Scenario, estimate: Estimate, load: Load | None = None) -> StepTime | None:
    """Seconds of one optimizer step, as published runs let us say.

    ``None`` where the card's 16-bit peak or a link that is needed is unknown, and for what only a trace can count.
    """
    rates = rates_of(scenario)
    if rates is None or not scenario.model.blocks:
        return None
    try:
        work = work_of(scenario, estimate, load)
    except UnsupportedScenario:
        return None
    own = parts_of(work, rates)
    added = added_parts(scenario, work, rates, load)
    parts = MappingProxyType({**own, **added}) if added else own
    seconds = seconds_of(work, rates, own) + sum(added.values())
    regime = regime_of(scenario, work, own, constants()) if not added else "prior"
    record = records()[regime]
    crowded = CROWDED if is_tight(scenario, estimate) else 1.0
    return StepTime(
        seconds=seconds,
        low=seconds * record.low,
        high=seconds * record.high * crowded,
        tokens_per_second=work.tokens * work.micro_steps * work.sequences / seconds,
        parts=parts,
        exchanges=seconds_by_axis(work, rates),
        bound=max(parts, key=lambda part: parts[part]),
        basis=TimeBasis("published", record.n, record.sources, IN_WORDS[regime])
        if record.n and regime != "prior"
        else TimeBasis("stated", 0, (), ADDED if added else IN_WORDS[regime]),
    )


def is_tight(scenario: Scenario, estimate: Estimate) -> bool:
    """Whether the card has what is required and not what may be: then the allocator may have to squeeze."""
    return estimate.peak.required_bytes <= scenario.cluster.usable_bytes < estimate.peak.high_bytes
