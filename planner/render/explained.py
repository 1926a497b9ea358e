"""Where the activations go, tensor by tensor; and what a stack does by default."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.sheet import Cell, Column, Sheet, row
from planner.result import Candidate
from planner.spec import MOMENTS, Scenario
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.closed_form.explain import Item


def items_sheet(
    candidate: Candidate, kept: Sequence["Item"], recomputed: Sequence["Item"], notes: Sequence[str] = ()
) -> Sheet:
    """Saved tensors of one method by group, each with its sum: what waits for backward, then what one layer remakes."""
    columns = (
        Column("saved tensor"),
        Column("shape"),
        Column("dtype"),
        Column("count", numeric=True),
        Column("bytes", numeric=True),
    )
    rows: list[tuple[Cell, ...]] = []
    rules: list[int] = []
    for group, members in groupby((*kept, *recomputed), key=lambda item: item.group):
        if recomputed and group == recomputed[0].group:
            _total(rows, rules, "kept until backward", kept)
        items = list(members)
        _total(rows, rules, group, items)
        rows.extend(_item(item) for item in items)
    if not recomputed:
        _total(rows, rules, "kept until backward", kept)
    notes = (_in_the_plan(candidate), *notes)
    return Sheet(_title(candidate.scenario), columns, tuple(rows), rules=tuple(rules[1:]), notes=notes)


def _in_the_plan(candidate: Candidate) -> str:
    """How the list relates to the owners that the plan shows."""
    memory = candidate.estimate.peak_memory
    owners = ", ".join(f"{name} {format_bytes(getattr(memory, name))}" for name in BEYOND_STATES)
    phase = words.phase(candidate.estimate.peak.phase)
    if candidate.estimate.peak.phase in MOMENTS:
        return f"the plan's peak is in {phase}, after the step whose tensors these are: {owners}"
    return (
        f"the plan's peak, in {phase}: {owners}; besides what is saved and not yet used up, these hold tensors that "
        "the running operations read and gradients on their way"
    )


BEYOND_STATES = ("activations", "logits", "temporaries")
"""Owners that a batch makes and a step uses up."""


def _total(rows: list[tuple[Cell, ...]], rules: list[int], name: str, items: Sequence["Item"]) -> None:
    rules.append(len(rows))
    total = format_bytes(sum(item.bytes for item in items))
    rows.append(row((Cell(name, "strong"), "", "", "", Cell(total, "strong"))))


def _item(item: "Item") -> tuple[Cell, ...]:
    return row((f"  {item.name}", item.shape, item.dtype, f"{item.copies:,}", format_bytes(item.bytes)))


def _title(scenario: Scenario) -> str:
    train = scenario.train
    checkpointing = words.value(train.gradient_checkpointing)
    return (
        f"{scenario.model.name}, {train.method}: {train.micro_batch_size} x {train.seq_len} tokens, "
        f"{train.attention} attention, {train.kernels} kernels, checkpointing {checkpointing}"
    )


def items_document(candidate: Candidate, kept: Sequence["Item"], recomputed: Sequence["Item"]) -> dict[str, object]:
    """The same for scripts."""
    estimate = candidate.estimate
    return {
        "method": candidate.method,
        "kept_bytes": sum(item.bytes for item in kept),
        "recomputed_bytes": sum(item.bytes for item in recomputed),
        "kept": [_entry(item) for item in kept],
        "recomputed": [_entry(item) for item in recomputed],
        "peak": {"phase": estimate.peak.phase, **{name: getattr(estimate.peak_memory, name) for name in BEYOND_STATES}},
    }


def _entry(item: "Item") -> dict[str, object]:
    return {
        "group": item.group,
        "name": item.name,
        "shape": item.shape,
        "dtype": item.dtype,
        "count": item.copies,
        "bytes": item.bytes,
    }


def stack_sheet(title: str, rules: Sequence[tuple[str, str]]) -> Sheet:
    """What holds in a stack, and where that is written."""
    columns = (Column("sets", wraps=True), Column("source", wraps=True))
    return Sheet(title, columns, tuple(row(pair) for pair in rules))


def stack_document(name: str, rules: Sequence[tuple[str, str]], unset: Sequence[tuple[str, str]]) -> dict[str, object]:
    """The same for scripts."""
    told = {"rules": rules, "unset": unset}
    lists = {key: [{"sets": sets, "source": source} for sets, source in pairs] for key, pairs in told.items()}
    return {"schema": 1, "stack": name, **lists}


def rule_parts(text: str) -> tuple[str, list[tuple[str, str]]]:
    r"""A rule's page as its sentence and (heading, paragraph) pairs.

    >>> rule_parts("FIT009: it is so.\n\nSource:   a paper,\n          section 2")
    ('FIT009: it is so.', [('Source', 'a paper, section 2')])
    """
    first, *rest = text.splitlines()
    parts: list[tuple[str, str]] = []
    for line in filter(str.strip, rest):
        heading, colon, content = line.partition(":")
        if colon and not line.startswith(" ") and len(heading) <= LONGEST_HEADING:
            parts.append((heading, content.strip()))
        elif parts:
            parts[-1] = (parts[-1][0], f"{parts[-1][1]} {line.strip()}")
        else:
            parts.append(("", line.strip()))
    return first, parts


LONGEST_HEADING = 20
