"""The same content as Markdown tables, for issues, notebooks and pull requests."""

from collections.abc import Iterable, Iterator

from planner.render import plan_text, time_text
from planner.render.sheet import Cell, Sheet, printable
from planner.result import Plan


def plan_markdown(plan: Plan) -> str:
    """The whole answer."""
    return "\n\n".join(_sections(plan)) + "\n"


def sheet_markdown(sheet: Sheet) -> str:
    """A table under its title, with its notes below."""
    parts = [f"## {escape(sheet.title)}"] if sheet.title else []
    if sheet.rows or not sheet.notes:
        parts.append(table(sheet))
    parts.extend(escape(note) for note in sheet.notes)
    return "\n\n".join(parts) + "\n"


def table(sheet: Sheet) -> str:
    """A table alone."""
    lines = [
        _line([escape(column.head) for column in sheet.columns]),
        _line(["---:" if column.numeric else "---" for column in sheet.columns]),
        *(_line([_cell(cell) for cell in cells]) for cells in sheet.rows),
    ]
    return "\n".join(lines)


def bullets(texts: list[str]) -> str:
    """A list of sentences that are Markdown already."""
    return "\n".join(f"- {text}" for text in texts)


def page_markdown(title: str, parts: Iterable[tuple[str, str]]) -> str:
    """A title over paragraphs, each behind its heading."""
    lines = [f"**{escape(heading)}:** {escape(text)}" if heading else escape(text) for heading, text in parts]
    return "\n\n".join([f"## {escape(title)}", *lines]) + "\n"


def escape(text: str) -> str:
    r"""Text that stays text, also inside a table.

    >>> escape("a|b <i>")
    'a\\|b &lt;i&gt;'
    """
    for char in "\\`*_|[]~":
        text = text.replace(char, f"\\{char}")
    return printable(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(text: str) -> str:
    """Text to type."""
    return f"`{printable(text)}`"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if cell.tone == "code":
        return code(cell.text).replace("|", "\\|")
    text = escape(cell.text)
    return f"**{text}**" if cell.tone == "strong" and text else text


def _sections(plan: Plan) -> Iterator[str]:
    model, hardware, software = (escape(text) for text in plan_text.subject(plan))
    yield f"# {model} on {hardware}"
    yield f"{software}; {plan_text.evidence(plan)}"
    if about := plan_text.data(plan):
        yield f"On {escape(about)}"
    verdicts = plan_text.verdicts(plan)
    yield f"## {escape(plan_text.headline(plan).text)}"
    yield table(verdicts)
    if verdicts.notes:
        yield bullets([escape(note) for note in verdicts.notes])
    yield from (table(plan_text.breakdown(plan)), table(plan_text.phases(plan)))
    if (times := time_text.times(plan)) is not None:
        yield sheet_markdown(times).rstrip("\n")
    yield f"## Recommended: {escape(plan_text.recommendation(plan).text)}"
    reasons = [f"**{escape(reason.code)}** {escape(reason.text)}" for reason in plan.recommendation.reasons]
    if reasons:
        yield bullets(reasons)
    yield from _choice(plan)
    for group in plan_text.groups(plan):
        yield sheet_markdown(plan_text.ways(plan, group)).rstrip("\n")
    yield "## Assumptions"
    yield bullets([f"{escape(who)}: {escape(text)}" for who, text in plan_text.assumptions(plan)])
    if plan.notes:
        yield "## Notes"
        yield bullets([escape(note) for note in plan.notes])


def _choice(plan: Plan) -> Iterator[str]:
    """The command, the recipe, the alternatives, and what would change the choice."""
    if plan.recommendation.command:
        yield code(plan.recommendation.command)
    if start := time_text.start(plan):
        yield f"Start with {escape(start)}."
    if found := time_text.alternatives(plan):
        yield "### Alternatives"
        yield bullets([f"**{escape(label)}:** {escape(trade)}: {code(command)}" for label, trade, command in found])
    if texts := time_text.thresholds(plan):
        yield "### What would change the choice"
        yield bullets([escape(text) for text in texts])
