"""A limit on a made-up device: predicted in two ways, found by failures, recorded with both of its sides."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from planner.errors import UsageError
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks
from planner.measure.limit import (
    Limit,
    at_size,
    closed_form_bytes,
    limit_record,
    predicted_limits,
    search_limit,
    size_of,
    sizes_for,
    usable_bytes,
)
from planner.measure.search import Dimension
from planner.measure.values import Outcome
from planner.records import read_record, record_text
from planner.render.limits import limit_document, limit_sheets
from planner.result import Memory
from planner.spec import Scenario
from planner.units import GIB

Make = Callable[..., Measurement]

PROCESSOR = Device("cpu", "A processor", 2**34)
CARD = Device("cuda", "NVIDIA Example", 24 * GIB, (8, 9), 128)
FIXED, EACH = 10_000, 700


def trace_of(scenario: Scenario) -> Prediction:
    """A trace of a made-up device, 1 % short of what its runs take."""
    count = (FIXED + EACH * scenario.train.tokens) * 99 // 100
    phases = {"backward": Memory(weights=count)}
    return Prediction("traced", Memory(weights=FIXED), phases, phases)  # type: ignore[arg-type]


def device(measured: Make, memory: int, ends: Mapping[int, Outcome] = {}) -> Callable[[Scenario], Measurement]:
    """Its runs, by the number of tokens; ``ends`` are those that end in another way."""

    def run(scenario: Scenario) -> Measurement:
        count = FIXED + EACH * scenario.train.tokens
        outcome = ends.get(scenario.train.tokens, "done" if count <= memory else "out_of_memory")
        steps = (StepPeaks(0, 0.5, (PhasePeak("backward", count),)),) if outcome == "done" else ()
        return measured(scenario=scenario, outcome=outcome, steps=steps, cap_bytes=memory, detail="so it was")

    return run


def search(scenario: Scenario, measured: Make, dimension: Dimension, memory: int, **options: Any) -> Limit:
    ends = options.pop("ends", {})
    return search_limit(
        scenario,
        dimension,
        PROCESSOR,
        predict=trace_of,
        measure=device(measured, memory, ends),
        cap_bytes=memory,
        **options,
    )


def test_a_batch(scenario: Scenario, measured: Make) -> None:
    # 16 tokens a sequence: 10_000 + 11_200 b <= 100_000 up to b = 8; a trace 1 % short says 8.08, so 8 as well
    limit = search(scenario, measured, "micro_batch_size", 100_000)

    assert (limit.found.largest, limit.found.failed, limit.found.exact) == (8, 9, True)
    assert limit.predicted["traced"] == 8
    assert [probe.size for probe in limit.found.probes] == [8, 9, 8, 9]
    assert [probe.peak_bytes for probe in limit.found.probes[:2]] == [99_600, None]
    assert limit.best is not None
    assert size_of(limit.best.scenario, "micro_batch_size") == 8
    assert limit.scenario is scenario


def test_a_prediction_that_is_short_is_put_right_by_runs(scenario: Scenario, measured: Make) -> None:
    # 10_000 + 11_200 b <= 1_010_000 up to b = 89; a trace 1 % short says 90
    limit = search(scenario, measured, "micro_batch_size", 1_010_000)

    assert (limit.predicted["traced"], limit.found.largest, limit.found.failed) == (90, 89, 90)


def test_a_length_goes_by_its_step_up_to_the_positions(scenario: Scenario, measured: Make) -> None:
    assert sizes_for(scenario, "seq_len", 24).highest == 48  # of 64 positions

    limit = search(scenario, measured, "seq_len", 30_000, step=8)  # 28 tokens
    assert (limit.found.largest, limit.found.failed) == (24, 32)

    limit = search(scenario, measured, "seq_len", 10**6, step=24)
    assert (limit.found.largest, limit.found.failed, limit.found.exact) == (48, None, True)


def test_a_step_longer_than_the_model(scenario: Scenario) -> None:
    with pytest.raises(UsageError, match="--seq-step 128 is outside 1 to 64"):
        sizes_for(scenario, "seq_len", 128)


def test_a_limit_on_the_processor_needs_a_cap() -> None:
    with pytest.raises(UsageError, match="--cap 1GiB"):
        usable_bytes(PROCESSOR, None)
    assert usable_bytes(CARD, None) == 24 * GIB
    assert usable_bytes(CARD, 16 * GIB) == 16 * GIB


def test_the_trace_begins_where_the_closed_form_ends(scenario: Scenario) -> None:
    asked: list[int] = []

    def predict(one: Scenario) -> Prediction:
        asked.append(one.train.micro_batch_size)
        count = closed_form_bytes(one, PROCESSOR)
        return Prediction("traced", Memory(), {"backward": Memory(weights=count)}, {})

    sizes = sizes_for(scenario, "micro_batch_size")
    limits = predicted_limits(scenario, "micro_batch_size", PROCESSOR, 32 * 2**20, sizes, predict)

    largest = limits["closed-form"]
    assert largest is not None
    assert limits["traced"] == largest
    assert asked == [largest, largest + 1]
    assert closed_form_bytes(at_size(scenario, "micro_batch_size", largest), PROCESSOR) <= 32 * 2**20
    assert closed_form_bytes(at_size(scenario, "micro_batch_size", largest + 1), PROCESSOR) > 32 * 2**20


def test_models_without_closed_form_are_traced(scenario: Scenario) -> None:
    opaque = replace(scenario, model=replace(scenario.model, blocks=(), layout=()))
    sizes = sizes_for(opaque, "micro_batch_size")

    assert predicted_limits(opaque, "micro_batch_size", PROCESSOR, 100_000, sizes, trace_of) == {"traced": 8}


# ---------------------------------------------------------------- the record and the tables


def test_the_record_says_both_sides_and_what_was_predicted(scenario: Scenario, measured: Make) -> None:
    limit = search(scenario, measured, "micro_batch_size", 100_000)
    record = limit_record(limit)

    assert (record.kind, record.outcome, record.environment.cap_bytes) == ("limit", "done", 100_000)
    assert record.limits is not None
    assert (record.limits.unit, record.limits.largest_ran, record.limits.smallest_failed) == ("micro_batch_size", 8, 9)
    assert record.peak.allocated_bytes == 99_600
    assert record.predicted["traced"] == {"micro_batch_size": 8}
    assert record.restore() == scenario
    assert read_record(record_text(record)) == record


@pytest.mark.parametrize(("outcome", "recorded"), [("timed_out", "timed_out"), ("killed", "killed")])
def test_a_search_that_ended_early_is_recorded_as_such(
    scenario: Scenario, measured: Make, outcome: Outcome, recorded: str
) -> None:
    limit = search(scenario, measured, "micro_batch_size", 100_000, ends={16 * 9: outcome})
    record = limit_record(limit)

    assert (record.outcome, record.limits.largest_ran, record.limits.smallest_failed) == (recorded, 8, None)  # type: ignore[union-attr]
    assert "9 was" in record.detail
    text = " ".join(cell.text for row in limit_sheets(limit)[0].rows for cell in row)
    assert "smallest that ran out of memory none" in text
    assert any("The search stopped: 9 was" in note for note in limit_sheets(limit)[0].notes)


def test_too_many_runs_are_no_success(scenario: Scenario, measured: Make) -> None:
    limit = search(scenario, measured, "micro_batch_size", 100_000, most=3)

    assert limit_record(limit).outcome == "failed"
    assert limit_record(limit).detail == "3 runs were not enough"


def test_the_tables(scenario: Scenario, measured: Make) -> None:
    limit = search(scenario, measured, "micro_batch_size", 1_010_000)
    answer, runs = limit_sheets(limit)

    rows = {row[0].text: [cell.text for cell in row[1:]] for row in answer.rows}
    assert rows["largest that ran"] == ["89", "measured"]
    assert rows["smallest that ran out of memory"] == ["90", "measured"]
    assert ["90", "traced"] in [[cell.text for cell in row[1:]] for row in answer.rows]
    assert [row[0].text for row in runs.rows] == ["90", "89", "89", "90"]
    assert [row[1].text for row in runs.rows] == ["out of memory", "ran", "ran", "out of memory"]
    assert any("run twice" in note for note in answer.notes)

    document = limit_document(limit)
    assert (document["largest_ran"], document["smallest_failed"], document["exact"]) == (89, 90, True)
    assert document["predicted"]["traced"] == 90  # type: ignore[index]


def test_the_tables_of_a_limit_that_is_not_memory(scenario: Scenario, measured: Make) -> None:
    limit = search(scenario, measured, "seq_len", 10**6, step=32)

    assert any("64 is the most that was tried" in note for note in limit_sheets(limit)[0].notes)
