"""The gate on predictions: what moved is listed, the largest first, and the changelog has to say so."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import moved, predictions
from benchmarks.moved import main, moves, section, told

LOG = """# Changelog

## Unreleased

### Added

- A command.

### Moved predictions

- Muon needs less:
  a matrix, not the embedding.

### Fixed

- A crash.

## 0.1.0

### Predictions

- First release.
"""


def answer(loss: int = 1000, low: int = 2000, high: int = 2400) -> dict[str, Any]:
    phases = {"load": {"weights": 500, "logits": 0}, "loss": {"weights": 500, "logits": loss - 500}}
    peak = {"allocated_bytes": loss, "required_bytes": 2 * loss, "low_bytes": low, "high_bytes": high}
    return {"phases": phases, "peak": peak}


def test_what_moved_the_largest_first() -> None:
    old = {name: answer() for name in ("same", "less", "more", "wider", "lost", "only old")} | {
        "won": {"refused": "no"}
    }
    new = {
        "same": answer(),
        "less": answer(900),
        "more": answer(1020),
        "wider": answer(high=2500),
        "lost": {"refused": "not any more"},
        "won": answer(),
        "only new": answer(),
    }

    found = moves(old, new)

    assert [(move.scenario, move.kind) for move in found] == [
        ("lost", "refused"),
        ("won", "answered"),
        ("less", "bytes"),
        ("more", "bytes"),
        ("wider", "interval"),
    ]
    assert (found[2].what, found[2].before, found[2].after, found[2].ratio) == ("required_bytes", 2000, 1800, -0.2)
    assert (found[4].what, found[4].ratio) == ("high_bytes", 0.1)


def test_an_owner_that_gives_to_another_is_a_move() -> None:
    new = answer()
    new["phases"]["loss"] = {"weights": 400, "logits": 600}

    (move,) = moves({"a": answer()}, {"a": new})

    assert (move.kind, move.ratio) == ("bytes", 0.1)
    assert move.what.startswith("loss ")


def test_refusals_in_other_words_are_no_move() -> None:
    assert moves({"a": {"refused": "no"}}, {"a": {"refused": "still no"}}) == ()


def test_the_section_of_the_changelog() -> None:
    assert list(section(LOG)) == ["- Muon needs less:", "a matrix, not the embedding.", "- First release."]
    assert not told(LOG, LOG)
    assert not told(LOG, LOG.replace("- A crash.", "- A crash.\n- Another."))
    assert not told(LOG.replace("Moved predictions", "Predictions"), LOG)
    assert told(LOG, LOG.replace("the embedding.", "the embedding.\n- Lion needs more."))


# ---------------------------------------------------------------- two revisions


def git(root: Path, *arguments: str) -> None:
    names = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *names, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: in the second, one prediction is larger; the working tree tells of it."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "docs").mkdir()
    for number, loss in enumerate((1000, 1100)):
        (tmp_path / "docs" / "changelog.md").write_text(LOG, encoding="utf-8")
        (tmp_path / "answers.json").write_text(json.dumps({"a": answer(loss), "b": answer()}), encoding="utf-8")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "-m", f"number {number}")
    (tmp_path / "docs" / "changelog.md").write_text(LOG.replace("- Muon", "- a is larger.\n- Muon"), encoding="utf-8")
    return tmp_path


def read(tree: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((tree / "answers.json").read_text(encoding="utf-8"))
    return found


def test_a_move_without_a_word_fails(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["HEAD~1", "HEAD"], root=repository, collect=read)

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[0] == "2 scenarios, 0 only in the old revision, 0 only in the new"
    assert lines[1].startswith("1 have other bytes, 0 the same bytes in another interval, 0 are no longer answered")
    assert sorted(lines[2].removeprefix("by number: ").split(", ")) == ["allocated 1", "an owner 1", "required 1"]
    assert lines[3] == "  +20.000%  a: required 2,000 -> 2,200"
    assert "no new line under 'Moved predictions'" in lines[4]


def test_a_move_that_is_told_passes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["HEAD~1"], root=repository, collect=read) == 0
    assert "tells of it" in capsys.readouterr().out


def test_nothing_moved_passes_and_no_worktree_is_left(repository: Path) -> None:
    assert main(["HEAD", "HEAD"], root=repository, collect=read) == 0

    trees = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(trees.stdout.splitlines()) == 1


def test_a_revision_that_is_not_there(repository: Path) -> None:
    with pytest.raises(SystemExit, match="git worktree add"):
        main(["no-such-revision"], root=repository, collect=read)


def test_an_interval_alone_is_counted_and_printed_on_request(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect: Callable[[Path], Any] = lambda tree: {"a": answer(high=2400 if tree != repository else 2500)}  # noqa: E731

    assert main(["HEAD"], root=repository, collect=collect) == 0
    assert "a: high" not in capsys.readouterr().out
    main(["HEAD", "--intervals"], root=repository, collect=collect)
    assert "+10.000%  a: high 2,400 -> 2,500" in capsys.readouterr().out


# ---------------------------------------------------------------- the real grid


def test_the_grid_reaches_every_model_and_setting() -> None:
    grid = predictions.collect(("llama-3.2-1b",))

    assert len(grid) == len(predictions.SETTINGS)
    assert [name for name, found in grid.items() if "refused" in found] == []
    assert len(predictions.models()) * len(predictions.SETTINGS) > 2000
    one = grid["llama-3.2-1b method=full"]
    assert sum(one["phases"]["load"].values()) >= 2 * 1_235_814_400  # 2 bytes for each parameter
    assert one["peak"]["low_bytes"] <= one["peak"]["required_bytes"] <= one["peak"]["high_bytes"]


def test_the_collector_runs_the_files_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        return real([*command, "gpt2"], **options)  # one model instead of all

    monkeypatch.setattr(subprocess, "run", run)
    found = moved.collected(moved.ROOT)

    assert list(found) == list(predictions.collect(("gpt2",)))
    expected = predictions.predicted("gpt2", {"method": "full"})
    assert found["gpt2 method=full"]["phases"] == json.loads(json.dumps(expected["phases"]))


def test_a_collector_that_finds_other_files_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.CompletedProcess([], 0, stdout='{"package": "/elsewhere/planner", "predictions": {}}')
    monkeypatch.setattr(subprocess, "run", lambda *_arguments, **_options: done)

    with pytest.raises(SystemExit, match="/elsewhere/planner was run instead"):
        moved.collected(tmp_path)
