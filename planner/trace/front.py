"""The traced estimator as others see it: answers from the cache where it can, and loads torch only where it cannot."""

from planner.allocator.config import Settings
from planner.allocator.replay import DEFAULT
from planner.build.installed import naming_newer, needed, require
from planner.build.quiet import quiet, tidy
from planner.result import Estimate
from planner.spec import Scenario
from planner.stacks.layouts import refuse_recording
from planner.trace.cache import Cache, default_cache
from planner.trace.judgement import Finding, Traced, judge
from planner.trace.keys import finding_key, trace_key
from planner.trace.stored import JUDGED, TRACED, Judged


def trace(
    scenario: Scenario,
    *,
    lengths: tuple[int, ...] = (),
    all_layers: bool = False,
    cache: Cache | None = None,
) -> Traced:
    """``planner.trace.estimator.trace``, once for each scenario and set of installed libraries."""
    refuse_recording(scenario.train)

    def make() -> Traced:
        require(*needed(scenario))
        with naming_newer(), tidy():
            with quiet():
                from planner.trace.estimator import trace as record  # noqa: PLC0415  (the door to torch)

            return record(scenario, lengths=lengths, all_layers=all_layers)

    key = trace_key(scenario, lengths=lengths, all_layers=all_layers)
    return (cache or default_cache()).cached(key, TRACED, make)


def find(
    scenario: Scenario,
    settings: Settings = DEFAULT,
    *,
    lengths: tuple[int, ...] = (),
    all_layers: bool = False,
    cache: Cache | None = None,
) -> Finding:
    """``judge`` of the scenario's trace, both from the cache where they are there."""
    cache = cache or default_cache()
    traced = trace(scenario, lengths=lengths, all_layers=all_layers, cache=cache)
    key = trace_key(scenario, lengths=lengths, all_layers=all_layers)

    def make() -> Judged:
        found = judge(scenario, traced, settings)
        return Judged(found.estimate, found.replay, found.peak)

    return cache.cached(key and finding_key(key, scenario, settings), JUDGED, make).on(traced)


def estimate(scenario: Scenario, *, cache: Cache | None = None) -> Estimate:
    """Bytes of one optimizer step by phase and owner, as the installed libraries allocate them."""
    cache = cache or default_cache()
    key = trace_key(scenario)
    known = cache.look_up(key and finding_key(key, scenario, DEFAULT), JUDGED)
    return known.estimate if known else find(scenario, cache=cache).estimate
