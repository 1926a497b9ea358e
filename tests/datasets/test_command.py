"""``plan dataset``: what it prints, in all formats and widths, and how it refuses."""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.render.dataset import Setting, dataset_line, dataset_sheets, histogram
from planner.spec import Dataset, Lengths
from tests.datasets.test_packing import dataset
from tests.datasets.writing import CHAT, PAIR, jsonl

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "conversions.jsonl"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def test_json_holds_what_the_tables_show(capsys: Capture) -> None:
    assert main(["dataset", str(EXAMPLE), "--format", "json", "--seq-len", "128", "--micro-batch-size", "4"]) == 0

    found = json.loads(capsys.readouterr().out)

    assert (found["rows"], found["bad_rows"], found["duplicates"]) == (59, 2, 3)
    assert found["tokens"] == sum(length * count for length, count in found["lengths"]["counts"])
    assert found["low_tokens"] < found["tokens"] < found["high_tokens"]
    assert (found["waste"]["seq_len"], found["waste"]["micro_batch_size"]) == (128, 4)
    assert found["waste"]["truncated_tokens"] > 0
    assert 0 < found["waste"]["padding"] < 1


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_text_is_never_wider_than_the_terminal(columns: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["dataset", str(EXAMPLE)]) == 0

    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_markdown_is_tables(capsys: Capture) -> None:
    assert main(["dataset", str(EXAMPLE), "--format", "markdown"]) == 0

    out = capsys.readouterr().out
    assert out.startswith("## conversions.jsonl")
    assert out.count("\n| ---") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dataset",), "a file is missing"),
        (("dataset", "no-such-file.jsonl"), "no such file"),
        (("dataset", str(EXAMPLE), "--seq-len", "0"), "--seq-len 0"),
        (("dataset", str(EXAMPLE), "--micro-batch-size", "-2"), "--micro-batch-size -2"),
        (("dataset", str(EXAMPLE), "--model", "no-such-model"), "unknown model"),
        (("dataset", str(EXAMPLE), "--task", "dop"), "did you mean dpo"),
        (("dataset", str(EXAMPLE), "--task", "dpo"), "which dpo compares"),
        (("dataset", str(EXAMPLE), "--format", "pdf"), "unknown format"),
        (("dataset", str(EXAMPLE), "--tokenizer", "nowhere/at-all"), "hf download nowhere/at-all"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str, capsys: Capture) -> None:
    assert main(list(arguments)) == 2

    answer = capsys.readouterr()
    assert answer.out == ""
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_names_from_a_file_reach_no_terminal_as_they_are(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(PAIR) + '\n{"\\u001b[2J": 1}\n')

    assert main(["dataset", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_model_bounds_what_is_suggested(tmp_path: Path, capsys: Capture) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"text": "word " * 40_000}])

    main(["dataset", str(path), "--model", "gpt2", "--format", "json"])

    assert json.loads(capsys.readouterr().out)["suggested_seq_len"] == 1024


def text_of(data: Dataset, *, ascii_only: bool = False) -> str:
    sheets = dataset_sheets(data, Setting(512), ascii_only=ascii_only)
    return "\n".join(cell.text for sheet in sheets for cells in sheet.rows for cell in cells)


def test_a_terminal_without_blocks_gets_ascii() -> None:
    data = dataset([10, 20, 30, 500, 4000])

    assert not text_of(data).isascii()
    assert text_of(data, ascii_only=True).isascii()


def test_one_line_for_the_head_of_a_plan() -> None:
    assert dataset_line(dataset([10, 20, 600])) == (
        "x.jsonl: 3 rows (text), 630 tokens a pass, p50 20, p99 600, longest 600"
    )


def test_the_histogram_counts_sequences() -> None:
    """Lengths 1 and 100 are its ends; the many stand tallest."""
    drawn = histogram(Lengths(((1, 1), (10, 8), (100, 4))))

    assert drawn.startswith("1 ▁")
    assert drawn.endswith("▄ 100")
    assert drawn.count("█") == 1


def test_a_chat_file_says_how_much_is_answers(tmp_path: Path, capsys: Capture) -> None:
    main(["dataset", str(jsonl(tmp_path / "x.jsonl", [CHAT]))])

    assert "answers alone" in capsys.readouterr().out
