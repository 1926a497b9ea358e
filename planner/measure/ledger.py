"""The file of a matrix: one record a line, written through to the disk as soon as its case has finished.

A process that is killed while it writes leaves a last line that is cut off; it counts as not written. A line that is
whole and no record makes the file somebody else's, and it is left alone.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from planner.errors import BrokenInput, PlannerError, UsageError
from planner.measure.task import Device
from planner.records import Record, document_of, read_record, record_text

Key = str
"""What makes two runs the same: one text."""


def key_of(
    *,
    kind: str,
    scenario: Mapping[str, Any],
    layers: int | str | None,
    cap_bytes: int | None,
    device: Device,
    versions: Mapping[str, str],
    allocator: str,
) -> Key:
    """The identity of a run: what is measured, how much of it, on which device, with which libraries and ``allocator``.

    ``kind`` is ``steps``, or the unit of a limit. Who chose a setting makes no difference, nor how our profile
    describes the card: it is the device that ran.
    """
    facts = {
        "kind": kind,
        "scenario": {name: scenario[name] for name in ("model", "train", "stack")},
        "layers": layers,
        "cap": cap_bytes,
        "device": [device.kind, device.name, device.total_bytes],
        "versions": dict(versions),
        "allocator": allocator,
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def record_key(record: Record, *, layers: bool = True) -> Key:
    """The identity of a run that has been made; without ``layers``, that of all truncations of the same."""
    return _key(record, _as_written_now(record), record.layers if layers else ANY)


def record_keys(record: Record) -> tuple[Key, ...]:
    """Every identity under which a run is found: its own, and of a truncation that of all of them."""
    scenario = _as_written_now(record)
    return tuple(_key(record, scenario, layers) for layers in ((record.layers, ANY) if record.layers else (None,)))


def _key(record: Record, scenario: Mapping[str, Any], layers: int | str | None) -> Key:
    device = record.device
    return key_of(
        kind=record.limits.unit if record.limits else "steps",
        scenario=scenario,
        layers=layers,
        cap_bytes=record.environment.cap_bytes,
        device=Device(device.kind, device.name, device.total_bytes),
        versions=record.environment.versions,
        allocator=record.environment.allocator,
    )


def _as_written_now(record: Record) -> Mapping[str, Any]:
    """The scenario as this version writes it down, which may know more settings than the one that ran it."""
    try:
        return document_of(record.restore())
    except PlannerError:
        return record.scenario


ANY = "auto"
"""In place of a number of layers: the planner chose it."""


class Ledger:
    """The records of a file, and their growth. Without a path they are kept in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what is there; raise ``BrokenInput`` for a file of something else."""
        self.path = path
        self._size, self._torn = 0, 0
        self._by_key: dict[Key, list[Record]] = {}
        for record in self._read() if path is not None else ():
            self._keep(record)

    def find(self, key: Key) -> tuple[Record, ...]:
        """Every record of a run, the oldest first."""
        return tuple(self._by_key.get(key, ()))

    def add(self, records: Iterable[Record]) -> None:
        """Keep records, all of them or, when they cannot be written, none; raise ``UsageError`` then."""
        new = tuple(records)
        if self.path is not None and new:
            self._append("".join(f"{record_text(record)}\n" for record in new).encode())
        for record in new:
            self._keep(record)

    def _keep(self, record: Record) -> None:
        for key in record_keys(record):
            self._by_key.setdefault(key, []).append(record)

    def _read(self) -> list[Record]:
        assert self.path is not None
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BrokenInput(f"--out {self.path} cannot be read: {error.strerror}") from None
        whole = data[: data.rfind(b"\n") + 1]
        if data and not whole and not data.startswith(b"{"):
            raise BrokenInput(f"--out {self.path} holds something else than measurements: name another file")
        found = [self._record(number, line) for number, line in enumerate(whole.splitlines(), start=1)]
        self._size, self._torn = len(whole), len(data) - len(whole)
        return found

    def _record(self, number: int, line: bytes) -> Record:
        try:
            return read_record(line.decode())
        except (BrokenInput, UnicodeDecodeError) as error:
            raise BrokenInput(f"--out {self.path}, line {number}: {error}: name another file") from None

    def _append(self, data: bytes) -> None:
        """Write behind the last whole line, through to the disk; what could be written in part only is taken back."""
        assert self.path is not None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if os.fstat(descriptor).st_size != self._size + self._torn:
                    raise UsageError(f"--out {self.path} is being written by another process: name another file")
                _write_at(descriptor, self._size, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None
        self._size, self._torn = self._size + len(data), 0


def _write_at(descriptor: int, place: int, data: bytes) -> None:
    os.ftruncate(descriptor, place)
    try:
        os.lseek(descriptor, place, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, place)
        raise
