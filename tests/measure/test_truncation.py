"""Two depths say what the whole model takes: phase by phase, with an error that a third depth or a trace states."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from planner.catalog import load_model
from planner.errors import UnsupportedScenario
from planner.measure import Measurement, PhasePeak, Prediction, StepPeaks
from planner.measure.truncation import (
    Check,
    choose_depths,
    depth_of,
    layers_at,
    measure_depths,
    measure_truncated,
    shortened,
)
from planner.result import Memory, Phase
from planner.spec import Scenario
from planner.stacks import resolve
from planner.trace.layers import Depth

Make = Callable[..., Measurement]

FIXED: dict[Phase, int] = {"forward": 10_000, "loss": 90_000, "backward": 50_000, "optimizer_step": 20_000}
EACH: dict[Phase, int] = {"forward": 2_000, "loss": 1_000, "backward": 3_000, "optimizer_step": 6_000}
"""At few layers the loss is the peak, at many the optimizer's step is: extrapolating the maximum would go wrong."""


def true_bytes(phase: Phase, layers: int, bend: int = 0) -> int:
    return FIXED[phase] + EACH[phase] * layers + bend * layers**2


def run_of(measured: Make, layers: int, *, bend: int = 0, ratio: float | None = None) -> Measurement:
    """A run of a made-up device whose bytes (and seconds) are lines, unless bent."""
    counts = {phase: true_bytes(phase, layers, bend) for phase in FIXED}
    phases = tuple(
        PhasePeak(phase, count, *(() if ratio is None else (int(count * ratio), int(count * ratio) + 500)))
        for phase, count in counts.items()
    )
    steps = tuple(StepPeaks(number, 1.0 + 0.25 * layers, phases) for number in range(3))
    owners = {"weights": 1000 * layers + 5}
    return measured(layers=layers, load=PhasePeak("load", 1000 * layers), steps=steps, owners=owners)


def trace_of(layers: int) -> Prediction:
    phases = {phase: Memory(weights=true_bytes(phase, layers, 1)) for phase in FIXED}
    return Prediction("traced", Memory(weights=1000 * layers), phases, phases)


def no_trace(_layers: int | None) -> Prediction:
    raise AssertionError("a third run was there")


# ---------------------------------------------------------------- depths


@pytest.mark.parametrize(
    ("depth", "most", "expected"),
    [
        (Depth(80, 0, 1), 30, (2, 16, 30)),
        (Depth(80, 0, 1), 79, (2, 40, 79)),
        (Depth(80, 0, 1), 200, (2, 40, 79)),
        (Depth(80, 0, 1), 3, (2, 3)),
        (Depth(80, 0, 1), 2, (1, 2)),
        (Depth(61, 3, 1), 9, (5, 7, 9)),
        (Depth(34, 0, 6), 29, (16, 22, 28)),
        (Depth(34, 0, 6), 21, (10, 16)),
        (Depth(3, 0, 1), 2, (1, 2)),
    ],
)
def test_depths_hold_whole_periods_and_fit(depth: Depth, most: int, expected: tuple[int, ...]) -> None:
    found = choose_depths(depth, lambda layers: layers <= most)

    assert found == expected
    assert all((depth.layers - layers) % depth.period == 0 for layers in found)


@pytest.mark.parametrize("most", [0, 1])
def test_two_depths_have_to_fit(most: int) -> None:
    with pytest.raises(UnsupportedScenario, match="2 of 80 layers do not fit"):
        choose_depths(Depth(80, 0, 1), lambda layers: layers <= most)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-3.1-70b", Depth(80, 0, 1)), ("gemma-3-27b", Depth(62, 0, 6)), ("deepseek-v3", Depth(61, 3, 1))],
)
def test_models_that_repeat(scenario: Scenario, name: str, expected: Depth) -> None:
    asked = resolve(load_model(name).model, scenario.cluster, "lora", {}, "hf")

    assert depth_of(asked) == expected
    assert layers_at(expected, (expected.layers - expected.prefix) // expected.period) == expected.layers
    assert shortened(asked, 5).model.num_hidden_layers == 5


def test_layers_that_adapters_tell_apart_are_not_extrapolated(scenario: Scenario) -> None:
    apart = replace(scenario, train=replace(scenario.train, lora_targets=("layers.1.self_attn.q_proj",)))

    with pytest.raises(UnsupportedScenario, match="--layers N"):
        depth_of(apart)


# ---------------------------------------------------------------- the line


def test_every_phase_is_extrapolated_by_itself(measured: Make) -> None:
    found = measure_truncated(
        Depth(32, 0, 1), lambda layers: layers <= 10, lambda layers: run_of(measured, layers), no_trace
    )

    assert [run.layers for run in found.runs] == [2, 6, 10]
    assert found.whole.layers is None
    assert {peak.phase: peak.allocated_bytes for peak in found.whole.steps[0].phases} == {
        phase: true_bytes(phase, 32) for phase in FIXED
    }
    assert found.whole.peak == PhasePeak("optimizer_step", 20_000 + 32 * 6_000)
    assert [run.peak.phase for run in found.runs[:2] if run.peak] == ["loss", "loss"]  # at 2 and 6 layers
    assert found.whole.load == PhasePeak("load", 32_000)
    assert found.whole.owners == {"weights": 32_005}
    assert [step.seconds for step in found.whole.steps] == [1.0 + 0.25 * 32] * 3
    assert found.reserved_ratios is None


def test_a_third_depth_states_the_error(measured: Make) -> None:
    found = measure_truncated(
        Depth(32, 0, 1), lambda layers: layers <= 10, lambda layers: run_of(measured, layers, bend=10), no_trace
    )

    # the loss is largest at 10 layers: 90_000 + 10_000 + 10 * 10**2; through 2 and 6 it bends 12 x 2 x 10 less
    # (bend * n**2 by a line through 2 and 6 is 8 n - 12, so 68 * 10 at n = 10 instead of 100 * 10)
    assert found.check == Check("held out", 10, 100_680, 101_000)
    # 320 short at 4 layers beyond the second, so 26 / 4 as much at 26 layers beyond
    assert found.whole.peak is not None
    assert found.error == pytest.approx(-320 * 26 / 4 / found.whole.peak.allocated_bytes)


def test_without_a_third_depth_traces_state_the_error(measured: Make) -> None:
    asked: list[int | None] = []

    def predict(layers: int | None) -> Prediction:
        asked.append(layers)
        return trace_of(32 if layers is None else layers)

    found = measure_truncated(
        Depth(32, 0, 1), lambda layers: layers <= 3, lambda layers: run_of(measured, layers), predict
    )

    assert asked == [2, 3, None]
    # optimizer_step: 20_000 + 6_000 n + n**2; n**2 by a line through 2 and 3 is 5 n - 6
    assert found.check == Check("traced", 32, 212_000 + 154, 212_000 + 1024)
    assert found.error == pytest.approx((154 - 1024) / 213_024)


def test_reserved_bytes_go_by_their_ratio_and_say_how_far_it_spreads(measured: Make) -> None:
    ratios = {2: 1.5, 6: 1.3, 10: 1.25}
    found = measure_truncated(
        Depth(32, 0, 1),
        lambda layers: layers <= 10,
        lambda layers: run_of(measured, layers, ratio=ratios[layers]),
        no_trace,
    )

    peak = found.whole.peak
    assert peak == PhasePeak("optimizer_step", 212_000, 265_000, 265_500)
    assert found.reserved_ratios == pytest.approx((1.25, 1.5), rel=1e-3)


# ---------------------------------------------------------------- runs that do not end well


def test_a_third_run_may_fail(measured: Make) -> None:
    def run(layers: int) -> Measurement:
        return replace(run_of(measured, layers), outcome="done" if layers < 10 else "out_of_memory")

    found = measure_truncated(
        Depth(32, 0, 1), lambda layers: layers <= 10, run, lambda layers: trace_of(32 if layers is None else layers)
    )

    assert [one.layers for one in found.runs] == [2, 6]
    assert found.check.basis == "traced"


def test_one_of_the_two_may_not(measured: Make) -> None:
    def run(layers: int) -> Measurement:
        return replace(run_of(measured, layers), outcome="killed", detail="ended by SIGKILL")

    with pytest.raises(UnsupportedScenario, match=r"the run of 2 layers did not complete \(killed: ended by SIGKILL\)"):
        measure_truncated(Depth(32, 0, 1), lambda layers: layers <= 10, run, no_trace)


@pytest.mark.parametrize(("fatal", "expected"), [(6, [2, 3, 5]), (4, [2, 3])])
def test_what_ran_out_of_memory_is_tried_with_fewer_layers(measured: Make, fatal: int, expected: list[int]) -> None:
    """The prediction says 10 layers; the device has no room for ``fatal`` of them. No depth is run twice."""
    asked: list[int] = []

    def run(layers: int) -> Measurement:
        asked.append(layers)
        return replace(run_of(measured, layers), outcome="done" if layers < fatal else "out_of_memory")

    runs = measure_depths(Depth(32, 0, 1), lambda layers: layers <= 10, run)

    assert [one.layers for one in runs] == expected
    assert len(asked) == len(set(asked))


def test_when_no_two_depths_are_left_it_is_said(measured: Make) -> None:
    def run(layers: int) -> Measurement:
        return replace(run_of(measured, layers), outcome="out_of_memory")

    with pytest.raises(UnsupportedScenario, match="two depths are needed"):
        measure_depths(Depth(32, 0, 1), lambda layers: layers <= 10, run)
