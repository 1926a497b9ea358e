"""Several processes write at once, and one of them is killed: nothing that was committed is lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from planner.records import Store

ROOT = Path(__file__).parents[2]


def writer(folder: Path, first: int, count: int, limit: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.records.writer", str(folder), str(first), str(count), limit]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_500_each_at_once(tmp_path: Path) -> None:
    writers = [writer(tmp_path, 0, 500), writer(tmp_path, 1000, 500)]
    ended = [one.communicate(timeout=120) for one in writers]

    assert [one.returncode for one in writers] == [0, 0], ended
    found = {int(record.taken_at[-7:-1]) for record in Store(tmp_path / "measurements.db").records()}
    assert found == {*range(500), *range(1000, 1500)}


def test_many_begin_a_store_at_once(tmp_path: Path) -> None:
    """Whoever is first makes the tables; the others wait."""
    writers = [writer(tmp_path, 100 * place, 3) for place in range(6)]
    ended = [one.communicate(timeout=120) for one in writers]

    assert [one.returncode for one in writers] == [0] * 6, ended
    assert len(Store(tmp_path / "measurements.db").records()) == 18


def test_a_killed_writer_loses_nothing_that_it_committed(tmp_path: Path) -> None:
    store, said = Store(tmp_path / "measurements.db"), 0
    for kill in range(4):  # four moments, none of them chosen
        one = writer(tmp_path, 100_000 * kill, 99_000)  # more than it can write before it is killed
        assert one.stdout is not None
        lines = [one.stdout.readline() for _ in range(20 + kill)]
        time.sleep(0.001 * kill)
        one.send_signal(signal.SIGKILL)
        rest, _ = one.communicate(timeout=60)
        assert one.returncode == -signal.SIGKILL
        committed = {int(line) for line in (*lines, *rest.splitlines()) if line.strip()}

        found = {int(record.taken_at[-7:-1]) for record in store.records()}
        assert committed <= found
        assert len(found) <= said + len(committed) + 1, "at most one whose commit nobody heard of"
        said = len(found)
    assert [path.name for path in tmp_path.glob("*corrupt*")] == []
