"""A child process that may die: started, watched, ended; what it reported until then, and how it went.

The child writes one JSON object a line into a file, each as soon as it is true, so that nothing is lost with it. It
reads its standard input, which nobody writes to: when the parent is gone, that ends, and the child leaves too. Several
ranks are children of a launcher, which is ours: see ``planner.measure.ranks``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
BAD_EVENTS = ("refused", "out_of_memory", "failed")
LAST_EVENTS = ("done", *BAD_EVENTS)
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

    ``timed_out`` before it said its last word; ``lingered``: it had said that, and had to be ended; ``stopped``: a rank
    that said nothing and was ended because another one had.
    """

    lines: tuple[Line, ...]
    status: int
    timed_out: bool
    log: str
    lingered: bool = False
    stopped: bool = False

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
    with task_folder(task) as folder:
        with (folder / "log").open("wb") as log:
            child = _start(folder, log)
            try:
                (lines,), running = watch(child, [folder / "report"], time.monotonic() + timeout, tell)
            finally:
                status = end(child)
        words = last_words(folder)
    spoken = has_spoken(lines)
    return Ended(tuple(lines), status, running and not spoken, words, lingered=running and spoken)


def has_spoken(lines: Sequence[Line]) -> bool:
    """Whether a child has said its last word."""
    return any(line["event"] in LAST_EVENTS for line in lines)


def last_words(folder: Path) -> str:
    """The end of what a child wrote to its standard error."""
    return (folder / "log").read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:]


@contextmanager
def task_folder(task: Task) -> Iterator[Path]:
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
    command = ["planner.measure.step", str(folder / "task"), str(folder / "report")]
    return spawn(command, log, {**os.environ, **surroundings(folder)})


def surroundings(folder: Path) -> Mapping[str, str]:
    """Environment variables of children; torch makes a folder on import."""
    return {**QUIET, "TORCHINDUCTOR_CACHE_DIR": str(folder)}


def spawn(module: Sequence[str], log: Any, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """A module with its arguments as a process that leads a session and reads from us."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *module],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=dict(environment),
        start_new_session=True,
    )


def watch(
    child: "subprocess.Popen[bytes]", reports: Sequence[Path], deadline: float, tell: Tell
) -> tuple[list[list[Line]], bool]:
    """All lines of each report, and whether the child was still there when its time was up.

    Where all have said their last word, or one a bad one, little time is left.
    """
    found: list[list[Line]] = [[] for _ in reports]
    while True:
        running = child.poll() is None
        for lines, report in zip(found, reports, strict=True):
            for line in whole_lines(report)[len(lines) :]:
                lines.append(line)
                tell(line)
                if line["event"] in BAD_EVENTS or (line["event"] in LAST_EVENTS and all(map(has_spoken, found))):
                    deadline = min(deadline, time.monotonic() + LEAVING_SECONDS)
        if not running:
            return found, False
        if time.monotonic() > deadline:
            return found, True
        time.sleep(CHECK_SECONDS)


def whole_lines(report: Path) -> list[Line]:
    """Reports so far; a last line that is still being written waits, one that was cut off is lost."""
    try:
        text = report.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def end(child: "subprocess.Popen[bytes]") -> int:
    """End what still runs; its status. One that a driver keeps from dying is not waited for."""
    if child.poll() is None:
        kill_session(child.pid)
    with suppress(subprocess.TimeoutExpired):
        child.wait(LEAVING_SECONDS)
    if child.stdin is not None:
        child.stdin.close()
    return KILLED if child.returncode is None else child.returncode


def kill_session(leader: int) -> None:
    """End a process that leads a session, and those of its helpers that stayed in its group."""
    with suppress(ProcessLookupError, PermissionError):
        (os.killpg if hasattr(os, "killpg") else os.kill)(leader, getattr(signal, "SIGKILL", signal.SIGTERM))
