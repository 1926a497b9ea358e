"""``plan sweep``: lines that scripts can read, a file that is gone on with, whole lines after an interruption."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from planner._version import __version__
from tests.cli.conftest import ROOT, Answer, Run
from tests.explore.fakes import step_of

SMALL = ("sweep", "--model", "1b,8b", "--gpu", "4090,t4", "--method", "lora,qlora", "--seq-len", "512,4096")
ROWS = 16


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_hold_the_candidates_of_the_plan(run: Run) -> None:
    found = lines(run(*SMALL, "--format", "json").out)
    planned = json.loads(
        run("--model", "8b", "--gpu", "t4", "--method", "qlora", "--seq-len", "4096", "--format", "json").out
    )

    assert len(found) == ROWS
    (row,) = (
        one
        for one in found
        if (one["model"], one["gpu"], one["method"], one["settings"]) == ("8b", "t4", "qlora", {"seq_len": 4096})
    )
    assert row["candidate"] == planned["candidates"][0]
    assert row["usable_bytes"] == planned["gpu"]["usable_bytes"]
    assert row["reason"] is None
    assert len({one["key"] for one in found}) == ROWS


def test_what_is_unsupported_is_a_line_with_a_reason(run: Run) -> None:
    answer = run("sweep", "--model", "8b", "--gpu", "v100-16gb,4090", "--attention", "flash", "--format", "json")
    old, new = ([one for one in lines(answer.out) if one["gpu"] == gpu] for gpu in ("v100-16gb", "4090"))

    assert answer.code == 0
    assert all(one["candidate"] is None and "FlashAttention-2" in one["reason"] for one in old)
    assert all(one["candidate"] and one["reason"] is None for one in new)


def test_csv_has_a_head_and_the_same_numbers(run: Run) -> None:
    rows = list(csv.DictReader(StringIO(run(*SMALL, "--format", "csv").out)))
    found = lines(run(*SMALL, "--format", "json").out)

    assert [row["key"] for row in rows] == [one["key"] for one in found]
    for row, one in zip(rows, found, strict=True):
        assert int(row["required_bytes"]) == one["candidate"]["peak"]["required_bytes"]
        assert float(row["step_seconds"]) == one["candidate"]["step"]["seconds"]
        assert row["settings"] == f"seq-len={one['settings']['seq_len']}"


def test_few_rows_are_shown_each(run: Run, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["planner.recommend.candidates"], "timed", step_of)
    for columns in (60, 80, 120):
        golden(f"sweep_{columns}.txt", run(*SMALL, columns=columns).out)


def test_many_rows_are_summed_up(run: Run) -> None:
    answer = run("sweep", "--model", "1b,70b", "--gpu", "all", "--gpus", "all", columns=120)

    assert answer.code == 0
    assert len(answer.out.splitlines()) == 3 + 6 + 1
    assert "cheapest that fits" in answer.out
    assert "why 54 are unsupported" in answer.out  # 2, 4 and 8 of three boards that nobody joins by a network


def test_nothing_that_fits_is_exit_code_4(run: Run) -> None:
    assert run("sweep", "--model", "70b", "--gpu", "4090", "--method", "full").code == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--model is missing"),
        (("--model", "8b"), "--gpu is missing"),
        (("--model", "8b", "--gpu", "4091"), "unknown gpu '4091'; did you mean"),
        (("--model", "8b", "--gpu", "4090", "--seq-len", "512,many"), "--seq-len 'many' is not a whole number"),
        (("--model", "8b", "--gpu", "4090", "--gpus", "0"), "--gpus 0 is not a whole number of 1 or more"),
        (("--model", "8b", "--gpu", "4090", "--double-quant", "maybe"), "neither on nor off"),
        (("--model", "8b", "--gpu", "4090", "--method", "dora"), "unknown method 'dora'"),
        (("--model", "8b", "--gpu", "4090", "--format", "xml"), "unknown format 'xml'"),
        (("--model", "8b", "--gpu", "4090", "--out", "no/such/folder/x.jsonl"), "no such folder"),
        (("--model", "8b", "--gpu", "4090", "--out", "/dev/full"), "no ordinary file"),
        (("--model", "8b", "--gpu", "4090", "--out", "."), "no ordinary file"),
    ],
)
def test_a_bad_option_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    answer = run("sweep", *arguments)

    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert words in answer.err


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_file_is_gone_on_with_where_it_stops(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run(*SMALL, "--out", str(path))
    whole = path.read_bytes()
    torn = whole[: len(whole) // 2]  # as a killed process leaves it: the last line is cut off
    path.write_bytes(torn)

    again = run(*SMALL, "--out", str(path))

    assert path.read_bytes() == whole
    assert "rows were in the file already" in again.err
    assert run(*SMALL, "--out", str(path)).code == 0
    assert path.read_bytes() == whole


def test_a_wider_sweep_adds_its_rows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    run("sweep", "--model", "8b", "--gpu", "4090", "--out", str(path))
    run("sweep", "--model", "8b", "--gpu", "4090,t4", "--out", str(path))

    assert [(one["gpu"], one["method"]) for one in lines(path.read_text())] == [
        (gpu, method) for gpu in ("4090", "t4") for method in ("full", "lora", "qlora")
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"some": "thing"}\n', "line 1 is no row of such a sweep"),
        ("notes\n", "line 1 is no row of such a sweep"),
        ("notes without an end", "line 1 is no row of such a sweep"),
        ('{"key": "0123456789abcdef", "schema": 1, "version": "0.0.1", "x": 1}\n', "was written by version 0.0.1"),
    ],
)
def test_somebody_elses_file_is_left_alone(run: Run, tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)

    answer = run("sweep", "--model", "8b", "--gpu", "4090", "--out", str(path))

    assert answer.code == 2
    assert words in answer.err
    assert path.read_text() == content


def test_a_full_disk_is_one_line_and_the_file_can_be_gone_on_with(shell: Callable[..., Answer], tmp_path: Path) -> None:
    sweep = "$PLAN sweep --model 1b,8b --gpu all --out rows.jsonl"
    full = shell(f"ulimit -f 200; {sweep}")

    assert full.code == 2
    assert "cannot be written: File too large" in full.err
    assert full.err.count("\n") == 1
    assert shell(sweep).code == 0
    rows = lines((tmp_path / "rows.jsonl").read_text())
    assert len(rows) == len({row["key"] for row in rows})
    assert {row["model"] for row in rows} == {"1b", "8b"}


def test_json_is_not_added_to_csv(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    run("sweep", "--model", "8b", "--gpu", "4090", "--out", str(path))

    assert run("sweep", "--model", "8b", "--gpu", "4090", "--out", str(path), "--format", "json").code == 2


# ---------------------------------------------------------------- streams


def test_an_interruption_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "planner", "sweep", "--model", "all", "--gpu", "all", "--out", str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)

    rows = lines(path.read_text())
    assert process.returncode == 130
    assert path.read_text().endswith("\n")
    assert rows
    assert all(row["version"] == __version__ for row in rows)
    assert "interrupted after" in err
    assert "the same command goes on with the rest" in err
    assert "Traceback" not in err
    assert "scenarios" in out


def test_a_reader_who_has_seen_enough_is_no_error(shell: Callable[..., Answer]) -> None:
    answer = shell("$PLAN sweep --model all --gpu all --format json | head -1 | wc -l")

    assert answer.out.strip() == "1"
    assert answer.err == ""


# ---------------------------------------------------------------- data


def test_rows_are_priced_where_the_data_is_known(run: Run) -> None:
    arguments = ("--model", "8b", "--gpu", "4090", "--method", "lora", "--dataset-tokens", "20M", "--epochs", "2")
    (row,) = lines(run("sweep", *arguments, "--format", "json").out)
    shown = run("sweep", *arguments, columns=120).out

    assert row["candidate"]["cost"]["steps"] == -(-20_000_000 // 2048) * 2
    assert "US$" in shown


def test_another_amount_of_data_is_another_row(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for tokens in ("20M", "30M", "20M"):
        arguments = ("--model", "8b", "--gpu", "4090", "--method", "lora", "--dataset-tokens", tokens)
        run("sweep", *arguments, "--out", str(path))

    assert len(lines(path.read_text())) == 2
