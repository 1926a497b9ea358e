"""The same rows in every format give the same data set."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.datasets import read
from planner.spec import Dataset
from tests.datasets.writing import CHAT, PAIR, TEXT, jsonl

ROWS = [{"prompt": f"What is {n} + {n}?", "completion": f'It is {2 * n}, "of course",\nas ever.'} for n in range(50)]


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_indented(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=4), encoding="utf-8")


def write_wrapped(path: Path) -> None:
    path.write_text(json.dumps({"version": 2, "data": ROWS}), encoding="utf-8")


def write_lines(path: Path) -> None:
    jsonl(path, ROWS)


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS), path, row_group_size=7)


def packed(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        plain = path.with_suffix("")
        write_lines(plain)
        path.write_bytes(compress(plain.read_bytes()))

    return write


def encoded(encoding: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS), encoding=encoding, newline="")

    return write


FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "json array": ("x.json", write_json),
    "indented array": ("x.json", write_indented),
    "array in an object": ("x.json", write_wrapped),
    "lines called json": ("x.json", write_lines),
    "array called jsonl": ("x.jsonl", write_json),
    "indented array called jsonl": ("x.jsonl", write_indented),
    "no suffix": ("rows", write_lines),
    "csv": ("x.csv", write_csv),
    "semicolons": ("x.csv", lambda path: write_csv(path, ";")),
    "tsv": ("x.tsv", lambda path: write_csv(path, "\t")),
    "parquet": ("x.parquet", write_parquet),
    "parquet without its suffix": ("x", write_parquet),
    "gzip": ("x.jsonl.gz", packed(gzip.compress)),
    "bzip2": ("x.jsonl.bz2", packed(bz2.compress)),
    "xz": ("x.jsonl.xz", packed(lzma.compress)),
    "byte order mark": ("x.jsonl", encoded("utf-8-sig")),
    "utf-16": ("x.jsonl", encoded("utf-16")),
    "utf-32": ("x.jsonl", encoded("utf-32")),
}


def counts(data: Dataset) -> tuple[object, ...]:
    return data.shapes, data.rows, data.bad_rows, data.lengths, data.supervised_tokens, data.whole


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    file, write = FILES[name]
    write(tmp_path / file)

    assert counts(read(tmp_path / file)) == counts(read(jsonl(tmp_path / "reference.jsonl", ROWS)))


def test_every_line_of_text_is_a_row_and_blank_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("one line\n\n   \nanother\r\nlast, without an end", encoding="utf-8")

    data = read(tmp_path / "x.txt")

    assert (data.format, data.shapes, data.bad_rows) == ("text", (("text", 3),), 0)


def test_messages_in_a_table_are_read_as_json(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["messages"], [json.dumps(CHAT["messages"])]])

    assert read(tmp_path / "x.csv").lengths == read(jsonl(tmp_path / "x.jsonl", [CHAT])).lengths


def test_an_object_with_one_conversation_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(CHAT, indent=1))

    assert read(tmp_path / "x.json").shapes == (("chat", 1),)


def test_mixed_shapes_are_counted_apart_and_said(tmp_path: Path) -> None:
    data = read(jsonl(tmp_path / "x.jsonl", [CHAT, CHAT, PAIR, TEXT]))

    assert data.shapes == (("chat", 2), ("prompt-completion", 1), ("text", 1))
    assert data.shape == "chat"
    assert any("several shapes" in note for note in data.notes)


def test_progress_ends_at_one_and_never_passes_it(tmp_path: Path) -> None:
    heard: list[float] = []

    read(jsonl(tmp_path / "x.jsonl", ROWS * 100), told=lambda done, _: heard.append(done))

    assert heard == sorted(heard)
    assert heard[-1] == 1.0
