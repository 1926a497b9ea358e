"""What fuzzing has found stays mended, every reader still stands a few damaged files, and the harness sees faults."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzz import engine
from fuzz.__main__ import is_here, main
from fuzz.targets import BY_NAME, TARGETS, Target
from planner.errors import BrokenInput

CASES = sorted(path for path in engine.CASES.glob("*/*") if path.is_file())


def here(target: Target) -> Target:
    if not is_here(target):
        pytest.skip(f"{target.needs} is not installed")
    return target


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_mended(path: Path) -> None:
    engine.hold(here(BY_NAME[path.parent.name]), path.read_bytes())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_are_read_or_refused(target: Target) -> None:
    found = engine.attempt(here(target), 12)

    assert found is None, found


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_read_before_they_are_damaged(target: Target, tmp_path: Path) -> None:
    """Else only refusals would be fuzzed. Lines of seeds may be of several kinds, so one file of many is enough."""
    answered = []

    def read(path: Path) -> None:
        target.read(path)
        answered.append(path)

    if target.name in ("words", "message"):
        pytest.skip("its seed is a list of words, which are read one by one")
    engine.attempt(Target(target.name, target.file, read, here(target).files), 40)

    assert answered


# ---------------------------------------------------------------- the harness


def reader(path: Path) -> None:
    data = path.read_bytes()
    if b"!" in data:
        raise KeyError("a fault")
    if b"?" in data:
        raise BrokenInput("refused")


def target(read: object = reader) -> Target:
    return Target("own", "own.txt", read, lambda: st.binary(max_size=50))  # type: ignore[arg-type]


def test_a_fault_is_found_shrunk_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CASES", tmp_path)
    monkeypatch.setattr(engine, "DATABASE", tmp_path / "database")

    _, found = engine.fuzz(target(), 60)

    assert found is not None
    assert (found.data, isinstance(found.error, KeyError)) == (b"!", True)
    assert engine.keep(found).read_bytes() == b"!"


def test_a_refusal_is_none(tmp_path: Path) -> None:
    engine.hold(target(), b"?")


@pytest.mark.parametrize("text", ["two\nlines", "x" * 2000])
def test_a_refusal_must_be_one_line(text: str) -> None:
    def refuse(_path: Path) -> None:
        raise BrokenInput(text)

    with pytest.raises(AssertionError):
        engine.hold(target(refuse), b"")


def test_a_reader_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 1)

    with pytest.raises(TimeoutError):
        engine.hold(target(lambda _path: time.sleep(30)), b"")


def test_a_reader_that_ends_its_process_is_a_finding() -> None:
    deadly = Target("own", "own.txt", lambda _path: os.abort(), lambda: st.binary(), needs="os")

    with pytest.raises(AssertionError, match="ended its process with -6"):
        engine.survive(deadly, b"")


def test_the_command_keeps_to_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = time.monotonic()

    assert main(["lengths", "--seconds", "1"]) == 0
    assert time.monotonic() - before < 300  # of a busy machine
    assert capsys.readouterr().out.startswith("lengths ")
