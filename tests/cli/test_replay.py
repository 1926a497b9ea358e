"""``plan trace --replay``: a recorded history beside its replays, and one line for every bad file."""

import json
import pickle
from pathlib import Path

import pytest

from planner.allocator.config import Settings
from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.allocator.snapshot import write
from planner.cli import main
from planner.units import MIB
from tests.allocator.steps import Model, train
from tests.test_architecture import FRAMEWORKS, loaded_by

MODEL = train(Model(5))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """What a device with growing segments recorded."""
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(write(MODEL, Settings(expandable_segments=True)))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["trace", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_recorded_and_replayed_stand_side_by_side(capsys: pytest.CaptureFixture[str], snapshot: Path) -> None:
    code, out, err = run(capsys, "--replay", snapshot, "--format", "json")
    found = json.loads(out)

    assert (code, err, found["difference"]) == (0, "", 0.0)
    assert found["recorded"]["expandable_segments"] is True
    assert found["recorded"]["events"] == len(MODEL.events)
    assert found["replayed"][0]["alloc_conf"] == "expandable_segments:True"
    assert found["replayed"][0]["reserved_bytes"] == found["recorded"]["reserved_bytes"]
    assert found["replayed"][1]["alloc_conf"] == ""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: Path, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(snapshot.parent)
    code, out, err = run(capsys, "--replay", snapshot.name, "--alloc-conf", "max_split_size_mb:64")

    assert (code, err) == (0, "")
    assert "max_split_size_mb:64" in out
    assert "as recorded" in out
    assert [line for line in out.splitlines() if len(line) > columns] == []


def test_a_replay_that_is_off_says_so(capsys: pytest.CaptureFixture[str], snapshot: Path) -> None:
    data = pickle.loads(snapshot.read_bytes())
    data["segments"].append({**data["segments"][0], "blocks": [], "address": 2**44, "total_size": 2**30})
    snapshot.write_bytes(pickle.dumps(data))
    _, out, _ = run(capsys, "--replay", snapshot)

    assert "against the recording" in " ".join(out.split())


def test_requests_that_failed_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "failed.pickle"
    blocks = (Block(20 * MIB, "weights", "w"), Block(30 * MIB, "weights", "w"))
    path.write_bytes(write(Trace(blocks, (0, 1), (OUTSIDE,) * 2, (Mark(0, "load", 0),)), capacity=40 * MIB))
    _, out, _ = run(capsys, "--replay", path)

    assert "Requests that failed while it recorded: 1." in " ".join(out.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is broken"),
        (b"not a pickle", "the file is broken"),
        (pickle.dumps({"device_traces": []}), "not a CUDA memory snapshot"),
        (pickle.dumps({"device_traces": [[]], "segments": []}), "holds no history"),
        (pickle.dumps(Path), "plain data names nothing"),
    ],
)
def test_a_bad_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.pickle"
    path.write_bytes(content)
    code, out, err = run(capsys, "--replay", path)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model", "8b"), "--model says nothing beside --replay"),
        (("--all-layers",), "--all-layers says nothing"),
        (("--alloc-conf", "nonsense"), "PYTORCH_ALLOC_CONF"),
        (("--device", "7"), "device 7: the snapshot has devices 0 to 0"),
    ],
)
def test_options_beside_the_point_are_refused(
    capsys: pytest.CaptureFixture[str], snapshot: Path, more: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, "--replay", snapshot, *more)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize("name", ["/nowhere/to/be/found", "/", "a\0b"])
def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capsys, "--replay", name)

    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_device_without_a_snapshot_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--model", "8b", "--gpu", "4090", "--device", "1")

    assert code == 2
    assert "belongs to --replay" in err


def test_a_replay_loads_no_framework() -> None:
    assert loaded_by("import planner.cli.replay") & FRAMEWORKS == set()
