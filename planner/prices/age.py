"""How old a price is, in words, and when that must be said."""

import os
from collections.abc import Iterable
from datetime import UTC, date, datetime

from planner.errors import BrokenInput, show

OLD_DAYS = 90
"""Days after which a price is called old (ours). Single announcements have cut prices by up to 45 %: AWS News Blog,
5 June 2025, "Announcing up to 45% price reduction for Amazon EC2 NVIDIA GPU-accelerated instances"."""

MONTH_DAYS = 365.25 / 12


def today() -> date:
    """The day against which prices age; ``SOURCE_DATE_EPOCH`` stands in, so that a page made twice is the same page.

    Source:    reproducible-builds.org, "SOURCE_DATE_EPOCH"
    """
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(seconds), UTC).date() if seconds.isdecimal() else datetime.now(UTC).date()


def age_days(as_of: str, today: date) -> int:
    """Days since a price was noted; of a month without a day, since its first, so that no price looks newer than it is.

    >>> age_days("2026-10", date(2026, 11, 26)), age_days("2026-11-25", date(2026, 11, 26))
    (56, 1)
    """
    return max((today - _date(as_of)).days, 0)


def age(as_of: str, today: date) -> str:
    """The age in words.

    >>> [age(day, date(2026, 11, 26)) for day in ("2026-11-26", "2026-11-25", "2026-11-10", "2026-10", "2024-10")]
    ['today', '1 day old', '16 days old', '2 months old', '2 years old']
    """
    days = age_days(as_of, today)
    if days == 0:
        return "today"
    months = round(days / MONTH_DAYS)
    count, unit = (days, "day") if days < MONTH_DAYS else (months, "month") if months < 24 else (months // 12, "year")
    return f"{count} {unit}{'' if count == 1 else 's'} old"


def is_old(as_of: str, today: date) -> bool:
    """Whether a price is past ``OLD_DAYS``.

    >>> is_old("2026-08-28", date(2026, 11, 26)), is_old("2026-08-27", date(2026, 11, 26))
    (False, True)
    """
    return age_days(as_of, today) > OLD_DAYS


def staleness(dates: Iterable[str], today: date) -> str | None:
    """One line where any price is old; ``None`` where none is.

    >>> staleness(["2026-10"], date(2026, 11, 26))
    >>> staleness(["2026-10", "2026-01"], date(2026, 11, 26))
    'prices of 2026-01 are 11 months old, past 90 days: ask sellers, or run with --prices live'
    """
    old = min((noted for noted in dates if is_old(noted, today)), default=None)
    if old is None:
        return None
    return f"prices of {old} are {age(old, today)}, past {OLD_DAYS} days: ask sellers, or run with --prices live"


def _date(as_of: str) -> date:
    parts = as_of.split("-")
    try:
        return date(int(parts[0]), int(parts[1]), int(parts[2]) if len(parts) > 2 else 1)
    except (ValueError, IndexError):
        raise BrokenInput(f"price date {show(as_of)} is not YYYY-MM or YYYY-MM-DD") from None
