"""The answer in one sentence, then its figures, then why."""

from collections.abc import Iterator

from planner.calibration import words_of
from planner.prices.amounts import dollars, spell_hours
from planner.recommend.rules import documentation, find
from planner.render import plan_text, words
from planner.render.explained import rule_parts
from planner.render.lines import fold
from planner.render.report.html import Child, Html, command, element, sourced
from planner.render.time_text import brief
from planner.reporting import Report
from planner.result import Candidate, Plan, Reason

METHOD_WORDS = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}

COMMAND_WIDTH = 76
"""Letters of a line of a command."""


def header(report: Report) -> Html:
    """What was asked, the answer, and its figures."""
    plan = report.plan
    made = f"{report.made.day} {report.made:%B %Y}"
    _, hardware, software = plan_text.subject(plan)
    return element(
        "header",
        element("p", f"Fine-tuning plan · {made}", class_="eyebrow"),
        element("h1", _unbroken(headline(report), plan.model.name)),
        element("p", lead(report), class_="lead"),
        element("dl", (_fact(*fact) for fact in facts(report)), class_="facts"),
        _asked(plan.recommendation.command),
        element("p", f"On {hardware}, with {software}; {plan_text.evidence(plan)}.", class_="faint"),
        element("p", f"Trained on {plan_text.data(plan)}.", class_="faint") if plan.dataset is not None else None,
    )


def _unbroken(text: str, name: str) -> list[Child]:
    """A sentence in which a short name stays on one line."""
    before, found, after = text.partition(name if len(name) <= LONGEST_NAME else "\0")
    return [before, element("span", found, class_="whole") if found else None, after]


LONGEST_NAME = 22
"""Letters that a phone has room for in a heading."""


def method_words(candidate: Candidate) -> str:
    """The method as a sentence names it."""
    return METHOD_WORDS.get(candidate.method, candidate.scenario.train.peft_type or candidate.method)


def headline(report: Report) -> str:
    """The answer."""
    plan, one = report.plan, report.candidate
    where = words.cards(plan.cluster)
    if plan.recommendation.candidate is None:
        if len(plan.candidates) == 1:
            return f"{method_words(one)} of {plan.model.name} does not fit on {where}"
        return f"{plan.model.name} does not fit on {where} by any method"
    if one.verdict == "tight":
        return f"{method_words(one)} of {plan.model.name} on {where} is tight"
    return f"{method_words(one)} of {plan.model.name} fits on {where}"


def lead(report: Report) -> str:
    """Memory, then time and money, of what is recommended; of what is nearest to it where nothing fits."""
    one, peak = report.candidate, report.candidate.estimate.peak
    card = "each card" if report.plan.cluster.world_size > 1 else "the card"
    needed, usable = words.gib(peak.required_bytes), words.usable(report.plan.cluster)
    bounds = f"between {words.gib(peak.low_bytes)} and {words.gib(peak.high_bytes)}, {words_of(one.estimate.basis)}"
    if report.plan.recommendation.candidate is None:
        nearest = f"{method_words(one)} comes nearest: it" if len(report.plan.candidates) > 1 else "It"
        return f"{nearest} needs {needed} GiB where {card} offers {usable}; {bounds}. {_way_out(report.plan)}"
    tight = " The card ends within that interval, so it may run out of memory." if one.verdict == "tight" else ""
    return f"It needs {needed} of the {usable} GiB that {card} offers: {bounds}.{tight} {_pace(one)}"


def _way_out(plan: Plan) -> str:
    ways = (*plan.recommendation.changes, *plan.recommendation.rent)
    if not ways:
        return "No change, and no hardware that is let, would make it run."
    return f"What would run: {plan_text.way_title(plan, ways[0])}."


def _pace(one: Candidate) -> str:
    if one.step is None:
        return "How long it takes is not known for this card."
    pace = f"{one.step.tokens_per_second:,.0f} tokens a second"
    if one.cost is None:
        return f"It trains about {pace}."
    money = "" if one.cost.usd is None else f" and costs about {dollars(one.cost.usd)}"
    return f"The run takes about {spell_hours(one.cost.hours)}, at {pace},{money}.".replace(",.", ".")


def facts(report: Report) -> Iterator[tuple[str, str, str]]:
    """A figure's name, the figure, and what belongs to it."""
    one, peak = report.candidate, report.candidate.estimate.peak
    usable = words.usable(one.scenario.cluster)
    verdict, _ = words.VERDICTS[one.verdict]
    yield "Needed on a card", f"{words.gib(peak.required_bytes)} GiB", f"of {usable}, {verdict}"
    yield "Peak", words.phase(peak.phase), f"{words.gib(peak.allocated_bytes)} GiB allocated"
    if one.verdict == "does_not_fit":
        yield "Missing", f"{words.gib(peak.required_bytes - one.scenario.cluster.usable_bytes)} GiB", "on each card"
        return
    if one.step is not None:
        yield "Optimizer step", f"{brief(one.step.seconds)} s", f"{brief(one.step.low)} to {brief(one.step.high)} s"
    if one.cost is not None:
        bounds = f"{spell_hours(one.cost.low_hours)} to {spell_hours(one.cost.high_hours)}"
        yield "Whole run", spell_hours(one.cost.hours), bounds
        if one.cost.usd is not None:
            span = (one.cost.usd_low, one.cost.usd_high)
            yield "Cost", dollars(one.cost.usd), " to ".join(dollars(usd) for usd in span if usd is not None)


def _fact(name: str, figure: str, more: str) -> Html:
    return element("div", element("dt", name), element("dd", figure, element("small", more)))


def _asked(text: str | None) -> Html | None:
    """The command that asks for exactly this."""
    return None if text is None else command(fold(text, COMMAND_WIDTH))


# ---------------------------------------------------------------- why


def why(report: Report) -> Iterator[Child]:
    """The choice, its reasons with their codes and sources, and what would change it."""
    plan = report.plan
    if plan.recommendation.candidate is not None:
        yield element("p", "Recommended: ", element("strong", plan_text.recommendation(plan).text), ".")
    yield element("ul", map(_reason, plan.recommendation.reasons), class_="reasons")


def _reason(reason: Reason) -> Html:
    source = dict(rule_parts(documentation(find(reason.code)))[1]).get("Source", "")
    said = element("span", element("span", "Source: ", class_="strong"), sourced(source), class_="source")
    return element(
        "li",
        element("span", reason.code, class_="code"),
        element("div", sourced(reason.text), said if source else None),
        class_=reason.severity,
    )
