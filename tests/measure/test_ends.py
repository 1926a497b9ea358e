"""Real runs that come to a bad end: each is an outcome with the phase in which it died."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner.measure import child, run
from planner.result import PHASES
from planner.spec import Scenario
from planner.units import MIB
from tests.measure.conftest import Start

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="ends processes by signals"),
]
for library in ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(library)


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_each_phase(start: Start, scenario: Scenario, phase: str) -> None:
    place = (0 if phase == "load" else 1, phase)
    started = start(place)

    def kill(line: child.Line) -> None:
        if line["event"] == "begin" and (line["step"], line["phase"]) == place:
            os.kill(started[0].pid, signal.SIGKILL)

    found = run.measure(scenario, "cpu", timeout=120, tell=kill)

    assert (found.outcome, found.died_in) == ("killed", place)
    assert "SIGKILL" in found.detail
    assert [step.number for step in found.steps] == ([] if phase == "load" else [0])
    assert (found.load is None) == (phase == "load")
    assert found.versions["torch"]
    assert found.device is not None


def test_a_segmentation_fault_is_named(start: Start, scenario: Scenario) -> None:
    started = start((1, "backward"))

    def kill(line: child.Line) -> None:
        if line["event"] == "begin" and (line["step"], line["phase"]) == (1, "backward"):
            os.kill(started[0].pid, signal.SIGSEGV)

    found = run.measure(scenario, "cpu", timeout=120, tell=kill)

    assert (found.outcome, found.died_in, found.detail) == ("killed", (1, "backward"), "ended by SIGSEGV")


@pytest.mark.parametrize("end", ["kill", "segfault"])
def test_a_death_after_the_last_word_spoils_nothing(start: Start, scenario: Scenario, end: str) -> None:
    start(None, end)
    found = run.measure(scenario, "cpu", steps=2)

    assert (found.outcome, found.died_in, len(found.steps)) == ("done", None, 2)


def test_a_child_that_does_not_leave_is_ended(
    start: Start, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LEAVING_SECONDS", 1.0)
    started = start(None, "hang")
    found = run.measure(scenario, "cpu", steps=2)

    assert (found.outcome, len(found.steps)) == ("done", 2)
    assert "did not leave" in found.detail
    assert started[0].returncode == -signal.SIGKILL


def test_time_is_up_in_a_real_step(start: Start, scenario: Scenario, time_is_up: Callable[[], None]) -> None:
    place = (1, "loss")
    started = start(place)

    def tell(line: child.Line) -> None:
        if line["event"] == "begin" and (line["step"], line["phase"]) == place:
            time_is_up()

    found = run.measure(scenario, "cpu", timeout=600, tell=tell)

    assert (found.outcome, found.died_in) == ("timed_out", place)
    assert started[0].returncode == -signal.SIGKILL


def test_what_a_run_says_of_itself(start: Start, scenario: Scenario) -> None:
    start()
    found = run.measure(scenario, "cpu", steps=4, warmup=2)

    assert (found.outcome, len(found.steady)) == ("done", 2)
    assert {step.tokens for step in found.steps} == {scenario.train.seq_len}
    assert found.seconds == pytest.approx(sum(step.seconds for step in found.steady) / 2)
    assert found.tokens_per_second is not None
    assert found.host_bytes is not None
    assert found.host_bytes > 100 * MIB
    assert found.environment is not None
    assert found.environment.threads == 1
    assert found.room is None


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_a_cap_below_the_weights_fails_while_they_load(start: Start, scenario: Scenario) -> None:
    """Whichever library asks first: its error is no refusal of the scenario."""
    start()
    found = run.measure(scenario, "cpu", cap_bytes=4096)

    assert (found.outcome, found.died_in, found.steps) == ("out_of_memory", (0, "load"), ())


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_a_pretended_cap_fails_for_real(start: Start, scenario: Scenario) -> None:
    """Logits of 8 MiB and what comes of them are too many for 16."""
    start()
    large = replace(scenario, train=replace(scenario.train, micro_batch_size=256, seq_len=64))
    small = run.measure(large, "cpu", steps=1, warmup=0, cap_bytes=16 * MIB)
    enough = run.measure(large, "cpu", steps=1, warmup=0, cap_bytes=1024 * MIB)

    assert (small.outcome, enough.outcome) == ("out_of_memory", "done")
    assert small.died_in is not None
    assert small.died_in.phase != "load"
    assert "allocate memory" in small.detail
    assert enough.peak is not None
    assert enough.peak.allocated_bytes > 16 * MIB


def test_an_interrupt_ends_the_command_and_its_child(model: Path, tmp_path: Path) -> None:
    """A real command in a real terminal's process group."""
    command = [sys.executable, "-m", "planner", "measure", "--model", str(model), "--stack", "plain", "--no-store"]
    environ = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    asked = subprocess.Popen(
        [*command, "--steps", "1000", "--seq-len", "64", "--micro-batch-size", "64"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    report = _first(lambda: [path for path in tmp_path.glob("plan-measure-*/report") if "forward" in path.read_text()])
    os.killpg(asked.pid, signal.SIGINT)
    out, err = asked.communicate(timeout=300)

    assert (asked.returncode, out) == (130, "")
    assert err.startswith("error: interrupted")
    assert not report.parent.exists()


def _first(look: Callable[[], list[Path]], seconds: float = 300.0) -> Path:
    """What ``look`` finds, once it finds anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found[0]
        time.sleep(0.1)
    raise AssertionError("nothing came")
