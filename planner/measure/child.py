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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from planner.errors import UsageError
from planner.measure.task import FOLDER_PREFIX, Task, write_task

Line = Mapping[str, Any]
"""One report; ``event`` says of what."""

Tell = Callable[[Line], None]

CHECK_SECONDS = 0.05
LEAVING_SECONDS = 15.0
"""A child that has said its last word, or was killed, and is still there after that is left to the system."""
KILLED = -9
"""The status of a process that SIGKILL ended, or will end."""
LAST_EVENTS = ("done", "refused", "out_of_memory", "failed")
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
    """Everything that a child reported, and how it ended: its exit status, below zero for a signal.

    ``timed_out`` before it said its last word; ``lingered``: it had said that, and had to be ended.
    """

    lines: tuple[Line, ...]
    status: int
    timed_out: bool
    log: str
    lingered: bool = False

    def first(self, event: str) -> Line | None:
        """The first report of one kind."""
        return next((line for line in self.lines if line["event"] == event), None)

    def all(self, event: str) -> list[Line]:
        """Every report of one kind."""
        return [line for line in self.lines if line["event"] == event]


def run_child(task: Task, *, timeout: float, tell: Tell) -> Ended:
    """Run a task to its end, or to its timeout; ``tell`` hears every report as it comes.

    Raise ``UsageError`` where there is no room for its messages.
    """
    with _folder(task) as folder:
        with (folder / "log").open("wb") as log:
            child = _start(folder, log)
            try:
                lines, running = _watch(child, folder / "report", time.monotonic() + timeout, tell)
            finally:
                status = _end(child)
        words = (folder / "log").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:]
    spoken = any(line["event"] in LAST_EVENTS for line in lines)
    return Ended(tuple(lines), status, running and not spoken, words, lingered=running and spoken)


@contextmanager
def _folder(task: Task) -> Iterator[Path]:
    """A temporary folder with the task in it."""
    with ExitStack() as stack:
        try:
            name = stack.enter_context(TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True))
            write_task(task, Path(name) / "task")
        except OSError as error:
            raise UsageError(
                f"no temporary file can be written: {error.strerror or error} (name another folder in TMPDIR)"
            ) from error
        yield Path(name)


def _start(folder: Path, log: Any) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that its end takes its helpers along.

    No module comes from the folder that the user happens to be in.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "planner.measure.step", str(folder / "task"), str(folder / "report")],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**os.environ, **QUIET, "TORCHINDUCTOR_CACHE_DIR": str(folder)},  # which torch makes on import
        start_new_session=True,
    )


def _watch(child: "subprocess.Popen[bytes]", report: Path, deadline: float, tell: Tell) -> tuple[list[Line], bool]:
    """All reports, and whether the child was still there when its time was up."""
    lines: list[Line] = []
    while True:
        running = child.poll() is None
        for line in _whole_lines(report)[len(lines) :]:
            lines.append(line)
            tell(line)
            if line["event"] in LAST_EVENTS:
                deadline = min(deadline, time.monotonic() + LEAVING_SECONDS)
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


def _end(child: "subprocess.Popen[bytes]") -> int:
    """End what still runs; its status. One that a driver keeps from dying is not waited for."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(LEAVING_SECONDS)
    if child.stdin is not None:
        child.stdin.close()
    return KILLED if child.returncode is None else child.returncode
