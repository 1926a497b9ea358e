"""Pickles of plain data, read without running anything that they ask for.

A pickle can name any function and have it called. Snapshots hold only dicts, lists, tuples, strings and numbers, so a
pickle that names anything at all is refused before it is looked up.
"""

import io
import pickle
from typing import NoReturn, TypeVar

from planner.errors import BrokenInput

Kind = TypeVar("Kind")


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise BrokenInput(f"it asks for {module[:40]!r}.{name[:40]!r}, and plain data names nothing")

    def persistent_load(self, pid: object) -> NoReturn:
        raise BrokenInput("it refers to objects outside of it")


def load_plain(data: bytes, what: str) -> object:
    """The value in a pickle of plain data; ``what`` it is said to be, for the message.

    >>> load_plain(pickle.dumps([1, "two"]), "list")
    [1, 'two']
    """
    try:
        return _Plain(io.BytesIO(data)).load()
    except BrokenInput as error:
        raise BrokenInput(f"not a {what}: {error}") from None
    except Exception as error:  # a broken pickle raises whatever its opcodes run into
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise BrokenInput(f"not a {what}: the file is broken ({reason})") from error


class Reader:
    """Typed access to plain data, with the path for the message."""

    def __init__(self, value: object, what: str, path: str = "") -> None:
        self.value, self.what, self.path = value, what, path

    def of(self, kind: type[Kind]) -> Kind:
        """The value, which must be of this type."""
        if type(self.value) is not kind:
            place = self.path or "the whole"
            raise BrokenInput(f"not a {self.what}: {place} is {type(self.value).__name__}, not {kind.__name__}")
        return self.value

    def get(self, key: str) -> "Reader":
        """An entry of a dict, which must be there."""
        entries = self.of(dict)
        path = f"{self.path}.{key}" if self.path else key
        if key not in entries:
            raise BrokenInput(f"not a {self.what}: {path} is missing")
        return Reader(entries[key], self.what, path)

    def has(self, key: str) -> bool:
        """Whether a dict has an entry."""
        return key in self.of(dict)

    def each(self) -> "list[Reader]":
        """The members of a list."""
        return [Reader(member, self.what, f"{self.path}[{index}]") for index, member in enumerate(self.of(list))]

    def ints(self) -> list[int]:
        """The members of a list of ints."""
        members = self.of(list)
        if not all(type(member) is int for member in members):
            raise BrokenInput(f"not a {self.what}: {self.path} is not a list of whole numbers")
        return members

    @property
    def size(self) -> int:
        """An int that is not negative."""
        number = self.of(int)
        if number < 0:
            raise BrokenInput(f"not a {self.what}: {self.path} is negative")
        return number
