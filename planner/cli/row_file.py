"""The file of a sweep: a row a line, gone on with where it stops.

A process that is killed while it writes leaves a last line that is cut off; it counts as not written.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from planner._version import __version__
from planner.cli.files import check_target
from planner.errors import BrokenInput, UsageError, show
from planner.render.sweep import KEY

FLUSHED = 256
"""Rows after which they are handed to the system, so that another process can follow."""


class RowFile:
    """Rows by their keys: which are there, and a place for more. ``head`` is the first line of a file that has one."""

    def __init__(self, name: str, head: str = "") -> None:
        """Read the keys of what is there; raise ``BrokenInput`` for a file of something else."""
        check_target("--out", name)
        self.path = Path(name).expanduser().absolute()
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"--out {show(name)} is no ordinary file: name one, or leave it out for standard output")
        self.keys: set[bytes] = set()
        self._head, self._whole, self._added = head.encode(), 0, 0
        self._file: BinaryIO | None = None
        for number, line in enumerate(self._lines(), start=1):
            self._read(number, line)

    def has(self, key: str) -> bool:
        """Whether a row is there."""
        return bytes.fromhex(key) in self.keys

    def add(self, line: str) -> bool:
        """Append a row's line."""
        assert self._file is not None
        try:
            self._file.write(line.encode())
            self._added += 1
            if self._added % FLUSHED == 0:
                self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from None
        return True

    def __enter__(self) -> Self:
        try:
            self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
            if not self._whole:
                self._file.write(self._head)
        except OSError as error:
            raise self._unwritten(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            self._file.close()
        except OSError as failure:
            raise self._unwritten(failure) from None

    def _unwritten(self, error: OSError) -> UsageError:
        return UsageError(f"--out {show(str(self.path))} cannot be written: {error.strerror}")

    def _lines(self) -> Iterator[bytes]:
        """Lines that are whole."""
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield line
                    elif not self._whole and not self._head.startswith(line) and not line.startswith(b"{"):
                        raise self._foreign(1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise BrokenInput(f"--out {show(str(self.path))} cannot be read: {error.strerror}") from None

    def _read(self, number: int, line: bytes) -> None:
        if number == 1 and self._head:
            if line != self._head:
                raise self._foreign(number)
        else:
            match = KEY.match(line.decode(errors="replace"))
            if match is None or line.startswith(b"{") == bool(self._head):
                raise self._foreign(number)
            if match[2] != __version__:
                raise UsageError(
                    f"--out {show(str(self.path))} was written by version {match[2]}, this is {__version__}: "
                    "name another file"
                )
            self.keys.add(bytes.fromhex(match[1]))
        self._whole += len(line)

    def _foreign(self, number: int) -> BrokenInput:
        return BrokenInput(f"--out {show(str(self.path))}, line {number} is no row of such a sweep: name another file")
