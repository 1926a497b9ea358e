"""Files that begin as good ones: what people and disks do to them, as hypothesis strategies."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Bytes = st.SearchStrategy[bytes]

HOSTILE = (
    "", "null", "true", "-1", "0", "1", "1e999", "nan", "-inf", "9" * 400, "0.1", "1e-300", "[]", "{}", "[[[]]]",
    '""', '"x"', "'", '"', "]", "}", "[1, 2", '{"a": 1', "&a", "*a", "!!python/object:os.system", "<<: *a",
    "2026-11-26", '"\\u0000"', '"\\ud800"', "0x10", "1_000", "~", "on", "\t", "😀", "'../../etc/passwd'",
    '["full", 3]', "1:30:00",
)  # fmt: skip
"""Values that some language reads as another type than one thinks, and halves of values."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 2**31, 2**63, 10**30, -(2**40)]),
    st.sampled_from([0.0, -0.5, 1e308, 1e-308, float("inf"), float("nan")]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
)


def texts(seeds: Sequence[str], pieces: Sequence[str] = HOSTILE) -> Bytes:
    """Text of lines with some of them changed, and then what disks and editors do to it."""
    return st.builds(_edited, st.sampled_from(seeds), st.lists(_edits(pieces), max_size=4)).flatmap(stored)


def objects(seeds: Sequence[dict[str, Any]]) -> Bytes:
    """JSON of an object with some of its values changed, however deep."""
    return st.builds(_changed, st.sampled_from(seeds), st.lists(_changes(), max_size=4)).flatmap(stored)


def stored(text: str) -> Bytes:
    """The bytes of a text: whole as a rule, else cut off, in another encoding, or with bytes that are wrong."""
    data = text.encode("utf-8", errors="surrogatepass")
    return st.one_of(
        st.just(data),
        st.just(data),
        st.integers(0, len(data)).map(lambda end: data[:end]),
        st.sampled_from(["utf-16", "utf-8-sig", "utf-32"]).map(lambda name: text.encode(name, errors="replace")),
        flipped(data),
    )


def flipped(data: bytes) -> Bytes:
    """Bytes of which a few are others, or are not there."""
    place = st.integers(0, max(len(data) - 1, 0))
    edit = st.tuples(place, st.integers(0, 3), st.binary(max_size=3))
    return st.lists(edit, min_size=1, max_size=5).map(lambda edits: _overwritten(data, edits))


def _overwritten(data: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    for at, cut, new in edits:
        data = data[:at] + new + data[at + cut :]
    return data


# ---------------------------------------------------------------- lines

Edit = Callable[[list[str]], list[str]]


def _edits(pieces: Sequence[str]) -> st.SearchStrategy[Edit]:
    place = st.integers(0, 400)
    piece = st.one_of(st.sampled_from(pieces), st.text(max_size=6))
    return st.one_of(
        st.builds(_with_value, place, piece),
        st.builds(_with_line, place, piece),
        st.builds(_without, place),
        st.builds(_twice, place, st.sampled_from([1, 2, 300])),
        st.builds(_moved, place),
    )


def _edited(seed: str, edits: Sequence[Edit]) -> str:
    lines = seed.splitlines()
    for edit in edits:
        lines = edit(lines) if lines else lines
    return "\n".join(lines) + "\n"


def _with_value(place: int, piece: str) -> Edit:
    """What stands after the first ``=`` or ``:`` of a line is another."""

    def edit(lines: list[str]) -> list[str]:
        at = place % len(lines)
        mark = min((lines[at].find(one) for one in "=:" if one in lines[at]), default=-1)
        return [*lines[:at], f"{lines[at][: mark + 1]} {piece}", *lines[at + 1 :]]

    return edit


def _with_line(place: int, piece: str) -> Edit:
    return lambda lines: [*lines[: place % len(lines)], piece, *lines[place % len(lines) :]]


def _without(place: int) -> Edit:
    return lambda lines: [*lines[: place % len(lines)], *lines[place % len(lines) + 1 :]]


def _twice(place: int, times: int) -> Edit:
    return lambda lines: [*lines, *[lines[place % len(lines)]] * times]


def _moved(place: int) -> Edit:
    """A line further to the right, as indentation tells levels."""
    return lambda lines: [
        *lines[: place % len(lines)],
        f"   {lines[place % len(lines)]}",
        *lines[place % len(lines) + 1 :],
    ]


# ---------------------------------------------------------------- objects

Change = tuple[tuple[int, ...], str, Any]


def _changes() -> st.SearchStrategy[Change]:
    way = st.lists(st.integers(0, 60), min_size=1, max_size=4).map(tuple)
    return st.tuples(way, st.sampled_from(["set", "set", "set", "drop", "add"]), VALUES)


def _changed(seed: dict[str, Any], changes: Sequence[Change]) -> str:
    found: Any = json.loads(json.dumps(seed))
    for way, action, value in changes:
        _change(found, way, action, value)
    return json.dumps(found, indent=1)


def _change(part: Any, way: Sequence[int], action: str, value: Any) -> None:  # noqa: ANN401
    """Follow ``way`` as deep as it leads, and change what lies there."""
    keys = list(part) if isinstance(part, dict) else list(range(len(part)))
    if not keys:
        return
    key = keys[way[0] % len(keys)]
    if len(way) > 1 and isinstance(part[key], dict | list) and part[key]:
        _change(part[key], way[1:], action, value)
    elif action == "drop":
        del part[key]
    elif action == "add" and isinstance(part, dict):
        part[f"{key}_"] = value
    else:
        part[key] = value
