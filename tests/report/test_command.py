"""``plan report``: one file or none, one line on each stream, the exit code of ``plan``."""

import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, EXIT_USAGE
from tests.cli.conftest import Run, run
from tests.report.reading import read

__all__ = ["run"]

SMALL = ("report", "--model", "pythia-14m", "--gpu", "4090")


def test_it_writes_one_page_and_says_what_it_says(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    answer = run(*SMALL, "--out", str(out))

    assert (answer.code, answer.err) == (EXIT_FITS, "")
    assert answer.out == f"LoRA of pythia-14m fits on 1 × NVIDIA GeForce RTX 4090: {out}\n"
    assert read(out.read_text(encoding="utf-8")).one("h1").text
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_fits_is_exit_code_4_and_a_page(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.HTM"
    answer = run("report", "--model", "70b", "--gpu", "4090", "--method", "qlora", "--out", str(out))

    assert answer.code == EXIT_NOTHING_FITS
    assert "QLoRA of llama-3.1-70b does not fit" in answer.out
    assert "does not fit" in read(out.read_text(encoding="utf-8")).one("h1").text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SMALL,), "--out is missing"),
        ((*SMALL, "--out", "report.md"), "a report is one HTML file: name it for instance report.html"),
        ((*SMALL, "--out", "report"), "a report is one HTML file"),
        ((*SMALL, "--out", ""), "a report is one HTML file"),
        ((*SMALL, "--out", "nowhere/report.html"), "no such folder"),
        (("report", "--gpu", "4090", "--out", "x.html"), "--model is missing"),
        (("report", "--model", "8b", "--out", "x.html"), "--gpu is missing"),
        (("report", "--model", "8b", "--gpu", "4091", "--out", "x.html"), "4091"),
        ((*SMALL, "--out", "x.html", "--format", "json"), "--format"),
    ],
)
def test_misuse_is_one_line_and_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run(*arguments)

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_planned_writes_nothing(run: Run, tmp_path: Path) -> None:
    answer = run("report", "--model", "8b", "--gpu", "4090", "--lora-rank", "0", "--out", str(tmp_path / "x.html"))

    assert answer.code == EXIT_USAGE
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_loses_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    out.write_text("the report of last week", encoding="utf-8")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    answer = run(*SMALL, "--out", str(out))

    assert answer.code == EXIT_USAGE
    assert answer.err.count("\n") == 1
    assert "No space left on device" in answer.err
    assert out.read_text(encoding="utf-8") == "the report of last week"
    assert list(tmp_path.iterdir()) == [out]


def test_an_older_report_is_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("the report of last week", encoding="utf-8")

    assert run(*SMALL, "--out", str(out)).code == EXIT_FITS
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_data_and_settings_reach_the_page(run: Run, tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "report.html"
    data.write_text("".join(f'{{"text": "row {number} of a few words"}}\n' for number in range(200)), encoding="utf-8")
    answer = run(*SMALL, "--dataset", str(data), "--seq-len", "512", "--method", "lora", "--out", str(out))
    text = read(out.read_text(encoding="utf-8")).text

    assert answer.code == EXIT_FITS
    assert "rows.jsonl" in text
    assert "Whole run" in text


def test_charts_load_only_when_they_are_drawn() -> None:
    code = """
import planner.render.report, planner.cli.report, sys
assert not {"altair", "vl_convert", "torch"} & set(sys.modules)
"""

    subprocess.run([sys.executable, "-c", code], check=True)
