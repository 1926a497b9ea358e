"""``plan measurements list|show|export|import|forget``: the runs that this machine remembers."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.cli.options import Values
from planner.cli.output import check_format, note, write
from planner.cli.show import show
from planner.errors import EXIT_FITS, EXIT_USAGE, BrokenInput, UnknownName, UsageError
from planner.records import Record, Store, default_store
from planner.render.records import (
    imported_document,
    imported_sheet,
    record_document_of,
    record_sheets,
    records_document,
    records_sheet,
)
from planner.render.sheet import printable

MOST_IMPORTED = 2_000_000_000
"""Bytes of a file to import: a million measurements would be less."""

STDIO = "-"


def main(values: Values) -> int:
    """Do what the first word says with what the others name."""
    format_name = check_format(values["format"])
    action, what = values["action"] or "list", tuple(values["what"] or ())
    if action not in ACTIONS:
        raise UnknownName("action", action, ACTIONS)
    _refuse_strange_options(action, values)
    return ACTIONS[action](default_store(note), what, values, format_name)


def _refuse_strange_options(action: str, values: Values) -> None:
    for name, actions in TAKEN_BY.items():
        if values[name] and action not in actions:
            raise UsageError(f"--{name} belongs to plan measurements {' and '.join(actions)}, not to {action}")


TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "model": ("list", "export"),
    "device": ("list", "export"),
    "anchors": ("export",),
    "all": ("forget",),
    "yes": ("forget",),
}
"""Which actions an option is for."""


# ---------------------------------------------------------------- actions


def _list(store: Store, what: tuple[str, ...], values: Values, format_name: str) -> int:
    _expect("list", what, 0)
    records = store.find(model=_model(values), device=values["device"])
    place = _place(store)
    if not records and format_name != "json":
        write(f"no measurements in {place}: take one with plan measure --model MODEL\n")
    else:
        show(format_name, lambda: [records_sheet(records, place)], lambda: records_document(records, place))
    return EXIT_FITS


def _show(store: Store, what: tuple[str, ...], _values: Values, format_name: str) -> int:
    _expect("show ID", what, 1)
    record = store.get(what[0])
    show(format_name, lambda: record_sheets(record), lambda: record_document_of(record))
    return EXIT_FITS


def _export(store: Store, what: tuple[str, ...], values: Values, format_name: str) -> int:
    """All of them in the order in which they were taken, or those that are named."""
    if not what:
        raise UsageError("plan measurements export FILE: name a file, or - for standard output")
    name, *ids = what
    text, count = _exported(store, tuple(ids), values)
    if name == STDIO:
        write(text)
        return EXIT_FITS
    from planner.render.saved import save  # noqa: PLC0415  (nothing else writes files)

    save(Path(name), text.encode("utf-8"))
    told = f"{_count(count)} written to {printable(name)}\n"
    _tell(format_name, told, {"exported": count, "file": name})
    return EXIT_FITS


def _exported(store: Store, ids: tuple[str, ...], values: Values) -> tuple[str, int]:
    from planner.records.exchange import export_lines  # noqa: PLC0415  (the list has no use for it)

    if not (ids or values["anchors"] or values["model"] or values["device"]):
        lines = store.texts()
        return "".join(f"{line}\n" for line in lines), len(lines)
    records = _chosen(store, ids, values)
    if values["anchors"]:
        from planner.records.anchored import to_anchor_toml  # noqa: PLC0415  (reads catalogue and profiles)

        text = to_anchor_toml(records)
        count = text.count("[[case]]")
        if count < len(records):
            note(f"{_count(len(records) - count)} can be no anchor: the file says why")
        return text, count
    return export_lines(records), len(records)


def _chosen(store: Store, ids: tuple[str, ...], values: Values) -> tuple[Record, ...]:
    """Records by their ids, or by model and device, oldest first."""
    if not ids:
        return tuple(reversed(store.find(model=_model(values), device=values["device"])))
    if values["model"] or values["device"]:
        raise UsageError("name measurements by their ids, or by --model and --device, not by both")
    return tuple({record.id: record for record in map(store.get, ids)}.values())


def _import(store: Store, what: tuple[str, ...], _values: Values, format_name: str) -> int:
    """0 where every line is a measurement; 2 where some are not, although the others are stored."""
    _expect("import FILE", what, 1)
    if store.path is None:
        raise UsageError("measurements are not stored: PLANNER_DATA_DIR is off")
    from planner.records.exchange import import_lines  # noqa: PLC0415  (the list has no use for it)

    found = import_lines(_content(what[0]), store)
    if not found.refused and format_name != "json":
        write(f"{printable(what[0])}: {_count(found.new)} new, {found.known:,} known\n")
        return EXIT_FITS
    show(format_name, lambda: [imported_sheet(found, what[0])], lambda: imported_document(found))
    return EXIT_USAGE if found.refused else EXIT_FITS


def _content(name: str) -> bytes:
    where = printable(name)[:200]
    try:
        if name == STDIO:
            return sys.stdin.buffer.read(MOST_IMPORTED)
        path = Path(name).expanduser()
        if path.is_file() and path.stat().st_size > MOST_IMPORTED:
            raise BrokenInput(f"{where}: larger than any file of measurements")
        return path.read_bytes()
    except OSError as error:
        raise BrokenInput(f"{where}: {error.strerror or 'cannot be read'}") from None
    except ValueError as error:  # a NUL in the name
        raise BrokenInput(f"{where}: {error}") from None


def _forget(store: Store, what: tuple[str, ...], values: Values, format_name: str) -> int:
    if values["all"] == bool(what):
        raise UsageError("plan measurements forget ID ..., or forget --all --yes")
    if values["all"] and not values["yes"]:
        raise UsageError(f"--all forgets {_count(len(store.find()))} for ever: add --yes to do so")
    count = store.forget_all() if values["all"] else store.forget(what)
    _tell(format_name, f"{_count(count)} forgotten\n", {"forgotten": count})
    return EXIT_FITS


Action = Callable[[Store, tuple[str, ...], Values, str], int]

ACTIONS: Mapping[str, Action] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "import": _import,
    "forget": _forget,
}


# ---------------------------------------------------------------- words


def _expect(usage: str, what: tuple[str, ...], count: int) -> None:
    if len(what) != count:
        raise UsageError(
            f"plan measurements {usage} takes {count or 'no'} name{'' if count == 1 else 's'}, not {len(what)}"
        )


def _model(values: Values) -> str | None:
    """The model's own name, whichever it was asked for by."""
    from planner.catalog import find_name  # noqa: PLC0415  (reads the catalogue's index)

    name = values["model"]
    return None if name is None else find_name(name) or name


def _place(store: Store) -> str:
    return "no store (PLANNER_DATA_DIR is off)" if store.path is None else printable(str(store.path))


def _count(count: int) -> str:
    return "1 measurement" if count == 1 else f"{count:,} measurements"


def _tell(format_name: str, text: str, facts: Mapping[str, object]) -> None:
    """What was done, in a word or as JSON."""
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (words need no JSON)

        text = to_json({"schema": 1, **facts})
    write(text)
