"""Several ranks: who ended the run, what is left behind, and the command itself on real ones."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.errors import UnsupportedScenario
from planner.measure import Device, Measurement, child, ranks, run
from planner.measure.here import MOST_RANKS, card_of_device, check_devices, cpu_here
from planner.measure.task import Task
from planner.records import default_store
from planner.spec import Cluster, Scenario
from planner.stacks import resolve

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="ends processes by signals")

LAUNCHER = """
import json, os, signal, subprocess, sys, time
told, report = open(sys.argv[1], "a"), sys.argv[2]
def tell(**facts):
    told.write(json.dumps({"event": "rank_ended", **facts}) + "\\n")
    told.flush()
def rank(number, code):
    head = HEAD.replace("NUMBER", str(number))
    return subprocess.Popen([sys.executable, "-c", head + code, f"{report}.{number}"], start_new_session=True)
"""
HEAD = """
import json, os, signal, sys, time
file = open(sys.argv[1], "a")
def say(event, **facts):
    file.write(json.dumps({"event": event, "rank": NUMBER, **facts}) + "\\n")
    file.flush()
say("process", id=os.getpid())
say("begin", step=0, phase="load")
say("begin", step=0, phase="backward")
"""
STAY = "time.sleep(600)"
DONE = "say('step', number=0, seconds=0.5, phases=[['backward', {}, None, None]]); say('done')"
LOST = "say('failed', text='RuntimeError: Connection closed by peer [127.0.0.1]:1')"


@pytest.fixture
def on_two(scenario: Scenario) -> Scenario:
    """The tiny model on two ranks of this machine's processor."""
    cluster = Cluster(gpu=card_of_device(cpu_here()), gpus=2)
    return resolve(scenario.model, cluster, "lora", {"seq_len": 16, "gradient_checkpointing": False}, "plain")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let the launcher be a script; its temporary folders are in ``tmp_path``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def use(body: str) -> None:
        def start(folder: Path, _task: Task, log: Any) -> Any:
            code = f"HEAD = {HEAD!r}\n{LAUNCHER}{body}"
            return subprocess.Popen(
                [sys.executable, "-c", code, str(folder / "launch"), str(folder / "report")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        monkeypatch.setattr(ranks, "_start", start)

    return use


def both(first: str, second: str, end: str = "") -> str:
    """A launcher of two ranks that waits for the second one, ends the first, and tells ``end``."""
    return (
        f"one, two = rank(0, {first!r}), rank(1, {second!r})\ntwo.wait()\n{end}\none.kill() if {end!r} else one.wait()"
    )


def is_gone(process: int) -> bool:
    """Whether a process has ended, within a moment; one that nobody has waited for counts as ended."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
OUT = "say('out_of_memory', text='CUDA out of memory. Tried to allocate 2.00 GiB')"


@pytest.mark.parametrize(
    ("first", "second", "end", "outcome", "detail"),
    [
        (STAY, KILL, "tell(rank=1, status=-9)", "killed", "rank 1: ended by SIGKILL"),
        (LOST, KILL, "tell(rank=0, status=1); tell(rank=1, status=-9)", "killed", "rank 1: ended by SIGKILL"),
        (LOST, OUT, "tell(rank=1, status=1)", "out_of_memory", "rank 1: CUDA out of memory"),
        (STAY, "say('failed', text='ValueError: no')", "tell(rank=1, status=1)", "failed", "rank 1: ValueError: no"),
        (LOST, "say('failed', text='ValueError: no')", "tell(rank=1, status=1)", "failed", "rank 1: ValueError: no"),
        (STAY, "sys.exit(3)", "tell(rank=1, status=3)", "failed", "rank 1: the process ended with status 3"),
    ],
)
def test_the_rank_that_ended_the_run_is_named(
    script: Callable[[str], None],
    on_two: Scenario,
    tmp_path: Path,
    first: str,
    second: str,
    end: str,
    outcome: str,
    detail: str,
) -> None:
    script(both(first, second, end))
    found = run.measure(on_two, "cpu")

    assert (found.outcome, found.rank, found.died_in) == (outcome, 1, (0, "backward"))
    assert found.detail.startswith(detail)
    assert len(found.ranks) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("peaks", "rank"), [((5, 7), 1), ((7, 5), 0), ((7, 7), 0)])
def test_the_fullest_rank_is_the_result(
    script: Callable[[str], None], on_two: Scenario, peaks: tuple[int, int], rank: int
) -> None:
    script(both(*(DONE.format(count) for count in peaks)))
    found = run.measure(on_two, "cpu")

    assert (found.outcome, found.detail, found.rank) == ("done", "", rank)
    assert [part.peak.allocated_bytes for part in found.ranks if part.peak] == list(peaks)
    assert found.peak is not None
    assert found.peak.allocated_bytes == 7


def listening(pids: list[int], after: Callable[[], None] = lambda: None) -> child.Tell:
    """Notes the processes of ranks, and calls ``after`` when both of them are there."""

    def tell(line: child.Line) -> None:
        if line["event"] == "process":
            pids.append(line["id"])
        if len(pids) == 2:
            after()

    return tell


def test_when_time_is_up_no_rank_is_left(
    script: Callable[[str], None], on_two: Scenario, tmp_path: Path, time_is_up: Callable[[], None]
) -> None:
    script(both(STAY, STAY))
    pids: list[int] = []
    begun: list[int] = []
    note = listening(pids)

    def tell(line: child.Line) -> None:
        note(line)
        if (line["event"], line.get("phase")) == ("begin", "backward"):
            begun.append(line["rank"])
        if len(begun) == 2:
            time_is_up()

    found = run.measure(on_two, "cpu", timeout=60, tell=tell)

    assert (found.outcome, found.detail, found.died_in) == ("timed_out", "the time was up", (0, "backward"))
    assert len(pids) == 2
    assert all(map(is_gone, pids))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_takes_all_ranks_along(script: Callable[[str], None], on_two: Scenario, tmp_path: Path) -> None:
    script(both(STAY, STAY))
    pids: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.measure(on_two, "cpu", tell=listening(pids, interrupt))
    assert len(pids) == 2
    assert all(map(is_gone, pids))
    assert list(tmp_path.iterdir()) == []


def test_ranks_of_a_launcher_that_dies_are_ended(script: Callable[[str], None], on_two: Scenario) -> None:
    begun = "all(os.path.exists(f'{report}.{number}') and 'backward' in open(f'{report}.{number}').read()"
    wait = f"while not {begun} for number in (0, 1)):\n    time.sleep(0.02)"
    script(f"rank(0, {STAY!r}), rank(1, {STAY!r})\n{wait}\ntime.sleep(0.5)\nos._exit(1)")
    pids: list[int] = []
    found = run.measure(on_two, "cpu", tell=listening(pids))

    assert found.outcome == "killed"
    assert len(pids) == 2
    assert all(map(is_gone, pids))


def test_a_launcher_that_fails_before_any_rank_is_what_failed(script: Callable[[str], None], on_two: Scenario) -> None:
    script("print('no such option', file=sys.stderr); os._exit(2)")
    found = run.measure(on_two, "cpu")

    assert (found.outcome, found.detail.endswith("the process ended with status 2 and without a word")) == (
        "failed",
        True,
    )
    assert "no such option" in found.log


@pytest.mark.parametrize("event", ["refused"])
def test_a_refusal_of_the_launcher_is_our_own(script: Callable[[str], None], on_two: Scenario, event: str) -> None:
    script(f"told.write(json.dumps({{'event': {event!r}, 'kind': 'UnsupportedScenario', 'text': 'not here'}}) + '\\n')")
    with pytest.raises(UnsupportedScenario, match="not here"):
        run.measure(on_two, "cpu")


@pytest.mark.parametrize(
    ("device", "count", "words"),
    [
        (Device("cuda", "A card", 2**34, (9, 0), 132, 4), 8, "--gpus 8: torch sees 4 devices here: use --gpus 4"),
        (Device("cuda", "A card", 2**34, (9, 0), 132), 2, "torch sees 1 device here: use --gpus 1"),
        (cpu_here(), MOST_RANKS + 1, "a processor stands in for 8 cards at most"),
    ],
)
def test_more_ranks_than_devices_are_refused(device: Device, count: int, words: str) -> None:
    check_devices(device, count - 1 if device.kind == "cpu" else device.devices)
    with pytest.raises(UnsupportedScenario, match=words):
        check_devices(device, count)


def test_ranks_belong_to_no_other_launch(monkeypatch: pytest.MonkeyPatch, on_two: Scenario, tmp_path: Path) -> None:
    started: list[Any] = []
    monkeypatch.setattr(ranks, "spawn", lambda *arguments: started.append(arguments))
    for name in ("RANK", "MASTER_PORT", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "PET_NNODES"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HF_TOKEN", "kept")
    ranks._start(tmp_path, Task(kind="measure", scenario=on_two), None)
    (command, _, environment), written = started[0], json.loads((tmp_path / "accelerate.json").read_text("utf-8"))

    assert environment["HF_TOKEN"] == "kept"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert not {"RANK", "MASTER_PORT", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "PET_NNODES"} & set(environment)
    assert command[command.index("--main_process_port") + 1] == "0"
    assert (written["num_processes"], written["num_machines"]) == (2, 1)


# ---------------------------------------------------------------- for real

needs_torch = pytest.mark.torch


@pytest.fixture
def _torch() -> None:
    for library in ("torch", "transformers", "accelerate", "peft", "bitsandbytes"):
        pytest.importorskip(library)


@pytest.fixture
def busy_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port that launches take by themselves, in use by somebody else, whose job the environment describes."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 29500))
        except OSError:  # in use already, which is as good
            pass
        else:
            other.listen()
        for name, value in (("MASTER_PORT", "29500"), ("RANK", "5"), ("WORLD_SIZE", "6")):
            monkeypatch.setenv(name, value)
        yield 29500


@needs_torch
@pytest.mark.usefixtures("_torch", "busy_port")
def test_the_command_on_two_real_ranks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "data"))
    options = ["--seq-len", "16", "--steps", "2", "--format", "json", "--method", "full", "--stack", "hf"]
    code = main(["measure", "--model", str(model), "--gpu", "local", "--gpus", "2", *options])
    printed = capsys.readouterr()
    found = json.loads(printed.out)

    assert (code, printed.err, found["outcome"]) == (0, "", "done")
    assert (found["gpus"], found["settings"]["sharding"], len(found["ranks"])) == (2, "fsdp", 2)
    first, second = found["ranks"]
    owners = next(phase["owners"] for phase in found["predicted"]["steady"] if phase["name"] == "optimizer_step")
    for name, count in first["owners"].items():
        assert owners[name] == count
        assert second["owners"][name] <= count
    assert abs(found["peak"]["difference"]) < 0.001
    assert [len(rank["steps"]) for rank in found["ranks"]] == [2, 2]

    (record,) = default_store().records()
    assert (record.gpus, record.sharding, record.rank, len(record.ranks)) == (2, "fsdp", found["rank"], 2)
    assert record.ranks[1].owners == second["owners"]
    assert record.restore().cluster.world_size == 2
    assert main(["measurements", "list"]) == 0
    assert "full, fsdp × 2" in capsys.readouterr().out


@needs_torch
@pytest.mark.usefixtures("_torch")
def test_a_real_rank_that_is_killed_ends_the_run(on_two: Scenario) -> None:
    pids: dict[int, int] = {}

    def kill(line: child.Line) -> None:
        if line["event"] == "process":
            pids[line["rank"]] = line["id"]
        if line["event"] == "begin" and (line["rank"], line["step"], line["phase"]) == (1, 1, "backward"):
            os.kill(pids[1], signal.SIGKILL)

    found: Measurement = run.measure(on_two, "cpu", steps=100_000, timeout=240, tell=kill)

    assert (found.outcome, found.rank) == ("killed", 1)
    assert found.detail.startswith("rank 1: ended by SIGKILL")
    assert found.died_in is not None
    assert found.died_in >= (1, "backward")
    assert all(map(is_gone, pids.values()))
