"""Real gloo ranks beside their trace: what stands is exact, and no phase's peak is off by a thousandth."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from planner.measure.child import Ended
from planner.measure.gather import gathered
from planner.measure.run import measurement_of, prediction_of
from planner.measure.task import Task
from planner.measure.values import Measurement, Prediction, compare
from tests.measure.ranks_cases import LAYERS, STEPS, Case, cases, scenario, task

for needed in ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
Ranks = Mapping[str, Measurement]


GROUPS = (2, 4)


@cache
def launch(target: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.measure.ranks_cases", str(target), *map(str, GROUPS)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@cache
def launched(ranks: int, target: Path) -> Ranks:
    launch(target)
    files = [json.loads(target.with_name(f"{target.name}.{ranks}.{rank}").read_text("utf-8")) for rank in range(ranks)]
    return {case.name: _gathered(case, [file[case.name] for file in files]) for case in cases(ranks)}


def _gathered(case: Case, reports: Sequence[list[dict[str, object]]]) -> Measurement:
    ends = [Ended(tuple(lines), 0, False, "") for lines in reports]
    return gathered([measurement_of(task(case, len(reports)), ended) for ended in ends], ends)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real") / "reports"


@cache
def predicted(case: Case, ranks: int) -> Prediction:
    from planner.measure import work  # noqa: PLC0415  (torch may be missing)

    found: dict[str, dict[str, object]] = {}
    asked = Task(kind="predict", scenario=scenario(case, ranks), device="cpu", layers=LAYERS)
    work.predict(asked, lambda event, **facts: found.update({event: json.loads(json.dumps(facts))}))
    return prediction_of(found["predicted"])


EVERY = [(case, ranks) for ranks in GROUPS for case in cases(ranks)]
NAMES = [f"{case.name}-{ranks}" for case, ranks in EVERY]


@pytest.mark.parametrize(("case", "ranks"), EVERY, ids=NAMES)
def test_what_stands_on_the_first_rank_is_exact(case: Case, ranks: int, target: Path) -> None:
    found = launched(ranks, target)[case.name].ranks[0]
    expected = predicted(case, ranks).steady["optimizer_step"]

    assert found.owners["optimizer"] == expected.optimizer
    if not case.sharding.startswith("zero"):  # whose gradients are there in several forms while it updates
        assert found.owners["weights"] == expected.weights
        assert found.owners["adapters"] == expected.adapters
        assert found.owners["gradients"] == expected.gradients


SCALARS = 600
"""Bytes: losses, norms and counts, and what accelerate's own objects keep."""
TABLES = 1100
"""Bytes: of the 256 fp32 values of a table that bitsandbytes makes once in a process."""


@pytest.mark.parametrize(("case", "ranks"), EVERY, ids=NAMES)
def test_every_phase_of_the_fullest_rank(case: Case, ranks: int, target: Path) -> None:
    apart = SCALARS + (TABLES if case.method == "qlora" else 0)
    for row in compare(predicted(case, ranks), launched(ranks, target)[case.name]):
        assert row.predicted is not None
        assert row.measured is not None
        assert row.measured.allocated_bytes == pytest.approx(row.predicted.allocated_bytes, abs=apart), row.phase


@pytest.mark.parametrize(("case", "ranks"), EVERY, ids=NAMES)
def test_no_rank_holds_more_than_the_first(case: Case, ranks: int, target: Path) -> None:
    parts = launched(ranks, target)[case.name].ranks
    assert len(parts) == ranks
    for part in parts:
        assert len(part.steps) == STEPS
        assert all(part.owners[name] <= count for name, count in parts[0].owners.items())
