"""MON: offers of hardware beside each other: what a little more money or time would buy, what was passed over.

These rules speak only where hardware is looked for (``plan rent``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from planner.cost import saved_bytes
from planner.prices import OLD_DAYS, age, is_old
from planner.prices.amounts import dollars, spell_hours
from planner.recommend.rules.base import Case, Rule, Scope, percent
from planner.recommend.rules.mon import EstimatedPrice, PriceSpread, SetupDominates
from planner.result import Reason
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.recommend.rental import Rental, RentRequest

NEAR_MONEY = 0.10
"""Money within which two offers cost nearly the same (ours): far less than prices differ between sellers."""

SOONER = 0.7
"""Share of the hours below which an offer counts as sooner (ours): two cards in place of one rarely lose more."""

WEEK = 168.0
"""Hours from which a run counts as long (ours)."""


@dataclass(frozen=True, kw_only=True)
class Renting(Case):
    """The recommended offer among all that run: ``found`` holds them within the limits and beyond."""

    question: "RentRequest"
    choice: "Rental"
    found: "tuple[Rental, ...]"

    def like(self) -> "Iterable[Rental]":
        """The chosen kind of card and method in other numbers."""
        mine = self.choice
        return (one for one in self.found if one.gpu == mine.gpu and one.method == mine.method and one is not mine)

    def cheaper(self) -> "Iterable[Rental]":
        """Offers within the limits that fit and cost less than the chosen one."""
        kept = (one for one in self.found if one.room and one.usd < self.choice.usd)
        return (one for one in kept if one.within(self.question))

    def cheaper_but_tight(self) -> "Iterable[Rental]":
        """Listed offers that cost less and may run out of memory, where the chosen one does not."""
        listed = {id(one) for one in self.candidates}
        kept = (one for one in self.found if id(one.candidate) in listed and one.usd < self.choice.usd)
        return (one for one in kept if self.choice.room and not one.room)

    def forgone_for_quality(self, one: "Rental") -> bool:
        """Whether a cheaper offer was passed over because the chosen method has less quality risk, for little more."""
        return one.risk > self.choice.risk and self.choice.usd <= one.worth_quality(one.usd)


class OfOffers(ABC):
    """A rule that speaks of offers only; ``of_runs``: and only where they are of a whole run."""

    code: ClassVar[str]
    slug: ClassVar[str]
    scope: ClassVar[Scope] = "choice"
    of_runs: ClassVar[bool] = False

    def check(self, case: Case) -> Reason | None:
        if not isinstance(case, Renting) or (self.of_runs and case.subject.cost is None):
            return None
        return self.weigh(case, case.choice)

    @abstractmethod
    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        """The reason, ``mine`` being the recommended offer; nothing when the rule does not apply."""


class OldPrice(OfOffers):
    """MON002: the price was noted long ago.

    Why it matters: prices move within months, down as cards age and up when they are scarce; the ranking moves along.
    What helps:     --prices live; a newer release; a prices.toml of your own beside your profiles.
    Source:         AWS News Blog, 5 June 2025: up to 45 % off GPU instances in one announcement.
    """

    code: ClassVar[str] = "MON002"
    slug: ClassVar[str] = "old-price"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        noted = mine.price.as_of
        if not is_old(noted, case.question.today):
            return None
        text = (
            f"the price of {dollars(mine.usd_per_hour)} an hour is {age(noted, case.question.today)} "
            f"({noted}), past {OLD_DAYS} days: ask again before you rely on the ranking"
        )
        return Reason(code=self.code, text=text, number=mine.usd_per_hour, unit="usd_per_hour", severity="warning")


class MoreCardsSooner(OfOffers):
    """MON005: more of the same cards finish much sooner for nearly the same money.

    Why it matters: GPU-hours are what is paid; where work divides well they hardly grow with the number of cards.
    What helps:     the larger number, where somebody waits for the result.
    Source:         the time model's own communication terms; the offers beside each other.
    """

    code: ClassVar[str] = "MON005"
    slug: ClassVar[str] = "more-cards-sooner"
    of_runs: ClassVar[bool] = True

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        near = [
            one
            for one in case.like()
            if one.room and one.usd <= mine.usd * (1 + NEAR_MONEY) and one.hours <= SOONER * mine.hours
        ]
        if not near:
            return None
        one = min(near, key=lambda other: other.hours)
        text = (
            f"{one.named} would take {spell_hours(one.hours)} in place of {spell_hours(mine.hours)}, "
            f"for {change_in_money(one.usd, mine.usd)}"
        )
        return Reason(code=self.code, text=text, number=mine.hours - one.hours, unit="hours")


class ScalingLoss(OfOffers):
    """MON006: more of the same cards cost clearly more for the same run.

    Why it matters: gathering shards, loading on every card and smaller micro-batches add GPU-hours.
    What helps:     the smaller number unless time counts; cards with NVLink.
    Source:         the time model's communication terms; setup is billed for every card.
    """

    code: ClassVar[str] = "MON006"
    slug: ClassVar[str] = "scaling-loss"
    of_runs: ClassVar[bool] = True

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        next_up = min((one for one in case.like() if one.gpus > mine.gpus), key=lambda one: one.gpus, default=None)
        if next_up is None or next_up.usd <= mine.usd * (1 + NEAR_MONEY):
            return None
        ratio = next_up.usd / mine.usd
        text = f"{next_up.named} would cost {ratio:.2f} times as much, for {hours_apart(next_up.hours, mine.hours)}"
        return Reason(code=self.code, text=text, number=ratio, unit="ratio")


class DearerCardCheaperRun(OfOffers):
    """MON007: a dearer card makes the run cheaper.

    Why it matters: what is paid is hours times price; a card at twice the price that is three times as fast saves.
    What helps:     comparing runs, not hours.
    Source:         the offers beside each other: roofline time at the typical price.
    """

    code: ClassVar[str] = "MON007"
    slug: ClassVar[str] = "dearer-card-cheaper-run"
    of_runs: ClassVar[bool] = True

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        worse = [
            one
            for one in case.found
            if one.method == mine.method and one.usd_per_hour < mine.usd_per_hour and one.usd > mine.usd
        ]
        if not worse:
            return None
        one = min(worse, key=lambda other: other.usd_per_hour)
        text = (
            f"{mine.named} at {dollars(mine.usd_per_hour)} an hour costs {dollars(mine.usd)}; "
            f"{one.named} at {dollars(one.usd_per_hour)} would cost {dollars(one.usd)}, in {spell_hours(one.hours)}"
        )
        return Reason(code=self.code, text=text, number=one.usd - mine.usd, unit="usd")


class Interruptible(OfOffers):
    """MON008: a spot machine may be taken away at any moment.

    Why it matters: what was not saved is lost, and the price of waiting for another machine is not in the figures.
    What helps:     saving often (save_steps), to a disk that outlives the machine; resume_from_checkpoint.
    Source:         AWS EC2 user guide, "Spot Instance interruptions": a notice of two minutes.
    """

    code: ClassVar[str] = "MON008"
    slug: ClassVar[str] = "interruptible"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        if not case.question.spot:
            return None
        saved = saved_bytes(case.scenario, case.subject.estimate)
        text = (
            f"spot machines are taken away at short notice: one checkpoint takes {format_bytes(saved)}, "
            f"of which {case.question.assumed.kept + 1} are planned for on disk"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes", severity="warning")


class BudgetBinds(OfOffers):
    """MON009: the budget rules out an offer that would finish sooner.

    Why it matters: a limit that binds has a price, here in hours.
    What helps:     the larger budget, where the hours are worth it.
    Source:         the same offers without the limit.
    """

    code: ClassVar[str] = "MON009"
    slug: ClassVar[str] = "budget-binds"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        budget = case.question.budget_usd
        if budget is None:
            return None
        inside = min(one.hours for one in case.found if one.within(case.question))
        solid = (one for one in case.found if one.room and one.doubt <= mine.doubt)
        beyond = [one for one in solid if one.usd > budget and one.hours <= SOONER * inside]
        if not beyond:
            return None
        one = min(beyond, key=lambda other: other.usd)
        text = (
            f"the budget of {dollars(budget)} rules out {one.named} ({one.method}), "
            f"{dollars(one.usd)} in {spell_hours(one.hours)}; within it no offer is done before {spell_hours(inside)}"
        )
        return Reason(code=self.code, text=text, number=one.usd - mine.usd, unit="usd")


class DeadlineBinds(OfOffers):
    """MON010: the deadline rules out a cheaper offer.

    Why it matters: a limit that binds has a price, here in money.
    What helps:     more time, where there is any.
    Source:         the same offers without the limit.
    """

    code: ClassVar[str] = "MON010"
    slug: ClassVar[str] = "deadline-binds"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        deadline = case.question.deadline_hours
        if deadline is None:
            return None
        late = [
            one
            for one in case.found
            if one.room >= min(mine.room, 1)
            and one.risk <= mine.risk
            and one.doubt <= mine.doubt
            and one.hours > deadline
            and one.usd < mine.usd
        ]
        if not late:
            return None
        one = min(late, key=lambda other: other.usd)
        text = (
            f"without the deadline of {spell_hours(deadline)}, {one.named} ({one.method}) would save "
            f"{dollars(mine.usd - one.usd)}: {dollars(one.usd)} in {spell_hours(one.hours)}"
        )
        return Reason(code=self.code, text=text, number=mine.usd - one.usd, unit="usd")


class MayExceed(OfOffers):
    """MON011: the run keeps to the limit by its middle estimate, not by its upper bound.

    Why it matters: bounds of time are as wide as the record of the time model, and sellers ask more than the typical
                    price.
    What helps:     a measured run of a few steps (plan measure), which narrows the bounds; checkpoints; some reserve.
    Source:         ``StepTime.high`` and the highest price known.
    """

    code: ClassVar[str] = "MON011"
    slug: ClassVar[str] = "may-exceed"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        cost, deadline, budget = mine.candidate.cost, case.question.deadline_hours, case.question.budget_usd
        if cost is None:
            return None
        if deadline is not None and cost.high_hours > deadline:
            text = f"the run may take {spell_hours(cost.high_hours)}, past the deadline of {spell_hours(deadline)}"
            return Reason(code=self.code, text=text, number=cost.high_hours, unit="hours", severity="warning")
        if budget is not None and cost.usd_high is not None and cost.usd_high > budget:
            text = (
                f"slower steps or a dear seller may bring the bill to {dollars(cost.usd_high)}, "
                f"past the budget of {dollars(budget)}"
            )
            return Reason(code=self.code, text=text, number=cost.usd_high, unit="usd", severity="warning")
        return None


class QualityForLittle(OfOffers):
    """MON012: a cheaper method was passed over, because the better one costs little more.

    Why it matters: 4-bit weights lose quality, most on small and newer models; what that is worth is yours to say.
    What helps:     --method qlora where the last dollar counts.
    Source:         litgpt config_hub/finetune/README.md (validation losses); the preference is ours and stated:
                    up to 1.25 times the price, or 2 dollars a run.
    """

    code: ClassVar[str] = "MON012"
    slug: ClassVar[str] = "quality-for-little"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        cheaper = [one for one in case.cheaper() if case.forgone_for_quality(one)]
        if not cheaper:
            return None
        one = min(cheaper, key=lambda other: (other.doubt > mine.doubt, other.usd))
        text = (
            f"{mine.method} for {dollars(mine.usd - one.usd)} more {_each(case)}than {one.method} on {one.named} "
            f"({dollars(one.usd)}): there, {one.risk_words}"
        )
        return Reason(code=self.code, text=text, number=mine.usd - one.usd, unit="usd")


class UncertainCheaper(OfOffers):
    """MON013: a cheaper offer was passed over, because its memory is tight, or its time or its price only estimated.

    Why it matters: hours that rest on a card's nominal rate alone may be off by a factor of two, so such an offer goes
                    first only where it would at its slowest; an estimated price is 1.3 times the cheapest listing. What
                    is tight may run out of memory: it is taken only where nothing fits by its upper bound.
    What helps:     asking a seller; a few measured steps there (plan measure): an hour of such a card costs little.
    Source:         ``StepTime.basis``, what the bounds of a time rest on; ``estimated`` in prices.toml.
    """

    code: ClassVar[str] = "MON013"
    slug: ClassVar[str] = "uncertain-cheaper"

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        rivals = (one for one in case.cheaper() if not case.forgone_for_quality(one))
        passed = sorted(rivals, key=lambda one: (one.risk > mine.risk, one.usd))
        unlisted = [one for one in passed if one.price.estimated and not mine.price.estimated]
        untimed = [one for one in passed if not (one.measured or one.price.estimated)]
        tight = sorted(case.cheaper_but_tight(), key=lambda one: (one.risk > mine.risk, one.usd))
        named = sorted((*unlisted[:1], *untimed[:1], *tight[:1]), key=lambda one: one.usd)
        if not named:
            return None
        clauses = [self._clause(case, mine, one, "price" if one in unlisted else "time") for one in named]
        return Reason(code=self.code, text="; ".join(clauses), number=mine.usd - named[0].usd, unit="usd")

    def _clause(self, case: Case, mine: "Rental", one: "Rental", unsure: str) -> str:
        """What one offer may save, and why that does not decide."""
        cost = f"{dollars(one.usd)} {_each(case)}".rstrip()
        less = f"{one.named} ({one.method}) may cost {cost}, {dollars(mine.usd - one.usd)} less, but"
        if not one.room:
            upper = one.candidate.estimate.peak.high_bytes
            return f"{less} its memory is tight: up to {format_bytes(upper)}"
        if unsure == "price":
            return f"{less} its price is estimated"
        slowest = f"its time is estimated ({one.step.basis.group}): {dollars(one.usd_slowest)} at its slowest"
        return f"{less} {slowest}" + ("" if mine.measured else f", and this {dollars(mine.usd_slowest)}")


class LongRun(OfOffers):
    """MON014: the cheapest run takes longer than machines are usually let and watched.

    Why it matters: hosts fail and are taken back within weeks; who waits pays too.
    What helps:     --deadline 7d, which ranks what is done in a week; saving often; packing; fewer epochs.
    Source:         Kokolis et al. 2024, arXiv:2410.21680: mean time to failure of 7.9 hours at 1,024 GPUs, falling
                    with their number; a week is ours.
    """

    code: ClassVar[str] = "MON014"
    slug: ClassVar[str] = "long-run"
    of_runs: ClassVar[bool] = True

    def weigh(self, case: Renting, mine: "Rental") -> Reason | None:
        if mine.hours <= WEEK:
            return None
        kept = [one for one in case.found if one.hours <= WEEK and one.room and one.doubt <= mine.doubt]
        one = min(kept, key=lambda other: other.usd, default=None)
        other = ""
        if one is not None:
            cost = f"{spell_hours(one.hours)} for {dollars(one.usd)}"
            other = f": {one.named} ({one.method}) would take {cost} (--deadline 7d)"
        text = f"the run takes {spell_hours(mine.hours)}, and the cheapest offer is not the one to wait for{other}"
        return Reason(code=self.code, text=text, number=mine.hours, unit="hours", severity="warning")


def _each(case: Case) -> str:
    """Of what money is: a million tokens where there is no run."""
    return "a million tokens " if case.subject.cost is None else ""


def change_in_money(new: float, old: float) -> str:
    """A difference in money in words.

    >>> change_in_money(10.3, 10), change_in_money(9, 10), change_in_money(10.01, 10)
    ('3 % more money', '10 % less money', 'the same money')
    """
    share = new / old - 1
    if abs(share) < 0.005:
        return "the same money"
    return f"{percent(abs(share))} {'more' if share > 0 else 'less'} money"


def hours_apart(new: float, old: float) -> str:
    """Hours in words, sooner or not.

    >>> hours_apart(2, 4), hours_apart(5, 4)
    ('2 h in place of 4 h', '5 h, which is no sooner than 4 h')
    """
    joint = " in place of" if new < old else ", which is no sooner than"
    return f"{spell_hours(new)}{joint} {spell_hours(old)}"


MONEY: tuple[Rule, ...] = (
    PriceSpread(),
    OldPrice(),
    EstimatedPrice(),
    SetupDominates(),
    MoreCardsSooner(),
    ScalingLoss(),
    DearerCardCheaperRun(),
    Interruptible(),
    BudgetBinds(),
    DeadlineBinds(),
    MayExceed(),
    QualityForLittle(),
    UncertainCheaper(),
    LongRun(),
)
