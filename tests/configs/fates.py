"""Whether a reader knows a key: whatever value it has, it is used, ignored, or refused by name."""

from collections.abc import Callable
from typing import Any

from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario

VALUES = ("some-text", 3, True, {"a": 1}, ["x"])


def classified(read: Callable[[dict[str, Any]], Understood], name: str) -> bool:
    """Whether a key has a fate for every kind of value; a wrong type tells as much."""
    return all(_known(read, name, value) for value in VALUES)


def _known(read: Callable[[dict[str, Any]], Understood], name: str, value: object) -> bool:
    try:
        found = read({name: value})
    except BrokenInput as error:
        return name in str(error).lower()
    except UnsupportedScenario as error:
        return name in str(error).lower()
    told = [one for one in found.readings if one.key.partition(".")[0] == name]
    if any(one.key != name for one in told):
        return True  # a section that was entered
    guessed = ("did you mean", "no key of this trainer")
    return any(one.fate != "unknown" and not one.why.startswith(guessed) for one in told)
