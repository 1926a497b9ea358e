"""``plan measure`` with ``--find-max-*``, ``--layers auto`` and ``--matrix``: what it prints, refuses and keeps."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.cli import limits, main, matrices
from planner.cli import measure as steps
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks, cases
from planner.measure.cases import Tools
from planner.measure.values import Outcome
from planner.records import Record
from planner.result import Memory
from planner.spec import Scenario
from planner.units import GIB, MIB

Make = Callable[..., Measurement]
PROCESSOR = Device("cpu", "A processor", 64 * GIB)


def bytes_of(scenario: Scenario, layers: int | None) -> int:
    return MIB * (layers or scenario.model.num_hidden_layers) + MIB * scenario.train.micro_batch_size


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, measured: Make) -> list[tuple[int, int | None]]:
    """No child is started; what would have been measured: batch and layers."""
    found: list[tuple[int, int | None]] = []

    def predict(scenario: Scenario, _device: str, *, layers: int | None = None, **_options: Any) -> Prediction:
        phases = {"backward": Memory(weights=bytes_of(scenario, layers))}
        return Prediction("traced", Memory(), phases, phases)  # type: ignore[arg-type]

    def measure(scenario: Scenario, _device: str, **options: Any) -> Measurement:
        found.append((scenario.train.micro_batch_size, options["layers"]))
        count, cap = bytes_of(scenario, options["layers"]), options["cap_bytes"]
        outcome: Outcome = "done" if cap is None or count <= cap else "out_of_memory"
        made = tuple(StepPeaks(n, 0.5, (PhasePeak("backward", count),)) for n in range(options["steps"]))
        return measured(
            scenario=scenario,
            layers=options["layers"],
            outcome=outcome,
            device=PROCESSOR,
            steps=made if outcome == "done" else (),
            cap_bytes=cap,
        )

    for module in (steps, limits, matrices):
        for name, stand_in in (("look", lambda: PROCESSOR), ("predict", predict), ("measure", measure)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
    tools = Tools(predict=predict, measure=measure)
    monkeypatch.setattr(matrices, "perform", lambda one, device, versions: cases.perform(one, device, versions, tools))
    monkeypatch.setattr(matrices, "installed_versions", lambda: {"torch": "2.13.0", "transformers": "5.23.0"})
    for module in (steps, cases):
        monkeypatch.setattr(module, "check_libraries", lambda *_args, **_options: None)
    monkeypatch.setenv("PLANNER_DATA_DIR", "off")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["measure", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# ---------------------------------------------------------------- limits


def test_the_largest_batch(capsys: pytest.CaptureFixture[str], asked: list[Any], model: Path) -> None:
    # three layers and b sequences of 1 MiB each: 8 MiB hold 5
    code, out, err = run(capsys, "--model", model, "--cap", "8MiB", "--find-max-batch")

    assert (code, err) == (0, "")
    assert [batch for batch, _ in asked] == [5, 6, 5, 6]
    rows = [line.split() for line in out.splitlines()]
    assert ["largest", "that", "ran", "5", "measured"] in rows
    assert ["smallest", "that", "ran", "out", "of", "memory", "6", "measured"] in rows
    assert ["largest", "that", "fits", "5", "traced"] in rows
    assert [line for line in out.splitlines() if len(line) > 100] == []


def test_the_longest_sequence_as_json(capsys: pytest.CaptureFixture[str], asked: list[Any], model: Path) -> None:
    options = ("--model", model, "--cap", "8MiB", "--find-max-seq", "--seq-step", 16, "--format", "json")
    code, out, _ = run(capsys, *options)
    found = json.loads(out)

    assert code == 0
    assert asked
    assert (found["dimension"], found["step"], found["largest_ran"]) == ("seq_len", 16, 64)
    assert (found["smallest_failed"], found["exact"]) == (None, True)


@pytest.mark.usefixtures("asked")
def test_nothing_runs_at_all(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capsys, "--model", model, "--cap", "3MiB", "--find-max-batch")

    assert code == 4
    assert ["largest", "that", "ran", "none", "measured"] in [line.split() for line in out.splitlines()]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--find-max-batch",), "needs --cap"),
        (("--find-max-batch", "--find-max-seq", "--cap", "1GiB"), "one of them at a time"),
        (("--find-max-seq", "--layers", "2", "--cap", "1GiB"), "--layers is for one run"),
        (("--find-max-seq", "--seq-step", "65", "--cap", "1GiB"), "--seq-step 65 is outside 1 to 64"),
        (("--layers", "some"), "--layers 'some' is not a whole number"),
    ],
)
def test_what_cannot_be_searched(
    capsys: pytest.CaptureFixture[str], model: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, "--model", model, *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


# ---------------------------------------------------------------- first layers


def test_a_model_that_is_too_large(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: list[Any], model: Path
) -> None:
    monkeypatch.setattr(steps, "fits", lambda *args: len(args) > 3 and args[3] <= 2)
    code, out, err = run(capsys, "--model", model, "--layers", "auto")
    text = " ".join(out.split())

    assert (code, err) == (0, "")
    assert [layers for _, layers in asked] == [1, 2]
    assert "3 backward 4.00 MiB" in text
    assert "extrapolated" in text
    assert (
        "For the whole model, in traces, it gives 4.00 MiB of 4.00 MiB: expect an error of +0.00% in the peak." in text
    )
    assert "The model did not run whole" in text

    _, out, _ = run(capsys, "--model", model, "--layers", "auto", "--format", "json")
    found = json.loads(out)["extrapolation"]
    assert (found["layers"], found["measured_layers"], found["check"]["basis"]) == (3, [1, 2], "traced")


def test_a_model_that_fits_is_measured_whole(capsys: pytest.CaptureFixture[str], asked: list[Any], model: Path) -> None:
    code, out, _ = run(capsys, "--model", model, "--layers", "auto")

    assert (code, asked) == (0, [(1, None)])
    assert "all of its layers were measured" in " ".join(out.split())


@pytest.mark.usefixtures("asked")
def test_a_history_is_of_one_run(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "--model", model, "--layers", "auto", "--snapshot", tmp_path / "a.pickle")

    assert code == 2
    assert "--layers N" in err


# ---------------------------------------------------------------- matrix


@pytest.fixture
def grid(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(
        f'[[block]]\nname = "a"\nmodel = "{model}"\nmethod = ["full", "lora"]\nstack = "hf"\nseq_len = 16\n'
        '[[block]]\nname = "b"\nmodel = "llama-3.1-405b"\nmethod = "full"\n',
        encoding="utf-8",
    )
    return path


def test_a_matrix(capsys: pytest.CaptureFixture[str], asked: list[Any], grid: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "out.jsonl"
    code, out, err = run(capsys, "--matrix", grid, "--out", out_file)
    text = " ".join(out.split())

    assert (code, err, len(asked)) == (0, "", 2)
    assert "2 finished, 2 of them now; 1 do not run here" in text
    assert "+0.00%" in text
    assert len(out_file.read_text(encoding="utf-8").splitlines()) == 2

    code, out, _ = run(capsys, "--matrix", grid, "--out", out_file, "--format", "json")
    assert (code, len(asked)) == (0, 2)
    found = json.loads(out)
    assert [one["fresh"] for one in found["finished"]] == [False, False]
    assert found["skipped"][0]["case"].startswith("llama-3.1-405b full")


def test_a_matrix_that_is_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: list[Any], grid: Path, tmp_path: Path
) -> None:
    real = vars(matrices)["perform"]

    def interrupted(one: Any, device: Any, versions: Any) -> Any:
        if asked:
            raise KeyboardInterrupt
        return real(one, device, versions)

    monkeypatch.setattr(matrices, "perform", interrupted)
    code, out, err = run(capsys, "--matrix", grid, "--out", tmp_path / "out.jsonl")

    assert code == 130
    assert "1 left (interrupted)" in " ".join(out.split())
    assert "interrupted: 1 cases are finished; the same command goes on with the other 1" in err

    monkeypatch.setattr(matrices, "perform", real)
    code, _, _ = run(capsys, "--matrix", grid, "--out", tmp_path / "out.jsonl")
    assert (code, len(asked)) == (0, 2)


def test_no_time_at_all(capsys: pytest.CaptureFixture[str], asked: list[Any], grid: Path) -> None:
    code, out, _ = run(capsys, "--matrix", grid, "--budget", "0s")

    assert (code, asked) == (4, [])
    assert "2 left (the time was up)" in " ".join(out.split())


@pytest.mark.usefixtures("asked")
def test_anchors_that_cannot_be_spoil_nothing(capsys: pytest.CaptureFixture[str], grid: Path, tmp_path: Path) -> None:
    code, out, err = run(capsys, "--matrix", grid, "--anchors", tmp_path)

    assert code == 0
    assert out.startswith("grid.toml: 2 finished")
    assert "--anchors: none of these measurements can be an anchor" in err


def test_anchors_of_a_card(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: list[Any],
    tmp_path: Path,
) -> None:
    card = Device("cuda", "NVIDIA L4", 23_664_230_400, (8, 9), 58)
    real = vars(matrices)["perform"]
    monkeypatch.setattr(steps, "look", lambda: card)

    def on_card(*given: Any) -> tuple[Record, ...]:
        return tuple(replace(one, device=replace(one.device, kind="cuda", name=card.name)) for one in real(*given))

    monkeypatch.setattr(matrices, "perform", on_card)
    path = tmp_path / "grid.toml"
    path.write_text('[[block]]\nmodel = "smollm2-135m"\nmethod = "lora"\nstack = "hf"\nattention = "sdpa"\n')
    code, _, err = run(capsys, "--matrix", path, "--anchors", tmp_path)

    assert (code, err, len(asked)) == (0, "", 1)
    assert "smollm2-135m" in (tmp_path / "own-nvidia-l4.toml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seq-len", "8"), "--seq-len says nothing beside --matrix"),
        (("--budget", "20"), "'20' is not a time: write for instance 90s, 20min or 1.5h"),
        (("--out", "/no/such/folder/file"), "no such folder"),
        (("--anchors", "/no/such/folder/file"), "no such folder"),
    ],
)
def test_what_a_matrix_does_not_take(
    capsys: pytest.CaptureFixture[str], grid: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, "--matrix", grid, *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.usefixtures("asked")
def test_a_broken_matrix_is_one_line(capsys: pytest.CaptureFixture[str], grid: Path) -> None:
    grid.write_text('[[block]]\nname = "a"\nmodel = "gpt2"\nmethod = "lora"\nseq_len = "x"\n', encoding="utf-8")
    code, out, err = run(capsys, "--matrix", grid)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "block 'a': --seq-len 'x' is not a whole number" in err
