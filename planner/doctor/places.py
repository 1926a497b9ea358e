"""Host memory, disks, and what this program keeps on them."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from planner.doctor.values import Fact, State
from planner.local.processor import available_bytes, processor_name, total_bytes
from planner.records.store import Store, StoreError, Tell, default_store
from planner.trace.cache import OURS, Cache, default_cache
from planner.units import GIB, format_bytes

SCARCE_RAM = 4 * GIB
"""A process with torch and its libraries takes about 1 GiB, and a trace of a large model another one or two."""

SCARCE_DISK = GIB


def machine() -> Iterator[Fact]:
    """The processor and its memory."""
    yield Fact("machine", "processor", f"{processor_name()}, {os.cpu_count() or '?'} threads")
    total, free = total_bytes(), available_bytes()
    told = "unknown" if free is None else format_bytes(free)
    scarce = free is not None and free < SCARCE_RAM
    advice = "a trace of a large model takes some GiB" if scarce else ""
    yield Fact("machine", "memory", f"{format_bytes(total)}, {told} free", "warning" if scarce else "ok", advice)


def stored(
    environ: Mapping[str, str], store: Callable[[Tell], Store] = default_store, cache: Cache | None = None
) -> Iterator[Fact]:
    """Measurements, traces and downloads: where, how much, and whether the disk has room."""
    yield from _records(store)
    yield from _traces(cache or default_cache())
    downloads = Path(environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield Fact("stored", "downloads", str(downloads), *_room(downloads))


def _records(open_store: Callable[[Tell], Store]) -> Iterator[Fact]:
    notices: list[str] = []
    store = open_store(notices.append)
    if store.path is None:
        yield Fact("stored", "measurements", "none are kept", "note", "the store is turned off")
        return
    try:
        count = len(store.records())
    except StoreError as error:
        yield Fact("stored", "measurements", str(store.path), "bad", str(error))
        return
    state, advice = _room(store.path)
    if notices:
        state, advice = "warning", "; ".join(notices)
    yield Fact("stored", "measurements", f"{count} in {store.path}", state, advice)


def _traces(cache: Cache) -> Iterator[Fact]:
    if cache.directory is None:
        yield Fact("stored", "traces", "none are kept", "note", "the cache is turned off")
        return
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(cache.directory) if OURS.fullmatch(entry.name)]
    except OSError:
        sizes = []
    value = f"{len(sizes)} entries, {format_bytes(sum(sizes))} of at most {format_bytes(cache.limit)}"
    yield Fact("stored", "traces", f"{value} in {cache.directory}", *_room(cache.directory))


def _room(path: Path) -> tuple[State, str]:
    """A judgement on the disk under a path that need not exist yet, and whether one may write there."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return "warning", f"{place}: {error.strerror}"
    if not os.access(place, os.W_OK):
        return "warning", f"{place} cannot be written"
    told = f"{format_bytes(free)} free on this disk"
    return ("warning", f"only {told}") if free < SCARCE_DISK else ("ok", told)
