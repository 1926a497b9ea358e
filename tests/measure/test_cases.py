"""Which cases of a matrix run on a device, in which order of depth, and what each leaves behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.errors import BrokenInput, UnsupportedScenario
from planner.hardware import list_gpus, load_gpu
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks, cases, here, room
from planner.measure.cases import Tools, perform, plan_cases, scenario_of, work_seconds
from planner.measure.here import card_of_device, cpu_here
from planner.measure.ledger import Ledger, record_key
from planner.measure.matrix import SHIPPED, Case, expand, load_matrix
from planner.measure.series import Planned, run_series
from planner.measure.summary import deviations, errors_of
from planner.measure.values import Outcome
from planner.render.matrix import matrix_document, matrix_sheets
from planner.result import Memory
from planner.spec import Scenario
from planner.units import GIB

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0"}


def device_of(name: str) -> Device:
    gpu = load_gpu(name)
    return Device("cuda", gpu.name, gpu.memory_bytes, gpu.compute_capability, gpu.sm_count)


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every library is there."""
    monkeypatch.setattr(cases, "check_libraries", lambda *_args, **_options: None)
    monkeypatch.setattr(here, "find_spec", lambda _name: object())


def plans(device: Device, *blocks: dict[str, Any], folder: Path | None = None) -> tuple[list[Planned], dict[str, str]]:
    """Cases that run, and the reasons of those that do not, by model."""
    found = expand({"block": [{"stack": "hf", "attention": "sdpa", **block} for block in blocks]})
    planned, skipped = plan_cases(found, card_of_device(device, list_gpus()), device, VERSIONS, folder)
    return list(planned), {one.case.label: one.reason for one in skipped}


# ---------------------------------------------------------------- what can run


def test_cases_that_do_not_fit_are_named_with_what_they_need() -> None:
    planned, skipped = plans(
        device_of("rtx4090"),
        {"model": ["llama-3.2-1b", "llama-3.1-8b"], "method": ["full", "qlora"], "seq_len": 1024},
    )

    assert [(one.case.model, one.case.method) for one in planned] == [
        ("llama-3.2-1b", "full"),
        ("llama-3.2-1b", "qlora"),
        ("llama-3.1-8b", "qlora"),
    ]
    ((label, reason),) = skipped.items()
    assert label.startswith("llama-3.1-8b full")
    # 16 bytes for each of 8.03 billion parameters are 120 GiB, 8 are 60: bf16 weights, gradients and two states
    assert reason.startswith("needs 6")
    assert "of 23.52 GiB, as predicted" in reason


def test_layers_make_a_model_fit_and_auto_chooses_them() -> None:
    block = {"model": "llama-3.1-70b", "method": "qlora", "layers": ["auto", 8, 80]}
    (auto, eight), skipped = plans(device_of("rtx4090"), block)

    assert (auto.several, eight.several) == (True, False)
    assert auto.key != eight.key
    assert "layers=80" in next(iter(skipped))
    assert work_seconds(eight.case, eight.scenario) < work_seconds(auto.case, auto.scenario)

    ((whole,), _) = plans(device_of("rtx4090"), {"model": "llama-3.2-1b", "method": "lora", "layers": "auto"})
    assert not whole.several


def test_caps_and_snapshots_by_device(tmp_path: Path) -> None:
    block = {"model": "llama-3.2-1b", "method": "lora", "cap": ["16GiB", "24GiB"]}
    planned, skipped = plans(device_of("rtx4090"), block)
    assert [one.case.cap for one in planned] == ["16GiB"]
    assert list(skipped.values()) == ["this device has less than 24GiB"]

    block = {"model": "llama-3.2-1b", "method": "lora", "kind": "snapshot"}
    ((one,), _) = plans(device_of("rtx4090"), block, folder=tmp_path)
    assert one.snapshot == tmp_path / "snapshot_llama-3.2-1b_lora_hf_attention=sdpa.pickle"
    planned, skipped = plans(cpu_here(), {**block, "layers": 1})
    assert planned == []
    assert "no CUDA device" in next(iter(skipped.values()))


def test_a_search_needs_room_for_one_sequence_only(monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"model": "llama-3.2-1b", "method": "lora", "seq_len": 1024, "micro_batch_size": 256}
    assert plans(device_of("rtx4090"), block)[0] == []
    assert len(plans(device_of("rtx4090"), {**block, "kind": "find_max_batch"})[0]) == 1

    with pytest.raises(BrokenInput, match=r"block 1'?: a limit on the processor needs --cap"):
        plans(cpu_here(), {**block, "kind": "find_max_batch"})
    monkeypatch.setattr(room, "available_bytes", lambda: GIB)
    assert plans(cpu_here(), {**block, "kind": "find_max_batch", "cap": "1GiB"})[0] == []


def test_the_processor_has_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"model": "llama-3.2-1b", "method": "lora", "seq_len": 64}
    monkeypatch.setattr(cases, "available_bytes", lambda: 16 * GIB)
    assert len(plans(cpu_here(), block)[0]) == 1
    monkeypatch.setattr(cases, "available_bytes", lambda: 2 * GIB)
    assert plans(cpu_here(), block)[0] == []
    monkeypatch.setattr(cases, "available_bytes", lambda: None)
    assert len(plans(cpu_here(), block)[0]) == 1


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"seq_len": "long"}, r"block 'a': --seq-len 'long' is not a whole number"),
        ({"optimizer": "adamx"}, r"block 'a': --optimizer 'adamx' is not one of"),
        ({"model": "llama-9"}, r"block 'a': unknown model"),
        ({"stack": "ht"}, r"block 'a': unknown stack"),
        ({"layers": 99}, r"block 'a': --layers 99 is outside 1 to 16"),
    ],
)
def test_a_wrong_value_stops_before_anything_runs(broken: dict[str, Any], words: str) -> None:
    with pytest.raises(BrokenInput, match=words):
        plans(device_of("rtx4090"), {"name": "a", "model": "llama-3.2-1b", "method": "lora", **broken})


def test_what_the_device_or_the_libraries_cannot_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"model": "llama-3.2-1b", "method": "lora", "attention": "flash"}
    assert "FlashAttention" in next(iter(plans(device_of("t4"), block)[1].values()))

    monkeypatch.setattr(here, "find_spec", lambda _name: None)
    assert "flash-attn, which is not installed" in next(iter(plans(device_of("rtx4090"), block)[1].values()))
    (case,) = expand({"block": [{"model": "llama-3.2-1b", "method": "lora"}]})
    device = device_of("rtx4090")
    ((one,), _) = plan_cases([case], card_of_device(device, list_gpus()), device, VERSIONS)
    assert one.scenario.train.attention == "sdpa"


@pytest.mark.parametrize("name", [path.stem for path in sorted(SHIPPED.glob("*.toml"))])
@pytest.mark.parametrize("gpu", ["t4", "rtx4090", "a100-80gb-sxm", "h200"])
def test_shipped_matrices_mean_something_on_every_card(name: str, gpu: str) -> None:
    device, found = device_of(gpu), load_matrix(name)
    planned, skipped = plan_cases(found, card_of_device(device, list_gpus()), device, VERSIONS)

    assert len(planned) + len(skipped) == len(found)
    assert len(planned) >= 4
    assert len({(one.key, one.case.kind) for one in planned}) == len(planned)


def test_the_card_matrix_is_what_it_says() -> None:
    device, found = device_of("a100-80gb-sxm"), load_matrix("card")
    planned, _ = plan_cases(found, card_of_device(device, list_gpus()), device, VERSIONS)

    minutes = sum(one.work for one in planned) / 60
    assert 15 <= minutes <= 30
    early = [one.case for one in planned[:6]]
    assert {case.method for case in early} == {"full", "lora", "qlora"}
    assert {case.model for case in early} == {"llama-3.2-1b", "llama-3.1-8b"}
    assert {case.kind for case in found} == {"steps", "snapshot", "find_max_batch"}
    assert {case.cap for case in found if case.cap} == {"16GiB", "24GiB", "40GiB", "48GiB", "80GiB"}


# ---------------------------------------------------------------- how each is measured

Make = Callable[..., Measurement]
PROCESSOR = Device("cpu", "A processor", 2**34)


@pytest.fixture
def tools(measured: Make) -> tuple[Tools, list[tuple[str, int | None]]]:
    """Stand-ins for both children, whose bytes are linear in layers and tokens; and what was asked of them."""
    asked: list[tuple[str, int | None]] = []

    def count(scenario: Scenario, layers: int | None) -> int:
        depth = layers or scenario.model.num_hidden_layers
        return 1000 * depth + 10 * scenario.train.tokens

    def predict(scenario: Scenario, _device: str, *, layers: int | None = None) -> Prediction:
        asked.append(("predict", layers))
        phases = {"backward": Memory(weights=count(scenario, layers) * 101 // 100)}
        return Prediction("traced", Memory(), phases, phases)  # type: ignore[arg-type]

    def measure(scenario: Scenario, _device: str, **options: Any) -> Measurement:
        layers, cap = options["layers"], options["cap_bytes"]
        asked.append(("measure", layers))
        bytes_ = count(scenario, layers)
        outcome: Outcome = "done" if cap is None or bytes_ <= cap else "out_of_memory"
        steps = tuple(StepPeaks(n, 0.5, (PhasePeak("backward", bytes_),)) for n in range(options["steps"]))
        return measured(
            scenario=scenario,
            layers=layers,
            outcome=outcome,
            device=PROCESSOR if outcome == "done" else None,
            versions=VERSIONS if outcome == "done" else {},
            steps=steps if outcome == "done" else (),
            cap_bytes=cap,
        )

    return Tools(predict=predict, measure=measure), asked


def one_case(**block: Any) -> Planned:
    (planned,), skipped = plans(PROCESSOR, {"model": "pythia-14m", "method": "lora", "seq_len": 16, **block})
    assert skipped == {}
    return planned


@pytest.mark.parametrize("layers", [None, 2])
def test_steps(tools: tuple[Tools, list[Any]], layers: int | None) -> None:
    planned = one_case(**({"layers": layers} if layers else {}))
    (record,) = perform(planned, PROCESSOR, VERSIONS, tools[0])

    assert tools[1] == [("predict", layers), ("measure", layers)]
    assert record_key(record) == planned.key
    assert record.peak.allocated_bytes == 1000 * (layers or 6) + 160
    assert record.predicted["traced"]["allocated"] == (1000 * (layers or 6) + 160) * 101 // 100
    assert record.predicted["closed-form"]["allocated"] > 10**6


def test_a_run_that_never_saw_its_device_is_a_record_too(tools: tuple[Tools, list[Any]]) -> None:
    planned = one_case()
    planned = planned._replace(case=replace(planned.case, cap_bytes=1))
    (record,) = perform(planned, PROCESSOR, VERSIONS, tools[0])

    assert (record.outcome, record.device.name, record.environment.versions) == (
        "out_of_memory",
        "A processor",
        VERSIONS,
    )


def test_a_limit(tools: tuple[Tools, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "_excess", lambda *_args: "")
    planned = one_case(kind="find_max_batch", cap="8KiB", steps=1)
    (record,) = perform(planned, PROCESSOR, VERSIONS, tools[0])

    # 6_000 + 160 b <= 8_192 up to b = 13
    assert record.limits is not None
    assert (record.limits.largest_ran, record.limits.smallest_failed) == (13, 14)
    assert record_key(record) == planned.key
    series = run_series([planned], Ledger(), lambda one: perform(one, PROCESSOR, VERSIONS, tools[0]))
    text = " ".join(cell.text for sheet in matrix_sheets(series, "m") for row in sheet.rows for cell in row)
    assert "13 14 exact" in text


def test_auto_leaves_a_record_for_each_depth(tools: tuple[Tools, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "fits", lambda *args, **_options: len(args) > 3 and args[3] <= 4)
    planned = one_case(layers="auto")
    records = perform(planned, PROCESSOR, VERSIONS, tools[0])

    assert planned.several
    assert [record.layers for record in records] == [2, 3, 4]
    assert {record_key(record, layers=False) for record in records} == {planned.key}
    ledger, runs = Ledger(), list[Planned]()
    ledger.add(records)
    run_series([planned], ledger, lambda one: runs.append(one) or ())  # type: ignore[func-returns-value]
    assert runs == []


def test_auto_keeps_what_failed_and_takes_fewer_layers(
    tools: tuple[Tools, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "fits", lambda *args, **_options: len(args) > 3 and args[3] <= 4)
    planned = one_case(layers="auto")
    planned = planned._replace(case=replace(planned.case, cap_bytes=2500))
    records = perform(planned, PROCESSOR, VERSIONS, tools[0])

    ends = [(record.layers, record.outcome) for record in records]
    assert ends == [(2, "done"), (3, "out_of_memory"), (1, "done")]


def test_no_room_is_told_before_a_run(tools: tuple[Tools, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    planned = one_case()
    monkeypatch.setattr(room, "available_bytes", lambda: 1000)

    with pytest.raises(UnsupportedScenario, match="use --layers N"):
        perform(planned, PROCESSOR, VERSIONS, tools[0])
    assert [name for name, _ in tools[1]] == ["predict"]


# ---------------------------------------------------------------- what it says in the end


def test_the_summary(tools: tuple[Tools, list[Any]]) -> None:
    block = {"model": ["pythia-14m", "llama-3.1-405b"], "method": "lora", "stack": "hf", "seq_len": 16}
    planned, skipped = plan_cases(expand({"block": [block]}), card_of_device(PROCESSOR), PROCESSOR, VERSIONS)
    series = run_series(planned, Ledger(), lambda one: perform(one, PROCESSOR, VERSIONS, tools[0]), skipped=skipped)

    by_kind = {(one.evidence, one.metric): one for one in deviations(series)}
    assert by_kind["traced", "allocated"].median == pytest.approx(0.01, abs=1e-3)
    assert by_kind["traced", "allocated"].n == 1
    steps, errors, aside = matrix_sheets(series, "grid.toml")
    assert steps.title == "grid.toml: 1 finished, 1 of them now; 1 do not run here"
    assert [cell.text for cell in steps.rows[0]][5] == "+0.99%"  # 6_222 for 6_160, rounded down
    assert {row[0].text for row in errors.rows} == {"closed-form", "traced"}
    assert aside.rows[0][0].text.startswith("llama-3.1-405b lora")
    document = matrix_document(series)
    assert document["finished"][0]["runs"][0]["outcome"] == "done"  # type: ignore[index]
    assert document["errors"][1]["evidence"] == "traced"  # type: ignore[index]


def test_one_step_alone_is_no_error_of_a_prediction(tools: tuple[Tools, list[Any]]) -> None:
    planned = one_case()
    (record,) = perform(planned, PROCESSOR, VERSIONS, tools[0])
    first = replace(record, first=record.first or record.steady, steady=())

    assert list(errors_of(replace(first, steady=first.first)))
    assert list(errors_of(first)) == []


def test_the_scenario_is_by_the_installed_libraries() -> None:
    (case,) = expand({"block": [{"model": "pythia-14m", "method": "qlora", "stack": "hf", "double_quant": False}]})
    assert isinstance(case, Case)
    found = scenario_of(case, card_of_device(PROCESSOR))

    assert (found.train.method, found.train.double_quant, found.stack.name) == ("qlora", False, "hf")
    assert found.cluster.gpu.id == "local"


def test_a_case_under_other_settings_of_the_allocator_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = one_case()
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    assert one_case().key != before.key
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    assert one_case().key == before.key
