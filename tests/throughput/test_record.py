"""The record against published times: as it is stated, by constants that are reproducible, held out by source."""

from statistics import median

import pytest

from planner.throughput.constants import constants
from planner.throughput.record import records
from planner.validation.anchors import load_anchors
from planner.validation.time_fit import A100, H100, START, bare, fit
from planner.validation.time_record import COVERED, PLAIN, record_of, records_of, stored
from planner.validation.timed_rows import counted, timed_rows
from planner.validation.timing import by_source, errors_of, score, timed

STATED = {
    "fms-a100": 0.05,
    "fms-a100-liger": 0.03,
    "litgpt-other": 0.10,
    "litgpt-tables": 0.15,
    "llm-foundry": 0.05,
    "llms-from-scratch": 0.15,
    "peft-metamath": 0.40,
    "torchao": 0.20,
    "torchtune": 0.10,
    "torchtune-odissei": 0.10,
}
"""Median error of the shipped constants, by source: what a change of the model may not exceed."""

HUGGING_FACE = ("fms-a100", "fms-a100-liger")


def test_every_row_with_a_time_is_predicted_or_left_out_for_a_reason() -> None:
    runs, left = timed_rows()
    rows = {row.id for file in load_anchors() for row in file.rows if row.timed}

    assert {run.id for run in runs} | {row.id for row in left} == rows
    assert len(runs) + len(left) == len(rows) == 657
    assert sum(count for _, count in counted(left)) == len(left)
    assert all(why for why, _ in counted(left))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("fms-a100_80gb-Mistral-7B-v0.1-none-full-g1-b4", 5.3495),  # printed so
        ("torchtune-odissei-Della-A100x2", 6 * 2048 / 18247),  # tokens per second and GPU
        ("foundry-mpt-30b-h100_80gb-L2048-x8", 3 * 2048 * 21 / 2002),  # of 21 micro-steps
        ("torchtune-31-70b-lora-8a100", 8 * 2 * 2048 / 3497),  # of all GPUs: of one it would be 10 times the peak
        ("litgpt-res-lora-llama-2-7b-bf16-mb1-x1", 128 * 0.1416),  # per micro-step, of 128
        ("litgpt-thunder-tinyllama-none-eager", 128 * 0.44988),
    ],
)
def test_printed_numbers_become_seconds_of_a_step(name: str, seconds: float) -> None:
    (found,) = (one.run.seconds for one in timed() if one.run.id == name)

    assert found == pytest.approx(seconds, rel=1e-3)


def test_nothing_published_is_faster_than_its_card() -> None:
    """What a source calls a rate of one GPU may be of all: then it would beat the peak."""
    for one in timed():
        peak = one.run.scenario.cluster.gpu.peak_flops_per_s["bf16"]
        flops = one.work.micro_steps * one.work.products
        assert flops / one.run.seconds < peak, one.run.id


def test_the_record_is_as_stated() -> None:
    for found in by_source(errors_of()):
        if found.name != "all":
            assert found.median <= STATED[found.name], found.name


def test_hugging_face_on_a100_is_within_a_tenth() -> None:
    errors = errors_of()
    many = [one for one in timed() if one.run.source in HUGGING_FACE and one.work.tokens >= 4096]

    assert len(many) > 90
    assert median(abs(errors[one.run.id]) for one in many) < 0.10


def test_held_out_medians_meet_the_aim_where_it_is_met() -> None:
    held = {one.score.name: one.score for one in stored("held_out")}

    assert held["all"].median < 0.10
    assert all(held[name].median < 0.10 for name in HUGGING_FACE)
    assert held["peft-metamath"].median > 0.20  # a faster processor than others have: launch-bound, two runs


def test_bounds_hold_what_they_have_not_seen() -> None:
    for held in stored("kinds"):
        assert held.held >= COVERED * held.score.n, held.score.name


def test_no_bound_is_narrower_than_its_record() -> None:
    for held in stored("kinds"):
        record = records()[held.score.name]  # type: ignore[index]
        assert record.high - 1 >= held.score.median
        assert 1 - record.low >= held.score.median / (1 + held.score.median)


def test_shipped_constants_are_those_of_the_fit() -> None:
    """``python -m benchmarks.fit_times`` wrote them; run it where this fails."""
    fitted = fit(timed())
    known = constants()

    for name in PLAIN:
        assert getattr(known, name).value == pytest.approx(fitted.values[name], rel=0.01), name
    for one in timed():
        gpu = one.run.scenario.cluster.gpu
        if gpu.architecture in (A100, H100) and gpu.products is not None and gpu.attention is not None:
            assert gpu.products.value == pytest.approx(fitted.values[f"{gpu.architecture} products"], rel=0.01)
            assert gpu.attention.value == pytest.approx(fitted.values[f"{gpu.architecture} attention"], rel=0.01)


def test_no_constant_strays_far_from_what_was_known() -> None:
    known = constants()

    for name in PLAIN:
        assert 0.6 < getattr(known, name).value / START[name] < 1.6


@pytest.mark.parametrize("source", ["torchao", "litgpt-tables"])
def test_a_source_is_held_out_again(source: str) -> None:
    known = fit(one for one in timed() if one.run.source != source).constants
    found = score(source, (bare(one).error(known) for one in timed() if one.run.source == source))

    (kept,) = (one.score for one in stored("held_out") if one.score.name == source)
    assert found.median == pytest.approx(kept.median, abs=0.005)


def test_bounds_of_a_kind_weigh_every_source_alike() -> None:
    """One run of a source that is 30 % slower counts as much as a hundred of one that is not."""
    many = {"one": [1.0] * 100, "other": [1.3]}

    assert record_of("measured", many).high == 1.3
    assert record_of("measured", {"one": [1.0] * 99 + [1.3]}).high == 1.0


def test_bounds_are_made_of_the_errors_they_are_given() -> None:
    found = records_of(dict.fromkeys(errors_of(), 0.0), constants())

    assert found["measured"].low == found["measured"].high == 1.0
    assert (found["moe"].low, found["moe"].high) == (0.5, 2.0)
