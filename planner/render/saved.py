"""Pictures and snapshots on disk: the whole file or none of it."""

import os
from contextlib import suppress
from pathlib import Path

from planner.errors import UsageError
from planner.render.sheet import printable


def save(path: Path, content: bytes) -> None:
    """Write ``content`` in one step; raise ``UsageError`` in one line where that cannot be done."""
    path = path.expanduser()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {printable(str(path))[:200]}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
