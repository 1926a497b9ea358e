"""Lengths of batches from a file: one number for each step, or how many steps have which length."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from planner.errors import BrokenInput, UsageError, show

FILE_LIMIT = 2**24
MOST_STEPS = 10_000
MOST_LENGTHS = 16
"""Different lengths that are recorded; more are rounded up to this many."""
LONGEST = 2**24

LINE = re.compile(r"\s*(\d{1,9})(?:\s*[,;:\sx]\s*(\d{1,9}))?\s*", re.ASCII)


class Lengths(NamedTuple):
    """``recorded`` lengths, the longest first, and for every further step the place of its own among them."""

    recorded: tuple[int, ...]
    order: tuple[int, ...]


def read_lengths(path: str | Path) -> tuple[int, ...]:
    """Padded lengths of successive batches, in tokens.

    A line is a length, or a length and how many steps have it, with a comma or a space between; ``#`` begins a
    comment. A histogram's steps are dealt out evenly, as a shuffled data set would.
    """
    where = f"--lengths {show(str(path))}"
    rows = [_row(line, number, where) for number, line in enumerate(_text(Path(path), where).splitlines(), 1)]
    pairs = [row for row in rows if row is not None]
    if not pairs:
        raise BrokenInput(f"{where}: holds no length")
    if sum(count for _, count in pairs) > MOST_STEPS:
        raise UsageError(f"{where}: more than {MOST_STEPS:,} steps")
    return dealt(pairs)


def _text(path: Path, where: str) -> str:
    try:
        path = path.expanduser()
        if not path.is_file():
            raise BrokenInput(f"{where}: no such file")
        data = path.read_bytes()[: FILE_LIMIT + 1]
        if len(data) > FILE_LIMIT:
            raise BrokenInput(f"{where}: larger than {FILE_LIMIT // 2**20} MiB")
        return data.decode("utf-8-sig")
    except (OSError, RuntimeError) as error:
        raise BrokenInput(f"{where}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise BrokenInput(f"{where}: not a text file") from None


def _row(line: str, number: int, where: str) -> tuple[int, int] | None:
    content = line.partition("#")[0]
    if not content.strip():
        return None
    match = LINE.fullmatch(content)
    if match is None:
        raise BrokenInput(f"{where}, line {number}: {show(content.strip())} is not a length, or a length and a count")
    length, count = int(match[1]), int(match[2] or 1)
    if not 1 <= length <= LONGEST or count < 1:
        raise BrokenInput(f"{where}, line {number}: {show(content.strip())} is outside 1 to {LONGEST} tokens")
    return length, count


def dealt(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Each length as often as its count says, spread evenly over the steps.

    >>> dealt([(512, 1), (1024, 3)])
    (1024, 512, 1024, 1024)
    >>> dealt([(7, 1), (5, 1), (6, 1)])
    (7, 5, 6)
    """
    if all(count == 1 for _, count in pairs):
        return tuple(length for length, _ in pairs)
    places = [((turn + 0.5) / count, length) for length, count in pairs for turn in range(count)]
    return tuple(length for _, length in sorted(places, key=lambda place: place[0]))


def plan_steps(lengths: Sequence[int], *, most: int = MOST_LENGTHS) -> Lengths:
    """Which lengths to record, and which of them each step takes.

    The longest is recorded twice, as the first step, which allocates the states, and as a steady one. Where there are
    more than ``most`` lengths they are rounded up, so that no step is shown smaller than it is.

    >>> plan_steps([512, 1024, 512])
    Lengths(recorded=(1024, 1024, 512), order=(2, 1, 2))
    """
    distinct = sorted(set(lengths), reverse=True)
    kept = [distinct[place * len(distinct) // min(most, len(distinct))] for place in range(min(most, len(distinct)))]
    place_of = {length: max(i for i, one in enumerate(kept) if one >= length) + 1 for length in distinct}
    return Lengths((kept[0], *kept), tuple(place_of[length] for length in lengths))
