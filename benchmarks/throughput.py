"""Throughput: closed-form estimates per second on one core, through the Python API.

The grid is what a capacity-planning script asks: several models, every method, many batches and lengths. What does not
depend on the batch is worked out once per model, method and stack and kept (``cold`` says what that costs); the loops
below measure what each further question costs. ``with scenario`` counts the making of the scenario too.

A loop of plain integer arithmetic, timed in the same run, says how fast the machine is: ``loop_steps`` is how many of
its steps one estimate takes, which is about the same on every machine.
"""

import cProfile
import io
import pstats
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter

import planner
from planner.spec import METHODS

TARGET_PER_SECOND = 5_000

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-14b", "qwen3-30b-a3b", "llama-3.1-70b")
BATCHES = (1, 2, 4, 8)
LENGTHS = (512, 1024, 2048, 4096, 8192)
GPU = "a100-80gb"
LOOP_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Throughput:
    """Estimates per second, best of several rounds, and the same as steps of the reference loop."""

    estimates: int
    with_scenario_per_second: float
    estimate_per_second: float
    cold_seconds: float
    """Mean time of the first estimate of a model and method, names resolved before."""
    loop_steps_per_second: float
    loop_steps: float
    """Steps of the reference loop that one estimate with its scenario takes."""


def bases() -> list[planner.Scenario]:
    """One scenario per model and method."""
    return [planner.scenario(model=model, gpu=GPU, method=method) for model, method in product(MODELS, METHODS)]


def measure(rounds: int = 5) -> Throughput:
    """The grid, ``rounds`` times; the best round counts, since everything else a machine does only slows it."""
    starts = bases()
    cold = seconds_of(lambda: [planner.estimate(start) for start in starts]) / len(starts)
    grid = [_variant(start, b, s) for start in starts for b, s in product(BATCHES, LENGTHS)]
    count = len(grid)
    made = min(seconds_of(lambda: _walk(starts)) for _ in range(rounds))
    asked = min(seconds_of(lambda: [planner.estimate(one) for one in grid]) for _ in range(rounds))
    loop = min(seconds_of(reference_loop) for _ in range(max(rounds, 3)))
    return Throughput(
        estimates=count,
        with_scenario_per_second=count / made,
        estimate_per_second=count / asked,
        cold_seconds=cold,
        loop_steps_per_second=LOOP_STEPS / loop,
        loop_steps=(made / count) / (loop / LOOP_STEPS),
    )


def _walk(starts: list[planner.Scenario]) -> int:
    largest = 0
    for start in starts:
        for b, s in product(BATCHES, LENGTHS):
            largest = max(largest, planner.estimate(_variant(start, b, s)).peak.required_bytes)
    return largest


def _variant(start: planner.Scenario, b: int, s: int) -> planner.Scenario:
    return replace(start, train=replace(start.train, micro_batch_size=b, seq_len=s))


def reference_loop() -> int:
    """``LOOP_STEPS`` steps of plain integer arithmetic."""
    total = 0
    for step in range(LOOP_STEPS):
        total = (total + step * step) % 1_000_003
    return total


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = perf_counter) -> float:
    """How long a function takes."""
    start = clock()
    work()
    return clock() - start


def profile(lines: int = 20) -> str:
    """Where the time of the grid goes, by own time, as cProfile sees it."""
    starts = bases()
    _walk(starts)
    profiler = cProfile.Profile()
    profiler.runcall(_walk, starts)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(lines)
    return text.getvalue()
