"""Notes on what an answer takes for granted, and on numbers that would mislead alone."""

from typing import Any

import pytest

import planner
from planner.result import Plan


def planned(**settings: Any) -> Plan:
    return planner.plan(model="1b", gpu="a100-80gb", method="lora", **settings)


def told(plan: Plan, words: str) -> bool:
    return any(words in note for note in plan.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"moments": "evaluation"}, True),
        ({"moments": "evaluation", "eval_logits": True}, False),
        ({"moments": "evaluation", "eval_logits": False}, False),
        ({"moments": "save"}, False),
        ({}, False),
    ],
)
def test_that_evaluation_gathers_logits_is_told_where_we_assume_it(settings: dict[str, Any], said: bool) -> None:
    assert told(planned(**settings), "--no-eval-logits") is said


def test_settings_of_moments_that_are_not_planned_change_nothing() -> None:
    idle = planned(eval_samples=1000, new_tokens=7, moments="generation")

    assert told(idle, "--eval-samples changes nothing without --moments evaluation")
    assert not told(idle, "--new-tokens")
    assert not told(planned(moments="all", eval_samples=1000, new_tokens=7), "changes nothing")


def test_more_on_the_device_than_the_card_has_is_explained() -> None:
    """32 sequences' logits: the card does for what is needed, and torch would take more of a larger one."""
    asked = planned(moments="evaluation")
    peak = asked.candidates[0].estimate.peak

    assert peak.required_bytes < asked.cluster.usable_bytes < peak.device_bytes
    assert told(asked, "gives back what no tensor uses")
    assert not told(planned(), "gives back what no tensor uses")
