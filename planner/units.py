"""Bytes to text and back: the only place that knows 2**30 and 10**9.

Inside the project every amount of memory is an ``int`` of bytes. Memory is shown in binary units
(GiB), bandwidth and money in decimal ones. A number without a unit is refused, because the two
readings of "24 GB" lie 7 % apart.
"""

import math
import re
from collections.abc import Callable

from planner.errors import UsageError, show

KIB = 2**10
MIB = 2**20
GIB = 2**30
TIB = 2**40

KB = 10**3
MB = 10**6
GB = 10**9
TB = 10**12

_UNITS = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": KB,
    "mb": MB,
    "gb": GB,
    "tb": TB,
}
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
MOST_COUNT = 10**18
MOST_AMOUNT = 1e15
"""Of dollars, hours and rates: more than any run takes."""

_COUNT = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmbgt]?)\s*", re.ASCII | re.IGNORECASE)
_WORDS = {"thousand": "K", "million": "M", "billion": "B", "trillion": "T"}
_QUANTITY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str) -> int:
    """Bytes named by ``text``; raise ``UsageError`` when it has no unit or no meaning.

    >>> parse_bytes("24GiB") - parse_bytes("24GB")
    1769803776
    >>> parse_bytes("24")
    Traceback (most recent call last):
    planner.errors.UsageError: '24' has no unit: write 24GiB (binary) or 24GB (decimal)
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:40]!r} is not an amount of memory: write for instance 24GiB or 512MiB")
    number, unit = match.groups()
    if not unit and float(number) != 0:
        raise UsageError(f"{text!r} has no unit: write {number}GiB (binary) or {number}GB (decimal)")
    if unit and unit.lower() not in _UNITS:
        raise UsageError(f"{text[:40]!r} has an unknown unit {unit!r}: use MiB, GiB, TiB, MB, GB or TB")
    return round(float(number) * _UNITS.get(unit.lower(), 1))


def format_bytes(count: int, *, digits: int = 2) -> str:
    """``count`` bytes in the largest binary unit that keeps the number at 1 or more.

    >>> format_bytes(25_250_000_000), format_bytes(-3 * 2**20), format_bytes(0)
    ('23.52 GiB', '-3.00 MiB', '0 B')
    """
    for size, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count} B"


def format_gib(count: int, *, digits: int = 1) -> str:
    """``count`` bytes in GiB without the unit, for columns that carry it in their head.

    >>> format_gib(25_250_000_000)
    '23.5'
    """
    return f"{count / GIB:,.{digits}f}"


def format_count(count: int) -> str:
    """A parameter or token count as people say it.

    >>> format_count(70_553_706_496), format_count(41_943_040), format_count(512), format_count(999_800)
    ('70.6B', '41.9M', '512', '1M')
    """
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count * 2000 >= 1999 * size:  # three digits round it up to the unit
            return f"{count / size:.3g}{unit}" if count < 999 * size else f"{count / size:.0f}{unit}"
    return str(count)


def parse_count(text: str) -> int:
    """Things named by ``text``, as people count tokens; raise ``UsageError`` when it is no number of 1 or more.

    >>> parse_count("50M"), parse_count("1.3B"), parse_count("52_002"), parse_count("1,000,000")
    (50000000, 1300000000, 52002, 1000000)
    >>> parse_count("50 million")
    Traceback (most recent call last):
    planner.errors.UsageError: '50 million' is not a count: write 50M
    """
    match = _COUNT.fullmatch(re.sub(r"(?<=\d)[_,](?=\d{3}(?!\d))", "", text))
    if match is None:
        raise UsageError(f"{text[:40]!r} is not a count: write {_as_count(text)}")
    number, unit = match.groups()
    count = round(float(number) * _THOUSANDS[unit.lower()]) if "." in number else int(number) * _THOUSANDS[unit.lower()]
    if not 1 <= count <= MOST_COUNT:
        raise UsageError(f"{text[:40]!r} is outside 1 to 10^18")
    return count


def _as_count(text: str) -> str:
    """How to write what may be meant."""
    match = re.match(
        r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(thousand|million|billion|trillion|mio|mn|bn|tokens?)?", text, re.IGNORECASE
    )
    if match is None or not match[2]:
        return "for instance 50M, 1.3B or 50000000"
    return match[1] + {**_WORDS, "mio": "M", "mn": "M", "bn": "B"}.get(match[2].lower(), "")


def whole(name: str, value: object, least: int, most: int) -> int:
    """``value`` if it is a whole number from ``least`` to ``most``; raise ``UsageError`` about ``name`` if it is not.

    >>> whole("--max-gpus", 8, 1, 1024)
    8
    >>> whole("--max-gpus", 8.5, 1, 1024)
    Traceback (most recent call last):
    planner.errors.UsageError: --max-gpus 8.5 is not a whole number
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} {show(value)} is not a whole number")
    if not least <= value <= most:
        raise UsageError(f"{name} {show(value)} is outside {least:,} to {most:,}")
    return value


def positive(name: str, value: object, most: float = MOST_AMOUNT) -> float:
    """``value`` if it is a number above 0, up to ``most``; raise ``UsageError`` about ``name`` if it is not.

    >>> positive("--epochs", 3, 1000)
    3
    >>> positive("--epochs", float("nan"), 1000)
    Traceback (most recent call last):
    planner.errors.UsageError: --epochs nan is not a number above 0
    >>> positive("--epochs", 1e4, 1000)
    Traceback (most recent call last):
    planner.errors.UsageError: --epochs 10000.0 is outside 0 to 1000
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{name} {show(value)} is not a number above 0")
    if value > most:
        raise UsageError(f"{name} {show(value)} is outside 0 to {most:g}")
    return value


def span(low: float, high: float, show: Callable[[float], str]) -> str:
    """Both ends of a range, or one where they read the same.

    >>> span(1.311, 1.313, "{:.2f}".format), span(1.1, 1.3, "{:.2f}".format)
    ('1.31', '1.10 to 1.30')
    """
    first, last = show(low), show(high)
    return first if first == last else f"{first} to {last}"


def counted(number: int, noun: str) -> str:
    """How many there are of what, by a noun that takes an s.

    >>> counted(1, "source"), counted(1200, "row")
    ('1 source', '1,200 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
