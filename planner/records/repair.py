"""What becomes of a damaged store: set aside under another name, and every record that is whole goes into a new one.

A record carries a digest of its content, so that a text found anywhere in the file is known to be whole, whatever has
become of the tables around it.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from planner.errors import BrokenInput
from planner.records.record import BEGINNING, Record, record_from
from planner.records.store import Tell

try:
    import fcntl
except ImportError:  # Windows: SQLite's own locks are all there is
    fcntl = None  # type: ignore[assignment]

BUSY_SECONDS = 60.0
"""How long one writer waits for the others."""

BUSY = f"another process has held it for {BUSY_SECONDS:.0f} seconds"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One writer at a time, and nobody writes while the file is replaced; the system frees it when its holder dies.

    SQLite has locks of its own, which hold where these are missing, but those who wait for them sleep long.
    """
    if fcntl is None:
        yield
        return
    with open(path.with_suffix(".lock"), "ab") as file:
        until = time.monotonic() + BUSY_SECONDS
        while not _taken(file.fileno()):
            if time.monotonic() > until:
                raise TimeoutError(BUSY)
            time.sleep(0.001)
        yield


def _taken(descriptor: int) -> bool:
    """Whether the lock is ours; a file system without locks refuses nobody."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def set_aside(path: Path, tell: Tell) -> None:
    """Rename a damaged store, and begin a new one with the records that are whole; nothing if it is not damaged."""
    with locked(path):
        if _is_sound(path):
            return  # another process was faster
        found = tuple(_salvaged(path))
        fresh = path.with_name(f"{path.stem}.new-{os.getpid()}.db")
        try:
            _begin(fresh, found)
            moved = _free_name(path)
            _move(path, moved)
            os.replace(fresh, path)
        finally:
            for left in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm"), fresh.with_suffix(".lock")):
                left.unlink(missing_ok=True)
    several = "1 measurement was" if len(found) == 1 else f"{len(found)} measurements were"
    tell(f"{path} is damaged: it was set aside as {moved.name}, and {several} taken over from it")


def _move(path: Path, moved: Path) -> None:
    """The file under its other name, with its log, which must not meet the new one."""
    try:
        os.link(path, moved)
    except OSError:  # a file system without links
        os.replace(path, moved)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{moved}{suffix}")


def _is_sound(path: Path) -> bool:
    from planner.records.database import connect  # noqa: PLC0415  (which imports this module)

    try:
        with closing(connect(path, mode="rw")) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def _free_name(path: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (f"{path.stem}.corrupt-{moment}{tail}.db" for tail in ("", *(f"-{number}" for number in range(1, 1000))))
    return next(one for one in map(path.with_name, names) if not one.exists())


def _begin(fresh: Path, records: Iterable[Record]) -> None:
    """A new store, whole and closed before anybody sees it."""
    from planner.records.database import write_rows  # noqa: PLC0415  (which imports this module)
    from planner.records.record import record_text  # noqa: PLC0415

    fresh.unlink(missing_ok=True)
    write_rows(fresh, [(record, record_text(record)) for record in records])


# ---------------------------------------------------------------- what is whole


def _salvaged(path: Path) -> Iterator[Record]:
    """Every record that is whole, once: by SQLite as far as it comes, then from the bytes of the file and its log."""
    seen = set()
    for text, start in (*_by_tables(path), *_by_bytes(path), *_by_bytes(Path(f"{path}-wal"))):
        with suppress(ValueError, RecursionError, BrokenInput):
            record = record_from(json.JSONDecoder().raw_decode(text, start)[0])
            if record.id not in seen:
                seen.add(record.id)
                yield record


def _by_tables(path: Path) -> Iterator[tuple[str, int]]:
    from planner.records.database import connect  # noqa: PLC0415  (which imports this module)

    with suppress(sqlite3.Error), closing(connect(path, mode="ro")) as connection:
        for (text,) in connection.execute("SELECT document FROM measurement NOT INDEXED ORDER BY number"):
            yield str(text), 0


def _by_bytes(path: Path) -> Iterator[tuple[str, int]]:
    """All of the file and a place in it, wherever a record begins; texts are ASCII, one byte a character."""
    with suppress(OSError):
        content = path.read_bytes().decode("latin-1")
        yield from ((content, match.start()) for match in BEGINNING.finditer(content))
