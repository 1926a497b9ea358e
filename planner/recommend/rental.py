"""Hardware that can be rented for a job: one offer with what the run takes there, and the whole answer."""

from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from planner.cost import ASSUMED, Assumed
from planner.prices import today
from planner.recommend.quality import RISKS, quality_risk
from planner.recommend.request import Request
from planner.result import Candidate, Reason, StepTime
from planner.spec import ModelSpec, Price

PETTY_USD = 2.0
"""Dollars of a whole run that decide nothing against quality (ours): an hour of one large card."""

NEARLY = 1.25
"""Up to this multiple of the cheapest price a method with less quality risk is preferred (ours): less than sellers of
one and the same card differ by."""

AMPLE = 0.10
"""Share of a card that is room to spare (ours): as wide as the interval that is stated where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class RentRequest:
    """What is trained, hardware left open, and the limits; ``None``: no limit.

    ``request.gpu`` is not read. ``live``: ask for offers of the moment; ``spot``: only those that may be interrupted.
    """

    request: Request
    budget_usd: float | None = None
    deadline_hours: float | None = None
    max_gpus: int = 8
    live: bool = False
    spot: bool = False
    assumed: Assumed = ASSUMED
    today: date = field(default_factory=today)


class Needs(NamedTuple):
    """What one machine must have besides its cards."""

    host_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental:
    """So many cards of one kind with a method tuned for them.

    The candidate has a time, and its card a price. ``seller`` and ``region``: the cheapest, where offers of the moment
    were asked for.
    """

    candidate: Candidate
    command: str
    needs: Needs
    seller: str | None = None
    region: str | None = None

    @property
    def gpu(self) -> str:
        """Profile id."""
        return self.candidate.scenario.cluster.gpu.id

    @property
    def gpus(self) -> int:
        """Number of cards in all."""
        return self.candidate.scenario.cluster.world_size

    @property
    def method(self) -> str:
        """``full``, ``lora`` or ``qlora``."""
        return self.candidate.method

    @property
    def named(self) -> str:
        """How many of which card."""
        return f"{self.gpus} × {self.gpu}"

    @property
    def step(self) -> StepTime:
        """The time of an optimizer step."""
        step = self.candidate.step
        assert step is not None, "only what has a time is offered"
        return step

    @property
    def price(self) -> Price:
        """Per GPU-hour."""
        price = self.candidate.scenario.cluster.gpu.price
        assert price is not None, "only cards with a price are let"
        return price

    @property
    def usd_per_hour(self) -> float:
        """All cards together, at the price that offers are ranked by."""
        assert self.price.typical_usd is not None, "offers are ranked by it"
        return self.gpus * self.price.typical_usd

    @property
    def usd_per_million(self) -> float:
        """A million tokens of the steady state, padding included."""
        return self.usd_per_hour * self._million_hours

    @property
    def _million_hours(self) -> float:
        return 1e6 / self.step.tokens_per_second / 3600

    @property
    def usd(self) -> float:
        """The whole run; a million tokens where nobody said how much there is."""
        cost = self.candidate.cost
        return self.usd_per_million if cost is None or cost.usd is None else cost.usd

    @property
    def hours(self) -> float:
        """The whole run; a million tokens where nobody said how much there is."""
        cost = self.candidate.cost
        return self._million_hours if cost is None else cost.hours

    @property
    def usd_slowest(self) -> float:
        """The same money at the upper bound of the time."""
        cost, step = self.candidate.cost, self.step
        if cost is None:
            return self.usd_per_million * step.high / step.seconds
        return cost.high_hours * self.usd_per_hour

    @property
    def headroom_bytes(self) -> int:
        """Bytes of each card beyond what the step must have."""
        return self.candidate.scenario.cluster.usable_bytes - self.candidate.estimate.peak.required_bytes

    @property
    def room(self) -> int:
        """0: tight; 1: fits; 2: fits with a tenth of the card to spare."""
        if self.candidate.verdict == "tight":
            return 0
        return 1 + (self.headroom_bytes >= AMPLE * self.candidate.scenario.cluster.usable_bytes)

    @property
    def risk(self) -> int:
        """An index into ``quality.RISKS``."""
        return quality_risk(self.candidate)

    @property
    def measured(self) -> bool:
        """Whether anybody timed such runs on such a card."""
        return self.step.basis.n > 0

    @property
    def doubt(self) -> int:
        """0: time measured and price listed; 1: time estimated; 2: price estimated; 3: both."""
        return int(not self.measured) + 2 * int(self.price.estimated)

    def worth_quality(self, usd: float) -> float:
        """The most that a method with less quality risk may cost beside this one at ``usd``."""
        return max(NEARLY * usd, usd + (PETTY_USD if self.candidate.cost else 0))

    def beats_at_slowest(self, other: "Rental") -> bool:
        """Whether this one is the one to take though its time may be as long as its upper bound says."""
        if self.risk > other.risk:
            return self.worth_quality(self.usd_slowest) < other.usd
        return self.usd_slowest <= other.usd

    @property
    def risk_words(self) -> str:
        """What the quality risk means."""
        return RISKS[self.risk]

    def within(self, question: RentRequest) -> bool:
        """Whether the offer keeps to budget and deadline, by its middle estimates at the typical price."""
        affordable = question.budget_usd is None or self.usd <= question.budget_usd
        return affordable and (question.deadline_hours is None or self.hours <= question.deadline_hours)

    def costs(self) -> tuple[float, float, int, int]:
        """Money, hours, lack of room, quality risk: less is better in each."""
        return self.usd, self.hours, -self.room, self.risk


@dataclass(frozen=True, slots=True, kw_only=True)
class RentAnswer:
    """What to rent.

    ``offers``: within the limits and beaten by none in money, hours, room and quality at once, cheapest first.
    ``recommended``: an index into them. ``others``: the cheapest of every other kind of card that runs the job, within
    the limits or not. ``nearest``: where no offer is within the limits, what would be. ``price_as_of``: of the oldest
    price; ``live``: whether prices are of the moment.
    """

    question: RentRequest
    model: ModelSpec
    offers: tuple[Rental, ...]
    others: tuple[Rental, ...]
    recommended: int | None
    reasons: tuple[Reason, ...] = ()
    nearest: str | None = None
    price_as_of: str | None = None
    live: bool = False
    considered: int = 0
    notes: tuple[str, ...] = ()

    @property
    def choice(self) -> Rental | None:
        """The recommended offer."""
        return None if self.recommended is None else self.offers[self.recommended]
