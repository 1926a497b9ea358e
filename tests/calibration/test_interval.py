"""Where the bounds come from: published runs, own runs by nearness, what was seen to run and to fail."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.calibration import STATED, Calibration, Kind, Residual, Run, Runs, fit
from planner.calibration.interval import LEAST, ON_PROCESSOR
from planner.calibration.own import NEIGHBOURS, REPEATS, Query, query_of
from planner.closed_form import estimate
from planner.formulas.overhead import fragmentation
from planner.result import Estimate
from planner.spec import Scenario
from planner.units import GIB

HERE = Kind("closed-form", "allocated", "one", "trl", "ada")


def scenario(**settings: Any) -> Scenario:
    facts: dict[str, Any] = {"model": "llama-3.2-1b", "gpu": "4090", "method": "lora", **settings}
    return planner.scenario(**facts)


def run(of: Scenario, error: float = 0.0, *, name: str = "run", **changes: Any) -> Run:
    """A run that allocated ``error`` more than the closed form says."""
    ours = estimate(of).peak
    facts: dict[str, Any] = {
        "id": name,
        "scenario": of,
        "layers": None,
        "measured": {"allocated": round(ours.allocated_bytes * (1 + error))},
        "predicted": {"closed-form": {"allocated": ours.allocated_bytes, "reserved": ours.reserved_bytes}},
        **changes,
    }
    return Run(**facts)


def own(*runs: Run) -> Runs:
    """Those runs, found as a store would find them."""

    def find(query: Query) -> tuple[Run, ...]:
        return tuple(one for one in runs if answers(one, query))

    return Runs(find)


def answers(one: Run, query: Query) -> bool:
    of = one.scenario
    named = query_of(of) == query._replace(model="", method="")
    return named and query.model in ("", of.model.name) and query.method in ("", of.train.method)


def calibrated(of: Scenario, *runs: Run, table: Any = None) -> Estimate:
    return Calibration(table or {}, own(*runs)).calibrated(estimate(of), of)


def width(found: Estimate) -> int:
    """How far the upper bound lies above the requirement."""
    return found.peak.high_bytes - found.peak.required_bytes


def spread_around(error: float, n: int = 40) -> list[Residual]:
    """Errors on both sides of one, from two sources."""
    return [Residual(HERE, f"source {number % 2}", error + (number - n / 2) / 1000) for number in range(n)]


# ---------------------------------------------------------------- without own runs


def test_without_measurements_the_width_is_stated() -> None:
    found = calibrated(scenario())

    peak = found.peak
    assert found.basis is not None
    assert found.basis.kind == "stated"
    assert peak.required_bytes == estimate(scenario()).peak.required_bytes
    assert peak.high_bytes - peak.required_bytes == round(STATED * peak.allocated_bytes)


def test_published_errors_set_bounds_and_move_nothing() -> None:
    table = fit(spread_around(0.05))
    found = calibrated(scenario(), table=table)

    assert found.basis is not None
    assert (found.basis.kind, found.basis.n, found.basis.group) == ("published", 40, "trl on Ada, one GPU")
    assert found.peak.required_bytes == estimate(scenario()).peak.required_bytes
    assert found.peak.high_bytes - found.peak.required_bytes == round(table[HERE].high * found.peak.allocated_bytes)
    assert found.peak.required_bytes - found.peak.low_bytes == round(LEAST * found.peak.allocated_bytes)


def test_the_narrowest_group_with_enough_rows_speaks() -> None:
    few = [residual._replace(kind=HERE._replace(stack="hf")) for residual in spread_around(0.2, n=10)]
    table = fit([*spread_around(0.0), *few])

    of_hf = Calibration(table).errors(estimate(scenario(stack="hf")), scenario(stack="hf"))

    assert of_hf.basis.group == "all stacks, one GPU"
    assert of_hf.basis.n == 50
    assert of_hf.high > Calibration(table).errors(estimate(scenario()), scenario()).high


def test_what_the_allocator_needs_beyond_is_added() -> None:
    beyond = [residual._replace(kind=HERE._replace(metric="capacity")) for residual in spread_around(0.0)]
    alone, both = fit(spread_around(0.0)), fit([*spread_around(0.0), *beyond])

    wider = calibrated(scenario(), table=both).peak.high_bytes - calibrated(scenario(), table=alone).peak.high_bytes

    capacity = both[HERE._replace(metric="capacity")]
    assert wider == pytest.approx(capacity.high * fragmentation(estimate(scenario()).peak.allocated_bytes), abs=2)


def test_a_trace_has_replayed_its_own_capacity() -> None:
    beyond = [residual._replace(kind=HERE._replace(metric="capacity")) for residual in spread_around(0.0)]
    traced = replace(estimate(scenario()), evidence="traced")

    assert Calibration(fit(beyond)).beyond(traced, scenario()).n == 0
    assert (
        Calibration(fit(spread_around(0.0))).errors(traced, scenario()).basis.n == 40
    )  # the closed form's speak for it


def test_published_runs_say_nothing_about_a_processor() -> None:
    of = scenario()
    processor = replace(of, cluster=replace(of.cluster, gpu=replace(of.cluster.gpu, architecture="cpu")))
    beyond = [residual._replace(kind=HERE._replace(metric="capacity")) for residual in spread_around(0.0)]
    table = fit([*spread_around(0.0), *beyond])

    errors = Calibration(table).errors(estimate(processor), processor)

    assert errors.basis.kind == "stated"
    assert (errors.low, errors.high) == ON_PROCESSOR  # closed forms describe a card's kernels
    assert Calibration(table).errors(replace(estimate(processor), evidence="traced"), processor).high == STATED
    assert Calibration(table).beyond(estimate(processor), processor).n == 0


# ---------------------------------------------------------------- own runs


def test_a_run_of_this_scenario_corrects_it() -> None:
    of = scenario()
    found, bare = calibrated(of, run(of, 0.04)), estimate(of)

    moved = found.peak.required_bytes - bare.peak.required_bytes
    assert moved == pytest.approx(0.04 * bare.peak.allocated_bytes, rel=1e-6)
    assert found.basis is not None
    assert (found.basis.kind, found.basis.sources, found.basis.correction_bytes) == ("scenario", ("run",), moved)
    assert found.peak.high_bytes - found.peak.required_bytes == pytest.approx(
        REPEATS * bare.peak.allocated_bytes, abs=2
    )
    assert found.peak.allocated_bytes == bare.peak.allocated_bytes == found.peak_memory.total


def test_a_neighbour_corrects_and_leaves_more_open() -> None:
    of, other = scenario(), scenario(seq_len=4096)
    found = calibrated(of, *(run(other, 0.03, name=str(number)) for number in range(9)))

    assert found.basis is not None
    assert (found.basis.kind, found.basis.n) == ("neighbours", 9)
    allocated = found.peak.allocated_bytes
    assert found.basis.correction_bytes == pytest.approx(0.03 * allocated, rel=1e-4)
    assert width(found) == pytest.approx(NEIGHBOURS * allocated, abs=2)


@pytest.mark.parametrize(
    ("length", "kind"), [(512, "neighbours"), (8192, "neighbours"), (511, "stated"), (8193, "stated")]
)
def test_what_is_much_larger_or_smaller_is_no_neighbour(length: int, kind: str) -> None:
    found = calibrated(scenario(seq_len=2048), run(scenario(seq_len=length), 0.5))

    assert found.basis is not None
    assert found.basis.kind == kind


def test_one_neighbour_narrows_by_half() -> None:
    of = scenario()
    found = calibrated(of, run(scenario(seq_len=4096)))

    assert found.peak.high_bytes - found.peak.required_bytes == pytest.approx(
        STATED / 2 * found.peak.allocated_bytes, abs=2
    )


def test_neighbours_of_the_same_settings_come_first() -> None:
    of = scenario()
    near, far = run(scenario(seq_len=1024), 0.01, name="near"), run(scenario(lora_rank=64), 0.20, name="far")

    found = calibrated(of, far, near)

    assert found.basis is not None
    assert found.basis.sources == ("near",)


@pytest.mark.parametrize(
    "changes", [{"gpu": "h100"}, {"stack": "plain"}, {"method": "full"}, {"model": "llama-3.2-3b"}], ids=str
)
def test_runs_of_another_kind_say_nothing(changes: dict[str, Any]) -> None:
    found = calibrated(scenario(), run(scenario(**changes), 0.5))

    assert found.basis is not None
    assert found.basis.kind == "stated"
    assert found.basis.correction_bytes == 0


def test_many_runs_of_other_models_speak_for_the_device() -> None:
    others = [run(scenario(model="llama-3.2-3b", seq_len=64 * n), 0.05, name=str(n)) for n in range(1, 21)]

    found = calibrated(scenario(), *others)
    few = calibrated(scenario(), *others[:18])

    assert found.basis is not None
    assert few.basis is not None
    assert (found.basis.kind, found.basis.coverage) == ("device", 0.9)
    assert found.basis.correction_bytes == pytest.approx(0.05 * found.peak.allocated_bytes, rel=1e-3)
    assert few.basis.kind == "stated"


def test_truncated_runs_say_nothing_of_the_whole() -> None:
    """Two layers that take twice what is predicted, for their kernels' sake, do not double a model of thirty."""
    found = calibrated(scenario(), run(scenario(), 1.0, layers=2))

    assert found.basis is not None
    assert (found.basis.kind, found.basis.correction_bytes) == ("stated", 0)


@pytest.mark.parametrize("changes", [{"lengths": (2048, 512)}, {"allocator": "expandable_segments:True"}], ids=str)
def test_runs_that_a_plan_does_not_assume_are_neighbours(changes: dict[str, Any]) -> None:
    """What they reserved is not enough for this scenario, nor does their failure say that it fails."""
    of = scenario()
    ran = run(of, 0.02, measured={"allocated": estimate(of).peak.allocated_bytes}, held_bytes=GIB, **changes)
    died = run(of, name="died", out_of_memory=True, measured={}, held_bytes=80 * GIB, **changes)

    found = calibrated(of, ran, died)

    assert found.basis is not None
    assert (found.basis.kind, found.basis.sources) == ("neighbours", ("run",))
    assert GIB < found.peak.required_bytes < 80 * GIB


def test_another_version_that_behaves_alike_is_the_same_trainer() -> None:
    of = scenario(stack="trl")
    renamed = replace(of, stack=replace(of.stack, versions={**of.stack.versions, "torch": "2.99"}))
    otherwise = replace(of, stack=replace(of.stack, holds_logits=not of.stack.holds_logits))

    kinds = [calibrated(of, run(one, 0.01)).basis for one in (renamed, otherwise)]

    assert [basis and basis.kind for basis in kinds] == ["scenario", "neighbours"]


def test_settings_that_do_not_act_make_no_difference() -> None:
    of = scenario()
    unused = replace(of, train=replace(of.train, eval_batch_size=3))
    used = replace(of, train=replace(of.train, moments=("evaluation",)))

    kinds = [calibrated(of, run(one, 0.01)).basis for one in (unused, used)]

    assert [basis and basis.kind for basis in kinds] == ["scenario", "neighbours"]


def test_runs_of_several_cards_say_nothing_about_one() -> None:
    of = scenario()
    several = run(replace(of, cluster=replace(of.cluster, gpus=8)), 0.5)

    assert Calibration(runs=Runs(lambda _: (several,))).errors(estimate(of), of).basis.kind == "stated"


# ---------------------------------------------------------------- what was seen


def test_where_it_ran_out_of_memory_it_does_not_fit() -> None:
    of = scenario()
    died = run(of, out_of_memory=True, measured={}, held_bytes=of.cluster.usable_bytes)

    peak = calibrated(of, died).peak

    assert peak.low_bytes == peak.required_bytes == peak.high_bytes == of.cluster.usable_bytes + 1


def test_what_it_reserved_is_enough() -> None:
    of = scenario()
    bare = estimate(of).peak
    reserved = bare.allocated_bytes + GIB // 8
    ran = run(of, measured={"allocated": bare.allocated_bytes, "reserved": reserved}, held_bytes=24 * GIB)

    peak = calibrated(of, ran).peak

    outside = bare.device_bytes - bare.reserved_bytes
    assert peak.high_bytes <= reserved + outside
    assert peak.low_bytes >= bare.allocated_bytes + outside
    assert peak.reserved_bytes == pytest.approx(reserved, abs=1)


@given(
    st.lists(
        st.tuples(
            st.floats(-0.3, 0.3),
            st.sampled_from([1024, 2048, 4096]),
            st.booleans(),
            st.integers(1, 80).map(GIB.__mul__),
        ),
        max_size=6,
    )
)
def test_bounds_hold_the_requirement_whatever_was_seen(drawn: Iterable[tuple[float, int, bool, int]]) -> None:
    of = scenario()
    runs = [
        run(scenario(seq_len=length), error, name=str(number), out_of_memory=died, held_bytes=held)
        for number, (error, length, died, held) in enumerate(drawn)
    ]

    peak = calibrated(of, *runs).peak

    assert 0 < peak.low_bytes <= peak.required_bytes <= peak.high_bytes
