"""A trace that is interrupted leaves neither words nor files, whatever was running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to another process"),
]

TRACE = ["trace", "--model", "llama-3.2-1b", "--gpu", "4090", "--method", "lora", "--stack", "hf", "--all-layers"]
FOLDERS = ("cache", "work", "temporary")


def traced_until(seconds: float, number: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """``plan trace`` in folders of its own, with a signal sent after some time."""
    for name in FOLDERS:
        (folder / name).mkdir()
    places = {
        "FINETUNE_PLANNER_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "planner", *TRACE],
        cwd=folder / "work",
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    assert process.poll() is None, "the trace ended too early for this test"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize("seconds", [0.8, 2.5, 5.0], ids=["starting", "importing", "tracing"])
def test_nothing_is_left_of_an_interrupted_trace(seconds: float, tmp_path: Path) -> None:
    done = traced_until(seconds, signal.SIGINT, tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not [path for name in FOLDERS for path in (tmp_path / name).iterdir()]


def test_a_killed_trace_leaves_no_entry(tmp_path: Path) -> None:
    done = traced_until(5.0, signal.SIGKILL, tmp_path)

    assert done.returncode == -signal.SIGKILL
    assert not [*(tmp_path / "cache").iterdir(), *(tmp_path / "work").iterdir()]
