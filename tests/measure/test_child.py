"""A child that dies in every way: the parent says how and where, keeps what was reported, and leaves nothing behind."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.errors import UnsupportedScenario, UsageError
from planner.measure import child, run
from planner.measure.run import ChildFailed
from planner.measure.task import FOLDER_PREFIX, Task
from planner.result import PHASES
from planner.spec import Scenario
from tests.test_architecture import FRAMEWORKS, loaded_by

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="ends processes by signals")

HEAD = """
import json, os, signal, sys, time
file = open(sys.argv[2], "a")
def say(event, **facts):
    file.write(json.dumps({"event": event, **facts}) + "\\n")
    file.flush()
def step(number, last="optimizer_step"):
    for phase in ("forward", "loss", "backward", "optimizer_step"):
        say("begin", step=number, phase=phase)
        if phase == last:
            return
say("begin", step=0, phase="load")
"""
STEP = "step(0); say('step', number=0, seconds=0.5, phases=[['forward', 5, None, None], ['loss', 7, None, None]])\n"
KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Let the child be a script; the processes that were started, and no folder of a task is left in ``tmp_path``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def use(body: str) -> list[Any]:
        started: list[Any] = []

        def start(folder: Path, log: Any) -> Any:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", HEAD + body, str(folder / "task"), str(folder / "report")],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
            return started[-1]

        monkeypatch.setattr(child, "_start", start)
        return started

    return use


@pytest.mark.parametrize("phase", PHASES[1:])
def test_killed_in_a_phase(script: Callable[[str], Any], scenario: Scenario, phase: str, tmp_path: Path) -> None:
    script(f"{STEP}step(1, {phase!r})\n{KILL}")

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in) == ("killed", (1, phase))
    assert "SIGKILL" in found.detail
    assert [step.number for step in found.steps] == [0]
    assert list(tmp_path.iterdir()) == []


def test_killed_while_it_loads(script: Callable[[str], Any], scenario: Scenario) -> None:
    script(KILL)

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in, found.steps) == ("killed", (0, "load"), ())


def test_time_is_up(
    script: Callable[[str], list[Any]], scenario: Scenario, tmp_path: Path, time_is_up: Callable[[], None]
) -> None:
    started = script("step(0, 'backward'); time.sleep(600)")

    def tell(line: child.Line) -> None:
        if (line["event"], line.get("phase")) == ("begin", "backward"):
            time_is_up()

    found = run.measure(scenario, "cpu", timeout=60, tell=tell)

    assert (found.outcome, found.died_in) == ("timed_out", (0, "backward"))
    assert started[0].returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_no_memory(script: Callable[[str], Any], scenario: Scenario) -> None:
    script(
        "step(0, 'backward'); say('out_of_memory', text='CUDA out of memory. Tried to allocate 2.00 GiB'); sys.exit(1)"
    )

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in) == ("out_of_memory", (0, "backward"))
    assert "2.00 GiB" in found.detail


ABORT = "sys.stderr.write({words!r}); sys.stderr.flush(); os.abort()"


@pytest.mark.parametrize(
    ("words", "outcome"),
    [("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"), ("oh", "killed")],
)
def test_an_abort_is_told_by_its_last_words(
    script: Callable[[str], Any], scenario: Scenario, words: str, outcome: str
) -> None:
    script(f"step(0, 'backward'); {ABORT.format(words=words)}")

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in) == (outcome, (0, "backward"))


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("Error out of memory at line 380 in file /src/csrc/ops.cu", "out_of_memory"),
        ("Error invalid argument", "failed"),
    ],
)
def test_a_library_that_leaves_by_itself_is_told_by_its_last_words(
    script: Callable[[str], Any], scenario: Scenario, words: str, outcome: str
) -> None:
    script(f"step(0, 'forward'); sys.stderr.write({words!r}); sys.stderr.flush(); os._exit(1)")

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in) == (outcome, (0, "forward"))


def test_an_error_keeps_its_traceback(script: Callable[[str], Any], scenario: Scenario) -> None:
    script(
        "step(0, 'loss'); print('Traceback: here', file=sys.stderr); say('failed', text='CudaError: gone'); sys.exit(1)"
    )

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in, found.detail) == ("failed", (0, "loss"), "CudaError: gone")
    assert "Traceback: here" in found.log


@pytest.mark.parametrize(("code", "status"), [("sys.exit(3)", 3), ("os._exit(0)", 0)])
def test_an_end_without_a_word(script: Callable[[str], Any], scenario: Scenario, code: str, status: int) -> None:
    script(code)

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.detail) == ("failed", f"the process ended with status {status} and without a word")


def test_a_line_that_was_cut_off_is_no_report(script: Callable[[str], Any], scenario: Scenario) -> None:
    script(f"{STEP}step(1, 'loss'); file.write('{{\"event\": \"st'); file.flush()\n{KILL}")

    found = run.measure(scenario, "cpu")

    assert (found.outcome, found.died_in, len(found.steps)) == ("killed", (1, "loss"), 1)


def test_a_refusal_is_the_parents_own(script: Callable[[str], Any], scenario: Scenario) -> None:
    script("say('refused', kind='UnsupportedScenario', text='not this one'); sys.exit(1)")

    with pytest.raises(UnsupportedScenario, match="not this one"):
        run.measure(scenario, "cpu")
    script("say('refused', kind='UsageError', text='nor this')")
    with pytest.raises(UsageError, match="nor this"):
        run.predict(scenario, "cpu")


def test_a_bug_in_the_trace_is_a_bug_and_its_death_is_not(script: Callable[[str], Any], scenario: Scenario) -> None:
    script("print('Traceback: there', file=sys.stderr); say('failed', text='TypeError: no')")
    with pytest.raises(ChildFailed, match="Traceback: there"):
        run.predict(scenario, "cpu")

    script(KILL)
    with pytest.raises(UnsupportedScenario, match="SIGKILL"):
        run.predict(scenario, "cpu")


def test_an_interrupt_takes_the_child_along(
    script: Callable[[str], list[Any]], scenario: Scenario, tmp_path: Path
) -> None:
    started = script("step(0, 'backward'); time.sleep(600)")

    def interrupt(_line: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.measure(scenario, "cpu", tell=interrupt)
    assert started[0].poll() == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "left"), [(f"{FOLDER_PREFIX}1", False), ("somebody's", True)])
def test_a_child_leaves_with_its_parent_and_takes_their_folder_along(tmp_path: Path, name: str, left: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "report").touch()
    code = "import sys, time, pathlib; from planner.measure.step import leave_with_parent"
    code += "; leave_with_parent(pathlib.Path(sys.argv[1])); time.sleep(600)"
    orphan = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE)
    assert orphan.stdin is not None
    orphan.stdin.close()

    assert orphan.wait(timeout=60) == 1
    assert folder.exists() == left


def test_a_full_disk_is_one_line(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_task: Task, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(child, "write_task", full)
    with pytest.raises(UsageError, match="no temporary file can be written: No space left on device"):
        run.measure(scenario, "cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_no_module_comes_from_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("planner", "torch", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ended = child.run_child(Task(kind="look"), timeout=120, tell=lambda _line: None)

    assert (ended.status, [line["event"] for line in ended.lines]) == (0, ["device", "done"]), ended.log


def test_the_parent_loads_no_framework() -> None:
    assert loaded_by("import planner.cli.measure") & FRAMEWORKS == set()


@pytest.mark.torch
def test_a_real_step_is_killed_where_it_stands(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    real, started = child._start, list[Any]()

    def start(folder: Path, log: Any) -> Any:
        started.append(real(folder, log))
        return started[-1]

    def kill(line: child.Line) -> None:
        if line["event"] == "begin" and (line["step"], line["phase"]) == (1, "backward"):
            os.kill(started[0].pid, signal.SIGKILL)

    monkeypatch.setattr(child, "_start", start)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = run.measure(scenario, "cpu", steps=100_000, timeout=120, tell=kill)

    assert found.outcome == "killed"
    assert found.died_in is not None
    assert found.died_in >= (1, "backward")
    assert found.steps[0].phases[0].phase == "forward"
    assert found.versions["torch"]
