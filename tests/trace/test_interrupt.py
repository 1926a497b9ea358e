"""A trace that is interrupted leaves neither words nor files, whatever was running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

for needed in ("torch", "transformers", "peft", "bitsandbytes"):
    pytest.importorskip(needed)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to another process"),
]

TRACE = ["trace", "--model", "llama-3.1-70b", "--gpu", "4090", "--method", "lora", "--stack", "hf", "--all-layers"]
"""Of eighty layers: far longer than any test waits."""

FOLDERS = ("cache", "work", "temporary")

TELLS = """\
import os, sys
from pathlib import Path
def tell(event, arguments):
    if event == "import" and arguments[0] == os.environ["MODULE"]:
        Path(os.environ["REACHED"]).touch()
sys.addaudithook(tell)
"""
"""What Python runs as it starts: notes that a module begins to be loaded."""


def traced_until(module: str, number: int, folder: Path, patience: float = 300) -> subprocess.CompletedProcess[str]:
    """``plan trace`` in folders of its own, with a signal sent a moment after it began to load a module."""
    for name in (*FOLDERS, "site"):
        (folder / name).mkdir()
    (folder / "site" / "sitecustomize.py").write_text(TELLS, encoding="utf-8")
    reached = folder / "reached"
    places = {
        "FINETUNE_PLANNER_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[2])]),
        "MODULE": module,
        "REACHED": str(reached),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "planner", *TRACE],
        cwd=folder / "work",
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + patience
    while not reached.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.poll() is None, "the trace ended too early for this test"
    process.send_signal(number)
    out, err = process.communicate(timeout=patience)
    assert reached.exists()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


TRACING = "peft.tuners.lora.bnb"
"""What PEFT loads while it wraps the first layer: the model is built on fake tensors, and the step comes next."""


@pytest.mark.parametrize(
    "module", ["typer", "torch", "transformers", TRACING], ids=["starting", "importing", "importing more", "tracing"]
)
def test_nothing_is_left_of_an_interrupted_trace(module: str, tmp_path: Path) -> None:
    done = traced_until(module, signal.SIGINT, tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not [path for name in FOLDERS for path in (tmp_path / name).iterdir()]


def test_a_killed_trace_leaves_no_entry(tmp_path: Path) -> None:
    done = traced_until(TRACING, signal.SIGKILL, tmp_path)

    assert done.returncode == -signal.SIGKILL
    assert not [*(tmp_path / "cache").iterdir(), *(tmp_path / "work").iterdir()]
