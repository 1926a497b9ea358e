"""Frozen outputs: what a step needs (``Estimate``), what follows from it (``Plan``).

All bytes are ints, per GPU, of the fullest rank. The peak is the largest phase, never a sum of the
owners' separate peaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from planner.spec import MOMENTS, NO_JOB, Cluster, Job, ModelSpec, Moment, Scenario
from planner.spec.dataset import Dataset

Phase = Literal["load", "rollout", "scoring", "forward", "loss", "reference", "backward", "optimizer_step"] | Moment
PHASES: tuple[Phase, ...] = ("load", "forward", "loss", "backward", "optimizer_step")
"""Loading and the step: what every estimate has."""
ALL_PHASES: tuple[Phase, ...] = (
    "load",
    "rollout",
    "scoring",
    "forward",
    "loss",
    "reference",
    "backward",
    "optimizer_step",
    *MOMENTS,
)
"""In their order, with those of GRPO and DPO, and the moments that an estimate has where they are asked for."""
Verdict = Literal["fits", "tight", "does_not_fit"]
Evidence = Literal["closed-form", "traced", "measured"]


class Memory(NamedTuple):
    """Bytes by owner at one instant; the seven owners sum to what the allocator counts as allocated."""

    weights: int = 0
    adapters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    temporaries: int = 0

    @property
    def total(self) -> int:
        """Allocated bytes."""
        return sum(self)


OWNERS: tuple[str, ...] = Memory._fields


class Parameters(NamedTuple):
    """Parameter counts. ``quantized`` says how many of ``total`` are stored in 4 or 8 bits."""

    total: int
    trainable: int
    quantized: int


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest phase in the three ways of counting, and what a card must have for it.

    ``required_bytes``: smallest total memory of a card on which the step completes. ``low_bytes`` and ``high_bytes``
    bound it. ``device_bytes``: what nvidia-smi shows with memory to spare.
    """

    phase: Phase
    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    required_bytes: int
    low_bytes: int
    high_bytes: int
    managed_bytes: int = 0
    host_bytes: int = 0


class Host(NamedTuple):
    """RAM that one machine needs for all its ranks, in bytes by what lies there; ``nvme`` lies on its drive.

    ``whole``: of one undivided 4-bit model, where transformers puts it on every rank's card before it is divided; cards
    that do not hold it take it from RAM.

    ``load``: the most that the ranks of the machine hold together while they load the model; ``buffers``: staging areas
    that engines keep. ``pinned`` counts what of the rest is page-locked. Python, libraries and the input pipeline are
    left out.
    """

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    buffers: int = 0
    load: int = 0
    pinned: int = 0
    nvme: int = 0
    whole: int = 0

    @property
    def steady_bytes(self) -> int:
        """While steps run."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.buffers

    def loading_on(self, cluster: Cluster) -> int:
        """While the model is loaded: where cards do not hold the undivided 4-bit model, every rank has one in RAM."""
        outgrows = self.whole + cluster.gpu.context_bytes > cluster.usable_bytes
        return max(self.load, cluster.gpus * self.whole) if outgrows else self.load

    def required_on(self, cluster: Cluster) -> int:
        """While steps run or while the model is loaded, whatever is more."""
        return max(self.steady_bytes, self.loading_on(cluster))


NO_RAM = Host()
"""Nothing in RAM that is counted."""

BasisKind = Literal["stated", "published", "device", "neighbours", "scenario"]


class Basis(NamedTuple):
    """On what the interval of an estimate rests, narrowest last.

    ``stated``: on nothing measured. ``published``: on ``n`` runs of ``sources`` that others measured, of the kind that
    ``group`` names. ``device``, ``neighbours``, ``scenario``: on ``n`` of the user's own runs: on such a device, of the
    same model, of this very scenario. ``coverage``: share of such runs that the interval holds, where that is known.
    ``correction_bytes``: by how much own runs moved the requirement.
    """

    kind: BasisKind
    n: int = 0
    sources: tuple[str, ...] = ()
    group: str = ""
    coverage: float | None = None
    correction_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one optimizer step takes, phase by phase, and on which evidence we say so.

    Estimators leave ``basis`` empty, with ``low_bytes`` and ``high_bytes`` at the requirement: calibration sets them.
    """

    evidence: Evidence
    parameters: Parameters
    phases: Mapping[Phase, Memory]
    peak: Peak
    basis: Basis | None = None
    host: Host = NO_RAM

    @property
    def peak_memory(self) -> Memory:
        """Bytes by owner at the instant of the peak."""
        return self.phases[self.peak.phase]


Axis = Literal["shard", "replicate", "tensor", "context", "ulysses", "pipeline", "expert"]
"""The group of ranks that communicate, by the size of the layout that it divides."""
TimePart = Literal[
    "compute", "dequantise", "launch", "communicate", "bubble", "optimizer", "offload", "reference", "generate"
]
TIME_PARTS: tuple[TimePart, ...] = get_args(TimePart)


class TimeBasis(NamedTuple):
    """On what the bounds of a time rest: ``n`` published runs of ``sources``, or of the user's own, told by ``kind``.

    ``group``: in words, the kind of run that they are, for instance "trl on Ampere, 4k or more tokens per micro-step".
    """

    kind: BasisKind
    n: int = 0
    sources: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One optimizer step, accumulation included, in seconds; ``low`` and ``high`` bound it.

    ``tokens_per_second``: of all GPUs together, padding included. ``parts``: seconds that each term would take by
    itself; they overlap, so they sum to more. ``bound``: the part that sets the pace. ``exchanges``: seconds of
    ``communicate`` by the group of ranks that communicates.
    """

    seconds: float
    low: float
    high: float
    tokens_per_second: float
    parts: Mapping[TimePart, float]
    bound: TimePart
    basis: TimeBasis
    exchanges: Mapping[Axis, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One whole run: ``steps`` optimizer steps, hours with bounds, and money where the card has a price.

    ``setup_hours``: download and loading of the weights, included in ``hours``. ``usd``: at the typical price;
    ``usd_low``: low price and low hours; ``usd_high``: highest price known and high hours.
    """

    steps: int
    hours: float
    low_hours: float
    high_hours: float
    setup_hours: float
    usd: float | None = None
    usd_low: float | None = None
    usd_high: float | None = None
    price_as_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why the plan says so: a stable code, one sentence, and the number that it rests on."""

    code: str
    text: str
    number: float
    unit: Literal["bytes", "ratio", "parameters", "gpus", "usd_per_hour", "tokens", "steps", "seconds", "usd", "hours"]
    severity: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to train: its settings, what it takes and whether the card has that.

    ``step`` is ``None`` where no rate of the card is known, ``cost`` where nobody said how much there is to train on.
    """

    scenario: Scenario
    estimate: Estimate
    verdict: Verdict
    step: StepTime | None = None
    cost: Cost | None = None

    @property
    def method(self) -> str:
        """``full``, ``lora`` or ``qlora``."""
        return self.scenario.train.method


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A change that makes the job run: ``settings`` holds only what differs from the request.

    ``usd_per_hour`` is the low and typical price of all the GPUs together, where one is known.
    """

    settings: Mapping[str, str | int | float | bool]
    candidate: Candidate
    command: str
    usd_per_hour: tuple[float | None, float | None] = (None, None)
    edit: str = ""
    """The change in the words of the configuration that asked, where it has any."""

    @property
    def gpu(self) -> str:
        """Profile id."""
        return self.candidate.scenario.cluster.gpu.id

    @property
    def gpus(self) -> int:
        """Number of GPUs in all."""
        return self.candidate.scenario.cluster.world_size

    @property
    def sharding(self) -> str:
        """How states are divided among them."""
        return self.candidate.scenario.train.sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another way to do the job, held against the recommended one.

    ``required_bytes``: what it needs more, negative where less. ``time_ratio``: its time per sequence over that of the
    recommended. ``usd``: what the run costs more. ``text``: the trade in one line.
    """

    way: Way
    required_bytes: int
    time_ratio: float | None
    usd: float | None
    text: str


Quantity = Literal["memory_bytes", "tokens", "seq_len"]
Side = Literal["above", "below"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What would change the plan's mind: beyond ``value`` on its ``side`` it says ``method``; ``None``: nothing runs.

    ``memory_bytes``: usable bytes per card, from ``value`` on above, under it below. ``tokens`` that bear loss and
    ``seq_len``: over ``value`` above, up to it below.
    """

    quantity: Quantity
    value: int
    side: Side
    method: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Index of the chosen candidate, or ``None`` when nothing fits, with reasons and ways out.

    ``command``: asks for exactly the chosen candidate. ``thresholds``: where another method would be chosen.
    """

    candidate: int | None
    reasons: tuple[Reason, ...]
    command: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    changes: tuple[Way, ...] = ()
    rent: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole answer to one request."""

    model: ModelSpec
    cluster: Cluster
    candidates: tuple[Candidate, ...]
    recommendation: Recommendation
    named: tuple[str, ...] = ()
    """Methods that the user named; none when all were in question."""
    job: Job = NO_JOB
    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()
    """What the reader must know about names and data: what an alias resolved to, estimated figures, warnings."""

    @property
    def fits(self) -> bool:
        """Whether any candidate is ``fits`` or ``tight``."""
        return any(candidate.verdict != "does_not_fit" for candidate in self.candidates)
