"""Whatever the file holds: rows that cannot be used are counted, or one line says what is wrong."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.datasets import read
from planner.datasets import rows as limits
from planner.errors import PlannerError
from tests.datasets.writing import PAIR, jsonl

GOOD = json.dumps(PAIR).encode()


def refusal(path: Path) -> str:
    with pytest.raises(PlannerError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


FILES: list[tuple[str, bytes, str]] = [
    ("x.jsonl", b"", "is empty"),
    ("x.jsonl", b"\n \n", "is blank"),
    ("x.jsonl", b"\xef\xbb\xbf", "is blank"),
    ("x.json", b"[]", "holds no row"),
    ("x.json", b'[{"prompt": "a", "comp', "not valid JSON: Unterminated string"),
    ("x.json", b'{"prompt": \n "a", ', "not valid JSON"),
    ("x.json", b"3", "its only row cannot be used"),
    ("x.json", b"[" * 100_000, "nested too deeply"),
    ("x.json", b'[{"text": "\xe9"}]', "iconv"),
    ("x.jsonl", b"3\n4\n", "a JSON number where an object"),
    ("x.jsonl", b"[1]\n[2]\n", "a JSON array where an object"),
    ("x.jsonl", b'{"id": 1}\n{"id": 2}\n', "accepted columns: messages or conversations"),
    ("x.jsonl", '{"text": "é"}\n'.encode("latin-1"), "iconv"),
    ("x.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", "nested too deeply"),
    ("x.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "thousands of digits"),
    ("x.csv", b"prompt,completion\n", "holds no row"),
    ("x.csv", b"id,name\n1,x\n", "no column that we know among id, name"),
    ("x.csv", b"prompt,completion\na\nb,c,d\n", "1 cells under 2 headings"),
    ("x.parquet", b"PAR1 but no more", "no readable Parquet"),
    ("x.parquet", b"prompt,completion", "does not begin with PAR1"),
    ("x.jsonl.gz", b"not gzip at all", "no readable .gz"),
    ("x.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:40], "no readable .gz"),
    ("x.jsonl.gz", gzip.compress(b"", mtime=0), "is empty"),
    ("x.jsonl.zst", b"\x28\xb5\x2f\xfd", "unpack it first"),
    ("x.zip", b"PK\x03\x04", "unpack it first"),
    ("x.tar.gz", gzip.compress(GOOD, mtime=0), "unpack it first"),
    ("x.arrow", b"ARROW1", "to_parquet"),
    ("x.xlsx", b"PK\x03\x04", "save it as CSV"),
    ("weights.bin", b"\x00\x01\x02" * 99, "neither text nor Parquet"),
    ("x.csv", b"prompt,completion\ra,b\r", "old Macintoshes"),
]


@pytest.mark.parametrize(("name", "content", "why"), FILES)
def test_a_file_without_any_usable_row_is_one_line(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    if name.endswith(".parquet") and content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)

    assert why in refusal(tmp_path / name)


def test_what_is_no_file_is_one_line_that_says_what_would_work(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [PAIR])
    os.mkfifo(tmp_path / "pipe")

    assert "did you mean" in refusal(tmp_path / "tain.jsonl")
    assert "such as train.jsonl" in refusal(tmp_path)
    assert "not an ordinary file" in refusal(tmp_path / "pipe")
    assert "hf download" in refusal(Path("HuggingFaceH4/ultrachat_200k"))
    assert "not a usable path" in refusal(Path("a\0b"))


def test_bad_rows_are_counted_with_their_first_lines_and_reasons(tmp_path: Path) -> None:
    lines = [GOOD, b"{broken", GOOD, b'{"id": 3}', b"{broken too", b"\xff\xfe{}", b"{", b"null", GOOD]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))

    data = read(tmp_path / "x.jsonl")

    assert (data.rows, data.bad_rows) == (3, 6)
    assert data.faults[0].rows == 3
    assert data.faults[0].places == ("line 2", "line 5", "line 7")
    assert {one.places[0] for one in data.faults[1:]} == {"line 4", "line 6", "line 8"}


def test_lines_of_a_table_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('prompt,completion\n"a\nb",c\nonly one\nd,e\n')

    data = read(tmp_path / "x.csv")

    assert (data.rows, data.bad_rows, data.faults[0].places) == (2, 1, ("line 4",))


def test_odd_values_are_no_trouble(tmp_path: Path) -> None:
    lines = [
        b'{"text": "a", "text": "b"}',
        b'{"text": "nul \\u0000 and half a pair \\ud800", "score": NaN}',
        b'{"text": "x", "n": Infinity}',
        '{"text": "\u2028 is no line end"}'.encode(),
        b'{"text": "raw nul: \x00"}',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))

    data = read(tmp_path / "x.jsonl")

    assert (data.rows, data.bad_rows) == (4, 1)


def test_duplicates_are_counted_once_for_capacity(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [dict(PAIR), {**PAIR, "id": 2}, {**PAIR, "completion": "Green."}]
    data = read(jsonl(tmp_path / "x.jsonl", rows))

    assert data.duplicates == 1
    assert data.unique_tokens is not None
    assert data.supervised_tokens is not None
    assert data.unique_tokens < data.supervised_tokens
    assert data.job().learned_tokens == data.unique_tokens
    assert data.job().tokens == data.tokens


def test_a_line_that_never_ends_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.datasets.lines.LINE_LIMIT", 1000)
    monkeypatch.setattr("planner.datasets.lines.STRIDE", 100)
    (tmp_path / "x.jsonl").write_bytes(GOOD + b'\n{"text": "' + b"x" * 5000 + b'"}\n' + GOOD + b"\n")

    data = read(tmp_path / "x.jsonl")

    assert data.rows == 2
    assert any("longer than" in one.reason for one in data.faults)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=60), st.just(GOOD), st.text(max_size=40).map(lambda text: text.encode()))))
def test_any_bytes_between_good_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.jsonl"
    path.write_bytes(b"\n".join([GOOD, *lines, GOOD]) + b"\n")

    data = read(path)

    assert data.rows >= 2
    assert data.rows + data.bad_rows == data.read_rows


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "chosen", "rejected", "text", "role", "x"]
)
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), VALUES, max_size=4)


@settings(max_examples=200)
@given(st.lists(st.dictionaries(NAMES, VALUES | st.lists(MESSAGE, max_size=3), max_size=4), max_size=5))
def test_any_values_under_known_names(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [PAIR, *rows]), encoding="utf-8")

    data = read(path)

    assert data.rows + data.bad_rows == len(rows) + 1
    assert data.lengths.sequences >= data.rows
    assert all(one.reason and "\n" not in one.reason for one in data.faults)


@settings(max_examples=100)
@given(
    st.sampled_from(["x.csv", "x.tsv", "x.json", "x.txt", "x.parquet", "x.gz", "x"]),
    st.binary(min_size=1, max_size=200),
)
def test_any_bytes_in_any_format(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)

    try:
        assert read(path).rows
    except PlannerError as error:
        assert "\n" not in str(error)  # noqa: PT017  (both ends are right)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=5))
def test_a_table_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    rows = [(a.encode("utf-8", "replace").decode(), b.encode("utf-8", "replace").decode()) for a, b in rows]
    path = tmp_path_factory.mktemp("fuzz") / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("prompt", "completion"), *rows])

    data = read(path)

    assert (data.rows, data.bad_rows) == (len(rows), 0)


def test_limits_are_in_order() -> None:
    assert limits.TOKENIZED.whole <= limits.QUICK.whole <= limits.WHOLE_BYTES
    assert limits.TOKENIZED.sample < limits.TOKENIZED.whole
