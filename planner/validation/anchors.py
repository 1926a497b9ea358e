"""Reads ``tests/anchors/*.toml``: one file per public source, each case a fact that its authors printed.

pydantic reads the files (``schema.py``), frozen dataclasses carry on. A ``case`` is a scenario in our words that our
stacks can express. A ``case`` with ``stand_in`` is a run of a trainer that we do not model, put as the question that
its user would ask us. An ``unmodelled`` row is kept as its source states it, with the reason why not. A file that
begins with ``[measured]`` holds runs of ``plan measure`` instead of published ones.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import BrokenInput
from planner.spec import Method
from planner.validation.schema import (
    CaseTable,
    Confidence,
    FileTable,
    MeasuredTable,
    Metric,
    Outcome,
    Reason,
    RowTable,
    TimeMetric,
    UnmodelledTable,
    spread_common,
)

# ---------------------------------------------------------------- what callers see


@dataclass(frozen=True, slots=True)
class Device:
    """What ``plan measure`` ran on, and with: the origin of numbers of our own."""

    name: str
    total_bytes: int
    planner: str
    versions: Mapping[str, str]
    driver: str | None = None
    allocator: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Who published the numbers, and where. ``id`` is the name of the anchor file.

    Numbers of our own have a ``device`` instead of a public place.
    """

    id: str
    title: str
    date: str
    repository: str | None = None
    file: str | None = None
    revision: str | None = None
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """One printed number in bytes; ``low`` and ``high`` differ where its unit or the print leaves room.

    ``tolerance`` says why they lie farther apart than unit and print alone would put them.
    """

    metric: Metric
    low_bytes: int
    high_bytes: int
    scope: str | None = None
    tolerance: str | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """One printed time in seconds, or what was done in a second. ``scope``: of what, and on how many GPUs."""

    metric: TimeMetric
    value: float
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A published run as a question to the planner.

    ``settings`` are ``TrainSpec`` fields as the source states them; ``behaviour`` is where the run
    differed from its trainer's habits. ``at_most``: ``seq_len`` is the longest that the source allows,
    so the published bytes are a lower bound on the prediction. ``stand_in``: why the run of a trainer that we do
    not model is put as this question, ``None`` for a run of one of our stacks. ``assumed``: what its source leaves
    open, and how it is filled in. ``gpu_assumed``: the source names no card, so the outcome says nothing about
    ``gpu``. ``off``: why the prediction for several GPUs lies as far off as it does.
    """

    id: str
    source: Source
    model: str
    method: Method
    gpu: str
    gpus: int
    stack: str
    settings: Mapping[str, Any]
    behaviour: Mapping[str, Any]
    at_most: bool
    outcome: Outcome
    outcome_inferred: bool
    published: tuple[Published, ...]
    timed: tuple[Timed, ...]
    confidence: Confidence
    stand_in: str | None
    gpu_assumed: bool
    assumed: str | None = None
    off: str | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)
    """What else its source says, in the source's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmodelled:
    """A published run that our options cannot express, and why."""

    id: str
    source: Source
    reason: Reason
    detail: str
    model: str
    method: str
    outcome: Outcome
    published: tuple[Published, ...]
    timed: tuple[Timed, ...]
    confidence: Confidence
    gpu: str | None = None
    gpus: int | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)
    """What its source says of the run, in the source's words."""


@dataclass(frozen=True, slots=True)
class AnchorFile:
    """All rows of one source."""

    source: Source
    cases: tuple[Case, ...]
    stand_ins: tuple[Case, ...]
    unmodelled: tuple[Unmodelled, ...]

    @property
    def rows(self) -> tuple[Case | Unmodelled, ...]:
        """Every row, whether we model it or not."""
        return (*self.cases, *self.stand_ins, *self.unmodelled)


# ---------------------------------------------------------------- reading


def anchors_dir() -> Path:
    """Find the anchors inside the installed package, else those of the repository it runs from."""
    package = Path(__file__).parents[1]
    inside = package / "_anchors"
    return inside if inside.is_dir() else package.parent / "tests" / "anchors"


@cache
def load_anchors(folder: Path | None = None) -> tuple[AnchorFile, ...]:
    """Every anchor file, by name; raise ``BrokenInput`` for one that does not keep to the schema."""
    files = tuple(_read(path) for path in sorted((folder or anchors_dir()).glob("*.toml"), key=lambda path: path.stem))
    counts = Counter(row.id for file in files for row in file.rows)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise BrokenInput(f"anchors: id {repeated[0]!r} stands in more than one place")
    return files


def _read(path: Path) -> AnchorFile:
    try:
        # TOML knows arrays only; as JSON they may become tuples under strict validation too
        content = FileTable.model_validate_json(
            json.dumps(spread_common(tomllib.loads(path.read_text(encoding="utf-8"))))
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise BrokenInput(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise BrokenInput(f"{path}: {place}: {fault['msg']} ({error.error_count()} in all)") from None
    source = _source(path.stem, content)
    cases = tuple(_case(source, row) for row in content.case)
    return AnchorFile(
        source,
        tuple(case for case in cases if case.stand_in is None),
        tuple(case for case in cases if case.stand_in is not None),
        tuple(_unmodelled(source, row) for row in content.unmodelled),
    )


def _source(name: str, content: FileTable) -> Source:
    if content.source is not None:
        return Source(id=name, **content.source.model_dump())
    own: MeasuredTable | None = content.measured
    assert own is not None, "the schema asks for one of the two"
    device = Device(own.device, own.total_bytes, own.planner, own.versions, own.driver, own.allocator)
    return Source(id=name, title=f"plan measure on {own.device}", date=own.date, device=device)


def _case(source: Source, row: CaseTable) -> Case:
    return Case(
        id=row.id,
        source=source,
        model=row.model,
        method=row.method,
        gpu=row.gpu,
        gpus=row.gpus,
        stack=row.stack,
        settings=row.settings,
        behaviour=row.behaviour.model_dump(exclude_none=True),
        at_most=row.bound == "at_most",
        outcome=row.outcome,
        outcome_inferred=row.outcome_inferred,
        published=_published(row),
        timed=_timed(row),
        confidence=row.confidence,
        stand_in=row.stand_in,
        gpu_assumed=row.gpu_assumed,
        assumed=row.assumed,
        off=row.off,
        stated=row.stated,
    )


def _unmodelled(source: Source, row: UnmodelledTable) -> Unmodelled:
    return Unmodelled(
        id=row.id,
        source=source,
        reason=row.reason,
        detail=row.detail,
        model=row.model,
        method=row.method,
        outcome=row.outcome,
        published=_published(row),
        timed=_timed(row),
        confidence=row.confidence,
        gpu=row.gpu,
        gpus=row.gpus,
        stated=row.stated,
    )


def _published(row: RowTable) -> tuple[Published, ...]:
    numbers = []
    for item in row.measured:
        tolerance = row.tolerance.get(item.metric)
        low, high = item.bytes_within(tolerance.half_width if tolerance else 0.0)
        numbers.append(Published(item.metric, low, high, item.scope, tolerance.reason if tolerance else None))
    return tuple(numbers)


def _timed(row: RowTable) -> tuple[Timed, ...]:
    return tuple(Timed(item.metric, item.value, item.scope) for item in row.timed)
