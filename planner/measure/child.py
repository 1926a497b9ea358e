"""A child process that may die: started, watched, ended; what it reported until then, and how it went.

The child writes one JSON object a line into a file, each as soon as it is true, so that nothing is lost with it. It
reads its standard input, which nobody writes to: when the parent is gone, that ends, and the child leaves too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from planner.measure.task import Task, write_task

Line = Mapping[str, Any]
"""One report; ``event`` says of what."""

Tell = Callable[[Line], None]

CHECK_SECONDS = 0.05
LAST_WORDS = 4000
"""Characters of the child's stderr that are worth keeping."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
"""Nothing is downloaded, whatever a library would like to."""


class Ended(NamedTuple):
    """Everything that a child reported, and how it ended: its exit status, below zero for a signal."""

    lines: tuple[Line, ...]
    status: int
    timed_out: bool
    log: str

    def first(self, event: str) -> Line | None:
        """The first report of one kind."""
        return next((line for line in self.lines if line["event"] == event), None)

    def all(self, event: str) -> list[Line]:
        """Every report of one kind."""
        return [line for line in self.lines if line["event"] == event]


def run_child(task: Task, *, timeout: float, tell: Tell) -> Ended:
    """Run a task to its end, or to its timeout; ``tell`` hears every report as it comes."""
    with TemporaryDirectory(prefix="plan-measure-") as name:
        folder = Path(name)
        write_task(task, folder / "task")
        with (folder / "log").open("wb") as log:
            child = _start(folder, log)
            try:
                lines, timed_out = _watch(child, folder / "report", time.monotonic() + timeout, tell)
            finally:
                _end(child)
        words = (folder / "log").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:]
    return Ended(tuple(lines), child.returncode, timed_out, words)


def _start(folder: Path, log: Any) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that its end takes its helpers along."""
    return subprocess.Popen(
        [sys.executable, "-m", "planner.measure.step", str(folder / "task"), str(folder / "report")],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**os.environ, **QUIET, "TORCHINDUCTOR_CACHE_DIR": str(folder)},  # which torch makes on import
        start_new_session=True,
    )


def _watch(child: "subprocess.Popen[bytes]", report: Path, deadline: float, tell: Tell) -> tuple[list[Line], bool]:
    lines: list[Line] = []
    while True:
        running = child.poll() is None
        for line in _whole_lines(report)[len(lines) :]:
            lines.append(line)
            tell(line)
        if not running:
            return lines, False
        if time.monotonic() > deadline:
            return lines, True
        time.sleep(CHECK_SECONDS)


def _whole_lines(report: Path) -> list[Line]:
    """Reports so far; a last line that is still being written waits, one that was cut off is lost."""
    try:
        text = report.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End what still runs, and wait for it."""
    if child.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()
