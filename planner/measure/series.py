"""Runs the cases of a matrix one after another: what is there already is kept, what is not is made and written at once.

Nothing here knows how a case is measured: ``perform`` does, and whatever it returns is written before the next begins.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from planner.errors import PlannerError, UsageError, show
from planner.measure.ledger import Key, Ledger
from planner.measure.matrix import Case
from planner.records import Record
from planner.spec import Scenario

DEPTHS = 2
"""Runs that a case of ``layers = "auto"`` has when it is finished."""


class Planned(NamedTuple):
    """A case that can run here: its scenario, its identity, and a guess of its work in seconds.

    ``several``: it takes runs of different depths, which the identity leaves open. ``snapshot``: a file that it leaves
    besides. The guess is good for comparing cases; how fast this machine is shows when some have finished.
    """

    case: Case
    scenario: Scenario
    key: Key
    work: float
    several: bool = False
    snapshot: Path | None = None


class Skipped(NamedTuple):
    """A case that does not run here, and why."""

    case: Case
    reason: str


class Row(NamedTuple):
    """A finished case; ``fresh`` if it was run just now."""

    planned: Planned
    records: tuple[Record, ...]
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """How a matrix went: what is finished, what does not run here, what is left, and why it stopped."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    left: tuple[Planned, ...]
    stopped: str = ""
    unwritten: bool = False
    """It stopped because its file could not be written."""


Perform = Callable[[Planned], tuple[Record, ...]]
Tell = Callable[[float, str], None]
"""Hears how much of 1 is done, and of what."""


def _nobody(_done: float, _text: str) -> None:
    """Hears nothing."""


RETRIED = ("timed_out", "killed", "failed")
"""Ends that may be another time otherwise; running out of memory is an answer."""


def finished(planned: Planned, ledger: Ledger, *, retry: bool = False) -> tuple[Record, ...]:
    """The records of a case that needs no run; none if it does."""
    records = ledger.find(planned.key)
    if planned.snapshot is not None and not planned.snapshot.exists() and records and records[-1].outcome == "done":
        return ()
    if not records or (retry and records[-1].outcome in RETRIED):
        return ()
    if planned.several and sum(record.outcome == "done" for record in records) < DEPTHS:
        return records if records[-1].outcome != "done" else ()
    return records


def run_series(
    planned: Sequence[Planned],
    ledger: Ledger,
    perform: Perform,
    *,
    skipped: Iterable[Skipped] = (),
    retry: bool = False,
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    tell: Tell = _nobody,
) -> Series:
    """Run what is not finished, in order; no case begins once ``budget`` seconds are over.

    An interrupt ends the case that runs, and what was finished before is written and told. A file that cannot be
    written ends the series too, which still tells the case that it lacks.
    """
    run = _Run(planned, ledger, list(skipped), retry=retry)
    begun, stopped, unwritten = clock(), "", False
    try:
        while run.todo:
            if budget is not None and clock() - begun >= budget:
                stopped = "the time was up"
                break
            tell(*run.progress())
            run.next(perform, clock)
    except KeyboardInterrupt:
        stopped = "interrupted"
    except UsageError as error:  # the file: a case that cannot run is put aside
        stopped, unwritten = str(error), True
    return Series(
        rows=tuple(run.rows[place] for place in sorted(run.rows)),
        skipped=tuple(run.aside),
        left=tuple(planned[place] for place in run.todo),
        stopped=stopped,
        unwritten=unwritten,
    )


class _Run:
    """Where a series is: finished rows by their place, cases that do not run, and the places of those to come."""

    def __init__(self, planned: Sequence[Planned], ledger: Ledger, aside: list[Skipped], *, retry: bool) -> None:
        self.planned, self.ledger, self.aside = planned, ledger, aside
        known = [(place, finished(one, ledger, retry=retry)) for place, one in enumerate(planned)]
        self.rows = {place: Row(planned[place], records, fresh=False) for place, records in known if records}
        self.todo = [place for place, records in known if not records]
        self.pace = Pace()

    def next(self, perform: Perform, clock: Callable[[], float]) -> None:
        """Run the next case and write what it found; it is to come until it has run."""
        place, start = self.todo[0], clock()
        one = self.planned[place]
        try:
            records = perform(one)
        except PlannerError as error:
            self.aside.append(Skipped(one.case, str(error)))
            records = ()
        else:
            self.rows[place] = Row(one, records, fresh=True)
            self.pace.add(one.work, clock() - start)
        self.todo.pop(0)
        self.ledger.add(records)

    def progress(self) -> tuple[float, str]:
        """How much is done, and a line about the next case."""
        done, count = len(self.rows) + len(self.aside), len(self.rows) + len(self.aside) + len(self.todo)
        seconds = self.pace.left(self.planned[place] for place in self.todo)
        left = "" if seconds is None else f", about {in_words(seconds)} left"
        return done / count, f"{done + 1} of {count}{left}: {self.planned[self.todo[0]].case.label}"


class Pace:
    """How many seconds a unit of predicted work takes here, from what has finished."""

    def __init__(self) -> None:
        self.work = self.seconds = 0.0

    def add(self, work: float, seconds: float) -> None:
        """A case has finished."""
        self.work, self.seconds = self.work + work, self.seconds + seconds

    def left(self, planned: Iterable[Planned]) -> float | None:
        """Seconds that these cases will take; ``None`` before any has finished."""
        return sum(one.work for one in planned) * self.seconds / self.work if self.work else None


def in_words(seconds: float) -> str:
    """A time as people say it.

    >>> in_words(42), in_words(170), in_words(7500)
    ('42 s', '3 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_SECONDS = {"s": 1, "min": 60, "h": 3600}
_TIME = re.compile(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h)\s*", re.ASCII)


def parse_seconds(text: str) -> float:
    """A time with its unit; raise ``UsageError`` when it has none.

    >>> parse_seconds("20min"), parse_seconds("1.5 h")
    (1200.0, 5400.0)
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"{show(text)} is not a time: write for instance 90s, 20min or 1.5h")
    return float(match[1]) * _SECONDS[match[2]]
