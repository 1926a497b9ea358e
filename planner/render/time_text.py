"""Time, money, alternatives and thresholds of a plan, in words and neutral tables."""

from planner.recommend.recipe import planned_batch, recipe
from planner.render import recipe as recipe_text
from planner.render import words
from planner.render.plan_text import differing, labels
from planner.render.sheet import Cell, Column, Sheet, row
from planner.result import TIME_PARTS, Alternative, Axis, Candidate, Cost, Plan, StepTime
from planner.units import counted

PACED: dict[str, str] = {
    "compute": "computing",
    "dequantise": "dequantising",
    "launch": "kernel launches",
    "communicate": "the links",
    "bubble": "the pipeline",
    "optimizer": "the optimizer",
    "offload": "the host",
    "reference": "the reference",
    "generate": "sampling",
}
"""Parts of a step as what sets its pace."""

AMONG: dict[Axis, str] = {
    "shard": "data-parallel ranks",
    "replicate": "replicas",
    "tensor": "tensor-parallel ranks",
    "context": "context-parallel ranks",
    "ulysses": "Ulysses ranks",
    "pipeline": "stages",
    "expert": "expert-parallel ranks",
}
"""Groups of ranks that communicate."""


STARTS = ("learning_rate", "global_batch", "epochs", "warmup", "scheduler")
"""Settings of a recipe that stand in its one line."""


def times(plan: Plan) -> Sheet | None:
    """Seconds of a step, tokens a second, and what a run takes; ``None`` where no time is known."""
    labelled = zip(labels(plan), plan.candidates, strict=True)
    timed = [(label, one, one.step) for label, one in labelled if one.step is not None]
    if not timed:
        return None
    priced = any(one.cost is not None for _, one, _ in timed)
    rows = [
        row((Cell(label, "strong"), *_pace(step), *(_run(one.cost) if priced else ()))) for label, one, step in timed
    ]
    columns = (
        Column("time"),
        Column("s a step", numeric=True),
        Column("low–high", numeric=True, optional=True),
        Column("tokens/s", numeric=True),
        Column("paced by", optional=not priced),
        *((Column("hours", numeric=True), Column("US$", numeric=True)) if priced else ()),
    )
    return Sheet("Time and money" if priced else "Time", columns, tuple(rows), notes=_basis(timed[-1][2]))


def _pace(step: StepTime) -> tuple[Cell, ...]:
    interval = f"{brief(step.low)}–{brief(step.high)}"
    return (
        Cell(brief(step.seconds)),
        Cell(interval, "faint"),
        Cell(f"{step.tokens_per_second:,.0f}"),
        Cell(PACED[step.bound]),
    )


def _run(cost: Cost | None) -> tuple[Cell, Cell]:
    if cost is None:
        return Cell("–"), Cell("–")
    return Cell(f"{brief(cost.low_hours)}–{brief(cost.high_hours)}"), Cell(money(cost))


def _basis(step: StepTime) -> tuple[str, ...]:
    basis = step.basis
    runs = f"by {counted(basis.n, 'published run')} of {counted(len(basis.sources), 'source')}"
    what = {
        "stated": "stated, not measured",
        "published": runs if basis.n else "published",
    }.get(basis.kind, f"by {basis.n} of your own runs")
    return (f"times: {what} ({basis.group})" if basis.group else f"times: {what}",)


def brief(value: float) -> str:
    """Seconds, or hours, with the digits that they deserve.

    >>> brief(0.1234), brief(3.21), brief(123.4)
    ('0.12', '3.2', '123')
    """
    return f"{value:,.2f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def money(cost: Cost) -> str:
    """A price range of a run.

    >>> from planner.result import Cost
    >>> money(Cost(steps=1, hours=1, low_hours=1, high_hours=1, setup_hours=0, usd=2.5, usd_low=1.2, usd_high=9))
    '1.20–9.00'
    """
    known = [usd for usd in (cost.usd_low, cost.usd_high) if usd is not None]
    return "–".join(dict.fromkeys(f"{usd:,.2f}" if usd < 100 else f"{usd:,.0f}" for usd in known)) or "–"


def parts_sheet(plan: Plan) -> Sheet:
    """Seconds of each part of a step by itself, the step that they make up, and its bounds, by candidate."""
    timed = [(label, one.step) for label, one in zip(labels(plan), plan.candidates, strict=True) if one.step]
    rows = []
    for part in TIME_PARTS:
        if any(step.parts.get(part) for _, step in timed):
            rows.append(_seconds(PACED[part], [step.parts.get(part, 0.0) for _, step in timed]))
        if part == "communicate":
            rows += _among([step for _, step in timed])
    rule, whole = len(rows), [_pace(step) for _, step in timed]
    for place, name in enumerate(("one optimizer step", "low–high", "tokens/s")):
        rows.append(row((name, *(cells[place] for cells in whole))))
    columns = (Column("seconds by themselves"), *(Column(label, numeric=True) for label, _ in timed))
    notes = tuple(dict.fromkeys(note for _, step in timed for note in _sourced(step)))
    title = "Where the time of a step goes"
    return Sheet(title, columns, tuple(rows), rules=(rule,), notes=(*notes, OVERLAP) if timed else (NO_RATE,))


def _among(steps: list[StepTime]) -> list[tuple[Cell, ...]]:
    """Seconds on the links by group of ranks."""
    axes = [axis for axis in AMONG if any(step.exchanges.get(axis) for step in steps)]
    return [_seconds(f"  among {AMONG[axis]}", [step.exchanges.get(axis, 0.0) for step in steps]) for axis in axes]


def _seconds(name: str, values: list[float]) -> tuple[Cell, ...]:
    return row((name, *(Cell(brief(value) if value else "–") for value in values)))


OVERLAP = "parts overlap: what computes, what is launched and what is sent run beside each other"
NO_RATE = "no time is known: the card has no 16-bit rate in its profile"


def _sourced(step: StepTime) -> tuple[str, ...]:
    sources = f": {', '.join(step.basis.sources)}" if step.basis.sources else ""
    return tuple(f"{text}{sources}" for text in _basis(step))


def alternatives(plan: Plan) -> tuple[tuple[str, str, str], ...]:
    """What each alternative does differently, what it gains and costs, and the command that asks for it."""
    index = plan.recommendation.candidate
    if index is None:
        return ()
    chosen = plan.candidates[index]
    return tuple((_differently(one, chosen), one.text, one.way.command) for one in plan.recommendation.alternatives)


def _differently(one: Alternative, chosen: Candidate) -> str:
    other = one.way.candidate
    return other.method if other.method != chosen.method else words.settings(differing(chosen, other))


def thresholds(plan: Plan) -> tuple[str, ...]:
    """What would change the plan's mind."""
    return tuple(one.text for one in plan.recommendation.thresholds)


def start(plan: Plan) -> str:
    """The recipe of the recommended candidate in one line; empty where nothing runs."""
    index = plan.recommendation.candidate
    if index is None:
        return ""
    scenario = plan.candidates[index].scenario
    found = recipe(scenario, plan.job)
    shown = {name: recipe_text.value(advice) for name, advice in found.items() if name in STARTS}
    if found.global_batch.value != planned_batch(scenario):
        shown["global_batch"] += f" ({planned_batch(scenario)} as planned)"
    return ", ".join(f"{recipe_text.NAMES[name]} {value}" for name, value in shown.items())
