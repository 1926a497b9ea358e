"""``Scenario`` in, recorded steps out: the installed libraries run on fake tensors.

Every call records anew. What follows from the record is ``planner.trace.judgement``'s, which needs no torch.
"""

from planner.allocator.depth import NotPeriodic, extend
from planner.allocator.events import OUTSIDE
from planner.build.installed import check_versions, needed, require
from planner.build.model import config_of, decoder_layers, empty_model
from planner.build.quiet import quiet
from planner.errors import UnsupportedScenario
from planner.result import Estimate, Parameters
from planner.spec import ModelSpec, Scenario
from planner.trace.judgement import Finding, Traced, highest_by_phase, judge, resolution, telling_step
from planner.trace.layers import Depth, crosses_layers, find_depth, signature, tells_layers_apart
from planner.trace.run import Run, record
from planner.trace.semantics import semantics_on

__all__ = ["Finding", "Traced", "estimate", "highest_by_phase", "judge", "resolution", "telling_step", "trace"]


def estimate(scenario: Scenario) -> Estimate:
    """Bytes of one optimizer step by phase and owner, as the installed libraries allocate them."""
    return judge(scenario, trace(scenario)).estimate


def trace(scenario: Scenario, *, lengths: tuple[int, ...] = (), all_layers: bool = False) -> Traced:
    """Two optimizer steps of the scenario at full depth; raise ``UnsupportedScenario`` for what cannot be traced.

    ``lengths`` asks for one step of each length instead. ``all_layers`` runs every layer, not a few that stand for all.
    """
    require(*needed(scenario))
    check_versions(scenario.stack)
    check_positions(scenario.model, max(lengths, default=scenario.train.seq_len))
    adapter = scenario.train.adapter
    apart = tells_layers_apart(scenario, adapter) or crosses_layers(scenario)
    depth = _every(scenario) if all_layers or apart else depth_of(scenario)
    run = record(scenario, semantics_on(scenario), layers=depth.recorded, adapter=adapter, lengths=lengths)
    try:
        whole = extend(run.trace, depth.layers, period=depth.period, prefix=depth.prefix)
    except NotPeriodic:
        return trace(scenario, lengths=lengths, all_layers=True)
    return Traced(whole, *_totals(run, depth), depth)


def check_positions(model: ModelSpec, length: int) -> None:
    """Raise ``UnsupportedScenario`` for a sequence that leaves a table of learned positions: the real step fails."""
    most = model.max_position_embeddings
    if len(model.embeddings) > 1 and most is not None and length > most:
        raise UnsupportedScenario(f"{model.name} has learned positions for {most} tokens, and {length} are asked for")


def depth_of(scenario: Scenario) -> Depth:
    """Which layers are alike, from the real model's modules; no memory is taken."""
    with quiet():
        model = empty_model(config_of(scenario.model), dtype=scenario.train.weights_dtype, attention="eager")
    return find_depth([signature(layer) for layer in decoder_layers(model)])


def _every(scenario: Scenario) -> Depth:
    layers = config_of(scenario.model).get_text_config().num_hidden_layers
    return Depth(layers, 0, layers)


def _totals(run: Run, depth: Depth) -> tuple[Parameters, int]:
    """Parameters and managed bytes of the whole depth, from those of the recorded layers."""
    places = [OUTSIDE, *map(depth.image, range(depth.layers))]
    counts = [run.parameters.get(place, Parameters(0, 0, 0)) for place in places]
    return Parameters(*map(sum, zip(*counts, strict=True))), sum(run.managed_bytes.get(place, 0) for place in places)
