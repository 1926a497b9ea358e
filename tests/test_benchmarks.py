"""The benchmarks run, and what they measure stays within wide bounds; the real targets are theirs to print."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MOST_STARTUP_RATIO = 4.0
LEAST_ESTIMATES_PER_SECOND = 1_500
MOST_LOOP_STEPS = 12_000
"""Of the reference loop, for one estimate: what the machine's speed does not touch."""


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--json", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_plan_starts_quickly(measured: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    ratios = {one["name"]: one["ratio"] for one in measured["startup"]["commands"]}
    record_property("startup_ratios", ratios)

    assert ratios["reference"] == 1
    assert ratios["plan, text"] <= MOST_STARTUP_RATIO, ratios
    assert ratios["plan, json"] <= MOST_STARTUP_RATIO, ratios


def test_estimates_are_quick(measured: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    speed = measured["throughput"]
    record_property("throughput", speed)

    assert speed["with_scenario_per_second"] >= LEAST_ESTIMATES_PER_SECOND or speed["loop_steps"] <= MOST_LOOP_STEPS
    assert speed["estimate_per_second"] >= speed["with_scenario_per_second"] * 0.8
