"""Measured runs that are stored: as a list, one in full, and what was done with them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.render import words
from planner.render.ranks import ranks_sheet
from planner.render.sheet import Cell, Column, Sheet, printable, row
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.records import PhasePeaks, Record
    from planner.records.exchange import Imported

SHORT = 10
"""Digits of an id that tell it from others in any store of believable size."""

OUTCOMES: Mapping[str, Cell] = {
    "done": Cell("ran", "good"),
    "out_of_memory": Cell("out of memory", "bad"),
    "timed_out": Cell("timed out", "warn"),
    "killed": Cell("killed", "warn"),
    "failed": Cell("failed", "warn"),
}
UNITS: Mapping[str, str] = {"micro_batch_size": "batch", "seq_len": "length"}
"""What a limit was searched of."""

METRICS = ("allocated", "reserved", "device", "required")
EVIDENCE = ("traced", "closed-form")
"""Kinds of prediction, the better first."""


# ---------------------------------------------------------------- list


def records_sheet(records: Sequence["Record"], place: str) -> Sheet:
    """One row a run, newest first."""
    columns = (
        Column("id"),
        Column("taken (UTC)", optional=True),
        Column("model"),
        Column("method"),
        Column("tokens", numeric=True, optional=True),
        Column("device", optional=True),
        Column("stack", optional=True),
        Column("outcome"),
        Column("allocated", numeric=True),
        Column("predicted", numeric=True),
    )
    notes = (
        "predicted: how far the prediction that was made then is from the allocated peak",
        "one in full: plan measurements show ID",
    )
    title = f"{'1 measurement' if len(records) == 1 else f'{len(records):,} measurements'} in {place}"
    return Sheet(title, columns, tuple(map(_listed, records)), notes=notes)


def _listed(record: "Record") -> tuple[Cell, ...]:
    allocated = record.peak.allocated_bytes
    return row(
        (
            Cell(record.id[:SHORT], "strong"),
            record.taken_at[:16].replace("T", " "),
            f"{record.model}{_depth(record)}",
            f"{record.method}{_cards(record)}",
            _shape(record),
            printable(record.device.name),
            record.stack,
            _outcome(record),
            words.amount(allocated),
            _difference(_best(record), allocated),
        )
    )


def _outcome(record: "Record") -> Cell:
    if record.kind == "limit" and record.limits is not None:
        return Cell(f"{UNITS.get(record.limits.unit, 'limit')} to {record.limits.largest_ran or 0:,}", "good")
    return OUTCOMES[record.outcome]


def _depth(record: "Record") -> str:
    return f", {record.layers} layers" if record.layers else ""


def _cards(record: "Record") -> str:
    """Among how many cards, and how."""
    return f", {record.sharding} × {record.gpus}" if record.gpus > 1 else ""


def _shape(record: "Record") -> str:
    train = record.scenario["train"]
    return f"{train.get('micro_batch_size', '?')} × {train.get('seq_len', '?')}"


def _best(record: "Record") -> int | None:
    """Allocated bytes by the best evidence that there was."""
    found = (record.predicted.get(kind, {}).get("allocated") for kind in EVIDENCE)
    return next((count for count in found if count is not None), None)


def _difference(predicted: int | None, measured: int | None) -> Cell:
    if predicted is None or not measured:
        return Cell("–")
    return words.difference(predicted / measured - 1)


def records_document(records: Iterable["Record"], place: str) -> dict[str, object]:
    """The same for scripts."""
    return {"schema": 1, "file": place, "measurements": [_summary(record) for record in records]}


def _summary(record: "Record") -> dict[str, object]:
    train = record.scenario["train"]
    return {
        "id": record.id,
        "taken_at": record.taken_at,
        "kind": record.kind,
        "model": record.model,
        "method": record.method,
        "stack": record.stack,
        "layers": record.layers,
        "gpus": record.gpus,
        "sharding": record.sharding,
        "micro_batch_size": train.get("micro_batch_size"),
        "seq_len": train.get("seq_len"),
        "device": record.device.name,
        "architecture": record.device.architecture,
        "outcome": record.outcome,
        **{f"{name}_bytes": getattr(record.peak, f"{name}_bytes") for name in METRICS[:3]},
        "steady_seconds": record.steady_seconds,
        "predicted": {kind: dict(counts) for kind, counts in record.predicted.items()},
    }


# ---------------------------------------------------------------- one


def record_sheets(record: "Record") -> list[Sheet]:
    """Facts of one run, its peaks by phase, and its peaks beside what was predicted."""
    facts = Sheet(
        f"{record.model} on {printable(record.device.name)}: {record.method}{_cards(record)}{_depth(record)}, "
        f"{_shape(record)} tokens",
        (Column("fact"), Column("value", wraps=True)),
        tuple(row((Cell(name, "strong"), printable(value))) for name, value in _facts(record)),
    )
    phases = [_phases(record)] if record.first or record.load else []
    return [facts, *phases, *([_ranks(record)] if record.ranks else []), _peaks(record)]


def _facts(record: "Record") -> list[tuple[str, str]]:
    found = record.environment
    rows = [
        ("id", record.id),
        ("taken (UTC)", record.taken_at.replace("T", " ").rstrip("Z")),
        ("outcome", _outcome(record).text),
        ("died in", "" if record.died_in is None else _died_in(record)),
        ("detail", record.detail),
        ("limits", _limits(record)),
        ("device", f"{record.device.name}, {format_bytes(record.device.total_bytes)}, {record.device.architecture}"),
        ("pretended size", "" if found.cap_bytes is None else format_bytes(found.cap_bytes)),
        ("held by others", "" if not found.others_bytes else f"{format_bytes(found.others_bytes)} at most"),
        ("stack", record.stack),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("driver", found.driver),
        ("allocator", found.allocator),
        ("settings", _settings(record)),
        ("lengths", _lengths(record)),
        ("first step", _seconds(record.first_seconds)),
        ("later steps", _seconds(record.steady_seconds)),
        ("tokens a second", "" if record.tokens_per_second is None else f"{record.tokens_per_second:,.0f}"),
        ("host memory", "" if record.host_bytes is None else format_bytes(record.host_bytes)),
        ("planner", record.planner),
    ]
    return [(name, value) for name, value in rows if value]


def _died_in(record: "Record") -> str:
    place = record.died_in
    return "" if place is None else f"{words.phase(place.phase)} of step {place.step + 1}"


def _limits(record: "Record") -> str:
    found = record.limits
    if found is None:
        return ""
    ran = "none ran" if found.largest_ran is None else f"{found.largest_ran:,} ran"
    failed = "" if found.smallest_failed is None else f", {found.smallest_failed:,} did not"
    return f"{words.option(found.unit)}: {ran}{failed}"


def _settings(record: "Record") -> str:
    """What the user chose."""
    train, origins = record.scenario["train"], record.scenario.get("origins")
    named = origins.items() if isinstance(origins, Mapping) else ()  # a record of another version is shown all the same
    chosen = [name for name, origin in named if origin == "user" and name in train and name != "peft_config"]
    return ", ".join(f"{words.option(name)} {words.value(train[name])}" for name in chosen if name != "method")


def _lengths(record: "Record") -> str:
    found = record.lengths
    return f"{len(found)} steps of {min(found):,} to {max(found):,} tokens" if found else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"


def _phases(record: "Record") -> Sheet:
    columns = (
        Column("step"),
        Column("phase"),
        Column("allocated", numeric=True),
        Column("reserved", numeric=True),
        Column("device", numeric=True),
    )
    steps = (("", (record.load,) if record.load else ()), ("first", record.first), ("steady", record.steady))
    rows: list[tuple[Cell, ...]] = []
    rules: list[int] = []
    for name, phases in steps:
        if rows and phases:
            rules.append(len(rows))
        rows.extend(_phase(name, peaks) for peaks in phases)
    return Sheet("Peaks by phase", columns, tuple(rows), rules=tuple(rules))


def _phase(step: str, peaks: "PhasePeaks") -> tuple[Cell, ...]:
    counts = (peaks.allocated_bytes, peaks.reserved_bytes, peaks.device_bytes)
    return row((step, words.phase(printable(peaks.phase)), *map(words.amount, counts)))


def _ranks(record: "Record") -> Sheet:
    return ranks_sheet(
        [
            (part.rank, [getattr(part, f"{name}_bytes") for name in METRICS[:3]], part.owners, part.steady_seconds)
            for part in record.ranks
        ]
    )


def _peaks(record: "Record") -> Sheet:
    """Metric by metric: measured, and as every kind of evidence had it when the run was made."""
    kinds = [kind for kind in EVIDENCE if kind in record.predicted]
    heads = [Column(name, numeric=True, optional=kind != kinds[0]) for kind in kinds for name in (kind, "difference")]
    columns = (Column("peak"), Column("measured", numeric=True), *heads)
    rows: list[tuple[Cell, ...]] = []
    for metric in METRICS:
        measured = getattr(record.peak, f"{metric}_bytes", None)
        predicted = [record.predicted[kind].get(metric) for kind in kinds]
        if measured is None and all(count is None for count in predicted):
            continue
        cells = [cell for count in predicted for cell in (words.amount(count), _difference(count, measured))]
        rows.append(row((Cell(metric, "strong"), words.amount(measured), *cells)))
    return Sheet("Peaks of all steps, and as predicted then", columns, tuple(rows))


def record_document_of(record: "Record") -> dict[str, Any]:
    """The record as it is exported."""
    from planner.records import record_document  # noqa: PLC0415  (tables have no use for it)

    return {"schema": 1, "measurement": record_document(record)}


# ---------------------------------------------------------------- import


def imported_sheet(found: "Imported", name: str) -> Sheet:
    """What became of the lines of a file; a row for each that is no measurement."""
    columns = (Column("line", numeric=True), Column("refused because", wraps=True))
    rows = tuple(row((str(number), printable(why))) for number, why in found.refused[:MOST_REFUSED])
    title = f"{printable(name)}: {found.new:,} new, {found.known:,} known, {len(found.refused):,} refused"
    more = len(found.refused) - MOST_REFUSED
    return Sheet(title, columns, rows, notes=(f"and {more:,} more (--format json has all)",) if more > 0 else ())


MOST_REFUSED = 20
"""Lines that are named: a file of something else has thousands."""


def imported_document(found: "Imported") -> dict[str, object]:
    """The same for scripts."""
    refused = [{"line": number, "why": why} for number, why in found.refused]
    return {"schema": 1, "new": found.new, "known": found.known, "refused": refused}
