"""A value with the source that it comes from and the range in which others put it."""

from typing import NamedTuple

Value = float | int | bool | str | tuple[str, ...]


class Advice(NamedTuple):
    """What to set. ``low`` and ``high``: the range of published recipes, where the value is a number."""

    value: Value
    source: str
    why: str = ""
    low: float | None = None
    high: float | None = None
