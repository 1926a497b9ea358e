"""The verdict at its edges."""

from dataclasses import replace

import pytest

from planner.recommend import judge
from planner.result import Memory, Parameters, Verdict
from planner.spec import Cluster
from planner.units import GIB
from tests.recommend.fakes import card, of_memory

USABLE = 24 * GIB


@pytest.mark.parametrize(
    ("required", "high", "verdict"),
    [
        (20 * GIB, 22 * GIB, "fits"),
        (20 * GIB, USABLE, "fits"),
        (20 * GIB, USABLE + 1, "tight"),
        (USABLE, USABLE + GIB, "tight"),
        (USABLE + 1, USABLE + GIB, "does_not_fit"),
    ],
)
def test_verdict_turns_exactly_at_usable_bytes(required: int, high: int, verdict: Verdict) -> None:
    estimate = of_memory(Memory(weights=required), Parameters(1, 1, 0))
    estimate = replace(estimate, peak=replace(estimate.peak, required_bytes=required, high_bytes=high))

    assert judge(estimate, Cluster(gpu=card(24))) == verdict


def test_headroom_is_not_usable() -> None:
    estimate = of_memory(Memory(weights=20 * GIB), Parameters(1, 1, 0))

    assert judge(estimate, Cluster(gpu=card(24))) == "fits"
    assert judge(estimate, Cluster(gpu=card(24), headroom_bytes=3 * GIB)) == "tight"
    assert judge(estimate, Cluster(gpu=card(24), headroom_bytes=5 * GIB)) == "does_not_fit"
