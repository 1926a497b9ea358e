"""Typed, bounded reading of a ``config.json``: what is not a sane value is refused by the name of its field.

A family lists every field that it reads with the default of transformers 5.23
(``transformers/models/*/configuration_*.py``).
Fields that change neither a shape nor what is computed are ignored by name. A number, a switch that is on or a
structure that nobody has told us about is refused, because it may well change the architecture.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.errors import BrokenInput, UnsupportedScenario
from planner.errors import show as show
from planner.families.harmless import is_harmless
from planner.spec import ModelSpec

SIZE_LIMIT = 2**24
"""Largest width, vocabulary or count that we believe; the largest vocabulary in use is 262,400."""

LAYER_LIMIT = 10_000
"""Largest depth that we believe; the deepest model in the catalogue has 126 layers."""

POSITION_LIMIT = 2**40
"""Context lengths allocate nothing by themselves, so only absurd ones are refused."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}
"""Names in ``transformers.activations.ACT2CLS`` and ours for them."""


class Required:
    """Marks a field without which the shapes are unknown."""


REQUIRED = Required()


class Family(NamedTuple):
    """One ``model_type``: the fields that it reads with their defaults, and how they become a ``ModelSpec``.

    ``renamed`` gives other spellings of a field (``n_embd``). ``only`` holds fields of which one value is
    understood. ``ignored`` are fields of this family that change no shape.
    """

    model_type: str
    fields: Mapping[str, object]
    build: "Callable[[Fields], ModelSpec]"
    renamed: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    only: Mapping[str, tuple[object, ...]] = MappingProxyType({})
    ignored: frozenset[str] = frozenset()


class Fields:
    """The values of one config, read through its family's list."""

    def __init__(self, values: Mapping[str, object], family: Family, where: str) -> None:
        self.family = family
        self.where = where
        self._values = values

    def broken(self, name: str, problem: str) -> BrokenInput:
        """The error for a value that cannot be what it claims to be."""
        return BrokenInput(f"{self.where}: {name} {problem}")

    def unsupported(self, name: str, problem: str) -> UnsupportedScenario:
        """The error for a value that means something we do not know."""
        return UnsupportedScenario(f"{self.where}: {self.family.model_type} with {name} {problem} is not understood")

    def with_value(self, name: str, value: object) -> "Fields":
        """The same config with one field set, whatever it was called."""
        spellings = (name, *self.family.renamed.get(name, ()))
        kept = {key: kept for key, kept in self._values.items() if key not in spellings}
        return Fields({**kept, name: value}, self.family, self.where)

    def has(self, name: str) -> bool:
        """Whether the family reads this field at all."""
        return name in self.family.fields

    def value(self, name: str) -> object:
        """The raw value of a field, or its default."""
        default = self.family.fields[name]
        found = [self._values[key] for key in (name, *self.family.renamed.get(name, ())) if key in self._values]
        if not found and default is REQUIRED:
            raise self.broken(name, "is missing")
        if len(found) > 1 and any(other != found[0] for other in found):
            raise self.broken(name, f"stands twice, as {show(found[0])} and as {show(found[1])}")
        return found[0] if found else default

    def size(self, name: str, *, limit: int = SIZE_LIMIT) -> int:
        """A positive count."""
        number = self.optional_size(name, limit=limit)
        if number is None:
            raise self.broken(name, "is null")
        return number

    def optional_size(self, name: str, *, limit: int = SIZE_LIMIT, least: int = 1) -> int | None:
        """A positive count, or nothing."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.broken(name, f"is {show(value)}, which is not a whole number")
        if not least <= value <= limit:
            raise self.broken(name, f"is {show(value)}, which is not between {least} and {limit}")
        return value

    def flag(self, name: str) -> bool:
        """A switch; null counts as off."""
        value = self.value(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.broken(name, f"is {show(value)}, which is neither true nor false")

    def switch(self, setting: bool | str) -> bool:
        """A constant of the family, or the value of the field that it names."""
        return self.flag(setting) if isinstance(setting, str) else setting

    def rate(self, name: str | None) -> float:
        """A dropout probability; no field and null mean none."""
        value = 0.0 if name is None else self.value(name)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self.broken(str(name), f"is {show(value)}, which is not a probability below 1")
        return float(value)

    def is_set(self, name: str) -> bool:
        """Whether an optional number is there."""
        value = self.value(name)
        if value is None:
            return False
        if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
            raise self.broken(name, f"is {show(value)}, which is not a number")
        return True

    def activation(self, name: str) -> str:
        """Our name of an activation function."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.broken(name, f"is {show(value)}, which is not the name of a function")
        if value not in ACTIVATIONS:
            raise self.unsupported(name, show(value))
        return ACTIVATIONS[value]

    def items(self, name: str, *, length: int, allowed: tuple[object, ...]) -> tuple[object, ...] | None:
        """A list with one entry per layer, each of a known kind."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise self.broken(name, f"is not a list of {length} entries, one per layer")
        for item in value:
            if isinstance(item, bool) or item not in allowed:
                raise self.unsupported(name, f"entry {show(item)}")
        return tuple(value)

    def indices(self, name: str, *, length: int) -> tuple[int, ...] | None:
        """A list of layer numbers."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in value):
            raise self.broken(name, "is not a list of layer numbers")
        if any(not 0 <= index < length for index in value):
            raise self.broken(name, f"names a layer outside 0 to {length - 1}")
        return tuple(value)

    def mapping(self, name: str) -> Mapping[str, object]:
        """A nested table, empty when absent."""
        value = self.value(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.broken(name, f"is {show(value)}, which is not a table of settings")
        return value


def check_fields(values: Mapping[str, object], family: Family, where: str) -> None:
    """Refuse the first field that may change the architecture in a way that we do not know."""
    read = {*family.fields, *family.only, *family.ignored}
    read.update(spelling for names in family.renamed.values() for spelling in names)
    for name, allowed in family.only.items():
        if name in values and not any(same(values[name], known) for known in allowed):
            problem = f"{name} {show(values[name])}"
            raise UnsupportedScenario(f"{where}: {family.model_type} with {problem} is not understood")
    for name, value in values.items():
        if name not in read and not is_harmless(name, value):
            raise UnsupportedScenario(
                f"{where}: the field {show(name)} = {show(value)} of model_type {family.model_type} is not understood"
                " (take it out of the file if it changes no shape)"
            )


def same(value: object, known: object) -> bool:
    """Equality that keeps true and 1 apart."""
    return value == known and isinstance(value, bool) == isinstance(known, bool)


def printable(text: str, *, limit: int = 40) -> str:
    r"""Foreign text for one line on a terminal: no control characters, no more than ``limit`` of it.

    >>> printable("a\nb\x1b[2J"), printable("x" * 50, limit=4)
    ('a?b?[2J', 'xxxx')
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
