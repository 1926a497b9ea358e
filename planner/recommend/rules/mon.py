"""MON: what a run costs and what drives that, wherever it has a cost. Offers beside each other: ``mon_offers``."""

from typing import ClassVar

from planner.prices.amounts import dollars, spell_hours
from planner.recommend.rules.base import Case, Scope, percent
from planner.result import Reason

SPREAD = 2.0
"""Ratio of the highest to the lowest price from which sellers are worth comparing (ours)."""

SETUP_SHARE = 0.2
"""Share of the billed time from which loading is worth a line (ours)."""


class PriceSpread:
    """MON001: sellers of this card ask very different prices.

    Why it matters: the typical price ranks the offers; the bill follows from the seller. Marketplaces let machines of
                    private hosts, hyperscalers sell support, quotas and networks with theirs.
    What helps:     asking several sellers; --prices live.
    Source:         hardware_profiles/prices.toml (lowest, typical, hyperscaler), dated October 2026.
    """

    code: ClassVar[str] = "MON001"
    slug: ClassVar[str] = "price-spread"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu = case.scenario.cluster.gpu
        if case.subject.cost is None or gpu.price is None:
            return None
        known = (gpu.price.low_usd, gpu.price.typical_usd, gpu.price.hyperscaler_usd)
        rates = [usd for usd in known if usd is not None]
        if not rates or max(rates) < SPREAD * min(rates):
            return None
        low, high = min(rates), max(rates)
        text = (
            f"sellers ask {dollars(low)} to {dollars(high)} an hour for {gpu.name}, {high / low:.1f} times as much: "
            f"the run costs {dollars(case.subject.cost.usd_low or 0)} at the least"
        )
        return Reason(code=self.code, text=text, number=high / low, unit="ratio")


class EstimatedPrice:
    """MON003: the typical price of this card is estimated from few offers.

    Why it matters: nobody but marketplaces, or a single seller, lists the card, so what one pays depends on the day.
    What helps:     asking sellers; a card that several of them list.
    Source:         the price's own note in hardware_profiles/prices.toml.
    """

    code: ClassVar[str] = "MON003"
    slug: ClassVar[str] = "estimated-price"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        gpu = case.scenario.cluster.gpu
        if case.subject.cost is None or gpu.price is None or not gpu.price.estimated or not gpu.price.typical_usd:
            return None
        text = f"{dollars(gpu.price.typical_usd)} an hour for {gpu.name} is estimated: {gpu.price.basis}"
        return Reason(code=self.code, text=text, number=gpu.price.typical_usd, unit="usd_per_hour", severity="warning")


class SetupDominates:
    """MON004: much of what is paid for is downloading and loading the weights.

    Why it matters: a machine is billed from its start; more or faster cards shorten only the rest.
    What helps:     a seller with a faster network (--download-gbps), a disk that keeps the weights between runs, fewer
                    cards for short runs.
    Source:         ``cost.setup_seconds``: checkpoint bytes over assumed rates of network and disk.
    """

    code: ClassVar[str] = "MON004"
    slug: ClassVar[str] = "setup-dominates"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        cost = case.subject.cost
        if cost is None or cost.hours <= 0 or cost.setup_hours < SETUP_SHARE * cost.hours:
            return None
        share = cost.setup_hours / cost.hours
        text = f"{percent(share)} of the {spell_hours(cost.hours)} billed go to downloading and loading the weights"
        return Reason(code=self.code, text=text, number=share, unit="ratio")
