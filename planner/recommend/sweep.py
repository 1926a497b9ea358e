"""Many scenarios at once: every combination of models, cards, methods, numbers of cards and settings, one row each.

Rows come one after the other and are not kept, so a sweep of any size takes the memory of one model's. What cannot be
planned is a row with the reason, and no stop; a name or a value without meaning stops the sweep before its first row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

from planner.catalog import Resolved, index, load_model
from planner.errors import PlannerError, UnsupportedScenario, UsageError, option
from planner.hardware import list_gpus, load_gpu
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.candidates import weighed
from planner.recommend.informed import informed
from planner.recommend.request import (
    DEFAULT_STACK,
    Ask,
    Request,
    Setting,
    amount,
    check_request,
    cluster_of,
    on_machines,
)
from planner.recommend.shared import shared_estimator
from planner.result import Candidate
from planner.spec import METHODS, NO_JOB, Cluster, Gpu, Job, Method
from planner.stacks.rules import load_stack
from planner.stacks.values import checked

T = TypeVar("T")

ALL = "all"
"""In place of names: every model of the catalogue, every card, every method."""

COUNTS = (1, 2, 4, 8)
"""Cards of one machine that ``all`` stands for, as clouds sell them."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is swept: every combination of one from each. ``settings`` holds alternatives by ``TrainSpec`` field."""

    models: tuple[str, ...]
    gpus: tuple[str, ...]
    counts: tuple[int, ...] = (1,)
    nodes: tuple[int | None, ...] = (None,)
    methods: tuple[Method, ...] = METHODS
    settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    stacks: tuple[str, ...] = (DEFAULT_STACK,)
    headroom_bytes: int = 0
    network_gbps: float | None = None
    host_memory_bytes: int | None = None
    profiles_dir: Path | None = None
    job: Job = NO_JOB

    def __len__(self) -> int:
        """Number of rows."""
        axes = (self.models, self.gpus, self.counts, self.nodes, self.methods, self.stacks, *self.settings.values())
        return prod(map(len, axes))


class Asked(NamedTuple):
    """One combination: ``gpus`` cards in ``nodes`` machines together, ``settings`` as the sweep sets them.

    ``nodes`` is ``None`` where it is left to the kind of card.
    """

    model: str
    gpu: str
    gpus: int
    nodes: int | None
    method: Method
    stack: str
    settings: tuple[tuple[str, Setting], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was asked and the candidate, or the reason why there is none."""

    asked: Asked
    candidate: Candidate | None = None
    reason: str | None = None


# ---------------------------------------------------------------- the grid


def grid_of(
    *,
    models: Iterable[str],
    gpus: Iterable[str],
    counts: Iterable[int] = (1,),
    nodes: Iterable[int | None] = (None,),
    methods: Iterable[Method] = (),
    settings: Mapping[str, Iterable[Setting]] = {},
    stacks: Iterable[str] = (),
    headroom_bytes: int = 0,
    network_gbps: float | None = None,
    host_memory_bytes: int | None = None,
    profiles_dir: Path | None = None,
    job: Job = NO_JOB,
) -> Grid:
    """The grid with ``all`` written out and every name and value looked at; raise ``PlannerError`` for one that is bad.

    Values given twice count once.
    """
    grid = Grid(
        models=_names("model", models, lambda: index().models),
        gpus=_names("gpu", gpus, lambda: (gpu.id for gpu in list_gpus(profiles_dir))),
        counts=_distinct("gpus", counts),
        nodes=_distinct("nodes", nodes),
        methods=tuple(dict.fromkeys(methods)) or METHODS,
        settings={name: _distinct(name, values) for name, values in settings.items()},
        stacks=tuple(dict.fromkeys(stacks)) or (DEFAULT_STACK,),
        headroom_bytes=headroom_bytes,
        network_gbps=network_gbps,
        host_memory_bytes=host_memory_bytes,
        profiles_dir=profiles_dir,
        job=job,
    )
    _check(grid)
    return grid


def combinations(grid: Grid, model: str) -> Iterator[Asked]:
    """Every combination of one model, in order: card, number, method, then settings, the last changing fastest."""
    names = tuple(grid.settings)
    for gpu, nodes, gpus, method, stack in product(grid.gpus, grid.nodes, grid.counts, grid.methods, grid.stacks):
        for values in product(*grid.settings.values()):
            yield Asked(model, gpu, gpus, nodes, method, stack, tuple(zip(names, values, strict=True)))


def _names(kind: str, given: Iterable[str], every: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    names: list[str] = []
    for name in given:
        names += every() if name.strip().lower() == ALL else [name]
    return _distinct(kind, names)


def _distinct(kind: str, values: Iterable[T]) -> tuple[T, ...]:
    found = tuple(dict.fromkeys(values))
    if not found:
        raise UsageError(f"{option(kind)} names nothing to sweep over")
    return found


def _check(grid: Grid) -> None:
    """Raise for whatever no row could have."""
    for name in grid.gpus:
        _card(name, grid.profiles_dir)
    for name in grid.models:
        _model(name)
    for stack in grid.stacks:
        load_stack(stack)
    for name, values in grid.settings.items():
        for value in values:
            checked(name, value)
    for gpus, nodes in product(grid.counts, grid.nodes):
        one = _request(grid, Asked("", "", gpus, nodes, grid.methods[0], grid.stacks[0], ()))
        check_request(replace(one, methods=grid.methods))


def _card(name: str, profiles_dir: Path | None) -> Gpu:
    if name.strip().lower() == "local":
        raise UsageError("--gpu local is one card: a sweep takes names of `plan gpus`, or all")
    return load_gpu(name, profiles_dir)


def _model(name: str) -> Resolved | UnsupportedScenario:
    """The model, or why a model that we know of cannot be planned for."""
    try:
        return load_model(name)
    except UnsupportedScenario as error:
        return error


# ---------------------------------------------------------------- rows


def rows(grid: Grid, skip: Callable[[Asked], bool] = lambda _asked: False) -> Iterator[Row]:
    """Every row in order, but those to ``skip``."""
    cards = {name: _card(name, grid.profiles_dir) for name in grid.gpus}
    for name in grid.models:
        found = _model(name)
        plan_row = _refusing(found) if isinstance(found, UnsupportedScenario) else _planning(grid, found, cards)
        for asked in combinations(grid, name):
            if not skip(asked):
                yield plan_row(asked)


def _refusing(error: UnsupportedScenario) -> Callable[[Asked], Row]:
    return lambda asked: Row(asked=asked, reason=str(error))


def _planning(grid: Grid, found: Resolved, cards: Mapping[str, Gpu]) -> Callable[[Asked], Row]:
    """One model's rows; what they share is worked out once and forgotten with the model."""
    estimate = shared_estimator()
    questions: dict[tuple[str, tuple[tuple[str, Setting], ...]], Ask] = {}

    def planned(asked: Asked) -> Row:
        variant = asked.stack, asked.settings
        try:
            cluster = cluster_of(_request(grid, asked), cards[asked.gpu])
            if variant not in questions:
                questions[variant] = _question(grid, found, asked, cluster)
            scenario = scenario_of(replace(questions[variant], cluster=cluster), asked.method)
            return Row(asked=asked, candidate=weighed(scenario, estimate(scenario), grid.job))
        except PlannerError as error:
            return Row(asked=asked, reason=str(error))

    return planned


def _question(grid: Grid, found: Resolved, asked: Asked, cluster: Cluster) -> Ask:
    """The question of a variant of the settings, with what the job settles filled in as a plan does."""
    return informed(Ask(request=_request(grid, asked), model=found.model, cluster=cluster))


def _request(grid: Grid, asked: Asked) -> Request:
    return Request(
        model=asked.model,
        gpu=asked.gpu,
        gpus=asked.gpus,
        nodes=asked.nodes,
        methods=(asked.method,),
        settings=dict(asked.settings),
        stack=asked.stack,
        headroom_bytes=grid.headroom_bytes,
        network_gbps=grid.network_gbps,
        host_memory_bytes=grid.host_memory_bytes,
        job=grid.job,
    )


# ---------------------------------------------------------------- the library's own door


def sweep_for(
    *,
    model: str | list[str],
    gpu: str | list[str],
    gpus: int | list[int] = 1,
    nodes: int | list[int | None] | None = None,
    method: Method | list[Method] | None = None,
    stack: str | list[str] = DEFAULT_STACK,
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    job: Job = NO_JOB,
    **settings: Setting | list[Setting],
) -> Iterator[Row]:
    """``planner.sweep(model="all", gpu=["4090", "h100"], gpus=[1, 2], seq_len=[2048, 4096])``: a list is alternatives.

    Names and values are looked at before the first row; rows are made as they are asked for. ``network_gbps`` and
    ``host_memory`` are of all machines.
    """
    told = on_machines(settings)
    grid = grid_of(
        models=_listed(model),
        gpus=_listed(gpu),
        counts=_listed(gpus),
        nodes=_listed(nodes),
        methods=_listed(method) if method else (),
        settings={name: _listed(value) for name, value in told.settings.items()},
        stacks=_listed(stack),
        headroom_bytes=amount("--headroom", headroom),
        network_gbps=told.network_gbps,
        host_memory_bytes=told.host_memory_bytes,
        profiles_dir=None if profiles_dir is None else Path(profiles_dir),
        job=job,
    )
    return rows(grid)


def _listed(value: T | list[T]) -> list[T]:
    return value if isinstance(value, list) else [value]
