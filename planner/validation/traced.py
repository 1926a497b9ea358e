"""Traces of the grid's cases on disk: one line of JSON for each, written as soon as it is known.

The first line says of what: the versions of the libraries that ran, and the day. A run that was stopped goes on where
it stopped; a file of other versions is left alone.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from planner.allocator.capacity import smallest_capacity
from planner.allocator.events import peaks
from planner.allocator.replay import replay
from planner.build.quiet import quiet
from planner.errors import BrokenInput, PlannerError, UsageError, show
from planner.result import PHASES, Memory, Phase
from planner.trace.judgement import resolution
from planner.validation.grid import GridCase

Tell = Callable[[str], None]


class Row(NamedTuple):
    """One traced case: bytes by phase and owner, or why there are none.

    ``capacity_bytes``: the least that the allocator must be given for the steps to complete, context excluded.
    """

    id: str
    phases: Mapping[Phase, Memory]
    refused: str = ""
    capacity_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """Allocated bytes of the largest phase."""
        return max(memory.total for memory in self.phases.values())


class TracedFile(NamedTuple):
    """What a file holds."""

    versions: Mapping[str, str]
    date: str
    rows: Mapping[str, Row]


def traced_dir() -> Path:
    """Where the whole grid is stored: inside the installed package, else in the repository it runs from."""
    package = Path(__file__).parents[1]
    inside = package / "_traced"
    return inside if inside.is_dir() else package.parent / "tests" / "traced"


def stored_grid() -> Path:
    """The file that the pages are made from."""
    return traced_dir() / "grid.jsonl"


def stored_sharded() -> Path:
    """The file of cases on several cards."""
    return traced_dir() / "sharded.jsonl"


# ---------------------------------------------------------------- running


def run_grid(cases: Iterable[GridCase], path: Path | None, tell: Tell = lambda _text: None) -> TracedFile:
    """Trace every case that ``path`` does not hold yet, and add it there at once."""
    wanted = tuple(cases)
    found = _begun(path)
    rows = dict(found.rows)
    for number, case in enumerate(wanted, start=1):
        if case.id not in rows:
            tell(f"{number} of {len(wanted)}: {case.id}")
            rows[case.id] = row = traced_row(case)
            if path is not None:
                _write(path, "a", _line(row))
    return found._replace(rows=rows)


def traced_row(case: GridCase) -> Row:
    """One case, traced as ``plan --evidence traced`` does it."""
    try:
        return _traced(case)
    except UsageError as error:
        if str(error).startswith("this needs"):
            raise
        return Row(case.id, {}, str(error))
    except PlannerError as error:
        return Row(case.id, {}, str(error))
    except Exception as error:  # the installed libraries' own, in the middle of a step
        text = str(error).strip().partition("\n")[0][:200]
        return Row(case.id, {}, f"the step itself fails: {type(error).__name__}: {text}")


def _traced(case: GridCase) -> Row:
    """Bytes by phase and owner of the steady step, the peak of an earlier one that goes higher, and the capacity."""
    with quiet():
        from planner.trace.estimator import highest_by_phase, telling_step, trace  # noqa: PLC0415  (loads torch)

    recorded = trace(case.scenario()).trace
    free = replay(recorded)
    instants = peaks(recorded, free.handed_out)
    steady = max(instant.step for instant in instants)
    found = highest_by_phase([instant for instant in instants if instant.phase == "load" or instant.step == steady])
    top = max(telling_step(instants), key=lambda instant: instant.memory.total)
    phases = {**found, top.phase: max(found[top.phase], top.memory, key=lambda memory: memory.total)}
    if case.ranks > 1:  # an engine's streams have pools of their own, which one stream's replay does not know
        return Row(case.id, phases)
    return Row(case.id, phases, "", smallest_capacity(recorded, resolution=resolution(free.reserved)))


# ---------------------------------------------------------------- the file


def _begun(path: Path | None) -> TracedFile:
    """What is there already, or a new file with its first line."""
    from planner.build.installed import require  # noqa: PLC0415  (only where something is traced)

    versions = require("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes")
    if path is not None and _stands(path):
        found = _checked(path, read_traced(path), versions)
        _cut_unfinished(path)
        return found
    fresh = TracedFile(versions, datetime.now(UTC).date().isoformat(), {})
    if path is not None:
        _write(path, "w", json.dumps({"versions": versions, "date": fresh.date}))
    return fresh


def _stands(path: Path) -> bool:
    """Whether there is such a file; a name that cannot be one is refused."""
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"--out {show(str(path))}: {error.strerror or 'no such file'}") from None


def _checked(path: Path, found: TracedFile, versions: Mapping[str, str]) -> TracedFile:
    """What is there, if the libraries that are installed made it."""
    for name, have in versions.items():
        if found.versions.get(name) != have:
            raise UsageError(
                f"{path} was traced with {name} {found.versions.get(name, 'of no version')}, and {have} is installed: "
                f"name another file with --out"
            )
    return found


def _cut_unfinished(path: Path) -> None:
    """Take away the part of a line that a stopped run has left at the end."""
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        _write(path, "w", text[: text.rindex("\n")])


def _write(path: Path, mode: str, line: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror or 'cannot be written'}") from None


def _line(row: Row) -> str:
    if row.refused:
        return json.dumps({"id": row.id, "refused": row.refused})
    phases = {name: list(memory) for name, memory in row.phases.items()}
    capacity = {} if row.capacity_bytes is None else {"capacity_bytes": row.capacity_bytes}
    return json.dumps({"id": row.id, "phases": phases, **capacity})


def read_traced(path: Path) -> TracedFile:
    """A stored grid; a last line that a stopped run left unfinished is passed over."""
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        about: dict[str, Any] = json.loads(head)
        rows = {row.id: row for row in _rows(lines)}
        return TracedFile(about["versions"], about["date"], rows)
    except OSError as error:
        raise BrokenInput(f"{path}: {error.strerror or 'cannot be read'}") from None
    except (UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError):
        raise BrokenInput(f"{path} is no file of traced cases: name another with --out") from None


def _rows(lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            raise
        phases = value.get("phases", {})
        yield Row(
            value["id"],
            {name: Memory(*phases[name]) for name in PHASES if name in phases},
            value.get("refused", ""),
            value.get("capacity_bytes"),
        )
