"""The search for a limit: wherever the limit lies and wherever it starts, it ends between a success and a failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import UsageError
from planner.measure.search import Found, Probe, Range, Try, find_limit, predicted_limit
from planner.measure.values import Outcome

SIZES = Range(lowest=1, highest=100)
LENGTHS = Range(lowest=64, highest=640, step=64)


def card(limit: int) -> Try:
    """A device on which everything up to ``limit`` runs."""
    return lambda size: Probe(size, "done" if size <= limit else "out_of_memory", peak_bytes=10 * size)


def asked(found: Found) -> list[int]:
    return [probe.size for probe in found.probes]


def test_a_right_prediction_costs_two_runs_and_their_confirmation() -> None:
    found = find_limit(card(12), SIZES, 12)

    assert (found.largest, found.failed, found.exact) == (12, 13, True)
    assert asked(found) == [12, 13, 12, 13]


@pytest.mark.parametrize("limit", range(101))
def test_every_limit_from_every_side(limit: int) -> None:
    for start in (1, 2, limit - 1, limit, limit + 1, 57, 100, 1000):
        found = find_limit(card(limit), SIZES, start, most=100)

        assert found.exact
        assert found.largest == (limit or None)
        assert found.failed == (None if limit == 100 else limit + 1)


@given(
    step=st.sampled_from([1, 2, 64]),
    count=st.integers(1, 2000),
    limit=st.integers(-1, 2001),
    start=st.integers(0, 3000),
    confirm=st.booleans(),
)
def test_any_limit_is_found_in_few_runs(step: int, count: int, limit: int, start: int, confirm: bool) -> None:
    sizes = Range(lowest=step, highest=count * step, step=step)
    found = find_limit(card(limit * step), sizes, start * step, most=100, confirm=confirm)

    truth = min(limit, count)
    assert found.exact
    assert found.largest == (truth * step if truth > 0 else None)
    assert found.failed == (max(truth + 1, 1) * step if truth < count else None)
    distance = abs(min(max(start, 1), count) - min(max(limit, 0), count))
    assert len(found.probes) <= 2 * (distance + 1).bit_length() + 2 + 2 * confirm
    assert all(size % step == 0 and sizes.lowest <= size <= sizes.highest for size in asked(found))


@pytest.mark.parametrize("outcome", ["timed_out", "killed", "failed"])
def test_what_says_nothing_about_memory_ends_the_search_and_keeps_what_is_known(outcome: Outcome) -> None:
    def attempt(size: int) -> Probe:
        return Probe(size, outcome, detail="so it was") if size == 7 else card(9)(size)

    found = find_limit(attempt, SIZES, 4)

    assert (found.largest, found.failed, found.exact) == (5, None, False)
    assert found.probes[-1].outcome == outcome
    assert "7 was" in found.stopped.replace("failed", "was")
    assert "says nothing about memory: so it was" in found.stopped


def test_too_many_runs() -> None:
    found = find_limit(card(90), SIZES, 1, most=5)

    assert (len(found.probes), found.exact) == (5, False)
    assert (found.largest, found.failed) == (16, None)
    assert found.stopped == "5 runs were not enough"


def test_a_size_that_does_not_end_twice_alike() -> None:
    seen: list[int] = []

    def attempt(size: int) -> Probe:
        seen.append(size)
        return card(5 if seen.count(size) > 1 else 8)(size)

    found = find_limit(attempt, SIZES, 8)

    assert not found.exact
    assert "8 ran once and ran out of memory once" in found.stopped


def test_lengths_go_by_their_step_up_to_the_models_positions() -> None:
    assert find_limit(card(200), LENGTHS, 500).largest == 192
    found = find_limit(card(10**6), LENGTHS, 100)
    assert (found.largest, found.failed, found.exact) == (640, None, True)


@pytest.mark.parametrize(("lowest", "highest", "step"), [(64, 32, 64), (0, 10, 1), (64, 100, 64), (10, 20, 0)])
def test_no_size_at_all(lowest: int, highest: int, step: int) -> None:
    with pytest.raises(UsageError, match="no multiple of"):
        Range(lowest=lowest, highest=highest, step=step)


@given(fixed=st.integers(0, 500), each=st.integers(1, 60), usable=st.integers(0, 5000), start=st.integers(1, 100))
def test_the_predicted_limit_is_the_largest_that_fits(fixed: int, each: int, usable: int, start: int) -> None:
    found = predicted_limit(lambda size: fixed + each * size, usable, SIZES, start)

    fitting = [size for size in range(1, 101) if fixed + each * size <= usable]
    assert found == max(fitting, default=None)


@given(
    fixed=st.integers(0, 10**10),
    each=st.integers(10**6, 10**9),
    bend=st.sampled_from([0, 0, 10**3, 10**6]),
    limit=st.integers(0, 4096),
    start=st.integers(1, 4096),
)
def test_a_prediction_that_takes_seconds_is_asked_seldom(
    fixed: int, each: int, bend: int, limit: int, start: int
) -> None:
    sizes, asked = Range(lowest=1, highest=4096), list[int]()

    def required(size: int) -> int:
        asked.append(size)
        return fixed + each * size + bend * size * size

    usable = fixed + each * limit + bend * limit * limit
    found = predicted_limit(required, usable, sizes, start)

    assert found == (limit or None)
    assert len(asked) == len(set(asked))
    assert len(asked) <= (5 if bend == 0 else 24)


def test_steps_and_plateaus() -> None:
    assert predicted_limit(lambda size: size // 10, 4, SIZES, 3) == 49
    assert predicted_limit(lambda size: 7, 7, SIZES, 3) == 100
    assert predicted_limit(lambda size: 8, 7, SIZES, 3) is None
    assert predicted_limit(lambda size: 3 * size, 1000, LENGTHS, 64) == 320
