"""What was observed, what follows from it, and the likeliest differences: frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from planner.recommend.request import Setting
from planner.result import Candidate, Phase
from planner.why.message import Amount, Failure
from planner.why.traceback import Place

Metric = Literal["allocated", "reserved", "device"]


class Observation(NamedTuple):
    """Bytes that a run took, by one way of counting.

    ``at_least``: a failure, which says what was wanted when it failed and not what it would have come to. ``phase``:
    the phase that the bytes are of, where it is known.
    """

    metric: Metric
    amount: Amount
    at_least: bool = False
    phase: Phase | None = None

    def beyond(self, count: int) -> int:
        """How much more was observed than ``count`` bytes (negative: less); 0 within rounding."""
        return -self.amount.distance(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """Something that the message itself tells, with its bytes where it has any."""

    code: str
    text: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A change, or a pair of changes, of the planned settings: what is predicted with it, and what is left of the gap.

    ``bytes``: by how much it moves the prediction. ``explains``: what is left is within rounding and the estimator's
    own small error. ``solved``: its number was chosen to meet what was observed. ``matched``: the request that failed
    is a tensor of this scenario and not of the planned one. ``frame``: the function of the traceback that only such a
    run goes through.
    """

    codes: tuple[str, ...]
    text: str
    settings: Mapping[str, Setting]
    bytes: int
    predicted_bytes: int
    remaining_bytes: int
    explains: bool
    solved: bool
    matched: str
    frame: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The whole answer. ``expected`` are the predicted bytes that the observation is held against, and their bounds.

    ``gap_bytes``: observed, as printed, less predicted; a failure leaves it open above. Without settings of the run
    there is only what the message tells.
    """

    failure: Failure | None
    place: Place | None
    clues: tuple[Clue, ...]
    notes: tuple[str, ...] = ()
    observation: Observation | None = None
    candidate: Candidate | None = None
    command: str = ""
    expected: tuple[int, int, int] | None = None
    """Predicted, low, high."""
    gap_bytes: int | None = None
    agrees: bool = False
    differences: tuple[Difference, ...] = ()
    pairs: tuple[Difference, ...] = ()
