"""The figures of a report: each a chart, the same in words, and what its colours stand for."""

from collections.abc import Iterable

from planner.prices.amounts import dollars, spell_hours
from planner.recommend.rental import Rental, RentAnswer
from planner.recommend.surface import Surface
from planner.render import plan_text, words
from planner.render.charts import heat, methods, offers, phases, timeline
from planner.render.charts.look import NARROW, OWNER_WORDS, PAGE, STEPS
from planner.render.charts.offers import Span
from planner.render.charts.stacks import drawn, owners_of
from planner.render.picture import Picture
from planner.render.rent import estimated, has_run
from planner.render.report.html import Html
from planner.render.report.pictures import WIDE, Key, figure
from planner.reporting import Report
from planner.result import ALL_PHASES, Candidate
from planner.tracing import Tracing

HEIGHT = 340
"""Pixels of a chart that may have any."""


def _owners(candidates: Iterable[Candidate]) -> list[Key]:
    return [Key(owner, OWNER_WORDS[owner]) for owner in owners_of(list(candidates))]


def _card(one: Candidate, highest: int) -> tuple[list[Key], str]:
    """The card's line in the legend; in words where it would stand too far above the picture."""
    usable = one.scenario.cluster.usable_bytes
    if drawn(usable, highest):
        return [Key("mark-edge", f"{words.gib(usable)} GiB usable")], ""
    return [], f" The card's {words.gib(usable)} usable GiB lie far beyond the picture."


# ---------------------------------------------------------------- over the step


def over_the_step(report: Report) -> Html:
    """Memory phase by phase; event by event where the plan rests on a trace."""
    if report.tracing is not None:
        return _recorded(report.tracing)
    one = report.candidate
    estimate = one.estimate
    keys, far = _card(one, estimate.peak.required_bytes)
    levels = ", ".join(
        f"{words.phase(name)} {words.gib(estimate.phases[name].total)}"
        for name in ALL_PHASES
        if name in estimate.phases
    )
    return figure(
        "over-the-step",
        f"Memory over the step: {one.method}",
        lambda width: phases.phases(one, PAGE, width, HEIGHT if width > NARROW else HEIGHT - 40),
        alternative=(
            f"Stacked bars of allocated GiB by phase: {levels}. {_peak(one)} "
            f"The card offers {words.usable(one.scenario.cluster)} GiB."
        ),
        keys=[*_owners([one]), *keys],
        about=(
            "Each bar is the fullest instant of a phase, by who holds the memory. On top of the peak stands what a "
            f"card must have besides: the CUDA context, the libraries' own memory, the allocator's slack.{far}"
        ),
    )


def _peak(one: Candidate) -> str:
    """The peak in words: where it is, and who holds it."""
    peak = one.estimate.peak
    held = [(count, OWNER_WORDS[owner]) for owner, count in one.estimate.peak_memory._asdict().items() if count]
    owners = ", ".join(f"{name} {words.gib(count)}" for count, name in sorted(held, reverse=True))
    return (
        f"The peak is in {words.phase(peak.phase)}: {words.gib(peak.allocated_bytes)} GiB allocated ({owners}), for "
        f"which a card must have {words.gib(peak.required_bytes)} GiB."
    )


POINTS = {False: 800, True: 350}
"""Samples of a recorded step on a page, and on a phone."""


def _recorded(found: Tracing) -> Html:
    one = found.candidate
    cluster = one.scenario.cluster

    def picture(width: int) -> Picture:
        return Picture.of(
            found.traced.trace,
            found.replay.handed_out,
            one.method,
            cluster.usable_bytes,
            cluster.gpu.context_bytes,
            plot=width - 50,
            points=POINTS[width < NARROW],
        )

    edges = picture(WIDE).edges
    keys = [Key(mark, edge.text) for mark, edge in zip(("mark-edge", "mark-dashed"), edges, strict=False) if edge.drawn]
    far = "".join(f" {edge.text}." for edge in edges if not edge.drawn)
    return figure(
        "over-the-step",
        f"Memory over the recorded step: {one.method}",
        lambda width: timeline.bare(picture(width), PAGE, width, HEIGHT + 20),
        alternative=(
            f"Areas of allocated GiB from one allocation to the next, over two steps. {_peak(one)} "
            f"The card offers {words.usable(cluster)} GiB."
        ),
        keys=[*(key for key in _owners([one]) if key.mark != "context"), *keys],
        about=(
            "The first and the steady step, as the installed libraries take them on fake tensors; left to right, one "
            f"allocation or release after another.{far}"
        ),
    )


# ---------------------------------------------------------------- methods


def side_by_side(report: Report) -> Html:
    """All candidates at their peaks."""
    plan, labels = report.plan, plan_text.labels(report.plan)
    chosen = None if plan.recommendation.candidate is None else report.candidate
    keys, far = _card(plan.candidates[0], max(one.estimate.peak.high_bytes for one in plan.candidates))
    said = "; ".join(
        f"{label} {words.VERDICTS[one.verdict][0]}, needs {words.against(one)}, "
        f"between {words.gib(one.estimate.peak.low_bytes)} and {words.gib(one.estimate.peak.high_bytes)}"
        for label, one in zip(labels, plan.candidates, strict=True)
    )
    return figure(
        "side-by-side",
        "The methods at their peaks",
        lambda width: methods.methods(plan.candidates, labels, chosen, PAGE, width),
        alternative=f"Stacked bars of GiB on one card: {said}.",
        keys=[*_owners(plan.candidates), Key("mark-interval", "interval"), *keys],
        about=f"GiB that one card must have, by owner at the peak; the line across a bar's end is the interval.{far}",
    )


# ---------------------------------------------------------------- how far it goes


CELLS = {
    **{f"fits-{number}": f"up to {100 * number // STEPS} % of the card" for number in range(1, STEPS + 1)},
    "tight": "tight",
    "over": "does not fit",
}
"""Classes of cells in words."""


def reach(surface: Surface) -> Html:
    """Micro-batch by length."""
    train = surface.scenario.train
    seen = {heat.shade(point, surface.scenario.cluster.usable_bytes) for point in surface.points}
    keys = [Key(kind, text) for kind, text in CELLS.items() if kind in seen]
    frontier = (
        "; the thick line is the frontier between what runs and what does not" if heat.has_frontier(surface) else ""
    )
    keys += [*([Key("mark-frontier", "frontier")] if frontier else []), Key("mark-own", "as planned")]
    return figure(
        "reach",
        f"GiB by micro-batch and length: {train.method}",
        lambda width: heat.heat(surface, PAGE, width),
        alternative=f"A grid of GiB that one card must have. {_largest(surface)} The table below has every cell.",
        keys=keys,
        about=(
            "Every other setting is as planned. Above each column stands the largest micro-batch that fits, in "
            f"brackets where it fits by the best estimate only{frontier}."
        ),
    )


def _largest(surface: Surface) -> str:
    cells = [cell for cell in surface.lane.cells if cell.seq_len in surface.lengths]
    said = ", ".join(f"{cell.fits or cell.tight:,} at {cell.seq_len:,} tokens" for cell in cells if cell.tight)
    if not said:
        least = min(surface.points, key=lambda point: point.required_bytes)
        return (
            f"Nothing fits: even one sequence of {least.seq_len:,} tokens needs {words.gib(least.required_bytes)} GiB."
        )
    return f"The largest micro-batch that fits is {said}."


# ---------------------------------------------------------------- money


def money_and_time(answer: RentAnswer, shown: list[Rental]) -> Html:
    """What offers cost, and how long they take."""
    run = has_run(answer)
    sides = SIDES_OF[run]
    keys = [Key("mark-chosen", "recommended"), Key("mark-dot", "measured and listed")]
    if any(estimated(one) for one in shown):
        keys.append(Key("mark-hollow", "time or price estimated"))
    said = "; ".join(
        f"{one.named} with {one.method}: {sides[0].of(one).text}, {sides[1].of(one).text}" for one in shown
    )
    return figure(
        "money-and-time",
        "Money and time of offers, cheapest first",
        lambda width: offers.offers(shown, answer.choice, sides, PAGE, width),
        alternative=f"Dots on two scales. {said}.",
        keys=keys,
        about=(
            "Offers that no other beats in money, time, room and quality at once. Both scales are logarithmic"
            + ("; a line runs from the low price and the low time to the high ones." if run else ".")
        ),
    )


def _usd(one: Rental) -> Span:
    cost = one.candidate.cost
    low, high = (None, None) if cost is None else (cost.usd_low, cost.usd_high)
    return Span(one.usd, low or one.usd, high or one.usd, dollars(one.usd))


def _hours(one: Rental) -> Span:
    cost = one.candidate.cost
    low, high = (one.hours, one.hours) if cost is None else (cost.low_hours, cost.high_hours)
    return Span(one.hours, low, high, spell_hours(one.hours))


def _usd_per_million(one: Rental) -> Span:
    usd = one.usd_per_million
    return Span(usd, usd, usd, dollars(usd))


def _tokens(one: Rental) -> Span:
    pace = one.step.tokens_per_second
    return Span(pace, pace, pace, f"{pace:,.0f}/s")


SIDES_OF = {
    True: offers.sides(_usd, _hours, ("US$ of the run", "hours")),
    False: offers.sides(_usd_per_million, _tokens, ("US$ a million tokens", "tokens a second")),
}
"""Money and time of a whole run; of a million tokens where nobody said how much there is."""
