"""Pictures and snapshots on disk: the whole file or none of it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from errno import EISDIR
from pathlib import Path

from planner.errors import UsageError
from planner.render.sheet import printable


def save(path: Path, content: bytes) -> None:
    """Write ``content`` in one step; raise ``UsageError`` in one line where that cannot be done."""
    save_all({path.expanduser(): content})


def save_all(contents: Mapping[Path, bytes]) -> None:
    """Write every file, or none of them where one cannot be written."""
    unfinished = {path: path.with_name(f"{path.name}.{os.getpid()}") for path in contents}
    path = Path()
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "there is a folder of that name")
            unfinished[path].write_bytes(content)
        for path, one in unfinished.items():
            one.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {printable(str(path))[:200]}: {error.strerror or error}") from error
    finally:
        for one in unfinished.values():
            with suppress(OSError):
                one.unlink(missing_ok=True)
