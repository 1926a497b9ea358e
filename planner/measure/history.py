"""CUDA's memory history of a run, written when it ends, well or not: for PyTorch's memory viewer, and for a replay."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MOST_ENTRIES = 400_000
"""Allocations and releases that are kept, the latest: several steps of a large model, and a file below a gigabyte."""


@contextmanager
def history(path: str | None, report: Callable[..., None]) -> Iterator[None]:
    """Record from here on; tell ``snapshot`` when the file is there, ``no_snapshot`` where it could not be written."""
    if path is None:
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=MOST_ENTRIES)
    try:
        yield
    finally:
        try:
            _write(path)
            report("snapshot", path=path)
            torch.cuda.memory._record_memory_history(enabled=None)
        except (OSError, RuntimeError) as error:  # also of a device that has failed, whose own error must not be lost
            report("no_snapshot", text=getattr(error, "strerror", None) or str(error).partition("\n")[0])


def _write(path: str) -> None:
    """The whole file or none of it."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        torch.cuda.memory._dump_snapshot(unfinished)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
