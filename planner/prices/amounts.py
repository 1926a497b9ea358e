"""Money and time as people write them: ``40USD``, ``$40``; ``12h``, ``2d``, ``90min``."""

import re

from planner.errors import UsageError, show

_NUMBER = r"(?P<number>\d{1,9}(?:,\d{3})*(?:\.\d{1,6})?|\.\d{1,6})"
_DOLLARS = re.compile(
    rf"(?:usd|us\$|\$)\s*{_NUMBER}|{_NUMBER.replace('number', 'before')}\s*(?:usd|us\$|\$|dollars?)", re.I
)
_BARE = re.compile(_NUMBER)
_MONEY = re.compile(rf"(?P<symbol>[^\d\s.,+-]{{1,4}})?\s*{_NUMBER}\s*(?P<word>[^\d\s.,+-]{{1,20}})?", re.IGNORECASE)
_TIME = re.compile(rf"{_NUMBER}\s*(?P<unit>[a-z]*)", re.IGNORECASE)

_HOURS = {
    "min": 1 / 60,
    "mins": 1 / 60,
    "minute": 1 / 60,
    "minutes": 1 / 60,
    "h": 1.0,
    "hr": 1.0,
    "hrs": 1.0,
    "hour": 1.0,
    "hours": 1.0,
    "d": 24.0,
    "day": 24.0,
    "days": 24.0,
    "w": 168.0,
    "week": 168.0,
    "weeks": 168.0,
}


def parse_usd(text: str) -> float:
    """US dollars; other currencies are refused, since no exchange rate is known.

    >>> [parse_usd(text) for text in ("40USD", "$40", "40 usd", "US$ 1,250.50")]
    [40.0, 40.0, 40.0, 1250.5]
    >>> parse_usd("40EUR")
    Traceback (most recent call last):
    planner.errors.UsageError: --budget '40EUR' is in EUR: no exchange rate is kept, so name US dollars, as in 40USD
    """
    said = text.strip()
    match = _DOLLARS.fullmatch(said)
    if match is not None:
        amount = float((match["number"] or match["before"]).replace(",", ""))
        if amount > 0:
            return amount
        raise UsageError(f"--budget {show(text)} is nothing: write for instance 40USD")
    if _BARE.fullmatch(said):
        raise UsageError(f"--budget {show(text)} has no currency: write {said}USD")
    other = _MONEY.fullmatch(said)
    if other is not None and bool(other["symbol"]) != bool(other["word"]):
        currency = (other["symbol"] or other["word"]).upper()
        raise UsageError(
            f"--budget {show(text)} is in {currency}: no exchange rate is kept, so name US dollars, as in 40USD"
        )
    raise UsageError(f"--budget {show(text)} is not an amount of money: write for instance 40USD")


def parse_hours(text: str) -> float:
    """Hours.

    >>> [parse_hours(text) for text in ("12h", "2d", "90min", "1.5 hours")]
    [12.0, 48.0, 1.5, 1.5]
    >>> parse_hours("12")
    Traceback (most recent call last):
    planner.errors.UsageError: --deadline '12' has no unit: write 12h, 12min or 12d
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--deadline {show(text)} is not a time: write for instance 12h, 90min or 2d")
    number, unit = match["number"], match["unit"].lower()
    if not unit:
        raise UsageError(f"--deadline {show(text)} has no unit: write {number}h, {number}min or {number}d")
    if unit not in _HOURS:
        raise UsageError(f"--deadline {show(text)} has an unknown unit {unit!r}: use min, h, d or weeks")
    hours = float(number.replace(",", "")) * _HOURS[unit]
    if hours <= 0:
        raise UsageError(f"--deadline {show(text)} is no time at all: write for instance 12h")
    return hours


def dollars(usd: float) -> str:
    """Money as it is shown: cents, which below one of them still differ.

    >>> dollars(1234.5), dollars(0.0042)
    ('$1,234.50', '$0.0042')
    """
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.2g}"


def spell_hours(hours: float) -> str:
    """Hours in a sentence: minutes below one, days where there are many.

    >>> spell_hours(0.1), spell_hours(11.24), spell_hours(26), spell_hours(1259.4)
    ('6 min', '11.2 h', '26 h', '52 days')
    """
    if hours < 1:
        return f"{hours * 60:.2g} min"
    return f"{hours:.3g} h" if hours < 100 else f"{hours / 24:,.2g} days" if hours < 2400 else f"{hours / 24:,.0f} days"
