"""The family of expected failures; everything else is a bug and keeps its traceback.

    PlannerError
    ├── UsageError             exit 2   an option that has no meaning
    │   └── UnknownName        exit 2   a model, GPU, rule or topic that nobody has told us about
    ├── UnsupportedScenario    exit 3   understood, but we will not guess the answer
    └── BrokenInput            exit 2   a file that cannot be read as what it claims to be

A message is one line: what was asked, what is wrong, what is nearest, what to run next.
"""

import re
from collections.abc import Iterable

EXIT_FITS = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_UNSUPPORTED = 3
EXIT_NOTHING_FITS = 4
EXIT_INTERRUPTED = 130
"""As shells report a program that SIGINT ended: 128 and its number."""


class PlannerError(Exception):
    """An expected failure with one line for the user and an exit code for scripts."""

    exit_code = EXIT_USAGE


class UsageError(PlannerError, ValueError):
    """An option or argument that has no meaning."""


class BrokenInput(PlannerError, ValueError):
    """A file, or an answer from the network, that is not what it claims to be."""


class UnsupportedScenario(PlannerError, NotImplementedError):
    """A question that we understand but for which we have no evidence."""

    exit_code = EXIT_UNSUPPORTED


class UnknownName(UsageError, LookupError):
    """A name that no catalogue of ours holds, with the nearest ones that it does.

    ``listing`` is the command that shows all of them; without one they are few, and stand in the message.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str | None = None) -> None:
        names = tuple(known)
        near = nearest(name, names)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        all_of_them = f"list them with: {listing}" if listing else f"one of {', '.join(names)}"
        super().__init__(f"unknown {kind} {quoted(name[:80])}{hint} ({all_of_them})")


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Up to ``count`` members of ``known`` that a typing error away from ``name``, best first.

    >>> nearest("4900", ["4090", "3090", "a100"])
    ['4090']

    Sizes are as near as their numbers are, not as their letters:

    >>> nearest("60b", ["70b", "6b", "65b", "qwen-60b", "8b"])
    ['65b', '70b', '8b']
    """
    wanted = _parameters(name)
    if wanted is not None:
        wanted = max(wanted, _LEAST)  # nothing at all is nearest to the smallest
        sizes = {one: size for one in sorted(set(known)) if (size := _parameters(one))}
        return sorted(sizes, key=lambda one: max(sizes[one], wanted) / min(sizes[one], wanted))[:count]
    from difflib import get_close_matches  # noqa: PLC0415  (for misspelt names alone)

    return get_close_matches(name.lower(), sorted(set(known)), n=count, cutoff=0.6)


_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([mbt])", re.ASCII)


_LEAST = 1e-9


def _parameters(name: str) -> float | None:
    """How many millions of parameters a name such as ``8b`` stands for; ``None`` for other names."""
    match = _SIZE.fullmatch(name.lower())
    return float(match[1]) * {"m": 1, "b": 1_000, "t": 1_000_000}[match[2]] if match else None


def show(value: object) -> str:
    r"""A value in a message, cut to a readable length; Python itself refuses to print integers of 4,300 digits.

    >>> show("x" * 99), show(10**5000)
    ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", 'a huge number')
    >>> print(show(r"C:\runs\rows.csv"))
    'C:\runs\rows.csv'
    """
    if isinstance(value, str):
        text = quoted(value)
    else:
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def option(name: str) -> str:
    """The long option of a setting, as it is typed.

    >>> option("micro_batch_size")
    '--micro-batch-size'
    """
    return "--" + name.replace("_", "-")


def quoted(text: str) -> str:
    """Text as Python quotes it, but paths of Windows as they were typed."""
    return repr(text).replace("\\\\", "\\")


def first_line(error: BaseException) -> str:
    r"""What a foreign error says, on one line of bearable length; its type where it says nothing.

    >>> first_line(ValueError("no such thing\nsee the docs"))
    'no such thing'
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
