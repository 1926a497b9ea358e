"""The JSON documents as types: what scripts may rely on, and where the schema page comes from.

Adding a key is free; renaming one is a new ``schema`` number. All bytes are ints, per GPU, of the
fullest rank.
"""

from typing import Literal

from typing_extensions import TypedDict

from planner.result import BasisKind, Evidence, Phase, Verdict
from planner.spec import Origin, Sharding

SCHEMA: Literal[1] = 1

Value = str | int | float | bool | list[str] | dict[str, str]

Setting = TypedDict("Setting", {"value": Value, "from": Origin})
"""One resolved setting and who chose it."""


class ModelDocument(TypedDict):
    """Which model a name resolved to."""

    name: str
    hub_id: str | None
    model_type: str
    license: str | None


class GpuDocument(TypedDict):
    """The cards: ``total_bytes`` is what torch can see on each, ``usable_bytes`` that less headroom."""

    id: str
    name: str
    count: int
    total_bytes: int
    usable_bytes: int


class ParametersDocument(TypedDict):
    """``total``: the base model as loaded. ``trainable``: what the optimizer sees. ``quantized``: in 4 or 8 bits."""

    total: int
    trainable: int
    quantized: int


class PeakDocument(TypedDict):
    """The largest phase. ``required_bytes``: smallest ``total_bytes`` of a card on which the step completes."""

    phase: Phase
    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    required_bytes: int
    low_bytes: int
    high_bytes: int
    managed_bytes: int
    host_bytes: int


class IntervalDocument(TypedDict):
    """What ``low_bytes`` and ``high_bytes`` rest on, and by how much own runs moved ``required_bytes``.

    ``basis``: ``stated``; ``published`` numbers of ``sources``; own runs on such a ``device``, of ``neighbours`` or of
    this ``scenario``, whose ids are the ``sources``. ``coverage``: share of such numbers that it holds, where known.
    """

    basis: BasisKind
    n: int
    sources: list[str]
    group: str
    coverage: float | None
    correction_bytes: int


class OwnersDocument(TypedDict):
    """Bytes by owner at the instant of a phase's peak; they sum to ``allocated_bytes``."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporaries: int


class PhaseDocument(TypedDict):
    """One phase of the step."""

    name: Phase
    allocated_bytes: int
    owners: OwnersDocument


class StepDocument(TypedDict):
    """Time of one optimizer step."""

    seconds: float
    low: float
    high: float
    tokens_per_second: float


CandidateDocument = TypedDict(
    "CandidateDocument",
    {
        "method": str,
        "peft_type": str | None,
        "settings": dict[str, Value],
        "from": dict[str, Origin],
        "evidence": Evidence,
        "parameters": ParametersDocument,
        "peak": PeakDocument,
        "interval": IntervalDocument | None,
        "phases": list[PhaseDocument],
        "verdict": Verdict,
        "step": StepDocument | None,
        "cost": dict[str, float] | None,
    },
)
"""One way to train: every setting, what it takes, and whether the card has that."""


class ReasonDocument(TypedDict):
    """A rule's code, its sentence and the number that it rests on."""

    code: str
    text: str
    number: float
    unit: str
    severity: Literal["info", "warning"]


class DollarsDocument(TypedDict):
    """US dollars per hour for all GPUs together; ``null`` where no price is known."""

    low: float | None
    typical: float | None


class WayDocument(TypedDict):
    """A change that makes the job run: ``settings`` holds only what differs from the request."""

    settings: dict[str, Value]
    gpu: str
    gpus: int
    sharding: Sharding
    candidate: CandidateDocument
    command: str
    usd_per_hour: DollarsDocument


class RecommendationDocument(TypedDict):
    """``candidate`` is an index into ``candidates``, or ``null`` when nothing fits."""

    candidate: int | None
    reasons: list[ReasonDocument]
    changes: list[WayDocument]
    rent: list[WayDocument]


class PlanDocument(TypedDict):
    """What ``plan --format json`` prints.

    ``scenario`` holds the settings that all methods share; each candidate's ``settings`` are complete.
    """

    schema: Literal[1]
    scenario: dict[str, Setting]
    model: ModelDocument
    gpu: GpuDocument
    candidates: list[CandidateDocument]
    recommendation: RecommendationDocument
    notes: list[str]
