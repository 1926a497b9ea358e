"""Anybody's file may come in: it is read as plain data, or refused in one line, and nothing of it is executed."""

import contextlib
import io
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner.configs.document import MOST_BYTES, MOST_DEPTH, parse_document, read_document
from planner.errors import BrokenInput

BOMB = """
a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("x:\n  a: 1\n  a: 2", "the key 'a' stands twice"),
        ("a: !!python/object/apply:os.system [touch hacked]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !include other.yaml", "could not determine a constructor"),
        ("a: 1\n---\na: 1", "several YAML documents"),
        ("", "holds no settings: nothing stands"),
        ("- a\n- b", "holds no settings: a list stands"),
        ("only words", "holds no settings: a text stands"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: *nowhere", "undefined alias"),
        ("a:\n  b: &r\n    c: *r\n", "recursive"),
        ("a: " + "[" * 5000, f"nested more than {MOST_DEPTH} levels deep"),
        ("a: " + "[" * (MOST_DEPTH + 3) + "]" * (MOST_DEPTH + 3), f"nested more than {MOST_DEPTH} levels deep"),
        (BOMB, "unfolds to more than"),
        ("? [a]\n: 3", "is not text: write it in quotes"),
        ("a: " + "9" * 5000, "is no YAML"),
    ],
)
def test_yaml_that_is_no_configuration_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as found:
        parse_document(text, "sft.yml")

    assert str(found.value).startswith("sft.yml")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"x": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": Infinity}', "Infinity is no number"),
        ('{"a": 1', "line 1: "),
        ('{"a":' * 50_000, "nested more than"),
        ('{"a": ' + "9" * 5000 + "}", "is no JSON"),
    ],
)
def test_json_that_is_no_configuration_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as found:
        parse_document(text, "args.json")

    assert "\n" not in str(found.value)


def test_values_are_read_as_the_trainers_read_them() -> None:
    found = parse_document("rate: 1e-4\nday: 2024-01-01\non: yes\n8: x\nmany: 1_000", "sft.yml").data

    assert found == {"rate": "1e-4", "day": "2024-01-01", "on": True, "8": "x", "many": 1000}


def test_a_merge_key_lays_one_mapping_under_another() -> None:
    found = parse_document("base: &base {lora_r: 8, lora_alpha: 16}\nrun:\n  <<: *base\n  lora_r: 32\n", "sft.yml").data

    assert found["run"] == {"lora_r": 32, "lora_alpha": 16}


def test_a_yaml_file_may_hold_json_and_a_json_file_tabs() -> None:
    assert parse_document('{"a": 1}', "sft.yaml").data == {"a": 1}
    assert parse_document('\t{\n\t"a": 1\n}', "ds.json").data == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfmicro_batch_size: 2\r\n",
        "\ufeffmicro_batch_size: 2\n".encode("utf-16-le"),
        "\ufeffmicro_batch_size: 2\n".encode("utf-16-be"),
        b"# caf\xc3\xa9\nmicro_batch_size: 2\n",
    ],
    ids=["utf-8 with mark", "utf-16-le", "utf-16-be", "utf-8"],
)
def test_encodings_that_say_what_they_are(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "sft.yml").write_bytes(content)

    assert read_document(tmp_path / "sft.yml").data == {"micro_batch_size": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# caf\xe9\na: 1\n", "is not UTF-8 text: save it as UTF-8"),
        (b"a: 1\0\n", "there are zero bytes in it"),
        (b"a: 1\n" + b"#" * MOST_BYTES, "is larger than 256 KiB"),
        (bytes(range(256)), "is not UTF-8 text"),
    ],
)
def test_files_that_are_no_text_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "sft.yml").write_bytes(content)

    with pytest.raises(BrokenInput, match=message):
        read_document(tmp_path / "sft.yml")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is no file"),
        (tmp_path / "absent.yml", "does not exist"),
        (Path("a\0b"), "does not exist|cannot read"),
        (tmp_path / ("x" * 5000), "cannot read|does not exist"),
    ):
        with pytest.raises(BrokenInput, match=message):
            read_document(path)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "sft.yml"
    path.write_text("a: 1")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")

    with pytest.raises(BrokenInput, match="Permission denied"):
        read_document(path)


def _piped(path: Path, content: bytes) -> threading.Thread:
    """A pipe into which something writes ``content``."""

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads it all
            path.write_bytes(content)

    os.mkfifo(path)
    writer = threading.Thread(target=write)
    writer.start()
    return writer


def test_a_pipe_is_read_where_the_user_names_it(tmp_path: Path) -> None:
    writer = _piped(tmp_path / "pipe", b'{"micro_batch_size": 2}')
    found = read_document(tmp_path / "pipe", piped=True)
    writer.join()

    assert (found.data, found.format) == ({"micro_batch_size": 2}, "json")


def test_a_pipe_is_read_no_further_than_a_configuration_goes(tmp_path: Path) -> None:
    writer = _piped(tmp_path / "pipe", b"#" * 4 * MOST_BYTES)

    with pytest.raises(BrokenInput, match="pipe is larger than 256 KiB"):
        read_document(tmp_path / "pipe", piped=True)
    writer.join()


def test_what_a_shell_passes_lies_in_no_folder() -> None:
    """Names of other files in it are taken from where the command runs."""
    read, write = os.pipe()
    os.write(write, b"micro_batch_size: 2")
    os.close(write)
    path = Path("/dev/fd") / str(read)
    if not path.exists():
        pytest.skip("this system has no /dev/fd")
    found = read_document(path, piped=True)
    os.close(read)

    assert (found.name, found.folder) == (str(path), Path())


def test_standard_input_is_read_where_the_user_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, form in ((b"micro_batch_size: 2", "yaml"), (b'{"micro_batch_size": 2}', "json")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), closed=False))
        found = read_document("-", piped=True)

        assert (found.name, found.folder, found.format) == ("stdin", Path(), form)
        assert found.data == {"micro_batch_size": 2}


def test_standard_input_that_is_closed_or_endless_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BrokenInput, match="is closed"):
        read_document("-", piped=True)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"#" * 2 * MOST_BYTES), closed=False))
    with pytest.raises(BrokenInput, match="stdin is larger than 256 KiB"):
        read_document("-", piped=True)


@pytest.mark.parametrize("name", ["rows.csv", "rows.JSONL", "rows.parquet"])
def test_data_are_no_configuration(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("prompt,answer\na,b\n")

    with pytest.raises(BrokenInput, match=f"{name} is a file of data"):
        read_document(tmp_path / name)
