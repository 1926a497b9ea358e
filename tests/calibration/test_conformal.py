"""Intervals hold what they promise, on errors that are drawn alike, and say nothing where rows are too few."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.calibration.conformal import MOST_PER_SOURCE, Weighted, balanced, bounds, median, rows_for

ERRORS = st.lists(st.floats(-0.5, 0.5), min_size=19, max_size=80)


def even(errors: list[float]) -> list[Weighted]:
    return [Weighted(error) for error in errors]


@pytest.mark.parametrize(
    "draw", [lambda r: r.gauss(0.02, 0.05), lambda r: r.expovariate(20), lambda r: r.choice([0, 0.1])]
)
@pytest.mark.parametrize("n", [19, 40, 100])
def test_the_next_error_is_inside_as_often_as_promised(draw: Callable[[random.Random], float], n: int) -> None:
    generator = random.Random(n)
    hits = 0
    for _ in range(2000):
        found = bounds(even([draw(generator) for _ in range(n)]))
        assert found is not None
        hits += found[0] <= draw(generator) <= found[1]

    assert hits / 2000 >= 0.90 - 0.02  # three standard errors of 2000 draws


@given(ERRORS)
def test_bounds_are_errors_that_occurred(errors: list[float]) -> None:
    found = bounds(even(errors))

    assert found is not None
    assert found[0] <= found[1]
    assert set(found) <= set(errors)
    assert sum(found[0] <= error <= found[1] for error in errors) >= 0.9 * len(errors)


@given(ERRORS)
def test_more_coverage_is_wider(errors: list[float]) -> None:
    found = [bounds(even(errors), coverage) for coverage in (0.5, 0.7, 0.9)]

    for narrow, wide in pairwise(found):
        assert narrow is not None
        assert wide is not None
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_too_few_rows_say_nothing() -> None:
    assert bounds([]) is None
    assert bounds(even([0.0] * (rows_for() - 1))) is None
    assert bounds(even([0.0] * rows_for())) == (0.0, 0.0)


def test_a_large_source_counts_for_twenty_rows() -> None:
    crowd, few = [("crowd", 0.0)] * 1000, [("few", 0.3)] * 10

    weighted = balanced(crowd + few)

    assert sum(one.weight for one in weighted) == pytest.approx(MOST_PER_SOURCE + 10)
    assert bounds(weighted) == (0.0, 0.3)
    assert bounds(even([error for _, error in crowd + few])) == (0.0, 0.0)


def test_a_source_of_fewer_rows_counts_as_it_is() -> None:
    assert [one.weight for one in balanced([("a", 0.1), ("b", 0.2)])] == [1.0, 1.0]


@given(ERRORS)
def test_half_lie_on_either_side_of_the_median(errors: list[float]) -> None:
    middle = median(even(errors))

    assert sum(error <= middle for error in errors) >= len(errors) / 2
    assert sum(error >= middle for error in errors) >= len(errors) / 2
