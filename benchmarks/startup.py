"""Start-up: a closed-form plan as a process of its own, against importing the two libraries that it stands on.

Both are timed in turn in one run, so that a slow or busy machine slows both. The median of the wall times counts.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[1]
TARGET_RATIO = 2.5

REFERENCE = "import typer, pydantic"
JOB = ("--model", "70b", "--gpu", "4090")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "reference": ("-c", REFERENCE),
    "bare python": ("-c", "pass"),
    "plan, text": ("-m", "planner", *JOB),
    "plan, json": ("-m", "planner", *JOB, "--format", "json"),
}


@dataclass(frozen=True, slots=True)
class Startup:
    """Median seconds of one command, and how many times the reference's that is."""

    name: str
    seconds: float
    ratio: float


def measure(runs: int) -> tuple[Startup, ...]:
    """Every command of ``COMMANDS``, ``runs`` times in turn, after one run each that fills the disk's cache."""
    for arguments in COMMANDS.values():
        _seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            times[name].append(_seconds(arguments))
    reference = median(times["reference"])
    return tuple(Startup(name, median(found), median(found) / reference) for name, found in times.items())


def _seconds(arguments: Sequence[str]) -> float:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONDONTWRITEBYTECODE": ""}
    start = perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, check=False)
    return perf_counter() - start


def import_times(least_us: int = 1500) -> tuple[tuple[int, int, str], ...]:
    """(own, cumulative, module) microseconds of the modules that a text plan imports, largest own share first."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMANDS["plan, text"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    rows = []
    for line in done.stderr.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        cumulative, _, module = rest.partition("|")
        if own.strip().isdigit():
            rows.append((int(own), int(cumulative), module.strip()))
    return tuple(sorted((row for row in rows if row[0] >= least_us), reverse=True))
