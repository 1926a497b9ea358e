"""The SQLite file behind ``Store``: schema, transactions, and what happens when the file or the disk is bad.

Every call opens, does one thing and closes, so that a killed process leaves nothing but a finished or an unfinished
transaction, which SQLite tells apart (https://www.sqlite.org/wal.html).
"""

import errno
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from planner.records.repair import BUSY, BUSY_SECONDS, locked, set_aside
from planner.records.store import VARIABLE, StoreError, Tell

if TYPE_CHECKING:
    from planner.records.record import Record

PAGE_BYTES = 16384
"""A record of usual size lies within one page, so that it is found again even in a file that SQLite cannot open."""

Result = TypeVar("Result")
Step = Callable[[sqlite3.Connection], None]


# ---------------------------------------------------------------- schema


def _first_schema(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE measurement (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, taken_at TEXT NOT NULL, "
        "kind TEXT NOT NULL, model TEXT NOT NULL, method TEXT NOT NULL, stack TEXT NOT NULL, device TEXT NOT NULL, "
        "device_kind TEXT NOT NULL, architecture TEXT NOT NULL, outcome TEXT NOT NULL, document TEXT NOT NULL)"
    )
    connection.execute("CREATE INDEX by_model ON measurement (model, method, stack)")
    connection.execute("CREATE INDEX by_architecture ON measurement (architecture, stack, method)")


STEPS: tuple[Step, ...] = (_first_schema,)
"""What leads from each version of the schema to the next; their number is the version that we write."""


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to our version within the transaction that is open."""
    for step in STEPS[_version(connection) :]:
        step(connection)
    connection.execute(f"PRAGMA user_version = {len(STEPS)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema; raise ``StoreError`` for a newer one, of which we touch nothing."""
    found = _version(connection)
    if found > len(STEPS):
        raise StoreError(
            f"{path} was written by a newer finetune-planner (schema {found}, this version knows {len(STEPS)}): "
            f"update, or name another folder in {VARIABLE}"
        )
    return found


# ---------------------------------------------------------------- connections


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """A connection in one of SQLite's modes (``ro``, ``rw``, ``rwc``, or ``ro&immutable=1``)."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.text_factory = lambda content: content.decode("utf-8", errors="replace")  # a damaged row harms no other
    return connection


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the newest schema; committed at the end, undone by any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), closing(connect(path, mode="rwc")) as connection:
        if _check_version(connection, path) == 0:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _use_wal(connection)
        connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is gone
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            _check_version(connection, path)
            _migrate(connection)
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write-ahead logging, in which readers and a writer do not wait for each other.

    SQLite does not wait for a lock when it changes the mode, so we do. Where it cannot (network file systems), it stays
    in the mode that it has, which is as safe and slower.
    """
    until = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > until:
                raise
            time.sleep(0.005)


def _reading(path: Path, read: Callable[[sqlite3.Connection], Result], nothing: Result) -> Result:
    """What ``read`` finds; ``nothing`` in a file without tables. A folder that cannot be written is no hindrance."""
    for mode in ("rw", "ro", "ro&immutable=1"):
        try:
            with closing(connect(path, mode=mode)) as connection:
                return read(connection) if _check_version(connection, path) else nothing
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or "immutable" in mode:
                raise
    return nothing


# ---------------------------------------------------------------- what the store asks


def insert(path: Path, rows: Sequence[tuple["Record", str]], tell: Tell) -> int:
    """Add records with their texts in one transaction; how many were new."""
    return _guarded(path, lambda: write_rows(path, rows), tell, f"not stored in {path}")


def write_rows(path: Path, rows: Sequence[tuple["Record", str]]) -> int:
    """The same without help where it goes wrong."""
    with _writing(path) as connection:
        before = connection.total_changes
        connection.executemany(
            "INSERT OR IGNORE INTO measurement (id, taken_at, kind, model, method, stack, device, device_kind, "
            "architecture, outcome, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*_columns(record), text) for record, text in rows],
        )
        return connection.total_changes - before


def _columns(record: "Record") -> tuple[str, ...]:
    device = record.device
    names = (record.kind, record.model, record.method, record.stack)
    return (record.id, record.taken_at, *names, device.name, device.kind, device.architecture, record.outcome)


def select(
    path: Path, wanted: Mapping[str, str], device: str | None, most: int | None, tell: Tell
) -> list[tuple[str, str]]:
    """Ids and texts of the ``most`` newest rows with these columns, newest first."""
    terms = [f"{name} = ?" for name in wanted]
    values: list[str | int] = list(wanted.values())
    if device is not None:
        terms.append("? IN (device, device_kind, architecture)")
        values.append(device)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    query = f"SELECT id, document FROM measurement{where} ORDER BY taken_at DESC, number DESC LIMIT ?"
    values.append(-1 if most is None else most)  # less than none is all, to SQLite

    def work() -> list[tuple[str, str]]:
        return _reading(path, lambda connection: list(map(_texts, connection.execute(query, values))), [])

    return _guarded(path, work, tell, f"{path} cannot be read")


def _texts(row: tuple[object, object]) -> tuple[str, str]:
    """A damaged row may hold anything."""
    return str(row[0]), str(row[1])


def ids_from(path: Path, digits: str, tell: Tell) -> tuple[str, ...]:
    """Every id that begins with these digits."""
    query = "SELECT id FROM measurement WHERE id >= ? AND id < ? ORDER BY id"

    def read(connection: sqlite3.Connection) -> tuple[str, ...]:
        return tuple(str(row[0]) for row in connection.execute(query, (digits, digits + "g")))

    return _guarded(path, lambda: _reading(path, read, ()), tell, f"{path} cannot be read")


def delete(path: Path, ids: Iterable[str] | None, tell: Tell) -> int:
    """Remove these rows, or all, from the file and from its log; how many there were."""
    some = None if ids is None else [(one,) for one in ids]

    def work() -> int:
        with _writing(path) as connection:
            before = connection.total_changes
            if some is None:
                connection.execute("DELETE FROM measurement WHERE true")
            else:
                connection.executemany("DELETE FROM measurement WHERE id = ?", some)
            count = connection.total_changes - before
        with closing(connect(path, mode="rw")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    return _guarded(path, work, tell, f"nothing was forgotten in {path}")


# ---------------------------------------------------------------- when it goes wrong


def _guarded(path: Path, work: Callable[[], Result], tell: Tell, failed: str) -> Result:
    """Do ``work``; a corrupt file is set aside once, and every other trouble is one line."""
    try:
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            _set_aside(path, tell)
            return work()
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{failed}: {_why(error)}") from None


def _set_aside(path: Path, tell: Tell) -> None:
    try:
        set_aside(path, tell)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path} is damaged, and cannot be set aside: {_why(error)}") from None


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, rather than busy, full or out of reach."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_REASONS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file",
    sqlite3.SQLITE_IOERR: "the disk is full, or refuses to be written",
}


def _why(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ"):
        return "the disk cannot be read"
    return _REASONS.get(_code(error), str(error))
