"""Reads ``tests/anchors/*.toml``: one file per public source, each case a fact that its authors printed.

pydantic reads the files, frozen dataclasses carry on. A ``case`` is a scenario in our words that our
stacks can express; an ``unmodelled`` row is kept as its source states it, with the reason why not.
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
    """One printed number in bytes; ``low`` and ``high`` differ where its unit or the print leaves room."""

    metric: Metric
    low_bytes: int
    high_bytes: int
    scope: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A published run that our stacks can express.

    ``settings`` are ``TrainSpec`` fields as the source states them; ``behaviour`` is where the run
    differed from its trainer's habits. ``at_most``: ``seq_len`` is the longest that the source allows,
    so the published bytes are a lower bound on the prediction.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmodelled:
    """A published run that our stacks cannot express, and why."""

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
    unmodelled: tuple[Unmodelled, ...]

    @property
    def rows(self) -> tuple[Case | Unmodelled, ...]:
        """Every row, whether we model it or not."""
        return (*self.cases, *self.unmodelled)


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

    def published(self) -> Published:
        least, most = UNITS[self.unit]
        low = self.low if self.low is not None else self.value
        high = self.high if self.high is not None else self.value
        return Published(self.metric, round((low or 0) * least), round((high or 0) * most), self.scope)


class _Row(_Strict):
    id: Line
    outcome: Outcome
    outcome_inferred: bool = False
    measured: tuple[_Measured, ...] = ()
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
        return tuple(item.published() for item in self.measured)


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


class _Unmodelled(_Row):
    reason: Reason
    detail: Line
    model: Line
    method: Line
    gpu: Line | None = None
    gpus: Annotated[int, Field(ge=1)] | None = None
    stated: dict[str, bool | int | float | str | tuple[str, ...]] = {}


class _Common(_Strict):
    """What holds for every case of the file that does not say otherwise."""

    gpu: Line | None = None
    stack: Line | None = None
    settings: dict[str, Setting] = {}
    adapter_settings: dict[str, Setting] = {}


class _File(_Strict):
    source: _Source
    common: _Common = _Common()
    case: tuple[_Case, ...] = ()
    unmodelled: tuple[_Unmodelled, ...] = ()


def _spread_all(content: dict[str, Any]) -> dict[str, Any]:
    """Lay each case over what the file says once for all; what has the wrong shape is left for the schema to refuse."""
    common, cases = content.get("common", {}), content.get("case", [])
    if not isinstance(common, dict) or not isinstance(cases, list):
        return content
    return {**content, "case": [_spread(common, case) if isinstance(case, dict) else case for case in cases]}


def _spread(common: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    adapters = {} if case.get("method") == "full" else common.get("adapter_settings", {})
    settings = {**common.get("settings", {}), **adapters, **case.get("settings", {})}
    shared = {name: common[name] for name in ("gpu", "stack") if name in common}
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
    return AnchorFile(
        source,
        tuple(_case(source, row) for row in content.case),
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
