"""Reads ``tests/anchors/*.toml``: one file per public source, each case a fact that its authors printed.

pydantic reads the files, frozen dataclasses carry on. A ``case`` is a scenario in our words that our
stacks can express. A ``case`` with ``stand_in`` is a run of a trainer that we do not model, put as the question that
its user would ask us. An ``unmodelled`` row is kept as its source states it, with the reason why not.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from planner.errors import BrokenInput
from planner.spec import Method
from planner.units import GB, GIB, MB, MIB

Metric = Literal["allocated", "resident", "standing", "reserved", "device", "active", "kernel", "fits", "unspecified"]
"""``resident``: what stays allocated between steps; ``standing``: the same with gradients. ``kernel``: of one kernel
alone. ``fits``: the size of a card on which it ran. The rest are torch's words, and nvidia-smi's for ``device``."""
Unit = Literal["B", "MiB", "GiB", "GB", "GB?", "MB?"]
Reason = Literal["stack", "quantisation", "method", "architecture", "parallelism", "offload", "settings", "kernel"]
KbitUpcast = Literal["none", "norms", "all"]
FusedPart = Literal["norm", "rope", "swiglu", "lora", "loss"]
Outcome = Literal["ran", "oom"]
Confidence = Literal["A", "B", "C"]

REASONS: tuple[str, ...] = get_args(Reason)

UNITS: Mapping[str, tuple[int, int]] = {
    "B": (1, 1),
    "MiB": (MIB, MIB),
    "GiB": (GIB, GIB),
    "GB": (GB, GB),
    "GB?": (GB, GIB),
    "MB?": (MB, MIB),
}
"""Bytes per unit, lowest and highest reading: a bare GB may be 10**9 or 2**30, which lie 7 % apart."""


# ---------------------------------------------------------------- what callers see


@dataclass(frozen=True, slots=True)
class Source:
    """Who published the numbers, and where. ``id`` is the name of the anchor file."""

    id: str
    title: str
    repository: str
    file: str
    date: str
    revision: str | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A published run as a question to the planner.

    ``settings`` are ``TrainSpec`` fields as the source states them; ``behaviour`` is where the run
    differed from its trainer's habits. ``at_most``: ``seq_len`` is the longest that the source allows,
    so the published bytes are a lower bound on the prediction. ``stand_in``: why the run of a trainer that we do
    not model is put as this question, ``None`` for a run of one of our stacks. ``gpu_assumed``: the source names no
    card, so the outcome says nothing about ``gpu``.
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
    confidence: Confidence
    stand_in: str | None
    gpu_assumed: bool


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
    confidence: Confidence


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


# ---------------------------------------------------------------- what a file may say


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Line = Annotated[str, Field(min_length=1, max_length=300)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Setting = bool | int | float | str | tuple[str, ...]


class _Source(_Strict):
    title: Line
    repository: Annotated[str, Field(pattern=r"^https://")]
    file: Line
    date: Line
    revision: Line | None = None


class _Tolerance(_Strict):
    """How far a printed number may lie from what was read, in the unit of the print."""

    half_width: Amount
    reason: Line


class _Measured(_Strict):
    metric: Metric
    unit: Unit
    value: Amount | None = None
    low: Amount | None = None
    high: Amount | None = None
    scope: Line | None = None

    @model_validator(mode="after")
    def _one_number_or_two(self) -> Self:
        if (self.value is None) == (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("give value, or low and high")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self

    def published(self, tolerance: _Tolerance | None) -> Published:
        least, most = UNITS[self.unit]
        low = self.low if self.low is not None else self.value
        high = self.high if self.high is not None else self.value
        half = tolerance.half_width if tolerance else 0.0
        return Published(
            self.metric,
            max(round(((low or 0) - half) * least), 0),
            round(((high or 0) + half) * most),
            self.scope,
            tolerance.reason if tolerance else None,
        )


class _Row(_Strict):
    id: Line
    outcome: Outcome
    outcome_inferred: bool = False
    measured: tuple[_Measured, ...] = ()
    tolerance: dict[Metric, _Tolerance] = {}
    confidence: Confidence

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.outcome == "oom" and self.measured:
            raise ValueError("a run that ran out of memory has no peak")
        metrics = [item.metric for item in self.measured]
        if len(metrics) != len(set(metrics)):
            raise ValueError("the same metric twice")
        return self

    @property
    def published(self) -> tuple[Published, ...]:
        return tuple(item.published(self.tolerance.get(item.metric)) for item in self.measured)


class _Behaviour(_Strict):
    """Fields of ``spec.Behaviour`` in which one run may differ from its trainer's habits."""

    kbit_upcast: KbitUpcast | None = None
    holds_logits: bool | None = None
    fused_parts: tuple[FusedPart, ...] | None = None


class _Case(_Row):
    model: Line
    method: Method
    gpu: Line
    gpus: Annotated[int, Field(ge=1)]
    stack: Line
    settings: dict[str, Setting]
    behaviour: _Behaviour = _Behaviour()
    bound: Literal["at_most"] | None = None
    stand_in: Line | None = None
    gpu_assumed: bool = False
    stated: dict[str, Setting] = {}

    @model_validator(mode="after")
    def _stands_in_by_options_alone(self) -> Self:
        if self.stand_in and self.behaviour != _Behaviour():
            raise ValueError("a stand-in is put in options, and no option sets a behaviour")
        return self


class _Unmodelled(_Row):
    reason: Reason
    detail: Line
    model: Line
    method: Line
    gpu: Line | None = None
    gpus: Annotated[int, Field(ge=1)] | None = None
    stated: dict[str, Setting] = {}


class _Common(_Strict):
    """What holds for every case of the file that does not say otherwise."""

    gpu: Line | None = None
    stack: Line | None = None
    stand_in: Line | None = None
    gpu_assumed: bool = False
    tolerance: dict[Metric, _Tolerance] = {}
    settings: dict[str, Setting] = {}
    adapter_settings: dict[str, Setting] = {}


class _File(_Strict):
    source: _Source
    common: _Common = _Common()
    case: tuple[_Case, ...] = ()
    unmodelled: tuple[_Unmodelled, ...] = ()


_SHARED = ("gpu", "gpu_assumed", "stack", "stand_in", "tolerance")


def _spread_all(content: dict[str, Any]) -> dict[str, Any]:
    """Lay each case over what the file says once for all; what has the wrong shape is left for the schema to refuse."""
    common, cases = content.get("common", {}), content.get("case", [])
    if not isinstance(common, dict) or not isinstance(cases, list):
        return content
    return {**content, "case": [_spread(common, case) if isinstance(case, dict) else case for case in cases]}


def _spread(common: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    adapters = {} if case.get("method") == "full" else common.get("adapter_settings", {})
    settings = {**common.get("settings", {}), **adapters, **case.get("settings", {})}
    shared = {name: common[name] for name in _SHARED if name in common}
    return {**shared, **case, "settings": settings}


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
        content = _File.model_validate_json(json.dumps(_spread_all(tomllib.loads(path.read_text(encoding="utf-8")))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise BrokenInput(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise BrokenInput(f"{path}: {place}: {fault['msg']} ({error.error_count()} in all)") from None
    source = Source(id=path.stem, **content.source.model_dump())
    cases = tuple(_case(source, row) for row in content.case)
    return AnchorFile(
        source,
        tuple(case for case in cases if case.stand_in is None),
        tuple(case for case in cases if case.stand_in is not None),
        tuple(_unmodelled(source, row) for row in content.unmodelled),
    )


def _case(source: Source, row: _Case) -> Case:
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
        published=row.published,
        confidence=row.confidence,
        stand_in=row.stand_in,
        gpu_assumed=row.gpu_assumed,
    )


def _unmodelled(source: Source, row: _Unmodelled) -> Unmodelled:
    return Unmodelled(
        id=row.id,
        source=source,
        reason=row.reason,
        detail=row.detail,
        model=row.model,
        method=row.method,
        outcome=row.outcome,
        published=row.published,
        confidence=row.confidence,
    )
