"""The launcher: ``python -m planner.measure.launch REPORT ARGUMENTS`` is ``accelerate launch ARGUMENTS``.

It is accelerate's own command, called here to catch what torch's elastic agent knows of ranks that ended: REPORT gets a
line for each of those that ended first, with the exit status, below zero for a signal.
"""

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.build.installed import require
from planner.errors import PlannerError
from planner.measure.here import LIBRARIES


def main(arguments: Sequence[str]) -> int:
    """Launch, and wait for all ranks."""
    path, *command = arguments
    with Path(path).open("a", encoding="utf-8") as file:

        def report(event: str, **facts: Any) -> None:
            file.write(json.dumps({"event": event, **facts}) + "\n")
            file.flush()

        try:
            require(*LIBRARIES)
        except PlannerError as error:
            report("refused", kind=type(error).__name__, text=str(error))
            return 1
        return launch(command, report)


def launch(command: Sequence[str], report: Any) -> int:
    """``accelerate launch`` by accelerate 1.15 commands/launch.py, main."""
    from accelerate.commands.launch import launch_command, launch_command_parser  # noqa: PLC0415  (it loads torch)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    try:
        launch_command(launch_command_parser().parse_args(list(command)))
    except ChildFailedError as error:
        for ended in ends_of({rank: failure.exitcode for rank, failure in error.failures.items()}):
            report("rank_ended", **ended)
        return 1
    return 0


def ends_of(statuses: Mapping[int, int]) -> Iterator[dict[str, int]]:
    """Rank and exit status of each rank that ended by itself; the agent lists those too that it then ended by SIGTERM.

    >>> list(ends_of({1: -9, 0: -15})), list(ends_of({0: -15}))
    ([{'rank': 1, 'status': -9}], [{'rank': 0, 'status': -15}])
    """
    own = {rank: status for rank, status in statuses.items() if status != -signal.SIGTERM}
    for rank, status in (own or statuses).items():
        yield {"rank": rank, "status": status}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
