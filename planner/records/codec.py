"""Frozen dataclasses as plain JSON data, and back: the annotations of the fields are the whole schema.

Nothing is guessed on the way back: a value of another type than its annotation, a name that a ``Literal`` does not
list, a field that nobody declares and a missing field without default each raise ``Mismatch`` with their place.
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from planner.errors import show

Value = TypeVar("Value")
Reader = Callable[[Any], Any]


class Mismatch(ValueError):
    """Data that is not what the fields say: the complaint, and the place of the data within the whole."""

    def __init__(self, complaint: str, place: str = "") -> None:
        super().__init__(f"{place} {complaint}" if place else complaint)
        self.complaint = complaint
        self.place = place


def plain(value: object, *, lean: bool = False) -> Any:  # noqa: ANN401  (JSON data)
    """JSON data of frozen values; ``lean`` leaves out the fields that hold their defaults.

    >>> from planner.spec import Table
    >>> plain(Table("wte", (50257, 768)))
    {'name': 'wte', 'shape': [50257, 768]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = (field for field in fields(value) if not (lean and getattr(value, field.name) == default_of(field)))
        return {field.name: plain(getattr(value, field.name), lean=lean) for field in kept}
    if isinstance(value, Mapping):
        return {key: plain(item, lean=lean) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, lean=lean) for item in value]
    return value


def default_of(field: "Field[Any]") -> object:
    """What a field holds when nobody says anything; ``MISSING`` where it must be said."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def restored(kind: type[Value], data: object, name: str = "") -> Value:
    """The value of type ``kind`` that ``data`` describes; raise ``Mismatch`` where it describes none."""
    annotation: Any = kind
    found: Value = _within(name or kind.__name__, reader(annotation), data)
    return found


def restored_field(owner: type, name: str, data: object) -> Any:  # noqa: ANN401  (whatever the field holds)
    """The value of one field of a dataclass."""
    kinds = _kinds(owner)
    if name not in kinds:
        raise Mismatch("is unknown", f"{owner.__name__}.{name[:60]}")
    return _within(f"{owner.__name__}.{name}", reader(kinds[name]), data)


def canonical(data: object) -> str:
    """One text for the same data, in ASCII; raise ``ValueError`` for numbers that JSON lacks."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---------------------------------------------------------------- by kind of annotation


@cache
def reader(kind: Any) -> Reader:  # noqa: ANN401  (annotations are of any type)
    """What turns data into a value of this kind; made once a kind, since records are many."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind is object or kind is Any:
        return lambda data: data
    if is_dataclass(kind):
        return _object_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union_reader(arguments)
    if origin is Literal:
        return _choice_reader(arguments)
    if origin is tuple:
        return _list_reader(arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(*arguments)
    raise TypeError(f"no rule for {kind}")


def _object_reader(kind: Any) -> Reader:  # noqa: ANN401
    readers = {name: reader(annotation) for name, annotation in _kinds(kind).items()}
    required = {field.name for field in fields(kind) if default_of(field) is MISSING}

    def read(data: Any) -> Any:  # noqa: ANN401
        if not isinstance(data, dict):
            raise Mismatch(f"{show(data)} is not an object")
        if not data.keys() <= readers.keys():
            raise Mismatch("is unknown", f".{min(data.keys() - readers.keys())[:60]}")
        if not required <= data.keys():
            raise Mismatch("is missing", f".{min(required - data.keys())}")
        return kind(**{name: _within(f".{name}", readers[name], item) for name, item in data.items()})

    return read


@cache
def _kinds(kind: type) -> Mapping[str, Any]:
    """Annotations of a dataclass's fields, resolved; class variables and properties are none."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _union_reader(kinds: tuple[Any, ...]) -> Reader:
    readers = [reader(kind) for kind in kinds if kind is not NoneType]
    optional = NoneType in kinds

    def read(data: Any) -> Any:  # noqa: ANN401
        if data is None and optional:
            return None
        for one in readers[:-1]:
            with suppress(Mismatch):
                return one(data)
        return readers[-1](data)

    return read


def _choice_reader(names: tuple[Any, ...]) -> Reader:
    def read(data: Any) -> Any:  # noqa: ANN401
        if isinstance(data, str) and data in names:
            return data
        raise Mismatch(f"{show(data)} is not one of {', '.join(map(str, names))}")

    return read


def _list_reader(kinds: tuple[Any, ...]) -> Reader:
    repeated = kinds[-1] is Ellipsis
    readers = [reader(kind) for kind in kinds if kind is not Ellipsis]

    def read(data: Any) -> Any:  # noqa: ANN401
        if not isinstance(data, list):
            raise Mismatch(f"{show(data)} is not a list")
        each = readers * len(data) if repeated else readers
        if len(each) != len(data):
            raise Mismatch(f"has {len(data)} items, not {len(each)}")
        return tuple(_within(f"[{place}]", one, item) for place, (one, item) in enumerate(zip(each, data, strict=True)))

    return read


def _mapping_reader(key_kind: Any, item_kind: Any) -> Reader:  # noqa: ANN401
    key_of, item_of = reader(key_kind), reader(item_kind)

    def read(data: Any) -> Any:  # noqa: ANN401
        if not isinstance(data, dict):
            raise Mismatch(f"{show(data)} is not an object")
        return MappingProxyType({key_of(key): _within(f".{key[:60]}", item_of, item) for key, item in data.items()})

    return read


def _within(place: str, read: Reader, data: object) -> Any:  # noqa: ANN401
    try:
        return read(data)
    except Mismatch as fault:
        raise Mismatch(fault.complaint, place + fault.place) from None


def _integer(data: object) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise Mismatch(f"{show(data)} is not a whole number")
    return data


def _number(data: object) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise Mismatch(f"{show(data)} is not a number")
    return data


def _text(data: object) -> str:
    if not isinstance(data, str) or _SURROGATE.search(data):
        raise Mismatch(f"{show(data)} is not text")
    return data


def _truth(data: object) -> bool:
    if not isinstance(data, bool):
        raise Mismatch(f"{show(data)} is neither true nor false")
    return data


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON may hold and no text does."""

_SCALARS: Mapping[Any, Reader] = MappingProxyType({int: _integer, float: _number, str: _text, bool: _truth})
