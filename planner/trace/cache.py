"""Entries on disk that can be made again: written whole or not at all, bounded in size, the least recent use first out.

``FINETUNE_PLANNER_CACHE`` names the folder, or ``off``. A folder that cannot be written is no error, only slower.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

VARIABLE = "FINETUNE_PLANNER_CACHE"
OFF = ("off", "no", "false", "none", "0")

LIMIT = 200_000_000
"""Bytes of all entries together."""

UNFINISHED = "unfinished-"
FORGOTTEN = 3600
"""Seconds after which an unfinished file belongs to nobody: whoever wrote it was killed."""

OURS = re.compile(r"[0-9a-f]{64}\.(trace|finding)")
"""No other file of the folder is ever touched."""

Value = TypeVar("Value")


class Kind(NamedTuple, Generic[Value]):
    """How values of one kind become bytes and come back; ``decode`` raises ``ValueError`` for what is none."""

    suffix: str
    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]


class Cache(NamedTuple):
    """Entries in ``directory``; nowhere when it is ``None``."""

    directory: Path | None
    limit: int = LIMIT

    def cached(self, key: str | None, kind: Kind[Value], make: Callable[[], Value]) -> Value:
        """The entry under ``key``, or what ``make`` returns, which then is the entry; without a key nothing is kept."""
        found = self.look_up(key, kind)
        if found is None:
            found = make()
            self.keep(key, kind, found)
        return found

    def look_up(self, key: str | None, kind: Kind[Value]) -> Value | None:
        """The entry under ``key``; ``None`` when there is none, or one that cannot be read."""
        if key is None or self.directory is None:
            return None
        path = self.directory / f"{key}.{kind.suffix}"
        try:
            found = kind.decode(path.read_bytes())
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        return found

    def keep(self, key: str | None, kind: Kind[Value], value: Value) -> None:
        """Write the entry under ``key``; other processes see the old one, if any, until the new one is whole."""
        if key is None or self.directory is None:
            return
        content = kind.encode(value)
        if len(content) > self.limit:
            return
        with suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            _write_whole(self.directory / f"{key}.{kind.suffix}", content)
            _shrink(self.directory, self.limit)


def default_cache() -> Cache:
    """The user's cache, or what ``FINETUNE_PLANNER_CACHE`` says."""
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() in OFF:
        return Cache(None)
    if named:
        return Cache(Path(named).expanduser())
    from platformdirs import user_cache_path  # noqa: PLC0415  (needed here only, and not free)

    return Cache(user_cache_path("finetune-planner", appauthor=False) / "traces")


def _write_whole(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _shrink(directory: Path, limit: int) -> None:
    """Remove the least recently used entries beyond the limit, and what killed processes left behind."""
    entries = []
    for entry in os.scandir(directory):
        with suppress(OSError):  # gone meanwhile
            facts = entry.stat()
            if OURS.fullmatch(entry.name):
                entries.append((facts.st_mtime_ns, facts.st_size, entry.path))
            elif entry.name.startswith(UNFINISHED) and facts.st_mtime < time.time() - FORGOTTEN:
                os.unlink(entry.path)
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size
