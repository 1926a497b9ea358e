"""Observed against predicted, and what may have differed: as tables and as a document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.machine import candidate_document
from planner.render.sheet import Cell, Column, Sheet, printable, row
from planner.result import ALL_PHASES, OWNERS
from planner.units import GIB, format_bytes

if TYPE_CHECKING:
    from planner.why import Amount, Diagnosis, Difference, Failure
    from planner.why.traceback import Place

SHOWN = 5
"""Differences that are listed; JSON has all."""

METRICS = {"allocated": "allocated by torch", "reserved": "reserved by torch", "device": "in use on the device"}


def why_sheets(found: "Diagnosis") -> list[Sheet]:
    """The message, what it tells, the prediction beside it, and the likeliest differences."""
    sheets = []
    if found.failure is not None:
        sheets.append(_message(found.failure, found.place))
    if found.clues:
        sheets.append(_clues(found))
    if found.candidate is not None:
        sheets.append(_phases(found))
    if found.differences and not found.agrees:
        sheets.append(_differences("What may have differed, the likeliest first", found.differences[:SHOWN]))
    if found.pairs:
        sheets.append(_differences("Two differences at once", found.pairs))
    last = sheets[-1]
    return [*sheets[:-1], Sheet(last.title, last.columns, last.rows, last.rules, (*last.notes, *_ending(found)))]


# ---------------------------------------------------------------- the message

FIELDS = (
    ("asked for", "requested"),
    ("card", "total"),
    ("free", "free"),
    ("this process", "process"),
    ("may take", "allowed"),
    ("allocated by torch", "allocated"),
    ("reserved, in no tensor", "unallocated"),
)


def _message(failure: "Failure", place: "Place | None") -> Sheet:
    rows = [row(("said by", failure.source))]
    for name, field in FIELDS:
        count: Amount | None = getattr(failure, field)
        if count is not None:
            rows.append(row((name, format_bytes(count.middle))))
    if place is not None:
        frame = place.frame
        code = f": {printable(frame.code)}" if frame.code else ""
        where = f"{words.phase(place.phase)} ({printable(frame.place)}, {printable(frame.function)}{code})"
        rows.append(row(("in", where)))
    return Sheet("The message", (Column("what"), Column("says", wraps=True)), tuple(rows))


def _clues(found: "Diagnosis") -> Sheet:
    rows = [row((Cell(clue.code, "strong"), clue.text)) for clue in found.clues]
    return Sheet("What it tells", (Column("code"), Column("clue", wraps=True)), tuple(rows))


# ---------------------------------------------------------------- predicted


def _phases(found: "Diagnosis") -> Sheet:
    assert found.candidate is not None
    estimate = found.candidate.estimate
    phases = [phase for phase in ALL_PHASES if phase in estimate.phases]
    seen = found.observation
    where = (seen and seen.phase) or estimate.peak.phase
    columns = (
        Column("GiB predicted"),
        *(Column(words.phase(phase), numeric=True, optional=phase != where) for phase in phases),
    )
    rows = [
        row((words.OWNER_WORDS[owner], *(words.gib(getattr(estimate.phases[phase], owner)) for phase in phases)))  # type: ignore[index]
        for owner in OWNERS
    ]
    totals = (Cell(words.gib(estimate.phases[phase].total), "strong") for phase in phases)
    rows.append(row((Cell("allocated", "strong"), *totals)))
    if seen is not None and seen.metric == "allocated":
        text = f"{'≥ ' if seen.at_least else ''}{words.gib(seen.amount.middle)}"
        rows.append(row((Cell("observed", "strong"), *(text if phase == where else "" for phase in phases))))
    return Sheet(_title(found), columns, tuple(rows), rules=(len(OWNERS),), notes=(conclusion(found),))


def _title(found: "Diagnosis") -> str:
    assert found.candidate is not None
    scenario = found.candidate.scenario
    train = scenario.train
    shape = f"{train.micro_batch_size} × {train.seq_len} tokens"
    return f"{scenario.model.name} on {words.cards(scenario.cluster)}: {train.method}, {shape}"


def conclusion(found: "Diagnosis") -> str:
    """What the comparison comes to, in a sentence or two."""
    seen, expected = found.observation, found.expected
    if seen is None or expected is None:
        return "The message has no numbers to compare: give --observed and --metric."
    predicted = f"{format_bytes(expected[0])} ({format_bytes(expected[1])} to {format_bytes(expected[2])})"
    observed = format_bytes(seen.amount.middle)
    what = METRICS[seen.metric]
    if seen.at_least:
        where = f" in {words.phase(seen.phase)}" if seen.phase else ""
        head = f"It wanted {observed} of tensors at once{where}; predicted are {predicted}."
        tail = (
            "That agrees: nothing has to have differed for the card to be too small." if found.agrees else _gap(found)
        )
    else:
        head = f"Observed: {observed} {what}; predicted: {predicted}."
        tail = "That agrees within the interval: nothing has to be explained." if found.agrees else _gap(found)
    return f"{head} {tail}"


def _gap(found: "Diagnosis") -> str:
    gap = found.gap_bytes or 0
    amount = f"{format_bytes(abs(gap))} {'more' if gap > 0 else 'less'} than predicted"
    able = sum(one.explains and not one.solved for one in found.differences)
    first = next((one for one in found.differences if one.matched or one.frame), None)
    told = f" The message itself speaks for {first.codes[0]}." if first else ""
    if able:
        return (
            f"It is {amount}, which {'one difference' if able == 1 else f'each of {able} differences'} explains.{told}"
        )
    if found.pairs:
        return f"It is {amount}, which no single usual difference explains, and two at once do.{told}"
    solved = next((one for one in found.differences if one.explains), None)
    if solved is not None:
        return f"It is {amount}: of single settings only this explains it: {solved.text}.{told}"
    return f"It is {amount}, and nothing that is known here explains it, alone or in pairs.{told}"


# ---------------------------------------------------------------- differences


def _differences(title: str, found: Sequence["Difference"]) -> Sheet:
    columns = (
        Column("code"),
        Column("it may be that", wraps=True),
        Column("moves", numeric=True),
        Column("leaves", numeric=True),
    )
    rows = [one for difference in found for one in _difference(difference)]
    note = (
        "moves: what it adds to the prediction; leaves: what it leaves of the gap (GiB). Each command plans its case."
    )
    return Sheet(title, columns, tuple(rows), notes=(note,))


def _difference(one: "Difference") -> Iterator[tuple[Cell, ...]]:
    left = Cell(_signed(one.remaining_bytes), "good" if one.explains else "")
    codes = Cell("+".join(one.codes), "strong")
    yield row((codes, printable(one.text + _signs(one)), _signed(one.bytes), left))
    yield row(("", Cell(printable(one.command), "code"), "", ""))


def _signs(one: "Difference") -> str:
    """What in the message speaks for a single difference."""
    if len(one.codes) > 1:
        return ""
    matched = f"; the request was then for {one.matched}" if one.matched else ""
    return f"{matched}; the traceback goes through {one.frame}" if one.frame else matched


def _signed(count: int) -> str:
    return "0" if abs(count) < GIB // 200 else f"{count / GIB:+,.2f}"


def _ending(found: "Diagnosis") -> tuple[str, ...]:
    if found.candidate is None:
        return ("Give the settings of the run (--model, --gpu, --method, ...) to hold it against the plan.",)
    return (f"The plan of this run: {found.command}", *found.notes)


# ---------------------------------------------------------------- for scripts


def why_document(found: "Diagnosis") -> dict[str, object]:
    """The same, and all differences; bytes are ints."""
    seen = found.observation
    return {
        "schema": 1,
        "message": None if found.failure is None else _failure(found.failure),
        "phase": None if found.place is None else found.place.phase,
        "frame": None if found.place is None else found.place.frame._asdict(),
        "clues": [{"code": clue.code, "text": clue.text, "bytes": clue.bytes} for clue in found.clues],
        "observed": None
        if seen is None
        else {"metric": seen.metric, **_range(seen.amount), "at_least": seen.at_least, "phase": seen.phase},
        "predicted": None
        if found.expected is None
        else dict(zip(("bytes", "low", "high"), found.expected, strict=True)),
        "gap_bytes": found.gap_bytes,
        "agrees": found.agrees,
        "differences": [_difference_document(one) for one in found.differences],
        "pairs": [_difference_document(one) for one in found.pairs],
        "candidate": None if found.candidate is None else candidate_document(found.candidate),
        "command": found.command,
        "conclusion": None if found.candidate is None else conclusion(found),
        "notes": list(found.notes),
    }


def _failure(failure: "Failure") -> dict[str, object]:
    fields: Mapping[str, Amount | None] = {field: getattr(failure, field) for _, field in FIELDS}
    return {
        "kind": failure.kind,
        "source": failure.source,
        "text": failure.text,
        "device": failure.device,
        **{name: None if count is None else _range(count) for name, count in fields.items()},
        "others": [{"pid": pid, **_range(count)} for pid, count in failure.others],
    }


def _range(count: "Amount") -> dict[str, int]:
    return {"bytes": count.middle, "low": count.low, "high": count.high}


def _difference_document(one: "Difference") -> dict[str, object]:
    return {
        "codes": list(one.codes),
        "text": one.text,
        "settings": dict(one.settings),
        "bytes": one.bytes,
        "predicted_bytes": one.predicted_bytes,
        "remaining_bytes": one.remaining_bytes,
        "explains": one.explains,
        "solved": one.solved,
        "matched": one.matched or None,
        "frame": one.frame or None,
        "command": one.command,
    }
