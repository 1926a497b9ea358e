"""``plan sweep``: every combination of models, cards, methods, counts and settings, one line each."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from planner.cli.data import job_from
from planner.cli.interruption import Interruption
from planner.cli.options import Option, Values, integer, number, profiles_dir, rate, size
from planner.cli.output import complain, note, write
from planner.cli.progress import Progress
from planner.cli.row_file import RowFile
from planner.cli.show import show
from planner.cli.swept import SETTINGS, WHOLE
from planner.errors import EXIT_FITS, EXIT_INTERRUPTED, EXIT_NOTHING_FITS, UnknownName, UsageError
from planner.errors import show as shown
from planner.recommend.request import Setting
from planner.recommend.sweep import ALL, COUNTS, Grid, Row, grid_of, rows
from planner.recommend.tally import Tally
from planner.render.sweep import KeyMaker, csv_head, csv_line, json_line, sweep_sheets
from planner.spec import METHODS, Method

FORMATS = ("text", "json", "csv", "markdown")
LINES = ("json", "csv")
"""Formats of one line for each row."""
EXAMPLE = "plan sweep --model 8b,70b --gpu all --gpus 1,2,4,8"
NOT_SETTINGS = ("gpus", "nodes", "network_gbps", "host_memory", "method", "stack", "headroom")
BETWEEN = 64
"""Rows between two looks of a reader at the progress bar."""


def main(values: Values) -> int:
    """Sweep; the exit code is 0 when any row fits, 4 when none does, 130 after an interrupt."""
    format_name = _format(values["format"])
    grid = build_grid(values)
    out = values["out"]
    if out is not None:
        kind = format_name if format_name in LINES else "csv" if out.lower().endswith(".csv") else "json"
        return _to_file(grid, RowFile(out, csv_head() if kind == "csv" else ""), kind, format_name)
    if format_name in LINES:
        return _to_stdout(grid, format_name)
    return _ended(grid, *_run(grid, lambda _row: True), format_name, "nothing is kept without --out")


def _format(text: str | None) -> str:
    name = "text" if text is None else text.lower()
    name = "json" if name == "jsonl" else name
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return name


# ---------------------------------------------------------------- rows to where they go


def _to_file(grid: Grid, file: RowFile, kind: str, format_name: str) -> int:
    """Every row that the file lacks, appended; the table of what was new goes to stdout."""
    key, line = KeyMaker(grid), _line(kind)
    before = len(file.keys)
    with file:
        found, stopped = _run(
            grid, lambda row: file.add(line(row, key(row.asked))), lambda asked: file.has(key(asked)), before
        )
    if before:
        note(f"{before:,} rows were in the file already; new ones: {found.rows:,}")
    table = "text" if format_name in LINES else format_name
    return _ended(grid, found, stopped, table, "the same command goes on with the rest")


def _to_stdout(grid: Grid, kind: str) -> int:
    key, line = KeyMaker(grid), _line(kind)
    if kind == "csv":
        write(csv_head())
    found, stopped = _run(grid, lambda row: write(line(row, key(row.asked)), flush=False))
    write("")
    if stopped:
        complain(f"interrupted after {found.rows:,} of {len(grid):,} rows")
        return EXIT_INTERRUPTED
    return EXIT_FITS if found.runs else EXIT_NOTHING_FITS


def _line(kind: str) -> Callable[[Row, str], str]:
    return csv_line if kind == "csv" else json_line


def _run(
    grid: Grid, take: Callable[[Row], bool], skip: Callable[[Any], bool] = lambda _asked: False, before: int = 0
) -> tuple[Tally, bool]:
    """Every row to ``take``, until it wants no more or the user does; counted, and whether the user stopped it."""
    found, total = Tally(), len(grid)
    with Progress() as progress, Interruption() as interruption:
        for row in rows(grid, skip):
            found.add(row)
            if not take(row):
                return found, False
            if interruption.asked:
                return found, True
            if found.rows % BETWEEN == 0:
                done = before + found.rows
                progress.bar(done / total, f"{done:,} of {total:,}, {row.asked.model}")
    return found, False


def _ended(grid: Grid, found: Tally, stopped: bool, format_name: str, kept: str) -> int:
    if found.rows:
        show(format_name, lambda: sweep_sheets(found), dict)
    if stopped:
        complain(f"interrupted after {found.rows:,} of {len(grid):,} rows; {kept}")
        return EXIT_INTERRUPTED
    return EXIT_FITS if found.runs or not found.rows else EXIT_NOTHING_FITS


# ---------------------------------------------------------------- options to a grid


def build_grid(values: Values) -> Grid:
    """The grid that the options describe; the tokenizer of a model counts a file's tokens where there is one model."""
    models = _required(values, "model", "models")
    job, data = job_from(values, models[0] if len(models) == 1 and models[0].lower() != ALL else None)
    for line in () if data is None else data.notes:
        note(line)
    return grid_of(
        models=models,
        gpus=_required(values, "gpu", "cards of `plan gpus`"),
        counts=_counts(values, "gpus") or (1,),
        nodes=_counts(values, "nodes") or (None,),
        methods=tuple(_method(text) for text in _pieces(values, "method") if text.lower() != ALL),
        settings=dict(_settings(values)),
        stacks=values.get("stack") or (),
        headroom_bytes=0 if values.get("headroom") is None else size("--headroom", values["headroom"]),
        network_gbps=None if values.get("network_gbps") is None else rate("--network-gbps", values["network_gbps"]),
        host_memory_bytes=None if values.get("host_memory") is None else size("--host-memory", values["host_memory"]),
        profiles_dir=profiles_dir(values),
        job=job,
    )


def _required(values: Values, name: str, what: str) -> tuple[str, ...]:
    found = _pieces(values, name)
    if not found:
        raise UsageError(f"--{name} is missing: name {what}, or all; for instance: {EXAMPLE}")
    return found


def _pieces(values: Values, name: str) -> tuple[str, ...]:
    """What an option that may be repeated was given, commas taken apart."""
    given = values.get(name) or ()
    return tuple(piece.strip() for text in given for piece in text.split(",") if piece.strip())


def _counts(values: Values, name: str) -> tuple[int, ...]:
    found = _pieces(values, name)
    if name == "gpus" and any(piece.lower() == ALL for piece in found):
        return COUNTS
    return tuple(integer(f"--{name}", piece) for piece in found)


def _method(text: str) -> Method:
    for method in METHODS:
        if text.lower() == method:
            return method
    raise UnknownName("method", text, METHODS)


def _settings(values: Values) -> Iterator[tuple[str, tuple[Setting, ...]]]:
    for option in SETTINGS:
        if option.name not in NOT_SETTINGS and values.get(option.name):
            given = tuple(values[option.name]) if option.name in WHOLE else _pieces(values, option.name)
            yield option.name, tuple(_value(option, text) for text in given)


SWITCH: Mapping[str, bool] = {"on": True, "off": False}


def _value(option: Option, text: str) -> Setting:
    if option.kind == "integer":
        return integer(option.flag, text)
    if option.kind == "number":
        return number(option.flag, text)
    if option.kind == "switch":
        if text.lower() not in SWITCH:
            raise UsageError(f"{option.flag} {shown(text)} is neither on nor off; both: {option.flag} on,off")
        return SWITCH[text.lower()]
    return text
