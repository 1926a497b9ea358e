"""What an anchor file may say, read by pydantic: unknown names, wrong types and contradictions are refused.

A file begins with ``[source]``, who published its numbers and where, or with ``[measured]``, on what ``plan measure``
made them. ``[common]`` holds what is the same in every row that does not say otherwise.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planner.spec import Method
from planner.units import GB, GIB, MB, MIB

Metric = Literal["allocated", "resident", "standing", "reserved", "device", "active", "kernel", "fits", "unspecified"]
"""``resident``: what stays allocated between steps; ``standing``: the same with gradients. ``kernel``: of one kernel
alone. ``fits``: the size of a card on which it ran. The rest are torch's words, and nvidia-smi's for ``device``."""
TimeMetric = Literal["seconds", "tokens_per_s", "samples_per_s"]
Unit = Literal["B", "MiB", "GiB", "GB", "GB?", "MB?"]
Reason = Literal[
    "stack", "quantisation", "method", "architecture", "parallelism", "offload", "settings", "kernel", "time"
]
"""Why a row is not predicted; ``time``: it tells nothing of memory."""
KbitUpcast = Literal["none", "norms", "all"]
FusedPart = Literal["norm", "rope", "swiglu", "lora", "loss"]
Outcome = Literal["ran", "oom"]
Confidence = Literal["A", "B", "C"]

UNITS: Mapping[str, tuple[int, int]] = {
    "B": (1, 1),
    "MiB": (MIB, MIB),
    "GiB": (GIB, GIB),
    "GB": (GB, GB),
    "GB?": (GB, GIB),
    "MB?": (MB, MIB),
}
"""Bytes per unit, lowest and highest reading: a bare GB may be 10**9 or 2**30, which lie 7 % apart."""

Line = Annotated[str, Field(min_length=1, max_length=300)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Setting = bool | int | float | str | tuple[str, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ---------------------------------------------------------------- where the numbers come from


class SourceTable(_Strict):
    """A public place."""

    title: Line
    repository: Annotated[str, Field(pattern=r"^https://")]
    file: Line
    date: Line
    revision: Line | None = None


class MeasuredTable(_Strict):
    """A device on which ``plan measure`` ran, and with what."""

    device: Line
    total_bytes: Annotated[int, Field(gt=0)]
    planner: Line
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    versions: dict[str, Line]
    driver: Line | None = None
    allocator: Line | None = None


# ---------------------------------------------------------------- numbers


class ToleranceTable(_Strict):
    """How far a printed number may lie from what was read, in the unit of the print."""

    half_width: Amount
    reason: Line


class NumberTable(_Strict):
    """Bytes: one number, or the two ends of a range."""

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

    def bytes_within(self, half_width: float) -> tuple[int, int]:
        """Fewest and most bytes that the print can mean."""
        least, most = UNITS[self.unit]
        low = self.low if self.low is not None else self.value or 0.0
        high = self.high if self.high is not None else self.value or 0.0
        return max(round((low - half_width) * least), 0), round((high + half_width) * most)


class TimeTable(_Strict):
    """Time, or what was done in a second. ``scope``: of what, and on how many GPUs."""

    metric: TimeMetric
    value: Amount
    scope: Line


# ---------------------------------------------------------------- rows


class RowTable(_Strict):
    """What all rows have."""

    id: Line
    outcome: Outcome
    outcome_inferred: bool = False
    measured: tuple[NumberTable, ...] = ()
    timed: tuple[TimeTable, ...] = ()
    tolerance: dict[Metric, ToleranceTable] = {}
    stated: dict[str, Setting] = {}
    confidence: Confidence

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.outcome == "oom" and (self.measured or self.timed):
            raise ValueError("a run that ran out of memory has no peak and no time")
        for items in (self.measured, self.timed):
            metrics = [item.metric for item in items]
            if len(metrics) != len(set(metrics)):
                raise ValueError("the same metric twice")
        return self


class BehaviourTable(_Strict):
    """Fields of ``spec.Behaviour`` in which one run may differ from its trainer's habits."""

    kbit_upcast: KbitUpcast | None = None
    holds_logits: bool | None = None
    fused_parts: tuple[FusedPart, ...] | None = None


class CaseTable(RowTable):
    """A run as a scenario.

    ``assumed``: what its source leaves open, and how it is filled in. ``off``: why a prediction for several GPUs lies
    as far from the print as it does.
    """

    model: Line
    method: Method
    gpu: Line
    gpu_assumed: bool = False
    gpus: Annotated[int, Field(ge=1)]
    stack: Line
    stand_in: Line | None = None
    assumed: Line | None = None
    off: Line | None = None
    settings: dict[str, Setting]
    behaviour: BehaviourTable = BehaviourTable()
    bound: Literal["at_most"] | None = None

    @model_validator(mode="after")
    def _stands_in_by_options_alone(self) -> Self:
        if self.stand_in and self.behaviour != BehaviourTable():
            raise ValueError("a stand-in is put in options, and no option sets a behaviour")
        return self

    @model_validator(mode="after")
    def _explains_several_cards(self) -> Self:
        if self.off and self.gpus == 1:
            raise ValueError("off explains runs on several GPUs, and this one had one")
        return self


class UnmodelledTable(RowTable):
    """A run as its source states it."""

    reason: Reason
    detail: Line
    model: Line
    method: Line
    gpu: Line | None = None
    gpus: Annotated[int, Field(ge=1)] | None = None


# ---------------------------------------------------------------- the file


class CommonTable(_Strict):
    """What holds for every row of the file that does not say otherwise; all but ``unmodelled`` is for cases."""

    gpu: Line | None = None
    gpu_assumed: bool = False
    stack: Line | None = None
    stand_in: Line | None = None
    assumed: Line | None = None
    tolerance: dict[Metric, ToleranceTable] = {}
    settings: dict[str, Setting] = {}
    adapter_settings: dict[str, Setting] = {}
    unmodelled: dict[str, Setting | dict[str, Setting]] = {}


class FileTable(_Strict):
    """One anchor file."""

    source: SourceTable | None = None
    measured: MeasuredTable | None = None
    common: CommonTable = CommonTable()
    case: tuple[CaseTable, ...] = ()
    unmodelled: tuple[UnmodelledTable, ...] = ()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.measured is None):
            raise ValueError("give source, who published the numbers, or measured, on what they were made")
        return self


_SHARED = ("gpu", "gpu_assumed", "stack", "stand_in", "assumed", "tolerance")


def spread_common(content: dict[str, Any]) -> dict[str, Any]:
    """Lay each row over what the file says once for all; what has the wrong shape is left for the schema to refuse."""
    common = content.get("common", {})
    if not isinstance(common, dict):
        return content
    rows = {"case": _case, "unmodelled": _unmodelled}
    spread = {
        name: [lay(common, row) if isinstance(row, dict) else row for row in content[name]]
        for name, lay in rows.items()
        if isinstance(content.get(name), list)
    }
    return {**content, **spread}


def _case(common: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    adapters = {} if row.get("method") == "full" else common.get("adapter_settings", {})
    settings = {**common.get("settings", {}), **adapters, **row.get("settings", {})}
    shared = {name: common[name] for name in _SHARED if name in common}
    return {**shared, **row, "settings": settings}


def _unmodelled(common: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    shared = common.get("unmodelled", {})
    return {**shared, **row, "stated": {**shared.get("stated", {}), **row.get("stated", {})}}
