"""Lengths of ragged batches, from a file to recorded steps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import BrokenInput, UsageError
from planner.trace.lengths import plan_steps, read_lengths


def write(folder: Path, text: str) -> Path:
    path = folder / "lengths.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_one_length_a_line(tmp_path: Path) -> None:
    assert read_lengths(write(tmp_path, "512\n1024 # the long one\n\n 256\n")) == (512, 1024, 256)


def test_a_histogram_is_dealt_out(tmp_path: Path) -> None:
    found = read_lengths(write(tmp_path, "512,2\n1024, 2\n"))

    assert sorted(found) == [512, 512, 1024, 1024]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no length"),
        ("# nothing", "holds no length"),
        ("long", "line 1: 'long' is not a length"),
        ("512\n-3", "line 2: '-3' is not a length"),
        ("0", "outside 1 to"),
        ("512,0", "outside 1 to"),
        ("99999999", "outside 1 to"),
    ],
)
def test_what_is_no_length_is_refused_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BrokenInput, match=message):
        read_lengths(write(tmp_path, text))


def test_too_many_steps(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than 10,000 steps"):
        read_lengths(write(tmp_path, "512,999999"))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BrokenInput, match="no such file"):
        read_lengths(tmp_path / "absent")
    with pytest.raises(BrokenInput, match="not a text file"):
        read_lengths(tmp_path / "binary")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_no_step_is_recorded_shorter_than_it_is(lengths: list[int]) -> None:
    found = plan_steps(lengths)
    taken = [found.recorded[place] for place in found.order]

    assert all(one >= length for one, length in zip(taken, lengths, strict=True))
    assert max(taken) == max(lengths) == found.recorded[0]
    assert len(found.recorded) <= 17
