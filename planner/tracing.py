"""The whole answer of ``plan trace``: recorded steps, what the allocator makes of them, and where the bytes are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.allocator.config import Settings
from planner.allocator.events import Instant, peaks
from planner.allocator.replay import DEFAULT, Replay, replay
from planner.allocator.sites import Site, alive_at
from planner.allocator.steps import sequence
from planner.estimators import measured_here
from planner.recommend.verdict import judge as judge_verdict
from planner.result import Candidate
from planner.spec import Scenario
from planner.trace import front
from planner.trace.judgement import Traced, judge
from planner.trace.lengths import plan_steps

EXPANDABLE = Settings(expandable_segments=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """One traced candidate. ``expandable``: the same events under ``expandable_segments``; ``lengths`` of its steps."""

    candidate: Candidate
    traced: Traced
    replay: Replay
    expandable: Replay
    peak: Instant
    instants: tuple[Instant, ...]
    sites: tuple[Site, ...]
    lengths: tuple[int, ...]


def trace_scenario(
    scenario: Scenario, *, lengths: Sequence[int] = (), all_layers: bool = False, settings: Settings = DEFAULT
) -> Tracing:
    """Trace a scenario, over steps of the given padded ``lengths`` where there are any, and judge it."""
    if lengths:
        scenario = replace(scenario, train=replace(scenario.train, seq_len=max(lengths)))
        steps = plan_steps(lengths)
        recorded = front.trace(scenario, lengths=steps.recorded, all_layers=all_layers)
        traced = recorded._replace(trace=sequence(recorded.trace, steps.order))
        finding = judge(scenario, traced, settings)
    else:
        finding = front.find(scenario, settings, all_layers=all_layers)
    trace, found = finding.traced.trace, finding.replay
    estimate = measured_here().calibration.calibrated(finding.estimate, scenario)
    candidate = Candidate(scenario=scenario, estimate=estimate, verdict=judge_verdict(estimate, scenario.cluster))
    return Tracing(
        candidate=candidate,
        traced=finding.traced,
        replay=found,
        expandable=found if scenario.cluster.gpu.is_cpu else replay(trace, replace(settings, expandable_segments=True)),
        peak=finding.peak,
        instants=peaks(trace, found.handed_out),
        sites=alive_at(trace, finding.peak.index, found.handed_out),
        lengths=tuple(lengths),
    )
