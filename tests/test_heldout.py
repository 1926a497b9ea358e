"""Intervals on numbers that they have not seen: as wide as they say, for every source with enough values."""

from collections.abc import Iterator
from functools import cache

import pytest

from planner.calibration import COVERAGE, published_table
from planner.calibration.published import FILE, table_text
from planner.validation import Report, held_by_source, validate, validate_held_out
from planner.validation.grid import grid
from planner.validation.heldout import held_out, neighbour_scores
from planner.validation.residuals import capacities, residuals, table_of
from planner.validation.traced import read_traced, stored_grid

ENOUGH = 20
LEAST, MOST = 0.85, 0.97
"""Ninety per cent intervals hold no fewer, and are no wider than need be."""


@cache
def report() -> Report:
    return validate_held_out()


def test_intervals_hold_what_they_promise_pooled_and_by_source() -> None:
    *sources, together = held_by_source(report().own.checks)

    assert together.n >= 150
    for one in (*(one for one in sources if one.n >= ENOUGH), together):
        assert LEAST <= one.held / one.n <= MOST, one


def test_a_source_plays_no_part_in_its_own_intervals() -> None:
    """With every other source taken away too, nothing is left but the stated width."""
    checks = [check for check in validate().own.checks if check.case.source.id == "fms-a100"]
    alone = held_out(residuals(checks))
    check = next(check for check in checks if check.published.metric == "allocated")

    for other in report().own.checks:
        if other.case.id == check.case.id and other.published.metric == "allocated":
            assert other.covered is not None
    assert list(residuals(checks))
    with_nothing = validate(sources=["fms-a100"], bounds=alone).own.checks
    assert all(one.covered for one in with_nothing if one.published.metric == "allocated")


def test_neighbours_are_held_and_corrected() -> None:
    for one in neighbour_scores(report().own.checks):
        assert one.n >= 50
        assert one.held / one.n >= COVERAGE
        assert one.corrected_error <= one.median_error


def test_the_shipped_table_is_the_one_that_the_anchors_make() -> None:
    made = table_of(validate().own.checks, grid(), read_traced(stored_grid()))

    assert FILE.read_text(encoding="utf-8") == table_text(made), "run python docs/generate.py"
    assert set(published_table()) == set(made)


def test_half_of_the_models_say_what_the_other_half_needs() -> None:
    """The share for fragmentation was fitted: fitted on every second model, its bounds hold those of the others."""
    rows = list(capacities(grid(), read_traced(stored_grid())))
    models = sorted({row.source for row in rows})
    for kept in (models[::2], models[1::2]):
        errors = sorted(row.error for row in rows if row.source in kept)
        low, high = errors[len(errors) // 20], errors[-len(errors) // 20]
        others = [row.error for row in rows if row.source not in kept]
        held = sum(low <= error <= high for error in others) / len(others)
        assert 0.8 <= held <= 0.98


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    report.cache_clear()
