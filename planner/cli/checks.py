"""What ``plan check`` and ``plan export`` take."""

from collections.abc import Sequence

from planner.cli.data import DATA
from planner.cli.options import REQUEST, Option
from planner.configs.targets import JOBS, TRAINERS

OURS = ("network_gbps", "host_memory", "headroom", "evidence", "profiles", "format")
"""Options whose defaults hold for a check, too: no configuration speaks of them."""


def _as_the_file_says(one: Option) -> Option:
    """The option without our default: where it is not given, the file's value holds, or its trainer's."""
    return one if one.name in OURS else one._replace(default="", help=one.help.replace("; may be repeated", ""))


def either(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> either(["a", "b", "c"])
    'a, b or c'
    """
    return f"{', '.join(names[:-1])} or {names[-1]}"


CHECKED = (
    Option(
        "files",
        "arguments",
        "a trainer's configuration, and the accelerate, DeepSpeed or PEFT files beside it; - is standard input",
        metavar="CONFIG...",
    ),
    Option("trainer", "text", "whose configuration it is", "what its keys tell", "TRAINER"),
    Option("ignore", "list", "go on without this key, though it changes the answer; may be repeated", metavar="KEY"),
    *map(_as_the_file_says, (*REQUEST, *DATA)),
)

EXPORTED = (
    Option(
        "target",
        "argument",
        f"{either(TRAINERS)}; or what runs one: {either(JOBS)}",
        metavar="TARGET",
    ),
    Option("out", "path", "folder for the files, made where it is not there", metavar="DIR"),
    Option("trainer", "text", f"{either(JOBS)}: what the job runs", "trl", "TRAINER"),
    Option("force", "flag", "replace files that are there"),
    *REQUEST,
    *DATA,
)
