"""Which predictions moved between two revisions: ``python -m benchmarks.moved OLD [NEW]``, from the root.

Both predict the same grid in a process of their own, each from its own files; without ``NEW``, the working tree does.
Every scenario whose bytes moved is printed, the largest move first. The exit status is 1 when something moved and the
changelog's heading *Moved predictions* says nothing new, else 0.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
CHANGELOG = Path("docs/changelog.md")
HEADING = re.compile(r"(moved )?predictions", re.IGNORECASE)
"""Older revisions have the shorter heading."""
INTERVAL = ("low_bytes", "high_bytes")

Predictions = Mapping[str, Mapping[str, Any]]
Collector = Callable[[Path], Predictions]
"""From the root of a revision's files to what it predicts."""


@dataclass(frozen=True, slots=True)
class Move:
    """One scenario that two revisions answer unlike; ``ratio`` is its largest relative change, 0 for a refusal.

    ``what`` names the number that changed most, ``before`` and ``after`` are its bytes; ``changed`` are all names.
    """

    scenario: str
    kind: str
    what: str
    before: int | str
    after: int | str
    ratio: float = 0.0
    changed: frozenset[str] = frozenset()


KINDS = ("refused", "answered", "bytes", "interval")
"""No longer answered; answered for the first time; other bytes; the same bytes in another interval."""


# ---------------------------------------------------------------- comparing


def moves(old: Predictions, new: Predictions) -> tuple[Move, ...]:
    """What both were asked and answer unlike: refusals first, then by the size of the move."""
    found = [move for name in old if name in new and (move := _move(name, old[name], new[name])) is not None]
    return tuple(sorted(found, key=lambda move: (KINDS.index(move.kind), -abs(move.ratio), move.scenario)))


def _move(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Move | None:
    refusals = old.get("refused"), new.get("refused")
    if all(refusals):
        return None
    if refusals[1]:
        return Move(name, "refused", "", "answered", refusals[1])
    if refusals[0]:
        return Move(name, "answered", "", refusals[0], "answered")
    before, after = numbers(old), numbers(new)
    changed = [one for one in before.keys() | after.keys() if before.get(one, 0) != after.get(one, 0)]
    if not changed:
        return None
    outside = [one for one in changed if one not in INTERVAL]
    peak = old["peak"]["allocated_bytes"] or 1
    most = max(sorted(outside or changed), key=lambda one: abs(after.get(one, 0) - before.get(one, 0)))
    ratio = (after.get(most, 0) - before.get(most, 0)) / peak
    kind = "bytes" if outside else "interval"
    return Move(name, kind, most, before.get(most, 0), after.get(most, 0), ratio, frozenset(changed))


def numbers(prediction: Mapping[str, Any]) -> dict[str, int]:
    """Every number of one answer by name.

    >>> numbers({"phases": {"loss": {"logits": 3}}, "peak": {"allocated_bytes": 3}})
    {'allocated_bytes': 3, 'loss logits': 3}
    """
    owners = {
        f"{phase} {owner}": count for phase, memory in prediction["phases"].items() for owner, count in memory.items()
    }
    return {**prediction["peak"], **owners}


def told(old: str, new: str) -> bool:
    """Whether the changelog says something about moved predictions that it did not say before."""
    return bool(set(section(new)) - set(section(old)))


def section(changelog: str) -> Iterator[str]:
    """Lines under every heading for moved predictions."""
    inside = False
    for line in changelog.splitlines():
        if line.startswith("#"):
            inside = HEADING.fullmatch(line.lstrip("#").strip()) is not None
        elif inside and line.strip():
            yield line.strip()


# ---------------------------------------------------------------- two revisions


@contextmanager
def files_of(revision: str | None, root: Path) -> Iterator[Path]:
    """The files of a revision in a folder of their own; the working tree where none is named."""
    if revision is None:
        yield root
        return
    with TemporaryDirectory(prefix="moved-") as name:
        tree = Path(name) / "tree"
        _git(root, "worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")


def collected(tree: Path) -> Predictions:
    """What the package under ``tree`` predicts, with nothing that the user has measured."""
    with TemporaryDirectory(prefix="moved-") as nothing:
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PLANNER_DATA_DIR": "off",
            "XDG_DATA_HOME": nothing,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        script = Path(__file__).with_name("predictions.py")
        done = subprocess.run(
            [sys.executable, "-P", str(script)], env=environment, cwd=nothing, stdout=subprocess.PIPE, check=True
        )
    document = json.loads(done.stdout)
    if Path(document["package"]) != (tree / "planner").resolve():
        raise SystemExit(f"{document['package']} was run instead of {tree / 'planner'}")
    found: Predictions = document["predictions"]
    return found


# ---------------------------------------------------------------- telling


def report(old: Predictions, new: Predictions, found: Sequence[Move], *, intervals: bool) -> Iterator[str]:
    """Counts, then one line for each move; those of intervals alone only when asked for."""
    both = [name for name in old if name in new]
    gone, added = len(old) - len(both), len(new) - len(both)
    yield f"{len(both)} scenarios, {gone} only in the old revision, {added} only in the new"
    counts = {kind: sum(move.kind == kind for move in found) for kind in KINDS}
    yield (
        f"{counts['bytes']} have other bytes, {counts['interval']} the same bytes in another interval, "
        f"{counts['refused']} are no longer answered, {counts['answered']} are answered for the first time"
    )
    if found:
        yield f"by number: {_by_number(found)}"
    for move in found:
        if move.kind != "interval" or intervals:
            yield _line(move)


def _by_number(found: Sequence[Move]) -> str:
    """In how many scenarios each number of the peak moved, and any owner of any phase."""
    counts = Counter(name for move in found for name in _sides(move.changed))
    return ", ".join(f"{name.removesuffix('_bytes')} {count}" for name, count in counts.most_common())


def _sides(changed: frozenset[str]) -> set[str]:
    return {name if name.endswith("_bytes") else "an owner" for name in changed}


def _line(move: Move) -> str:
    if move.kind in ("refused", "answered"):
        return (
            f"{move.kind:>10}  {move.scenario}: {move.after if move.kind == 'refused' else 'was ' + str(move.before)}"
        )
    name = move.what.removesuffix("_bytes")
    return f"{move.ratio:>+10.3%}  {move.scenario}: {name} {move.before:,} -> {move.after:,}"


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT, collect: Collector = collected) -> int:
    """Compare, print, and say whether the changelog owes a line."""
    parser = argparse.ArgumentParser(description="closed-form predictions of two revisions, over a fixed grid")
    parser.add_argument("old", help="a revision of git")
    parser.add_argument("new", nargs="?", help="another one; the working tree without it")
    parser.add_argument("--intervals", action="store_true", help="print those too of which only that moved")
    options = parser.parse_args(arguments)
    with files_of(options.old, root) as before, files_of(options.new, root) as after:
        old, new = collect(before), collect(after)
        changelogs = [(tree / CHANGELOG).read_text(encoding="utf-8") for tree in (before, after)]
    found = moves(old, new)
    print("\n".join(report(old, new, found, intervals=options.intervals)))
    if not found:
        return 0
    if told(*changelogs):
        print(f"{CHANGELOG} tells of it")
        return 0
    print(f"{CHANGELOG} has no new line under 'Moved predictions': say there what moved and why")
    return 1


if __name__ == "__main__":
    sys.exit(main())
