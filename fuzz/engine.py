"""One target for a while: what a reader may do with a file, and how a finding is kept."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from fuzz.targets import ROOT, Target
from planner.errors import PlannerError

CASES = ROOT / "tests" / "fuzz" / "cases"
DATABASE = ROOT / "tests" / "fuzz" / "database"
"""What hypothesis remembers between runs; cases are what people read."""
LONGEST = 1000
"""Characters of a message, the paths and names in it included."""
PATIENCE_S = 20
"""Seconds that a small file may take on a busy machine."""
ROUND = 100
"""Files between two looks at the clock."""


class Finding(NamedTuple):
    """What a reader did, and the smallest file that makes it."""

    target: str
    data: bytes
    error: BaseException


def hold(target: Target, data: bytes) -> None:
    """Let a reader read; it answers, or refuses in one line. Anything else is raised as it comes."""
    if target.needs:
        survive(target, data)
    with TemporaryDirectory() as folder:
        path = Path(folder) / target.file
        path.write_bytes(data)
        try:
            with patience():
                target.read(path)
        except PlannerError as error:
            check_line(str(error))


def survive(target: Target, data: bytes) -> None:
    """Let a child read first: a library that is not in Python may end the process instead of raising."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            sys.stderr.close()
            os.close(2)
            hold(replace(target, needs=""), data)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the reader ended its process with {status}"


def check_line(text: str) -> None:
    """Raise ``AssertionError`` for a message that is no line of bearable length.

    Control characters are made visible when it is printed, line ends would be lost there.
    """
    assert "\n" not in text, "a message of several lines"
    assert len(text) <= LONGEST, f"a message of {len(text):,} characters"


@contextmanager
def patience() -> Iterator[None]:
    """Raise ``TimeoutError`` after ``PATIENCE_S``."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not read within {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(target: Target, seconds: float) -> tuple[int, Finding | None]:
    """Files that were read until the time was over, and the first finding, shrunk."""
    until, files = time.monotonic() + seconds, 0
    memory = DirectoryBasedExampleDatabase(DATABASE / target.name)
    for number in count():
        if time.monotonic() >= until:
            return files, None
        found = attempt(target, ROUND, number + int(time.time()), memory)
        files += ROUND
        if found is not None:
            return files, found
    raise AssertionError("unreachable")


def attempt(
    target: Target, examples: int, number: int | None = None, memory: ExampleDatabase | None = None
) -> Finding | None:
    """So many files; always the same where no ``number`` is given."""
    last = b""

    @settings(
        max_examples=examples,
        derandomize=number is None,
        database=memory,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.reuse, Phase.generate, Phase.shrink),
    )
    @given(target.files())
    def run(data: bytes) -> None:
        nonlocal last
        last = data
        hold(target, data)

    try:
        (run if number is None else seed(number)(run))()
    except Exception as error:
        return Finding(target.name, last, error)
    return None


def keep(found: Finding) -> Path:
    """Write the file of a finding where the tests read it ever after."""
    folder = CASES / found.target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / blake2b(found.data, digest_size=4).hexdigest()
    path.write_bytes(found.data)
    return path
