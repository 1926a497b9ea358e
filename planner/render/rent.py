"""What to rent, for a terminal and as Markdown: offers, the recommended one, the other cards."""

from collections.abc import Iterator

from planner.prices.amounts import dollars, spell_hours
from planner.recommend.rental import Rental, RentAnswer
from planner.render import words
from planner.render.lines import EMPTY, INDENT, Line, Screen, fold, indented, narrowed, pairs, paragraph, table
from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.render.time_text import brief
from planner.units import format_count

SHOWN = 10
"""Rows of a table; JSON has all."""

RISK_WORDS = ("", "some", "more", "most")
"""Quality risk by level, in one word; ``quality.RISKS`` says what each means."""


def rent_lines(answer: RentAnswer, screen: Screen) -> list[Line]:
    """The whole answer."""
    room = screen.width - INDENT
    found = [*paragraph(title(answer), screen.width, "strong")]
    found += indented(table(narrowed(offers(answer), room), room))
    found += [EMPTY, *_recommendation(answer, screen)]
    if answer.others:
        sheet = others(answer)
        found += [EMPTY, *paragraph(sheet.title, screen.width, "strong")]
        found += indented(table(narrowed(sheet, room), room))
    return [*found, EMPTY, *pairs([((Cell("note", "faint"),), Cell(note)) for note in notes(answer)], screen.width)]


def rent_markdown(answer: RentAnswer) -> str:
    """The same as Markdown."""
    from planner.render.markdown import bullets, code, escape, sheet_markdown  # noqa: PLC0415  (only who asks for it)
    from planner.render.markdown import table as table_markdown  # noqa: PLC0415

    parts = [f"# {escape(title(answer))}", table_markdown(offers(answer))]
    choice = answer.choice
    if choice is not None:
        parts += [f"## Recommended: {escape(headline(choice).text)}"]
        parts += [bullets([escape(f"{name}: {text}") for name, text in details(choice)]), code(choice.command)]
    if answer.reasons:
        parts.append(bullets([f"**{escape(reason.code)}** {escape(reason.text)}" for reason in answer.reasons]))
    if answer.others:
        parts.append(sheet_markdown(others(answer)).rstrip("\n"))
    return "\n\n".join([*parts, "## Notes", bullets([escape(note) for note in notes(answer)])]) + "\n"


# ---------------------------------------------------------------- words


def title(answer: RentAnswer) -> str:
    """What is to be trained, on how much, within which limits."""
    question = answer.question
    job, limits = question.request.job, []
    if question.budget_usd is not None:
        limits.append(f"for {dollars(question.budget_usd)}")
    if question.deadline_hours is not None:
        limits.append(f"within {spell_hours(question.deadline_hours)}")
    tokens = job.epoch_tokens
    amount = "per million tokens" if tokens is None else f"{format_count(tokens)} tokens"
    times = f" × {job.epochs:g} epochs" if tokens is not None and job.epochs != 1 else ""
    most = f"up to {question.max_gpus} card{'s' if question.max_gpus > 1 else ''}"
    return f"Renting for {answer.model.name}, {amount}{times}: {', '.join([most, *limits])}"


def has_run(answer: RentAnswer) -> bool:
    """Whether offers are of a whole run, not of a million tokens."""
    return any(one.candidate.cost is not None for one in (*answer.offers, *answer.others))


def offers(answer: RentAnswer) -> Sheet:
    """The front, cheapest first."""
    rows = [_row(answer, answer.offers[place], place == answer.recommended) for place in shown(answer)]
    return Sheet("", _columns(answer), tuple(rows))


def shown(answer: RentAnswer) -> list[int]:
    """Places of the offers that have a row: all, or of many the first, the last, the soonest and the recommended."""
    places = range(len(answer.offers))
    soonest = sorted(places, key=lambda place: answer.offers[place].hours)[:1]
    chosen = [] if answer.recommended is None else [answer.recommended]
    return sorted({*places[:SHOWN], *places[-1:], *soonest, *chosen})


def others(answer: RentAnswer) -> Sheet:
    """The cheapest offer of every other kind of card."""
    rows = tuple(_row(answer, one, recommended=False) for one in answer.others[:SHOWN])
    return Sheet("Other cards, at their cheapest", _columns(answer), rows)


def _columns(answer: RentAnswer) -> tuple[Column, ...]:
    run = has_run(answer)
    return (
        Column("offer"),
        Column("method"),
        Column("US$" if run else "US$/M", numeric=True),
        Column("hours" if run else "tokens/s", numeric=True),
        Column("US$/h", numeric=True),
        Column("spare", numeric=True),
        Column("low–high US$", numeric=True, optional=True),
        Column("4-bit loss", optional=True),
        Column("RAM", numeric=True, optional=True),
        Column("disk", numeric=True, optional=True),
        Column("seller" if answer.live else "estimated", optional=True),
    )


def _row(answer: RentAnswer, one: Rental, recommended: bool) -> tuple[Cell, ...]:
    tone: Tone = "strong" if recommended else "" if answer.offers and one.within(answer.question) else "faint"
    spare = words.gib(max(one.headroom_bytes, 0))
    cells = (
        Cell(one.named, tone),
        Cell(one.method, tone),
        Cell(f"{'~' if estimated(one) else ''}{_usd(one.usd)}", tone),
        Cell(_pace(one), tone),
        Cell(f"{one.usd_per_hour:,.2f}"),
        Cell(spare) if one.room else Cell(f"({spare})", "warn"),
        Cell(_range(one), "faint"),
        Cell(RISK_WORDS[one.risk]),
        Cell(words.gib(one.needs.host_bytes)),
        Cell(words.gib(one.needs.disk_bytes)),
        Cell(" ".join(filter(None, (one.seller, one.region))) if answer.live else estimated(one), "warn"),
    )
    return row(cells)


def estimated(one: Rental) -> str:
    """What of an offer rests on no measurement and no listing."""
    return ", ".join(word for word, is_so in (("time", not one.measured), ("price", one.price.estimated)) if is_so)


def _usd(usd: float) -> str:
    return dollars(usd).removeprefix("$")


def _pace(one: Rental) -> str:
    return f"{one.step.tokens_per_second:,.0f}" if one.candidate.cost is None else brief(one.hours)


def _range(one: Rental) -> str:
    cost = one.candidate.cost
    if cost is None or cost.usd_low is None or cost.usd_high is None:
        return "–"
    return f"{_usd(cost.usd_low)}–{_usd(cost.usd_high)}"


def headline(one: Rental) -> Cell:
    """The recommended offer in one phrase."""
    cost = one.candidate.cost
    if cost is None:
        return Cell(f"{one.method} on {one.named}, {dollars(one.usd)} a million tokens", "good")
    span = f"{spell_hours(cost.low_hours)} to {spell_hours(cost.high_hours)}"
    return Cell(
        f"{one.method} on {one.named}, {dollars(one.usd)} in {spell_hours(one.hours)} ({span})",
        words.VERDICTS[one.candidate.verdict][1],
    )


def details(one: Rental) -> Iterator[tuple[str, str]]:
    """What the offer takes and how it is set."""
    candidate, cost = one.candidate, one.candidate.cost
    train = candidate.scenario.train
    yield "memory", f"{words.VERDICTS[candidate.verdict][0]}, needs {words.against(candidate)} per card"
    yield "machine", f"{words.amount(one.needs.host_bytes)} of RAM, {words.amount(one.needs.disk_bytes)} of disk"
    if cost is not None:
        yield "loading", f"{cost.setup_hours * 60:,.0f} min of download and loading, in the hours and the bill"
    names = ("seq_len", "micro_batch_size", "grad_accumulation", "gradient_checkpointing", "optimizer", "sharding")
    yield "settings", words.settings({name: getattr(train, name) for name in names})


def _recommendation(answer: RentAnswer, screen: Screen) -> list[Line]:
    choice = answer.choice
    if choice is None:
        return paragraph(answer.nearest or "", screen.width, "bad")
    room = screen.width - INDENT
    found = pairs([((Cell("Recommended:", "strong"),), headline(choice))], screen.width, gap=1)
    found += indented(pairs([((Cell(name, "faint"),), Cell(text)) for name, text in details(choice)], room))
    found += indented([(Cell(line, "code"),) for line in fold(choice.command, room)])
    severity: dict[str, Tone] = {"info": "faint", "warning": "warn"}
    reasons = [((Cell(reason.code, severity[reason.severity]),), Cell(reason.text)) for reason in answer.reasons]
    return [*found, *indented(pairs(reasons, room))]


def notes(answer: RentAnswer) -> Iterator[str]:
    """What the figures are, what is not shown, and what must be known of names and prices."""
    run = has_run(answer)
    unit = "download and loading included" if run else "loading left out: --dataset-tokens gives hours and money"
    yield f"US$ at the typical price, {unit}; GiB: spare on each card, RAM and disk of each machine"
    if any(estimated(one) for one in (*answer.offers, *answer.others)):
        yield "~: no published run timed such steps on such a card, or its price is estimated"
    if any(not one.room for one in (*answer.offers, *answer.others)):
        yield "(spare): tight, as the upper bound of what it needs does not fit"
    left = len(answer.offers) - len(shown(answer))
    if left > 0:
        yield f"{left} more offers that no other beats in everything: --format json"
    hidden = len(answer.others) - SHOWN
    if hidden > 0:
        yield f"{hidden} more kinds of card: --format json"
    if any(not one.within(answer.question) for one in answer.others[:SHOWN]):
        yield "cards beyond the budget or the deadline stand last"
    yield from answer.notes
