"""A value with the source that it comes from and the range in which others put it."""

from dataclasses import dataclass

Value = float | int | bool | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set. ``low`` and ``high``: the range of published recipes, where the value is a number."""

    value: Value
    source: str
    why: str = ""
    low: float | None = None
    high: float | None = None
