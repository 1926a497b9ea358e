"""The child: ``python -m planner.measure.step TASK REPORT`` does what the file TASK says, and writes into REPORT.

The last line of REPORT is ``done``, or says why not: ``refused`` (a scenario that cannot run), ``out_of_memory`` or
``failed``. One of several ranks has a file of its own, REPORT.RANK, whose first line is its process: see
``planner.measure.ranks``.
"""

import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.build.installed import require
from planner.errors import PlannerError
from planner.measure.here import LIBRARIES
from planner.measure.task import FOLDER_PREFIX, read_task, report_of


def main(arguments: Sequence[str]) -> int:
    """Do the task; the exit status is 0 unless the report says why not."""
    task = read_task(Path(arguments[0]))
    rank = int(os.environ["RANK"]) if task.ranks > 1 else 0
    who = {"rank": rank} if task.ranks > 1 else {}
    with report_of(Path(arguments[1]), rank, task.ranks).open("a", encoding="utf-8") as file:

        def report(event: str, **facts: Any) -> None:
            file.write(json.dumps({"event": event, **facts, **who}) + "\n")
            file.flush()

        if task.ranks > 1:
            report("process", id=os.getpid())
        try:
            require(*LIBRARIES)
            without_kernels_hub()
            from planner.measure import work  # noqa: PLC0415  (the libraries are known to be there only now)

            try:
                work.WORK[task.kind](task, report)
            except Exception as error:
                if isinstance(error, PlannerError) and not work.is_out_of_memory(error):
                    raise
                traceback.print_exc()
                report(**work.explain(error))
                return 1
        except PlannerError as error:
            report("refused", kind=type(error).__name__, text=str(error))
            return 1
        report("done")
    return 0


def without_kernels_hub() -> None:
    """No download on import: what bitsandbytes brings along runs, and the hub is not asked for a faster product.

    Source: bitsandbytes 0.50 backends/cpu/ops.py.
    """
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # what Python itself takes for "cannot be imported"


def leave_with_parent(folder: Path) -> None:
    """End when standard input does: the parent holds its other end and never writes.

    A parent that was killed cannot clear up any more, so its ``folder`` goes too.
    """

    def wait() -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock a thread must not hold when the interpreter ends
            pass
        if folder.name.startswith(FOLDER_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    leave_with_parent(Path(sys.argv[2]).parent)
    raise SystemExit(main(sys.argv[1:]))
