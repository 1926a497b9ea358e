"""The JSON documents as types: what scripts may rely on, and where the schema page comes from.

Adding a key is free; renaming one is a new ``schema`` number. All bytes are ints, per GPU, of the
fullest rank.
"""

from typing import Literal

from typing_extensions import TypedDict

from planner.render.dataset import DatasetDocument
from planner.result import Axis, BasisKind, Evidence, Phase, Quantity, Side, TimePart, Verdict
from planner.spec import Origin, Sharding, Task

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
    """``count`` cards in ``nodes`` machines: ``total_bytes`` is what torch can see on each, ``usable_bytes`` that less
    headroom.
    """

    id: str
    name: str
    count: int
    nodes: int
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


class HostOwnersDocument(TypedDict):
    """What lies in a machine's RAM while steps run, in bytes; the sum is ``steady_bytes``."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int


class HostDocument(TypedDict):
    """RAM that one machine needs for all its ranks: ``required_bytes`` is the larger of ``steady_bytes`` and
    ``load_bytes``; of it ``pinned_bytes`` are page-locked. ``nvme_bytes`` lie on its drive.
    """

    required_bytes: int
    steady_bytes: int
    load_bytes: int
    pinned_bytes: int
    nvme_bytes: int
    owners: HostOwnersDocument


class PhaseDocument(TypedDict):
    """One phase of the step."""

    name: Phase
    allocated_bytes: int
    owners: OwnersDocument


class TimeBasisDocument(TypedDict):
    """What ``low`` and ``high`` of a time rest on, as for an interval of bytes."""

    basis: BasisKind
    n: int
    sources: list[str]
    group: str


class StepDocument(TypedDict):
    """Time of one optimizer step, accumulation included.

    ``tokens_per_second``: of all GPUs, padding included. ``parts``: seconds of each term by itself; they overlap.
    ``bound``: the part that sets the pace. ``exchanges``: seconds of ``communicate`` by the group of ranks: ``shard``
    (data-parallel ranks that divide states or sum gradients), ``replicate``, ``tensor``, ``context``, ``ulysses``,
    ``pipeline``, ``expert``.
    """

    seconds: float
    low: float
    high: float
    tokens_per_second: float
    parts: dict[TimePart, float]
    bound: TimePart
    exchanges: dict[Axis, float]
    basis: TimeBasisDocument


class CostDocument(TypedDict):
    """The whole run: optimizer steps, hours (``setup_hours`` of download and loading included), US dollars."""

    steps: int
    hours: float
    low_hours: float
    high_hours: float
    setup_hours: float
    usd: float | None
    usd_low: float | None
    usd_high: float | None
    price_as_of: str | None


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
        "host": HostDocument,
        "phases": list[PhaseDocument],
        "verdict": Verdict,
        "step": StepDocument | None,
        "cost": CostDocument | None,
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


class AlternativeDocument(TypedDict):
    """Another way against the recommended one: bytes more per card, time per sequence as a ratio, dollars more."""

    way: WayDocument
    required_bytes: int
    time_ratio: float | None
    usd: float | None
    text: str


class ThresholdDocument(TypedDict):
    """Beyond ``value`` on its ``side``, ``method`` would be chosen; ``null``: nothing would run.

    ``memory_bytes``: usable per card, from ``value`` on above, under it below. ``tokens`` and ``seq_len``: over
    ``value`` above, up to it below.
    """

    quantity: Quantity
    value: int
    side: Side
    method: str | None
    text: str


class JobDocument(TypedDict):
    """What is trained for, and how much of it; ``null``: not said. ``tokens`` are those of one epoch."""

    task: Task
    tokens: int | None
    supervised_tokens: int | None
    sequences: int | None
    epochs: float
    packing: bool
    adapters: int
    new_vocabulary: bool
    keep_skills: bool


class AdviceDocument(TypedDict):
    """What to set, in which range others put it, why, and who says so."""

    value: float | int | bool | str | list[str]
    low: float | None
    high: float | None
    why: str
    source: str


class RecommendationDocument(TypedDict):
    """``candidate`` is an index into ``candidates``, or ``null`` when nothing fits; ``command`` asks for exactly it."""

    candidate: int | None
    command: str | None
    alternatives: list[AlternativeDocument]
    thresholds: list[ThresholdDocument]
    reasons: list[ReasonDocument]
    recipe: dict[str, AdviceDocument] | None
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
    job: JobDocument
    dataset: DatasetDocument | None
    candidates: list[CandidateDocument]
    recommendation: RecommendationDocument
    notes: list[str]
