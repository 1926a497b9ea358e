"""Real children that start in a moment: forked from a server that has loaded the libraries once.

What they do, report and die of is the command's own code; only how the process comes to be is not.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Wait = tuple[int, str]
"""A step and a phase in which a child stays once it has said that it begins."""

END = {"segfault": signal.SIGSEGV, "kill": signal.SIGKILL}


class Forked:
    """What ``planner.measure.child`` asks of a process."""

    stdin = None

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.pid = process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Below zero for a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Raise ``TimeoutExpired`` as ``subprocess`` does."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self._process.exitcode


def starter(started: list[Forked], stay: Wait | None = None, end: str = "") -> Callable[[Path, Any], Forked]:
    """In place of ``planner.measure.child._start``; ``end``: what becomes of a child that has finished."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "planner.measure.step", "planner.measure.work"])

    def start(folder: Path, log: Any) -> Forked:
        process = context.Process(target=run, args=(str(folder), log.name, stay, end))
        process.start()
        started.append(Forked(process))
        return started[-1]

    return start


def run(folder: str, log: str, stay: Wait | None, end: str) -> None:
    """The child: in a session of its own, with its words in the log."""
    os.setsid()
    words = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(words, 1)
    os.dup2(words, 2)
    from planner.measure import step, work  # noqa: PLC0415  (it loads torch, which the tests must not)

    if stay is not None:
        _stay(work, stay)
    status = step.main([f"{folder}/task", f"{folder}/report"])
    if end == "hang":
        time.sleep(600)
    if end in END:
        os.kill(os.getpid(), END[end])
    sys.exit(status)


def _stay(work: Any, stay: Wait) -> None:
    measure = work.WORK["measure"]

    def waiting(task: Any, report: Callable[..., None]) -> None:
        def telling(event: str, **facts: Any) -> None:
            report(event, **facts)
            if (event, facts.get("step"), facts.get("phase")) == ("begin", *stay):
                time.sleep(600)

        measure(task, telling)

    work.WORK = {**work.WORK, "measure": waiting}
