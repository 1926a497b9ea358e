"""The JSON of ``plan frontier``, ``what-if`` and ``sweep`` as types; ``document`` has those of a plan."""

from typing import Literal

from typing_extensions import TypedDict

from planner.render.document import CandidateDocument, ReasonDocument, Value, WayDocument
from planner.spec import Method


class CellDocument(TypedDict):
    """One length: the largest micro-batch that fits with its margin, and the largest without; 0 where none does."""

    seq_len: int
    fits: int
    tight: int
    tokens_per_second: float | None


class LongestDocument(TypedDict):
    """Tokens of one sequence; 0 where none fits."""

    fits: int
    tight: int


class LaneDocument(TypedDict):
    """One method at every length. ``least_bytes``: what one sequence of the shortest length needs."""

    method: Method
    gradient_checkpointing: bool
    cells: list[CellDocument]
    longest: LongestDocument
    least_bytes: int


class MissingDocument(TypedDict):
    """A method that cannot be planned, and why."""

    method: Method
    reason: str


class FrontierDocument(TypedDict):
    """What ``plan frontier --format json`` prints."""

    schema: Literal[1]
    model: str
    gpu: str
    gpus: int
    usable_bytes: int
    stack: str
    positions: int
    lanes: list[LaneDocument]
    missing: list[MissingDocument]
    notes: list[str]


class DifferenceDocument(TypedDict):
    """A change less what is at hand; ``null`` where either is unknown.

    ``verdict``: steps of it, above 0 for the better. ``pace_ratio``: tokens per second for each one at hand. ``usd``:
    of the run, else of a million tokens.
    """

    verdict: int
    required_bytes: int
    seconds: float | None
    pace_ratio: float | None
    usd: float | None


class EffectDocument(WayDocument):
    """A single change. ``reasons``: what rules on quality say of it and did not before; ``settled``: no longer."""

    difference: DifferenceDocument
    reasons: list[ReasonDocument]
    settled: list[str]


class RefusedDocument(TypedDict):
    """A change that the model, the card or the stack cannot do, and why."""

    settings: dict[str, Value]
    method: Method
    gpu: str
    gpus: int
    reason: str


class WhatIfDocument(TypedDict):
    """What ``plan what-if --format json`` prints; ``changes`` stand best first."""

    schema: Literal[1]
    model: str
    start: CandidateDocument
    changes: list[EffectDocument]
    refused: list[RefusedDocument]
    notes: list[str]


class RowDocument(TypedDict):
    """A line of ``plan sweep --out FILE.jsonl``. ``candidate`` is ``null`` where nothing could be planned: ``reason``.

    ``key`` tells the row from every other; ``settings`` are those that the sweep sets.
    """

    key: str
    schema: Literal[1]
    version: str
    model: str
    gpu: str
    gpus: int
    nodes: int | None
    method: Method
    stack: str
    settings: dict[str, Value]
    usable_bytes: int | None
    usd_per_hour: float | None
    candidate: CandidateDocument | None
    reason: str | None
