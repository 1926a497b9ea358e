"""A matrix that is interrupted loses nothing: what has finished is on the disk, and is not run again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.errors import BrokenInput, UnsupportedScenario, UsageError
from planner.measure.ledger import Ledger, record_key
from planner.measure.matrix import expand
from planner.measure.series import Planned, Skipped, in_words, run_series
from planner.records import Limits, Record, record_text
from tests.records.builders import a_record, out_of_memory

MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "smollm2-135m")


def plans(work: Mapping[str, float] = {}) -> list[Planned]:
    """One case for each model, with the identity of the record that ``measured`` makes of it."""
    cases = expand({"block": [{"model": list(MODELS), "method": "lora"}]})
    records = [a_record(model=case.model) for case in cases]
    return [
        Planned(case, record.restore(), record_key(record), work.get(case.model, 1.0))
        for case, record in zip(cases, records, strict=True)
    ]


class Performer:
    """Measures nothing: makes a record, and counts."""

    def __init__(self, make: Callable[[str], Any] = lambda model: (a_record(model=model),)) -> None:
        self.make, self.asked = make, list[str]()

    def __call__(self, planned: Planned) -> tuple[Record, ...]:
        self.asked.append(planned.case.model)
        found: tuple[Record, ...] = self.make(planned.case.model)
        return found


# ---------------------------------------------------------------- the file


def test_a_record_is_on_the_disk_when_it_is_added(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    ledger = Ledger(path)
    ledger.add([a_record(1)])
    ledger.add([a_record(2), a_record(3)])

    assert path.read_text(encoding="utf-8").splitlines() == [record_text(a_record(number)) for number in (1, 2, 3)]
    again = Ledger(path)
    assert again.find(record_key(a_record())) == (a_record(1), a_record(2), a_record(3))


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_line_that_was_cut_off_is_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    whole = record_text(a_record(1)) + "\n"
    path.write_text(whole + record_text(a_record(2))[:cut], encoding="utf-8")

    ledger = Ledger(path)
    assert ledger.find(record_key(a_record())) == (a_record(1),)
    ledger.add([a_record(3)])

    assert path.read_text(encoding="utf-8") == whole + record_text(a_record(3)) + "\n"


@pytest.mark.parametrize("text", ["hello\n", "hello", '{"a": 1}\n', "\n", "[1]\nx\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BrokenInput, match=r"notes\.txt"):
        Ledger(path)
    assert path.read_text(encoding="utf-8") == text


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    ledger = Ledger(path)
    ledger.add([a_record(1)])
    before, write = path.read_bytes(), os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 200:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:100])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        ledger.add([a_record(2)])
    assert path.read_bytes() == before

    monkeypatch.setattr(os, "write", write)
    ledger.add([a_record(3)])
    assert Ledger(path).find(record_key(a_record())) == (a_record(1), a_record(3))


def test_two_processes_do_not_write_over_each_other(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    one, other = Ledger(path), Ledger(path)
    one.add([a_record(1)])

    with pytest.raises(UsageError, match="another process"):
        other.add([a_record(2)])
    assert Ledger(path).find(record_key(a_record())) == (a_record(1),)


def test_what_makes_two_runs_the_same() -> None:
    record = a_record(1)
    facts = json.loads(record_text(record))

    def key(**changes: Any) -> str:
        scenario = changes.pop("scenario", None)
        made = a_record(1, **changes)
        return record_key(replace(made, scenario=scenario) if scenario else made)

    assert key() == record_key(a_record(2)) == record_key(out_of_memory(3))
    others = {
        record_key(a_record(1, method="qlora")),
        record_key(a_record(1, model="gpt2")),
        key(layers=2),
        key(layers=3),
        key(device=record.device.__class__(kind="cuda", name="NVIDIA A10", total_bytes=1, architecture="ampere")),
        key(environment=record.environment.__class__(versions={"torch": "2.14.0", "peft": "0.21.2"})),
        key(environment=record.environment.__class__(versions=record.environment.versions, cap_bytes=2**34)),
        key(kind="limit", limits=Limits(unit="seq_len")),
        key(kind="limit", limits=Limits(unit="micro_batch_size")),
    }
    assert len(others) == 9
    assert key() not in others
    assert facts["scenario"]["origins"]  # which do not count
    assert "origins" not in key()
    other_card = {**facts["scenario"], "cluster": {**facts["scenario"]["cluster"], "headroom_bytes": 1}}
    assert key(scenario=other_card) == key()
    older = {**facts["scenario"], "train": {k: v for k, v in facts["scenario"]["train"].items() if k != "new_tokens"}}
    assert key(scenario=older) == key()
    with_more = {**facts["scenario"], "train": {**facts["scenario"]["train"], "micro_batch_size": 2}}
    assert key(scenario=with_more) != key()


# ---------------------------------------------------------------- the run


def test_all_of_it_in_order_and_a_second_time_nothing(tmp_path: Path) -> None:
    path, performer = tmp_path / "out.jsonl", Performer()
    first = run_series(plans(), Ledger(path), performer)

    assert performer.asked == list(MODELS)
    assert [row.fresh for row in first.rows] == [True] * 4
    assert (first.left, first.stopped) == ((), "")

    again = run_series(plans(), Ledger(path), performer)
    assert performer.asked == list(MODELS)
    assert [row.fresh for row in again.rows] == [False] * 4
    assert [row.records for row in again.rows] == [row.records for row in first.rows]


def test_a_failure_is_an_answer_unless_it_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    ends = {"llama-3.2-1b": "out_of_memory", "llama-3.2-3b": "timed_out", "llama-3.1-8b": "killed"}
    run_series(
        plans(), Ledger(path), Performer(lambda model: (a_record(model=model, outcome=ends.get(model, "done")),))
    )

    performer = Performer()
    run_series(plans(), Ledger(path), performer)
    assert performer.asked == []

    found = run_series(plans(), Ledger(path), performer, retry=True)
    assert performer.asked == ["llama-3.2-3b", "llama-3.1-8b"]
    assert [row.records[-1].outcome for row in found.rows] == ["out_of_memory", "done", "done", "done"]


def test_a_refusal_is_told_and_the_rest_goes_on() -> None:
    def make(model: str) -> tuple[Record, ...]:
        if model == "llama-3.2-3b":
            raise UnsupportedScenario("not this one")
        return (a_record(model=model),)

    given = Skipped(plans()[0].case, "too large")
    found = run_series(plans(), Ledger(), Performer(make), skipped=[given])

    assert [row.planned.case.model for row in found.rows] == ["llama-3.2-1b", "llama-3.1-8b", "smollm2-135m"]
    assert [(one.case.model, one.reason) for one in found.skipped] == [
        ("llama-3.2-1b", "too large"),
        ("llama-3.2-3b", "not this one"),
    ]


def test_no_case_begins_when_the_time_is_up() -> None:
    now = [0.0]

    def make(model: str) -> tuple[Record, ...]:
        now[0] += 30
        return (a_record(model=model),)

    found = run_series(plans(), Ledger(), Performer(make), budget=60, clock=lambda: now[0])

    assert [row.planned.case.model for row in found.rows] == list(MODELS[:2])
    assert [one.case.model for one in found.left] == list(MODELS[2:])
    assert found.stopped == "the time was up"


def test_a_case_that_cannot_be_written_is_told_and_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "out.jsonl")
    write = ledger._append

    def full(data: bytes) -> None:
        if b"llama-3.2-3b" in data:
            raise UsageError("--out out.jsonl cannot be written: No space left on device")
        write(data)

    monkeypatch.setattr(ledger, "_append", full)
    found = run_series(plans(), ledger, Performer())

    assert [row.planned.case.model for row in found.rows] == list(MODELS[:2])
    assert [one.case.model for one in found.left] == list(MODELS[2:])
    assert (found.unwritten, found.stopped) == (True, "--out out.jsonl cannot be written: No space left on device")
    assert [len(line) > 2 for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [True]


def test_an_interrupt_keeps_what_has_finished(tmp_path: Path) -> None:
    def make(model: str) -> tuple[Record, ...]:
        if model == "llama-3.1-8b":
            raise KeyboardInterrupt
        return (a_record(model=model),)

    found = run_series(plans(), Ledger(tmp_path / "out.jsonl"), Performer(make))

    assert found.stopped == "interrupted"
    assert [one.case.model for one in found.left] == ["llama-3.1-8b", "smollm2-135m"]
    performer = Performer()
    run_series(plans(), Ledger(tmp_path / "out.jsonl"), performer)
    assert performer.asked == ["llama-3.1-8b", "smollm2-135m"]


def test_time_that_is_left_is_told_from_the_pace_so_far() -> None:
    now, told = [0.0], list[tuple[float, str]]()
    work = {"llama-3.2-1b": 10.0, "llama-3.2-3b": 20.0, "llama-3.1-8b": 60.0, "smollm2-135m": 5.0}

    def make(model: str) -> tuple[Record, ...]:
        now[0] += 3 * work[model]
        return (a_record(model=model),)

    run_series(plans(work), Ledger(), Performer(make), clock=lambda: now[0], tell=lambda *words: told.append(words))

    assert [done for done, _ in told] == [0, 0.25, 0.5, 0.75]
    # three seconds for each unit: 85 units are 255 s, 65 are 195 s, 5 are 15 s
    assert [text.partition(":")[0] for _, text in told] == [
        "1 of 4",
        "2 of 4, about 4 min left",
        "3 of 4, about 3 min left",
        "4 of 4, about 15 s left",
    ]


def test_a_case_of_several_depths_is_finished_with_two() -> None:
    record = a_record(model="llama-3.2-1b")
    key = record_key(a_record(model="llama-3.2-1b", layers=2), layers=False)
    planned = [plans()[0]._replace(key=key, several=True)]
    ledger, performer = Ledger(), Performer(lambda model: tuple(a_record(model=model, layers=n) for n in (2, 3)))

    ledger.add([a_record(model="llama-3.2-1b", layers=2)])
    run_series(planned, ledger, performer)
    assert performer.asked == ["llama-3.2-1b"]
    run_series(planned, ledger, performer)
    assert performer.asked == ["llama-3.2-1b"]
    assert ledger.find(record_key(record)) == ()

    failed = Ledger()
    failed.add([a_record(model="llama-3.2-1b", layers=2, outcome="killed")])
    assert len(run_series(planned, failed, performer).rows[0].records) == 1
    run_series(planned, failed, performer, retry=True)
    assert performer.asked == ["llama-3.2-1b"] * 2


def test_a_snapshot_is_taken_again_when_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "one.pickle"
    planned = [plans()[0]._replace(snapshot=path)]
    ledger, performer = Ledger(), Performer()
    ledger.add([a_record(model="llama-3.2-1b")])

    run_series(planned, ledger, performer)
    path.write_bytes(b"")
    run_series(planned, ledger, performer)

    assert performer.asked == ["llama-3.2-1b"]


def test_times_in_words() -> None:
    assert in_words(3600) == "1 h 0 min"


# ---------------------------------------------------------------- processes that are ended

SCRIPT = """
import sys, time
from pathlib import Path
from planner.measure.ledger import Ledger
from planner.measure.series import run_series
from tests.measure.test_series import MODELS, plans
from tests.records.builders import a_record

out, log = map(Path, sys.argv[1:3])

def perform(planned):
    with log.open("a") as file:
        file.write(planned.case.model + "\\n")
    if len(log.read_text().split()) == 3:  # where it is ended
        time.sleep(600)
    return (a_record(model=planned.case.model),)

found = run_series(plans(), Ledger(out), perform)
print(found.stopped or "done", len(found.rows))
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="ends processes by signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_matrix_that_was_ended_goes_on_where_it_was(tmp_path: Path, number: signal.Signals) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    command = [sys.executable, "-c", SCRIPT, str(out), str(log)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not (log.exists() and len(log.read_text().split()) >= 3) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    begun = log.read_text().split()
    kept = len(out.read_text().splitlines())

    assert begun == list(MODELS[:3])
    assert kept == 2
    assert told == ("interrupted 2\n" if number == signal.SIGINT else "")

    with out.open("a") as file:
        file.write('{"schema": 1, "cut')  # as a process leaves it that is killed while it writes
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)

    assert done.stdout == "done 4\n"
    assert log.read_text().split() == [*begun, *MODELS[2:]]
    assert [json.loads(line)["scenario"]["model"]["name"] for line in out.read_text().splitlines()] == [
        a_record(model=model).model for model in MODELS
    ]
