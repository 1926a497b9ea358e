"""Where prices come from, as it is asked for."""

from planner.errors import UnknownName

SOURCES = ("snapshot", "live")


def is_live(text: str | None) -> bool:
    """Whether ``--prices`` asks for offers of the moment.

    >>> is_live(None), is_live("snapshot"), is_live("Live")
    (False, False, True)
    """
    if text is None:
        return False
    if text.lower() not in SOURCES:
        raise UnknownName("source of prices", text, SOURCES)
    return text.lower() == "live"
