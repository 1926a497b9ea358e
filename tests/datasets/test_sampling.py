"""A large file is sampled: unbiased, within its stated error, the same each time, in little memory."""

import csv
import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.datasets import read
from planner.datasets.rows import Budget
from planner.datasets.tally import Counted, condensed, ratio_standard_error, scaled_lengths
from planner.spec import Dataset, Lengths
from tests.datasets.writing import jsonl

SMALL = Budget(whole=20_000, sample=20_000, rows=10**9)
ROWS = 3000


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 20 kB count as large, and blocks are short."""
    monkeypatch.setattr("planner.datasets.reading.QUICK", SMALL)
    monkeypatch.setattr("planner.datasets.lines.BLOCK", 500)
    monkeypatch.setattr("planner.datasets.tables.BLOCK", 500)
    monkeypatch.setattr("planner.datasets.parquet.BATCH", 20)
    monkeypatch.setattr("planner.datasets.documents.STRIDE", 5)


def rows(seed: int, *, count: int = ROWS, bad: float = 0.0) -> list[dict[str, object]]:
    """Rows of very different length: the standard deviation is near the mean."""
    draw = random.Random(seed)
    made: list[dict[str, object]] = []
    for number in range(count):
        text = "word " * (1 + int(draw.lognormvariate(2.5, 0.8)))
        made.append({"id": number} if draw.random() < bad else {"text": f"{number} {text}"})
    return made


def whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    with monkeypatch.context() as patch:
        patch.setattr("planner.datasets.reading.QUICK", Budget(10**9, 10**9, 10**9))
        return read(path)


def write_csv(path: Path, made: list[dict[str, object]]) -> Path:
    """Every third field has quotes, commas and line ends inside."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        for number, row in enumerate(made):
            extra = ' said "yes", and\nwent on, "no"\n' if number % 3 == 0 else ""
            writer.writerow([number, f"{row.get('text', 'nothing')}{extra}"])
    return path


def write_parquet(path: Path, made: list[dict[str, object]]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([{"text": row["text"]} for row in made]), path, row_group_size=20)
    return path


def write_json(path: Path, made: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps(made))
    return path


def write_text(path: Path, made: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(str(row["text"]) for row in made))
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, object]]], Path]] = {
    "x.jsonl": jsonl,
    "x.txt": write_text,
    "x.csv": write_csv,
    "x.json": write_json,
    "x.parquet": write_parquet,
}


@pytest.mark.usefixtures("small_budget")
@pytest.mark.parametrize("name", WRITERS)
def test_a_sample_is_within_four_standard_errors_of_the_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = WRITERS[name](tmp_path / name, rows(1))

    part, truth = read(path), whole(path, monkeypatch)

    assert truth.whole
    assert part.read_share < 0.5
    assert part.standard_error
    assert abs(part.tokens - truth.tokens) < 4 * part.standard_error
    assert part.standard_error < 0.1 * truth.tokens
    assert part.rows == pytest.approx(truth.rows, rel=0.15)
    assert part.bad_rows == truth.bad_rows == 0
    assert part.quantile(0.5) == pytest.approx(truth.quantile(0.5), rel=0.2)


@pytest.mark.usefixtures("small_budget")
def test_the_stated_error_holds_as_often_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 of 10 intervals of 1.645 standard errors hold the truth: of 60, at least 47 do in 999 of 1000 such tests.

    Counts of sequences are whole numbers, which moves the tokens of so small a file by half of its longest row.
    """
    held = 0
    for seed in range(60):
        path = jsonl(tmp_path / "x.jsonl", rows(seed, count=1000))
        monkeypatch.setattr("planner.datasets.lines.SEED", seed)
        part, truth = read(path), whole(path, monkeypatch)
        assert part.standard_error
        held += abs(part.tokens - truth.tokens) <= 1.645 * part.standard_error + truth.lengths.longest / 2

    assert held >= 47


@pytest.mark.usefixtures("small_budget")
def test_bad_rows_are_scaled_too_and_named_by_byte(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", rows(2, bad=0.2))

    data = read(path)

    assert data.bad_rows == pytest.approx(0.2 * ROWS, rel=0.4)
    assert data.faults[0].places[0].startswith("byte ")
    at = int(data.faults[0].places[0].removeprefix("byte ").replace(",", ""))
    assert path.read_bytes()[at:].startswith(b'{"id"')


@pytest.mark.usefixtures("small_budget")
def test_the_same_file_gives_the_same_answer(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", rows(3))

    assert read(path) == read(path)


@pytest.mark.usefixtures("small_budget")
def test_every_line_can_be_drawn_and_long_ones_are_not_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the bytes are in one line of a hundred: drawing lines by byte would make these half of the rows."""
    made = [{"text": "x" * (9900 if number % 100 == 0 else 100)} for number in range(4000)]
    path = jsonl(tmp_path / "x.jsonl", made)
    monkeypatch.setattr("planner.datasets.reading.QUICK", Budget(20_000, 150_000, 10**9))

    data = read(path)

    assert data.rows == pytest.approx(4000, rel=0.5)
    assert sum(count for length, count in data.lengths.counts if length > 1000) < 0.04 * data.rows


@pytest.mark.usefixtures("small_budget")
def test_the_head_of_a_compressed_file_is_no_random_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.datasets.files.WHOLE_BYTES", 50_000)
    monkeypatch.setattr("planner.datasets.reading.QUICK", Budget(50_000, 50_000, 10**9))
    draw = random.Random(4)
    plain = jsonl(
        tmp_path / "x.jsonl", [{"text": draw.randbytes(draw.randint(50, 400)).hex()} for _ in range(ROWS)]
    ).read_bytes()
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(plain))

    data = read(tmp_path / "x.jsonl.gz")

    assert not data.whole
    assert not data.random
    assert data.standard_error is None
    assert any("only its head was read" in note for note in data.notes)
    assert data.rows == pytest.approx(ROWS, rel=0.3)


def test_memory_stays_small_whatever_the_file(tmp_path: Path) -> None:
    """100 MB of rows, read by a sample, in less than 40 MB of Python objects."""
    line = json.dumps({"text": "some words " * 900}) + "\n"
    (tmp_path / "x.jsonl").write_text(line * 10_000)
    tracemalloc.start()
    try:
        data = read(tmp_path / "x.jsonl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert data.rows == pytest.approx(10_000, rel=0.1)
    assert peak < 40e6


def test_standard_error_by_hand() -> None:
    """Sizes 10, 10, tokens 4, 6: ratio 0.5, residuals -1 and 1, s2 = 2; of 4 clusters: 4 * sqrt(0.5 / 2 * 2)."""
    found = [Counted(10, 4), Counted(10, 6)]

    assert ratio_standard_error(found, size=40, total=4) == pytest.approx(4 * 0.5**0.5)
    assert ratio_standard_error(found, size=20, total=2) == 0.0


def test_scaling_keeps_the_sum_of_counts() -> None:
    found = {length: 1 + length % 3 for length in range(1, 200)}

    assert scaled_lengths(found, 7.3).sequences == round(sum(found.values()) * 7.3)


def test_condensing_keeps_sequences_tokens_and_the_longest() -> None:
    draw = random.Random(0)
    found: dict[int, int] = {}
    for _ in range(20_000):
        length = 1 + int(draw.lognormvariate(6, 1.2))
        found[length] = found.get(length, 0) + 1
    exact = Lengths(tuple(sorted(found.items())))

    few = condensed(exact)

    assert len(few.counts) < 700 < len(exact.counts)
    assert (few.sequences, few.tokens, few.longest) == (exact.sequences, exact.tokens, exact.longest)
    assert few.attended == pytest.approx(exact.attended, rel=1e-3)
    assert few.padded(8) == pytest.approx(exact.padded(8), rel=1e-3)
    assert few.truncated(1024).tokens == pytest.approx(exact.truncated(1024).tokens, rel=1e-3)
