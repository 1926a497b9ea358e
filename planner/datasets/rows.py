"""What readers of all formats hand on: rows with their place in the file, in clusters of known size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.errors import BrokenInput
from planner.families.fields import printable
from planner.spec.dataset import Format

WHOLE_BYTES = 64 * 2**20
"""Most bytes of a file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Files of up to ``whole`` bytes and ``rows`` rows are read whole; of larger ones, ``sample`` bytes or ``rows``."""

    whole: int
    sample: int
    rows: int


QUICK = Budget(whole=WHOLE_BYTES, sample=32 * 2**20, rows=200_000)
"""Without a tokenizer: on one core, rows of 1 kB take 40 us each and short ones 15 us, so 3 seconds at most."""
TOKENIZED = Budget(whole=16 * 2**20, sample=8 * 2**20, rows=100_000)
"""With one: byte-pair encoding takes about 0.6 s/MB on one core, answers counted apart, so 10 seconds at most."""

LINE_LIMIT = 64 * 2**20
"""No row is longer: what reads on is no text but a file without line ends."""
SEED = 20_240_229
"""Of every sample, so that the same file gives the same answer."""
LEAST_CLUSTERS = 30
"""Fewer give no standard error worth the name."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One row where it stands: its columns, or the ``fault`` for which it cannot be read."""

    place: str
    row: Mapping[str, object] | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that stand together, and how much of the file they are, in the source's own unit."""

    size: int
    rows: Sequence[Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file under one reader: ``size`` and ``clusters`` are the whole file's, ``found`` yields those that are read.

    ``random``: they were drawn at random; else they are the file's head. ``planned``: how much of ``size`` will be
    read, for the progress.
    """

    format: Format
    size: int
    clusters: int
    whole: bool
    random: bool
    found: Iterator[Cluster]
    planned: int


def broken(path: Path, problem: str) -> BrokenInput:
    """The error for a file that cannot be read as rows."""
    return BrokenInput(f"data set {shown(path)}: {problem}")


def shown(path: Path) -> str:
    """A path in a message."""
    return printable(str(path), limit=200)


def reason(error: BaseException) -> str:
    """What a parser says, without the values that would make every row's fault another."""
    return printable(str(error) or type(error).__name__, limit=80)
