"""Several ranks on this machine: one child for each, started by ``accelerate launch`` with a rendezvous of its own.

The launcher is a child that leads a session; torch's elastic agent in it gives every rank a session too. Whatever
happens to us, to it or to a rank, nothing is left behind: the agent ends all ranks when one has ended badly, each rank
leaves when our end of its standard input is closed, and we end the processes of those that have not said their last
word.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.measure.child import (
    BAD_EVENTS,
    Ended,
    Line,
    Tell,
    end,
    has_spoken,
    kill_session,
    last_words,
    spawn,
    surroundings,
    task_folder,
    watch,
    whole_lines,
)
from planner.measure.task import Task, report_of

OF_OTHER_LAUNCHES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "PET_", "MASTER_", "PMI_", "OMPI_", "MV2_")
OF_OTHER_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
"""Environment variables that would make our ranks part of somebody else's job, or change what engines do."""


def run_ranks(task: Task, *, timeout: float, tell: Tell) -> tuple[Ended, ...]:
    """Run a task on all of its ranks to their end, or to its timeout; ``tell`` hears the reports of each."""
    with task_folder(task) as folder:
        reports = [report_of(folder / "report", rank, task.ranks) for rank in range(task.ranks)]
        with (folder / "log").open("wb") as log:
            launcher = _start(folder, task, log)
            try:
                found, running = watch(launcher, reports, time.monotonic() + timeout, tell)
            finally:
                status = _end(launcher, reports)
        words, told = last_words(folder), whole_lines(folder / "launch")
    if any(line["event"] == "refused" for line in told):
        return (Ended(tuple(told), status, False, words),)
    if status and not running and not told and not any(found):  # the launcher failed before any rank began
        return tuple(Ended((), status, False, words) for _ in reports)
    own = {line["rank"]: line["status"] for line in told}
    return tuple(_ended(rank, found, own, running, words) for rank in range(task.ranks))


def _ended(rank: int, found: Sequence[Sequence[Line]], own: Mapping[int, int], running: bool, words: str) -> Ended:
    """How one rank ended: ``own`` are exit statuses of those that the agent saw end first."""
    lines, spoken = found[rank], has_spoken(found[rank])
    late = running and not _settled(found)
    return Ended(
        tuple(lines),
        own.get(rank, 0),
        timed_out=late and not spoken,
        log=words,
        lingered=running and spoken,
        stopped=not (spoken or late or rank in own),
    )


def _settled(found: Iterable[Sequence[Line]]) -> bool:
    """Whether all that ranks have to say is said: a bad word of one is enough."""
    found = list(found)
    return all(map(has_spoken, found)) or any(line["event"] in BAD_EVENTS for lines in found for line in lines)


# ---------------------------------------------------------------- processes


def _start(folder: Path, task: Task, log: Any) -> "subprocess.Popen[bytes]":
    """The launcher, in the surroundings that a single child has, and without those of another launch."""
    (folder / "accelerate.json").write_text(json.dumps(configuration(task.ranks)), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not _of_another(name)}
    environment = {**inherited, **surroundings(folder), "PYTHONSAFEPATH": "1"}
    step = ["--module", "planner.measure.step", str(folder / "task"), str(folder / "report")]
    options = ["--config_file", str(folder / "accelerate.json"), "--main_process_port", ANY_PORT]
    return spawn(["planner.measure.launch", str(folder / "launch"), *options, *step], log, environment)


ANY_PORT = "0"
"""Accelerate looks for a free one."""


def _of_another(name: str) -> bool:
    return name.startswith(OF_OTHER_LAUNCHES) or name in OF_OTHER_RANKS


def configuration(ranks: int) -> dict[str, Any]:
    """What ``accelerate config`` would have written: processes on this machine.

    ``MULTI_GPU`` is what makes accelerate start several processes, on a machine without GPUs too: with ``use_cpu`` it
    starts one and leaves the rest to MPI (accelerate 1.15 commands/launch.py, launch_command). The engine is put on in
    every rank, as the Trainer does it: ``planner.measure.engine``.
    """
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_processes": ranks,
        "num_machines": 1,
        "machine_rank": 0,
        "gpu_ids": "all",
        "rdzv_backend": "static",
        "same_network": True,
        "mixed_precision": "no",
        "use_cpu": False,
        "debug": False,
    }


def _end(launcher: "subprocess.Popen[bytes]", reports: Iterable[Path]) -> int:
    """End the launcher, and then the ranks that it left."""
    status = end(launcher)
    for report in reports:
        lines = whole_lines(report)
        begun = [line["id"] for line in lines if line["event"] == "process"]
        if begun and not has_spoken(lines):
            kill_session(begun[0])
    return status
