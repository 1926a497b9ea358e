"""``plan trace --replay FILE``: a memory history that a device recorded, through the model of its allocator."""

from pathlib import Path

from planner.allocator.config import parse
from planner.allocator.recorded import Recorded, read
from planner.allocator.whatif import what_if
from planner.cli.options import Values, integer
from planner.cli.output import check_format
from planner.cli.progress import Progress
from planner.cli.show import show
from planner.errors import EXIT_FITS, BrokenInput, UsageError, option
from planner.errors import show as shown
from planner.render.replayed import replayed_document, replayed_sheet

TAKEN = ("replay", "device", "alloc_conf", "format", "help")
"""Options that a replay takes: it has no model, no card and no settings."""

MOST_BYTES = 2**32
"""Of a file that is read whole."""


def run_replay(values: Values) -> int:
    """Replay one snapshot; bad files and options beside the point are one line."""
    format_name = check_format(values["format"])
    for name, value in values.items():
        if name not in TAKEN and value not in (None, False, [], ()):
            raise UsageError(f"{option(name)} says nothing beside --replay: a history is what it is")
    text, name = values["alloc_conf"] or "", str(values["replay"])
    parse(text)
    device = None if values["device"] is None else integer("--device", values["device"])
    with Progress() as progress:
        progress("reading")
        recorded = _read(name, device)
        found = what_if(recorded, text, lambda choice: progress(f"replaying under {choice}"))
    show(format_name, lambda: [replayed_sheet(found, name)], lambda: replayed_document(found, name))
    return EXIT_FITS


def _read(name: str, device: int | None) -> Recorded:
    try:
        recorded = read(_content(name), device=device)
    except BrokenInput as error:
        raise BrokenInput(f"--replay {shown(name)}: {error}") from None
    except UsageError as error:
        raise UsageError(f"--replay {shown(name)}: {error} (--device N)") from None
    if not recorded.trace.events:
        raise BrokenInput(f"--replay {shown(name)}: holds no history: record it with plan measure --snapshot FILE")
    return recorded


def _content(name: str) -> bytes:
    try:
        path = Path(name).expanduser()
        there, size = path.is_file(), path.stat().st_size if path.is_file() else 0
        data = path.read_bytes() if there and size <= MOST_BYTES else b""
    except (OSError, RuntimeError, ValueError) as error:
        raise BrokenInput(getattr(error, "strerror", None) or "cannot be read") from None
    if not there:
        raise BrokenInput("no such file")
    if size > MOST_BYTES:
        raise BrokenInput("larger than any history that can be read at once")
    return data
