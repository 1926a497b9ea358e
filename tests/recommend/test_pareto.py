"""The front holds exactly what nothing beats, whatever the order."""

from hypothesis import given
from hypothesis import strategies as st

from planner.recommend.candidates import candidate
from planner.recommend.pareto import axes, dominates, front
from planner.recommend.quality import RISKS, quality_risk
from tests.recommend.fakes import ask, fake_estimate, llama

points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


@given(points)
def test_nothing_on_the_front_is_beaten_and_everything_off_it_is(found: list[tuple[int, ...]]) -> None:
    kept = front(found, lambda point: point)

    assert len(set(kept)) == len(kept)
    assert not any(dominates(one, other) for one in found for other in kept)
    assert all(point in kept or any(dominates(one, point) for one in kept) for point in found)


@given(points)
def test_the_front_does_not_depend_on_the_order(found: list[tuple[int, ...]]) -> None:
    assert set(front(found, lambda point: point)) == set(front(found[::-1], lambda point: point))


def test_risk_grows_where_four_bits_cost_more() -> None:
    small, newer = llama(h=2048, f=8192, layers=16), llama()
    older, large = llama(v=32000), llama(h=8192, f=28672, layers=80, n=64)

    def risk(model: object, method: str = "qlora") -> int:
        return quality_risk(candidate(ask(model), method, fake_estimate))  # type: ignore[arg-type]

    assert [risk(small), risk(newer), risk(older), risk(large)] == [3, 2, 1, 1]
    assert {risk(model, "lora") for model in (small, newer, older, large)} == {0}
    assert len(RISKS) == 4


def test_unknown_time_is_infinite_for_all_alike() -> None:
    from tests.recommend.fakes import card  # noqa: PLC0415

    one = candidate(ask(gpu=card(peak_flops_per_s={})), "lora", fake_estimate)

    assert one.step is None
    assert axes(one).seconds == float("inf")
