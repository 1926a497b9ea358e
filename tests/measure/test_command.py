"""``plan measure``: what it prints, what it refuses, and its exit codes; once for real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.build import installed
from planner.cli import main, measure
from planner.measure import Device, Measurement, Prediction, room
from planner.measure.here import cpu_here
from planner.measure.values import Place
from planner.units import GIB

Make = Callable[..., Measurement]


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch, measured: Make, prediction: Prediction) -> dict[str, Any]:
    """No child is started; ``asked`` holds what it would have been asked, ``answer`` is what it gives."""
    box: dict[str, Any] = {"answer": measured(), "device": cpu_here()}

    def answer(scenario: object, device: str, **options: object) -> Measurement:
        box.update(asked=scenario, device_kind=device, options=options)
        found: Measurement = box["answer"]
        return found

    monkeypatch.setattr(measure, "look", lambda: box["device"])
    monkeypatch.setattr(measure, "predict", lambda *_args, **_options: prediction)
    monkeypatch.setattr(measure, "measure", answer)
    monkeypatch.setattr(measure, "check_libraries", lambda *_args, **_options: None)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return box


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["measure", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.usefixtures("canned")
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = run(capsys, "--model", model)

    assert (code, err) == (0, "")
    assert "steady  backward" in out
    assert "-1.00%" in out
    assert "No --method was named: this is lora." in out
    assert "torch 2.13.0" in out
    assert [line for line in out.splitlines() if len(line) > columns] == []


@pytest.mark.usefixtures("canned")
def test_json_is_one_object(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capsys, "--model", model, "--format", "json", "--method", "full")
    found = json.loads(out)

    assert (code, err) == (0, "")
    assert (found["schema"], found["outcome"], found["died_in"]) == (1, "done", None)
    assert found["steps"][1]["phases"][2] == {
        "name": "backward",
        "allocated_bytes": 5000,
        "reserved_bytes": None,
        "device_bytes": None,
    }
    assert found["predicted"]["steady"][2]["allocated_bytes"] == 4950
    assert found["peak"]["difference"] == pytest.approx(-0.01)


@pytest.mark.usefixtures("canned")
def test_markdown(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capsys, "--model", model, "--format", "markdown")

    assert code == 0
    assert out.startswith("#")
    assert "| peak" in out.replace("**", "")


def test_options_reach_the_child(capsys: pytest.CaptureFixture[str], canned: dict[str, Any], model: Path) -> None:
    run(capsys, "--model", model, "--method", "qlora", "--steps", 5, "--layers", 2, "--timeout", 9, "--seq-len", 8)

    train = canned["asked"].train
    assert (train.method, train.seq_len, train.attention) == ("qlora", 8, "sdpa")
    options = canned["options"]
    assert (options["steps"], options["layers"], options["timeout"]) == (5, 2, 9)
    assert canned["device_kind"] == "cpu"


def test_a_card_that_is_here_is_named_by_what_torch_says(
    capsys: pytest.CaptureFixture[str], canned: dict[str, Any], model: Path
) -> None:
    canned["device"] = Device("cuda", "NVIDIA Example", 24 * GIB, (8, 9), 128)
    run(capsys, "--model", model)

    gpu = canned["asked"].cluster.gpu
    assert (gpu.name, gpu.compute_capability, gpu.sm_count) == ("NVIDIA Example", (8, 9), 128)
    assert canned["asked"].train.attention == "flash"
    assert canned["device_kind"] == "cuda"

    run(capsys, "--model", model, "--gpu", "4090")
    assert canned["asked"].cluster.gpu.id == "rtx4090"


@pytest.mark.usefixtures("canned")
def test_a_card_that_is_not_here_is_said_to_be_left_aside(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    _, out, _ = run(capsys, "--model", model, "--gpu", "4090")

    assert "No CUDA device is here: measured and predicted on the CPU" in " ".join(out.split())


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [("out_of_memory", 4, "ran out of memory"), ("killed", 1, "was killed"), ("timed_out", 1, "was stopped")],
)
def test_an_end_that_is_not_well_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str],
    canned: dict[str, Any],
    measured: Make,
    model: Path,
    outcome: str,
    code: int,
    words: str,
) -> None:
    canned["answer"] = measured(outcome=outcome, died_in=Place(1, "optimizer_step"), detail="so it was")

    found, out, _ = run(capsys, "--model", model)

    assert found == code
    assert f"The run {words} in optimizer step of step 2: so it was." in " ".join(out.split())


@pytest.mark.usefixtures("canned")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--method", "lora", "--method", "full"), 2, "one method"),
        (("--layers", "9"), 2, "--layers 9 is outside 1 to 3"),
        (("--steps", "0"), 2, "--steps 0 is outside 1 to 1000"),
        (("--timeout", "soon"), 2, "--timeout 'soon' is not a whole number"),
        (("--gpu", "409000"), 2, "unknown gpu"),
        (("--gpus", "2"), 3, "one device"),
        (("--kernels", "fused"), 3, "no fused kernels"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], model: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = run(capsys, "--model", model, *arguments)

    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("canned")
def test_a_model_too_large_for_this_machine_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: GIB // 2)
    for more in ((), ("--layers", 2)):
        code, out, err = run(capsys, "--model", model, *more)

        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "use --layers N" in err


def test_missing_libraries_say_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(installed, "installed_versions", dict)
    monkeypatch.setattr(measure, "look", cpu_here)
    code, out, err = run(capsys, "--model", model)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "finetune-planner[trace]"' in err


def test_an_interrupt_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    def interrupt() -> Device:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "look", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["measure", "--model", str(model)])

    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


@pytest.mark.torch
def test_for_real(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    for library in ("torch", "transformers", "accelerate", "peft", "bitsandbytes"):
        pytest.importorskip(library)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = ("--model", model, "--stack", "hf", "--seq-len", 32, "--layers", 2, "--steps", 2, "--format", "json")
    code, out, err = run(capsys, *options)
    found = json.loads(out)

    assert (code, err, found["outcome"], found["layers"]) == (0, "", "done", 2)
    assert found["device"]["kind"] == "cpu"
    assert [step["number"] for step in found["steps"]] == [0, 1]
    assert all(step["seconds"] > 0 for step in found["steps"])
    assert max(abs(row["difference"]) for row in found["comparison"]) < 0.01
