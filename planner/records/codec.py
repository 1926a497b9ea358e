"""Frozen dataclasses as plain JSON data, and back: the annotations of the fields are the whole schema.

Nothing is guessed on the way back: a value of another type than its annotation, a name that a ``Literal`` does not
list, a field that nobody declares and a missing field without default each raise ``Mismatch`` with their place.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from planner.errors import show

Value = TypeVar("Value")


class Mismatch(ValueError):
    """Data that is not what the fields say; the message says where."""


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


def restored(kind: type[Value], data: object, where: str = "") -> Value:
    """The value of type ``kind`` that ``data`` describes; raise ``Mismatch`` where it describes none."""
    found: Value = _restored(kind, data, where or getattr(kind, "__name__", str(kind)))
    return found


def restored_field(owner: type, name: str, data: object) -> Any:  # noqa: ANN401  (whatever the field holds)
    """The value of one field of a dataclass."""
    kinds = _kinds(owner)
    if name not in kinds:
        raise Mismatch(f"{owner.__name__}.{name[:60]} is unknown")
    return _restored(kinds[name], data, f"{owner.__name__}.{name}")


def canonical(data: object) -> str:
    """One text for the same data, in ASCII; raise ``ValueError`` for numbers that JSON lacks."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---------------------------------------------------------------- by kind of annotation


def _restored(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401  (annotations and JSON are of any type)
    if kind in _SCALARS:
        return _SCALARS[kind](data, where)
    if kind is object or kind is Any:
        return data
    if is_dataclass(kind):
        return _dataclass(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(arguments, data, where)
    if origin is Literal:
        if isinstance(data, str) and data in arguments:
            return data
        raise Mismatch(f"{where} {show(data)} is not one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return tuple(_items(arguments, data, where))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments, data, where)
    raise TypeError(f"{where}: no rule for {kind}")


def _dataclass(kind: Any, data: object, where: str) -> Any:  # noqa: ANN401
    if not isinstance(data, dict):
        raise Mismatch(f"{where} {show(data)} is not an object")
    kinds = _kinds(kind)
    unknown = sorted(set(data) - set(kinds))
    if unknown:
        raise Mismatch(f"{where}.{unknown[0][:60]} is unknown")
    missing = [field.name for field in fields(kind) if field.name not in data and default_of(field) is MISSING]
    if missing:
        raise Mismatch(f"{where}.{missing[0]} is missing")
    return kind(**{name: _restored(kinds[name], item, f"{where}.{name}") for name, item in data.items()})


@cache
def _kinds(kind: type) -> Mapping[str, Any]:
    """Annotations of a dataclass's fields, resolved; class variables and properties are none."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _one_of(kinds: tuple[Any, ...], data: object, where: str) -> Any:  # noqa: ANN401
    if data is None and NoneType in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not NoneType]
    for kind in wanted[:-1]:
        try:
            return _restored(kind, data, where)
        except Mismatch:
            continue
    return _restored(wanted[-1], data, where)


def _items(kinds: tuple[Any, ...], data: object, where: str) -> Iterator[Any]:
    if not isinstance(data, list):
        raise Mismatch(f"{where} {show(data)} is not a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise Mismatch(f"{where} has {len(data)} items, not {len(kinds)}")
    for place, (kind, item) in enumerate(zip(kinds, data, strict=True)):
        yield _restored(kind, item, f"{where}[{place}]")


def _mapping(kinds: tuple[Any, ...], data: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(data, dict):
        raise Mismatch(f"{where} {show(data)} is not an object")
    return MappingProxyType(
        {
            _restored(kinds[0], key, f"a name in {where}"): _restored(kinds[1], item, f"{where}.{key[:60]}")
            for key, item in data.items()
        }
    )


def _integer(data: object, where: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise Mismatch(f"{where} {show(data)} is not a whole number")
    return data


def _number(data: object, where: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise Mismatch(f"{where} {show(data)} is not a number")
    return data


def _text(data: object, where: str) -> str:
    if not isinstance(data, str) or any("\ud800" <= char <= "\udfff" for char in data):
        raise Mismatch(f"{where} {show(data)} is not text")
    return data


def _truth(data: object, where: str) -> bool:
    if not isinstance(data, bool):
        raise Mismatch(f"{where} {show(data)} is neither true nor false")
    return data


_SCALARS: Mapping[Any, Callable[[object, str], Any]] = {int: _integer, float: _number, str: _text, bool: _truth}
