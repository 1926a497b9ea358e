"""``plan measurements``: what is remembered is listed, shown, taken elsewhere, and forgotten when that is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.records import Limits, Store, default_store, record_text
from tests.records.builders import a_record, out_of_memory

Run = Callable[..., Any]

RUNS = (
    a_record(1),
    a_record(2, method="full", model="gpt2", layers=4),
    out_of_memory(3),
    a_record(4, kind="limit", limits=Limits(unit="micro_batch_size", largest_ran=12, smallest_failed=13)),
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's store, in a folder of the test's own."""
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "data"))
    return default_store()


@pytest.fixture
def filled(store: Store) -> Store:
    store.add_all(RUNS)
    return store


# ---------------------------------------------------------------- list and show


def test_nothing_was_measured(run: Run, store: Store) -> None:
    answer = run("measurements")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"no measurements in {store.path}: take one with plan measure --model MODEL\n"
    assert store.path is not None
    assert not store.path.parent.exists()


def test_the_list_is_newest_first(run: Run, filled: Store) -> None:
    answer = run("measurements", "list", columns=140)
    lines = answer.out.splitlines()

    assert (answer.code, answer.err) == (0, "")
    assert lines[0] == f"4 measurements in {filled.path}"
    assert [line.split()[0] for line in lines[3:7]] == [record.id[:10] for record in reversed(RUNS)]
    assert "batch to 12" in lines[3]
    assert "out of memory" in lines[4]
    assert "gpt2, 4 layers" in lines[5]
    assert "667.57 MiB" in lines[6]
    assert "+0.01%" in lines[6]
    assert run("measurements").out == run("measurements", "list").out


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_text_is_never_wider_than_the_terminal(run: Run, filled: Store, columns: int) -> None:
    assert filled.path is not None
    for words in (["list"], ["show", RUNS[0].id], ["show", RUNS[3].id], ["show", RUNS[2].id]):
        answer = run("measurements", *words, columns=columns)
        assert answer.code == 0
        wide = [line for line in answer.out.splitlines() if len(line) > columns and str(filled.path.parent) not in line]
        assert wide == []


@pytest.mark.parametrize(
    ("model", "count"), [("gpt2", 1), ("SmolLM2-135M", 3), ("openai-community/gpt2", 1), ("none", 0)]
)
def test_one_model_by_any_of_its_names(run: Run, filled: Store, model: str, count: int) -> None:
    found = json.loads(run("measurements", "list", "--model", model, "--format", "json").out)

    assert found["schema"] == 1
    assert len(found["measurements"]) == count


@pytest.mark.parametrize(("device", "count"), [("ada", 4), ("cuda", 4), ("NVIDIA L4", 4), ("cpu", 0)])
def test_one_device(run: Run, filled: Store, device: str, count: int) -> None:
    found = json.loads(run("measurements", "--device", device, "--format", "json").out)

    assert len(found["measurements"]) == count


def test_the_list_for_scripts(run: Run, filled: Store) -> None:
    last = json.loads(run("measurements", "--format", "json").out)["measurements"][-1]

    assert (last["id"], last["model"], last["method"]) == (RUNS[0].id, "smollm2-135m", "lora")
    assert (last["micro_batch_size"], last["seq_len"], last["layers"]) == (1, 2048, None)
    assert (last["allocated_bytes"], last["reserved_bytes"]) == (700_000_257, 800_064_512)
    assert last["predicted"]["traced"]["allocated"] == 700_100_096


def test_one_in_full(run: Run, filled: Store) -> None:
    answer = run("measurements", "show", RUNS[0].id[:6])

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("smollm2-135m on NVIDIA L4: lora, 1 × 2048 tokens\n")
    for text in (RUNS[0].id, "torch 2.13.0", "0.125 s", "first   backward", "reserved   763.00 MiB  763.00 MiB"):
        assert text in answer.out
    assert json.loads(run("measurements", "show", RUNS[0].id, "--format", "json").out)["measurement"] == json.loads(
        record_text(RUNS[0])
    )
    assert run("measurements", "show", RUNS[0].id, "--format", "markdown").out.startswith("#")


def test_how_a_run_ended_and_what_a_search_found(run: Run, filled: Store) -> None:
    assert "died in          backward of step 1" in run("measurements", "show", RUNS[2].id).out
    assert "micro-batch-size: 12 ran, 13 did not" in run("measurements", "show", RUNS[3].id).out


# ---------------------------------------------------------------- elsewhere and back


def test_export_forget_import(run: Run, filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"

    assert run("measurements", "export", str(file)).out == f"4 measurements written to {file}\n"
    assert file.read_text(encoding="utf-8").splitlines() == [record_text(record) for record in RUNS]
    assert run("measurements", "forget", "--all", "--yes").out == "4 measurements forgotten\n"
    assert filled.records() == ()
    assert run("measurements", "import", str(file)).out == f"{file}: 4 measurements new, 0 known\n"
    assert json.loads(run("measurements", "import", str(file), "--format", "json").out) == {
        "schema": 1,
        "new": 0,
        "known": 4,
        "refused": [],
    }
    assert len(filled.records()) == 4


def test_export_of_some(run: Run, filled: Store) -> None:
    assert run("measurements", "export", "-", "--model", "gpt2").out == record_text(RUNS[1]) + "\n"
    two = run("measurements", "export", "-", RUNS[2].id, RUNS[0].id[:8], RUNS[0].id).out
    assert two == f"{record_text(RUNS[2])}\n{record_text(RUNS[0])}\n"


def test_export_as_anchors(run: Run, filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    answer = run("measurements", "export", str(file), "--anchors")

    assert answer.code == 0
    assert answer.err == "note: 2 measurements can be no anchor: the file says why\n"
    assert file.read_text(encoding="utf-8").count("[[case]]") == 2


def test_a_shell_pipe(shell: Callable[..., Any], filled: Store, tmp_path: Path) -> None:
    here, there = {"PLANNER_DATA_DIR": str(tmp_path / "data")}, {"PLANNER_DATA_DIR": str(tmp_path / "other")}
    exported = shell("$PLAN measurements export - > lines; wc -l < lines", here)
    assert exported.out.strip() == "4"

    imported = shell("cat lines | $PLAN measurements import -", there)

    assert (imported.code, imported.out, imported.err) == (0, "-: 4 measurements new, 0 known\n", "")


def test_lines_that_are_no_measurements(run: Run, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("{\n" + record_text(RUNS[0]) + "\n[1]\n", encoding="utf-8")
    answer = run("measurements", "import", str(file), columns=200)

    assert answer.code == 2
    assert answer.out.splitlines()[0] == f"{file}: 1 new, 0 known, 2 refused"
    assert [line.split()[0] for line in answer.out.splitlines()[3:]] == ["1", "3"]
    assert store.records() == (RUNS[0],)


def test_a_file_of_something_else_is_told_in_a_screen(run: Run, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_bytes(b"\xff\n" * 500)
    answer = run("measurements", "import", str(file), columns=200)

    assert answer.code == 2
    assert "500 refused" in answer.out
    assert "and 480 more" in answer.out
    assert len(answer.out.splitlines()) < 30


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], "unknown action 'frobnicate' (one of list, show, export, import, forget)"),
        (["lst"], "unknown action 'lst'; did you mean list?"),
        (["show"], "plan measurements show ID takes 1 name, not 0"),
        (["list", "x"], "plan measurements list takes no names, not 1"),
        (["show", "ffff0000"], "unknown measurement 'ffff0000' (list them with: plan measurements list)"),
        (["show", "x"], "'x' is no id: 4 to 32 hexadecimal digits (plan measurements list)"),
        (["export"], "plan measurements export FILE: name a file, or - for standard output"),
        (["export", "-", "ffff0000"], "unknown measurement 'ffff0000'"),
        (["export", "-", "ffff0000", "--model", "gpt2"], "by their ids, or by --model and --device, not by both"),
        (["export", "/nowhere/file"], "cannot write /nowhere/file: No such file or directory"),
        (["export", "-", "--anchors", "--model", "gpt2"], "can be an anchor: some of the layers"),
        (["import", "/nowhere/file"], "/nowhere/file: No such file or directory"),
        (["import", "a\0b"], r"a\x00b: "),
        (["import"], "plan measurements import FILE takes 1 name, not 0"),
        (["forget"], "plan measurements forget ID ..., or forget --all --yes"),
        (["forget", "abcd", "--all"], "plan measurements forget ID ..., or forget --all --yes"),
        (["forget", "--all"], "--all forgets 4 measurements for ever: add --yes to do so"),
        (["forget", "ffff0000"], "unknown measurement 'ffff0000'"),
        (["list", "--all"], "--all belongs to plan measurements forget, not to list"),
        (["show", "abcd", "--model", "x"], "--model belongs to plan measurements list and export, not to show"),
        (["list", "--format", "xml"], "unknown format 'xml'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)  # fmt: skip
def test_one_line_says_what_is_wrong(run: Run, filled: Store, words: list[str], says: str) -> None:
    answer = run("measurements", *words)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert len(filled.records()) == 4


def test_a_damaged_store_is_told_of_on_stderr(run: Run, filled: Store) -> None:
    assert filled.path is not None
    content = bytearray(filled.path.read_bytes())
    content[:100] = b"\xff" * 100
    filled.path.write_bytes(content)

    answer = run("measurements", "--format", "json")

    assert answer.code == 0
    assert len(json.loads(answer.out)["measurements"]) == 4
    assert answer.err.startswith(f"note: {filled.path} is damaged: it was set aside as measurements.corrupt-")
    assert answer.err.endswith(", and 4 measurements were taken over from it\n")


def test_a_store_that_is_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_DATA_DIR", "off")

    assert "PLANNER_DATA_DIR is off" in run("measurements").out
    assert "PLANNER_DATA_DIR is off" in run("measurements", "import", "x").err
