"""``Scenario`` in, ``Estimate`` out: the installed libraries run on fake tensors, their allocations are replayed."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from planner.allocator.capacity import RESOLUTION, smallest_capacity
from planner.allocator.config import Settings
from planner.allocator.depth import NotPeriodic, extend
from planner.allocator.events import OUTSIDE, Instant, Trace, peaks
from planner.allocator.replay import DEFAULT, Replay, replay
from planner.build.installed import check_versions, require
from planner.build.model import config_of, decoder_layers, empty_model
from planner.formulas.overhead import INTERVAL, NCCL
from planner.result import PHASES, Estimate, Memory, Parameters, Peak, Phase
from planner.spec import Cluster, Scenario
from planner.trace.layers import Depth, find_depth, signature
from planner.trace.run import Run, record
from planner.trace.semantics import cuda_semantics

Fields = Mapping[str, object]


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


def estimate(scenario: Scenario) -> Estimate:
    """Bytes of one optimizer step by phase and owner, as the installed libraries allocate them."""
    return judge(scenario, trace(scenario)).estimate


def judge(scenario: Scenario, traced: Traced, settings: Settings = DEFAULT) -> Finding:
    """The estimate that follows from recorded steps under the allocator's ``settings``."""
    free = replay(traced.trace, settings)
    instants = peaks(traced.trace, free.handed_out)
    chosen = telling_step(instants)
    highest = max(chosen, key=lambda instant: instant.memory.total)
    capacity = smallest_capacity(traced.trace, settings, resolution=resolution(free.reserved))
    peak = _peak(scenario.cluster, highest, max(free.reserved, capacity), capacity, traced.managed_bytes)
    found = Estimate("traced", traced.parameters, MappingProxyType(_phases(chosen)), peak)
    return Finding(found, traced, free, highest)


def telling_step(instants: Sequence[Instant]) -> tuple[Instant, ...]:
    """Instants of the step that counts: loading, then the last, steady step, unless an earlier one goes higher."""
    tops: dict[int, int] = {}
    for instant in instants:
        if instant.phase != "load":
            tops[instant.step] = max(tops.get(instant.step, 0), instant.memory.total)
    steady = max(tops)
    step = max(tops, key=lambda number: (tops[number], number == steady))
    return tuple(instant for instant in instants if instant.phase == "load" or instant.step == step)


def _phases(instants: Sequence[Instant]) -> dict[Phase, Memory]:
    """The highest instant of each phase; micro-batches repeat some."""
    found: dict[Phase, Memory] = {}
    for instant in sorted(instants, key=lambda instant: (PHASES.index(instant.phase), instant.memory.total)):
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
        low_bytes=int(required * (1 - INTERVAL)),
        high_bytes=int(required * (1 + INTERVAL)),
        managed_bytes=managed,
        host_bytes=managed,
    )


def resolution(reserved: int) -> int:
    """Steps in which a capacity is looked for: about a thousandth of it, in whole pages of the driver (bytes).

    >>> resolution(16 * 2**30) // 2**20
    16
    """
    return max(1, reserved // PARTS // RESOLUTION) * RESOLUTION


PARTS = 1000


def trace(
    scenario: Scenario, *, adapter: Fields | None = None, lengths: tuple[int, ...] = (), all_layers: bool = False
) -> Traced:
    """Two optimizer steps of the scenario at full depth; raise ``UnsupportedScenario`` for what cannot be traced.

    ``lengths`` asks for one step of each length instead. ``all_layers`` runs every layer, not a few that stand for all.
    """
    require("torch", "transformers", "accelerate", "peft")
    check_versions(scenario.stack)
    depth = _every(scenario) if all_layers or tells_layers_apart(scenario, adapter) else depth_of(scenario)
    run = record(scenario, cuda_semantics(scenario), layers=depth.recorded, adapter=adapter, lengths=lengths)
    try:
        whole = extend(run.trace, depth.layers, period=depth.period, prefix=depth.prefix)
    except NotPeriodic:
        return trace(scenario, adapter=adapter, lengths=lengths, all_layers=True)
    return Traced(whole, *_totals(run, depth), depth)


def depth_of(scenario: Scenario) -> Depth:
    """Which layers are alike, from the real model's modules; no memory is taken."""
    config = config_of(scenario.model)
    model = empty_model(config, dtype=scenario.train.weights_dtype, attention="eager")
    return find_depth([signature(layer) for layer in decoder_layers(model)])


def _every(scenario: Scenario) -> Depth:
    layers = config_of(scenario.model).get_text_config().num_hidden_layers
    return Depth(layers, 0, layers)


BY_LAYER = ("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "layer_replication")
"""Fields of an ``adapter_config.json`` that may treat one layer unlike another. peft 0.21 tuners/lora/config.py."""


def tells_layers_apart(scenario: Scenario, adapter: Fields | None) -> bool:
    """Whether an adapter may differ between layers that are otherwise alike."""
    fields = adapter or {}
    targets = fields.get("target_modules", scenario.train.lora_targets)
    names = targets if isinstance(targets, list | tuple) else [targets]
    numbered = any("." in str(name) and re.search(r"\d", str(name)) for name in names)
    return numbered or fields.get("peft_type") == "ADAPTION_PROMPT" or any(fields.get(name) for name in BY_LAYER)


def _totals(run: Run, depth: Depth) -> tuple[Parameters, int]:
    """Parameters and managed bytes of the whole depth, from those of the recorded layers."""
    places = [OUTSIDE, *map(depth.image, range(depth.layers))]
    counts = [run.parameters.get(place, Parameters(0, 0, 0)) for place in places]
    return Parameters(*map(sum, zip(*counts, strict=True))), sum(run.managed_bytes.get(place, 0) for place in places)
