"""The user's own measured runs, as far as they speak about a scenario: of it, of its model, of its kind of device."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from planner.calibration.conformal import Weighted, median
from planner.calibration.residuals import Kind, Metric, Residual, architecture, kind_of, spread
from planner.result import BasisKind, Evidence
from planner.spec import Behaviour, Scenario, TrainSpec

REPEATS = 0.01
"""How far two runs of one scenario may lie apart (stated): allocations repeat, the order of a few of them does not.
Where runs of other models lie closer to what is predicted for them, no farther than those."""

NEIGHBOURS = 0.02
"""The least that a run of another shape leaves open (stated)."""

REPLACES_ALLOCATOR = ("roundup_power2_divisions", "backend")
"""Settings of the allocator that change allocated bytes too; others change what is reserved for them."""

SHAPE = ("seq_len", "micro_batch_size", "grad_accumulation")
"""Settings that change between neighbours as a matter of course; others count as long as model and method agree."""


ALIKE = 4
"""How many times the tokens of a neighbour may differ (stated)."""


class Query(NamedTuple):
    """Which runs may matter: software and kind of device agree, and the model, where one is named."""

    stack: str
    architecture: str
    world_size: int
    model: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A measured run: what it was, what was predicted and measured (bytes), and on which card it ran or failed.

    ``layers``: only the first so many were run. ``lengths``: of its steps, where they differed. ``allocator``: the text
    of PYTORCH_ALLOC_CONF. ``held_bytes``: memory of the device, or the cap that stood in for a smaller one; for a run
    that failed less what others may have held, ``None`` where that is not known. ``seconds``: of a step after the
    first, where all are of one length. ``id`` is that of its record.
    """

    id: str
    scenario: Scenario
    layers: int | None
    measured: Mapping[Metric, int]
    predicted: Mapping[Evidence, Mapping[Metric, int]]
    out_of_memory: bool = False
    held_bytes: int | None = None
    lengths: tuple[int, ...] = ()
    allocator: str = ""
    seconds: float | None = None

    @property
    def as_planned(self) -> bool:
        """Whether it ran as a plan assumes: batches of one length, the allocator's defaults."""
        return not self.lengths and not self.allocator

    def error(self, evidence: Evidence, metric: Metric) -> float | None:
        """Signed relative error, measured / predicted - 1, where both are there."""
        real, ours = self.measured.get(metric), self.predicted.get(evidence, {}).get(metric)
        return None if not real or not ours else real / ours - 1


Find = Callable[[Query], tuple[Run, ...]]
"""Runs that answer a query, newest first."""


def nothing(_query: Query) -> tuple[Run, ...]:
    """Of somebody who has measured nothing."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What own runs say: the median error, and how far below and above the prediction the next run may lie."""

    kind: BasisKind
    runs: tuple[str, ...]
    low: float
    shift: float
    high: float
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs by how near they are to a scenario; each query is put once.

    Runs of some layers only say nothing: what is off by the same bytes at any depth is a large share of a shallow model
    and a small one of the whole.
    """

    find: Find = nothing
    _found: dict[Query, tuple[Run, ...]] = field(default_factory=dict, repr=False, compare=False)
    _nothing: set[Query] = field(default_factory=set, repr=False, compare=False)
    _near: dict[Scenario, tuple[tuple[Run, ...], tuple[Run, ...]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def of_model(self, scenario: Scenario) -> tuple[Run, ...]:
        """Runs of the scenario's model by its method, on its stack and kind of device."""
        named = query_of(scenario)._replace(model=scenario.model.name, method=scenario.train.method)
        return tuple(run for run in self._ask(named) if run.scenario.model == scenario.model)

    def of_scenario(self, scenario: Scenario) -> tuple[Run, ...]:
        """Runs of this very scenario, as a plan assumes them."""
        return self._nearest(scenario)[0]

    def of_neighbours(self, scenario: Scenario) -> tuple[Run, ...]:
        """Runs of about as many tokens that differ in shape alone, if any, else in any setting but the method."""
        return self._nearest(scenario)[1]

    def _nearest(self, scenario: Scenario) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """Runs of a scenario and its neighbours, sifted once: every metric asks for them."""
        found = self.of_model(scenario)
        if not found:
            return (), ()
        if scenario not in self._near:
            same = tuple(run for run in found if run.as_planned and same_job(run.scenario, scenario))
            ids = {run.id for run in same}
            others = tuple(run for run in found if run.id not in ids and as_large(run.scenario, scenario))
            alike = tuple(run for run in others if same_but_shape(run.scenario, scenario))
            self._near[scenario] = same, alike or others
        return self._near[scenario]

    def of_kind(self, scenario: Scenario) -> tuple[Run, ...]:
        """Runs of any model on its stack and kind of device."""
        return self._ask(query_of(scenario))

    def silent(self, scenario: Scenario) -> bool:
        """Whether no run at all was made on its stack and kind of device, so that no narrower query finds any."""
        query = query_of(scenario)
        self._ask(query)
        return query in self._nothing

    def _ask(self, query: Query) -> tuple[Run, ...]:
        if query not in self._found:
            found = self.find(query)
            if not found:
                self._nothing.add(query)
            self._found[query] = tuple(run for run in found if run.layers is None and on_as_many(run, query))
        return self._found[query]


def on_as_many(run: Run, query: Query) -> bool:
    """Whether a run had as many cards as are asked about."""
    return run.scenario.cluster.world_size == query.world_size


def query_of(scenario: Scenario) -> Query:
    """What runs must have in common with a scenario to say anything about it."""
    return Query(scenario.stack.name, architecture(scenario.cluster.gpu), scenario.cluster.world_size)


def as_large(one: Scenario, other: Scenario) -> bool:
    """Whether two micro-batches are alike in size: what is off by a share of one may be off otherwise in another."""
    tokens = sorted((one.train.tokens, other.train.tokens))
    return tokens[1] <= ALIKE * tokens[0]


def same_job(one: Scenario, other: Scenario) -> bool:
    """Whether all settings that act agree, and the trainers behave alike, whatever their versions."""
    return acting(one.train) == acting(other.train) and unversioned(one.stack) == unversioned(other.stack)


def same_but_shape(one: Scenario, other: Scenario) -> bool:
    """Whether two jobs differ in batch and length at most."""
    reshaped = replace(one.train, **{name: getattr(other.train, name) for name in SHAPE})
    return same_job(replace(one, train=reshaped), other)


def acting(train: TrainSpec) -> Mapping[str, object]:
    """The settings that have an effect."""
    return {name: getattr(train, name) for name in train.settings}


def unversioned(stack: Behaviour) -> Behaviour:
    """What a trainer does, without the versions that do it."""
    return replace(stack, versions={})


def own_spread(runs: Runs, scenario: Scenario, evidence: Evidence, metric: Metric, stated: float) -> Own | None:
    """What the nearest runs that were made say; ``stated`` is half the width that holds without them.

    Formula:   of this scenario:     shift = median error;  width = max(min(1 %, stated), largest distance from it)
               of its model, with a quarter to four times its tokens:
                                     shift = median error;  width = max(2 %, largest distance, stated / (n + 1))
               of its kind, n >= 19: split conformal prediction around the median error
    Source:    ours; docs/validation.md judges the first two, with published runs in place of own ones
    Valid:     runs of the same stack, GPU architecture and number of cards
    """
    if same := _errors(runs.of_scenario(scenario), evidence, metric):
        return _around("scenario", same, min(REPEATS, stated))
    if near := _errors(runs.of_neighbours(scenario), evidence, metric):
        return _around("neighbours", near, max(NEIGHBOURS, stated / (len(near) + 1)))
    kind = kind_of(scenario, evidence, metric)
    errors = _errors(runs.of_kind(scenario), evidence, metric)
    return _spread_of(kind, errors) if errors else None


def _errors(runs: Iterable[Run], evidence: Evidence, metric: Metric) -> dict[str, tuple[str, float]]:
    """Model and error of each run, by its id, where both sides are known."""
    found = {run.id: (run.scenario.model.name, run.error(evidence, metric)) for run in runs}
    return {name: (model, error) for name, (model, error) in found.items() if error is not None}


def _around(kind: BasisKind, errors: Mapping[str, tuple[str, float]], least: float) -> Own:
    values = [error for _, error in errors.values()]
    shift = median([Weighted(error) for error in values])
    width = max(least, *(abs(error - shift) for error in values))
    return Own(kind=kind, runs=tuple(errors), low=shift - width, shift=shift, high=shift + width)


def _spread_of(kind: Kind, errors: Mapping[str, tuple[str, float]]) -> Own | None:
    found = spread(Residual(kind, model, error) for model, error in errors.values())
    if found is None:
        return None
    return Own(
        kind="device",
        runs=tuple(errors),
        low=found.low,
        shift=found.median,
        high=found.high,
        coverage=found.coverage,
    )
