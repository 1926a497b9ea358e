"""What a reader is told of a divided model: on what its interval rests, and whose layout it is."""

from typing import Any

import pytest

from planner.calibration import STATED, Calibration, published_table
from planner.closed_form import estimate
from planner.planning import plan
from planner.recommend.request import Request
from planner.recommend.rules.spd import _PART_WORDS
from planner.result import TIME_PARTS
from tests.parallel.samples import scenario


@pytest.mark.parametrize("layout", [{"tensor_parallel": 8}, {"context_parallel": 8}, {"pipeline_parallel": 8}])
def test_no_published_run_speaks_for_a_divided_model(layout: dict[str, Any]) -> None:
    calibration = Calibration(published_table())
    whole, divided = scenario("llama-3.1-8b"), scenario("llama-3.1-8b", **layout)

    kinds = [calibration.calibrated(estimate(one), one).basis.kind for one in (whole, divided)]  # type: ignore[union-attr]
    assert kinds == ["published", "stated"]

    found = calibration.calibrated(estimate(divided), divided)
    width = round(STATED * found.peak.allocated_bytes)
    assert found.peak.high_bytes >= found.peak.required_bytes + width


NOTES = [
    ({"tensor_parallel": 2}, "as Accelerate's ParallelismConfig does"),
    ({"tensor_parallel": 2, "sequence_parallel": True}, "as Megatron-LM and torchtitan put them"),
]


@pytest.mark.parametrize(("layout", "words"), NOTES)
def test_the_plan_says_whose_layout_it_is(layout: dict[str, Any], words: str) -> None:
    request = Request(model="llama-3.2-1b", gpu="h100", gpus=2, methods=("full",), settings=layout)
    found = plan(request)

    assert any(words in note for note in found.notes)
    assert found.candidates[0].estimate.basis is not None
    assert found.candidates[0].estimate.basis.kind == "stated"


def test_every_part_of_a_step_has_words_where_it_sets_the_pace() -> None:
    assert set(TIME_PARTS) == set(_PART_WORDS)
