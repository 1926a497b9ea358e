"""CUDA's memory history of a run, written when it ends, well or not: for PyTorch's memory viewer, and for a replay."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from planner.trace.private import end_memory_history, record_memory_history, write_memory_history

MOST_ENTRIES = 400_000
"""Allocations and releases that are kept, the latest: several steps of a large model, and a file below a gigabyte."""


@contextmanager
def history(path: str | None, report: Callable[..., None]) -> Iterator[None]:
    """Record from here on; tell ``snapshot`` when the file is there, ``no_snapshot`` where it could not be written."""
    if path is None:
        yield
        return
    record_memory_history(MOST_ENTRIES)
    try:
        yield
    finally:
        try:
            _write(path)
            report("snapshot", path=path)
            end_memory_history()
        except (OSError, RuntimeError) as error:  # also of a device that has failed, whose own error must not be lost
            report("no_snapshot", text=getattr(error, "strerror", None) or str(error).partition("\n")[0])


def _write(path: str) -> None:
    """The whole file or none of it."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        write_memory_history(unfinished)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
