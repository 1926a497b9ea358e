"""Many scenarios: ``python -m benchmarks.many [--json] [--quick]``, from the root of the repository.

The whole catalogue on all profiles, cards and classes, by three methods on 1, 2, 4 and 8 GPUs, through the Python API:
memory, verdict and step time of each, written as JSON Lines. One core; ``--quick`` takes every twentieth model and says
what all of them would take. A loop of plain integer arithmetic, timed in the same run, says how fast the machine is.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

from benchmarks.throughput import LOOP_STEPS, reference_loop, seconds_of
from planner.hardware import list_classes, list_gpus
from planner.recommend.sweep import COUNTS, Grid, grid_of, rows
from planner.render.sweep import KeyMaker, json_line

TARGET_SECONDS = 60.0
QUICK = 20
"""Every so manieth model is taken."""


@dataclass(frozen=True, slots=True)
class Many:
    """What a sweep took. ``whole_seconds``: of the whole catalogue, of which ``share`` was swept."""

    models: int
    profiles: int
    rows: int
    without_time: int
    """Rows of cards whose 16-bit rate nobody states."""
    characters: int
    seconds: float
    share: float
    loop_steps: float
    """Steps of the reference loop that one row takes, both by the processor's time: what else runs does not count."""

    @property
    def whole_seconds(self) -> float:
        """Seconds for the whole catalogue at the same pace."""
        return self.seconds / self.share

    @property
    def rows_per_second(self) -> float:
        """Rows in a second."""
        return self.rows / self.seconds


def whole_grid() -> Grid:
    """Everything that there is."""
    profiles = [gpu.id for gpu in (*list_gpus(), *list_classes())]
    return grid_of(models=["all"], gpus=profiles, counts=COUNTS)


def measure(every: int = 1) -> Many:
    """Sweep every so manieth model of the catalogue."""
    whole = whole_grid()
    grid = grid_of(models=whole.models[::every], gpus=whole.gpus, counts=whole.counts)
    start, began = perf_counter(), process_time()
    characters = without_time = 0
    key = KeyMaker(grid)
    for row in rows(grid):
        characters += len(json_line(row, key(row.asked)))
        without_time += row.candidate is None or row.candidate.step is None
    seconds, own = perf_counter() - start, process_time() - began
    loop = min(seconds_of(reference_loop, process_time) for _ in range(3))
    return Many(
        models=len(grid.models),
        profiles=len(grid.gpus),
        rows=len(grid),
        without_time=without_time,
        characters=characters,
        seconds=seconds,
        share=len(grid) / len(whole),
        loop_steps=own / len(grid) / (loop / LOOP_STEPS),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="seconds for the whole catalogue on all profiles")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help=f"every {QUICK}th model")
    options = parser.parse_args(arguments)
    found = measure(QUICK if options.quick else 1)
    print(_json(found) if options.json else _text(found))


def _json(found: Many) -> str:
    facts = {**asdict(found), "whole_seconds": found.whole_seconds, "target_seconds": TARGET_SECONDS}
    return json.dumps(facts, indent=2)


def _text(found: Many) -> str:
    lines = (
        f"Python {platform.python_version()}, {platform.machine()}",
        f"{found.rows:,} scenarios: {found.models} models x {found.profiles} profiles x 3 methods x 1, 2, 4, 8 GPUs",
        f"  {found.seconds:.1f} s, {found.rows_per_second:,.0f} rows/s, {found.characters / 1e6:,.0f} MB of JSON Lines",
        f"  whole catalogue: {found.whole_seconds:.1f} s; target: at most {TARGET_SECONDS:.0f} s",
        f"  without a step time: {found.without_time:,}; a row takes {found.loop_steps:,.0f} reference steps",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
