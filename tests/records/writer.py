"""A process that writes records one by one and says how many are committed: ``python -m tests.records.writer``."""

import resource
import sys
from pathlib import Path

from planner.errors import PlannerError
from planner.records import Store
from tests.records.builders import a_record, another


def main(folder: str, first: str, count: str, limit: str = "") -> int:
    """Write ``count`` records from number ``first`` on; files may not grow beyond ``limit`` bytes."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    store, base = Store(Path(folder) / "measurements.db"), a_record()
    for number in range(int(first), int(first) + int(count)):
        try:
            store.add(another(base, number))
        except PlannerError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
