"""``plan measure``: what it prints, what it refuses, and its exit codes; once for real."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.build import installed
from planner.cli import main, measure
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks, here, room
from planner.measure.here import cpu_here
from planner.measure.values import Environment, Place, Room
from planner.records import default_store
from planner.units import GIB, MIB
from tests.test_architecture import FRAMEWORKS

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


def test_a_card_without_flash_attn_takes_sdpa_unless_flash_is_asked_for(
    capsys: pytest.CaptureFixture[str], canned: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(here, "find_spec", lambda _name: None)
    canned["device"] = Device("cuda", "NVIDIA Example", 24 * GIB, (8, 9), 128)
    _, out, _ = run(capsys, "--model", model)

    assert canned["asked"].train.attention == "sdpa"
    assert "flash-attn is not installed here" in " ".join(out.split())

    code, out, err = run(capsys, "--model", model, "--attention", "flash")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "use --attention sdpa" in err


def test_a_card_that_is_here_is_named_by_what_torch_says(
    capsys: pytest.CaptureFixture[str], canned: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(here, "find_spec", lambda _name: object())
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


@pytest.mark.usefixtures("canned")
def test_a_driver_without_a_device_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(measure, "may_have_gpu", lambda: True)
    _, _, err = run(capsys, "--model", model)

    assert err.startswith("note: a GPU's driver is here, but torch uses no GPU")


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
def test_what_the_processor_can_show_is_said_once(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    _, out, _ = run(capsys, "--model", model)
    told = " ".join(out.split())

    assert told.count("No CUDA device") == 1
    assert "it does not show CUDA's kernels" in told


def test_a_card_has_a_table_for_each_way_of_counting(
    capsys: pytest.CaptureFixture[str], canned: dict[str, Any], measured: Make, model: Path
) -> None:
    phases = (PhasePeak("forward", 100 * MIB, 400 * MIB, 450 * MIB), PhasePeak("loss", 300 * MIB, 310 * MIB, 440 * MIB))
    canned["device"] = Device("cuda", "NVIDIA Example", 24 * GIB, (8, 9), 128)
    canned["answer"] = measured(
        device=canned["device"],
        steps=(StepPeaks(0, 1.0, phases, 64), StepPeaks(1, 0.5, phases, 64)),
        environment=Environment("Linux", "3.13.1", 4, "max_split_size_mb:64", "575.1", "12.9"),
        room=Room(24 * GIB, 22 * GIB, GIB // 2, GIB),
        host_bytes=3 * GIB,
        cap_bytes=16 * GIB,
        snapshot="/here/s.pickle",
    )
    _, out, _ = run(capsys, "--model", model, "--cap", "16GiB", "--snapshot", model / "s.pickle")
    told = " ".join(out.split())

    assert "Reserved by the caching allocator" in out
    assert "In use on the device" in out
    for words in (
        "1.00 GiB of the device were in use by others, which are subtracted; the context took 512.00 MiB",
        "0.500 s in the median, 128 tokens a second",
        "made to look like one of 16.00 GiB",
        "Main memory of the process: 3.00 GiB",
        "Memory history: /here/s.pickle",
        "driver 575.1, CUDA 12.9, allocator max_split_size_mb:64, Python 3.13.1",
    ):
        assert words in told
    assert "No CUDA device" not in told

    canned["answer"] = replace(canned["answer"], room=Room(24 * GIB, 22 * GIB, GIB, None), snapshot_error="disk full")
    _, out, _ = run(capsys, "--model", model)
    assert "The driver does not say what others use: the 1.00 GiB" in " ".join(out.split())
    assert "The memory history could not be written: disk full." in " ".join(out.split())

    _, out, _ = run(capsys, "--model", model, "--format", "json")
    found = json.loads(out)
    reserved = {row["phase"]: row["reserved"]["measured_bytes"] for row in found["comparison"][-4:]}
    assert (reserved["forward"], reserved["loss"], reserved["backward"]) == (400 * MIB, 310 * MIB, None)
    assert found["peak"]["device"]["measured_bytes"] == 450 * MIB
    assert found["environment"]["alloc_conf"] == "max_split_size_mb:64"
    assert (found["room"]["others_bytes"], found["seconds"], found["tokens_per_second"]) == (None, 0.5, 128.0)


def test_how_a_run_is_taken_reaches_the_child(
    capsys: pytest.CaptureFixture[str], canned: dict[str, Any], model: Path
) -> None:
    (model / "lengths").write_text("16\n64, 2\n32\n", encoding="utf-8")
    run(capsys, "--model", model, "--lengths", model / "lengths", "--cap", "1GiB", "--warmup", "2")
    options = canned["options"]

    assert options["lengths"] == (64, 64, 16, 32, 64)
    assert (options["steps"], options["warmup"], options["cap_bytes"]) == (5, 2, GIB)
    assert canned["asked"].train.seq_len == 64

    run(capsys, "--model", model, "--lengths", model / "lengths", "--steps", "2")
    assert (canned["options"]["lengths"], canned["options"]["warmup"]) == ((64, 64), 1)

    run(capsys, "--model", model, "--steps", "1")
    assert (canned["options"]["steps"], canned["options"]["warmup"], canned["options"]["lengths"]) == (1, 0, ())


@pytest.mark.usefixtures("canned")
def test_a_result_is_remembered_unless_that_is_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "data"))
    assert run(capsys, "--model", model, "--no-store")[0] == 0
    assert default_store().records() == ()

    assert run(capsys, "--model", model)[0] == 0
    (record,) = default_store().records()
    assert (record.outcome, record.model, record.method) == ("done", "tiny", "lora")
    assert set(record.predicted) == {"traced", "closed-form"}


def test_a_run_that_failed_is_remembered_as_such(
    capsys: pytest.CaptureFixture[str],
    canned: dict[str, Any],
    measured: Make,
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    tmp_path: Path,
) -> None:
    """Even one that died before it saw its device."""
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "data"))
    canned["answer"] = measured(outcome="killed", device=None, steps=(), load=None, detail="ended by SIGKILL")
    assert run(capsys, "--model", model)[0] == 1

    (record,) = default_store().records()
    assert (record.outcome, record.device.kind, record.detail) == ("killed", "cpu", "ended by SIGKILL")


@pytest.mark.usefixtures("canned")
def test_a_store_that_cannot_be_written_costs_a_line_and_not_the_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file, no folder", encoding="ascii")
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "data"))
    code, out, err = run(capsys, "--model", model)

    assert code == 0
    assert "steady  backward" in out
    assert (err.startswith("note: not stored: "), err.count("\n")) == (True, 1)


@pytest.mark.usefixtures("canned")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--warmup", "3"), 2, "--warmup 3 leaves none of 3 steps"),
        (("--warmup", "-1"), 2, "--warmup -1 is below 0"),
        (("--out", "file"), 2, "--out belongs to --matrix, which is not there"),
        (("--budget", "20min"), 2, "--budget belongs to --matrix"),
        (("--retry",), 2, "--retry belongs to --matrix"),
        (("--anchors", "."), 2, "--anchors belongs to --matrix"),
        (("--seq-step", "64"), 2, "--seq-step belongs to --find-max-seq"),
        (("--cap", "24"), 2, "--cap '24' has no unit"),
        (("--cap", "0"), 2, "--cap 0 leaves no memory"),
        (("--cap", "900TiB"), 2, "is more than"),
        (("--snapshot", "s.pickle"), 3, "plan trace --snapshot writes a traced one"),
        (("--snapshot", "/no/such/folder/s"), 2, "no such folder"),
        (("--lengths", "/no/such/file"), 2, "no such file"),
        (("--method", "lora", "--method", "full"), 2, "one method"),
        (("--layers", "9"), 2, "--layers 9 is outside 1 to 3"),
        (("--steps", "0"), 2, "--steps 0 is outside 1 to 1000"),
        (("--timeout", "soon"), 2, "--timeout 'soon' is not a whole number"),
        (("--gpu", "409000"), 2, "unknown gpu"),
        (("--gpus", "2", "--sharding", "hsdp"), 3, "cannot run --sharding hsdp: use --sharding fsdp"),
        (("--gpus", "4", "--nodes", "2", "--network-gbps", "100"), 3, "this machine, not on 2: use --gpus 2 --nodes 1"),
        (("--sharding", "fsdp"), 3, "takes several cards: add --gpus 2"),
        (("--gpus", "2", "--cap", "1GiB"), 3, "--cap on the processor is for one rank"),
        (("--gpus", "2", "--snapshot", "s.pickle"), 3, "--snapshot is the history of one rank"),
        (("--gpus", "2", "--tensor-parallel", "2"), 3, "plan measure has no --tensor-parallel"),
        (("--kernels", "fused"), 3, "no fused kernels"),
        (("--stack", "llamafactory"), 3, "the step of stack llamafactory is not built here"),
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
def test_for_real_and_the_parent_loads_no_framework(model: Path) -> None:
    """Its children do, and do not write into its table of imports."""
    for library in ("torch", "transformers", "accelerate", "peft", "bitsandbytes"):
        pytest.importorskip(library)
    options = ("--model", str(model), "--stack", "hf", "--seq-len", "32", "--layers", "2", "--steps", "2")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "planner", "measure", *options, "--format", "json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}

    assert (done.returncode, found["outcome"], found["layers"]) == (0, "done", 2)
    assert found["device"]["kind"] == "cpu"
    assert [step["number"] for step in found["steps"]] == [0, 1]
    assert all(step["seconds"] > 0 for step in found["steps"])
    assert max(abs(row["difference"]) for row in found["comparison"]) < 0.01
    assert "planner" in imported
    assert imported & FRAMEWORKS == set()
