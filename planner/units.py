"""Bytes to text and back: the only place that knows 2**30 and 10**9.

Inside the project every amount of memory is an ``int`` of bytes. Memory is shown in binary units
(GiB), bandwidth and money in decimal ones. A number without a unit is refused, because the two
readings of "24 GB" lie 7 % apart.
"""

import re

from planner.errors import UsageError

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

    >>> format_count(70_553_706_496), format_count(41_943_040), format_count(512)
    ('70.6B', '41.9M', '512')
    """
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:.0f}{unit}"
    return str(count)
