"""The closed form against stored traces of many cards."""

from statistics import median

import pytest

from planner.catalog import load_model
from planner.errors import UnknownName
from planner.result import PHASES
from planner.validation.against import Agreement, compare
from planner.validation.sharded import EVERYWHERE, MEDIAN, MODELS, OTHERS, RANKS, WORST, sharded_grid
from planner.validation.traced import read_traced, stored_sharded

STORED = read_traced(stored_sharded())
CASES = sharded_grid()


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    return compare(CASES, STORED)


# ---------------------------------------------------------------- the grid


def test_ten_models_and_more_meet_full_fine_tuning_at_every_number_of_ranks() -> None:
    met = {(case.model, case.method, case.ranks) for case in CASES if case.settings["sharding"] == "fsdp"}

    assert len(MODELS) >= 10
    assert len({load_model(name).model.model_type for name in MODELS}) >= 6
    assert met >= {(model, "full", ranks) for model in MODELS for ranks in RANKS}
    assert len(CASES) == len(met) + len(OTHERS)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_meet_every_number_of_ranks_and_every_model(method: str) -> None:
    met = {(case.model, case.ranks) for case in CASES if case.settings["sharding"] == "fsdp" and case.method == method}

    assert met >= {(model, ranks) for model in EVERYWHERE for ranks in RANKS}
    assert {model for model, _ in met} == set(MODELS)
    assert min(sum(ranks == one for _, ranks in met) for one in RANKS) >= 7


@pytest.mark.parametrize("ranks", RANKS)
def test_every_number_of_ranks_meets_every_kind_of_setting(ranks: int) -> None:
    here = [case for case in CASES if case.ranks == ranks]

    assert {case.stack for case in here} == {"plain", "hf", "trl"}
    assert {case.settings.get("gradient_checkpointing", True) for case in here} == {True, False}
    assert {case.settings.get("grad_accumulation", 1) for case in here} == {1, 4}
    assert {case.settings["seq_len"] for case in here} == {512, 2048, 4096}


def test_integer_storage_and_saved_modules_are_in_it() -> None:
    assert sum(case.settings.get("quant_storage") == "uint8" for case in CASES) >= 4
    assert sum(case.settings.get("modules_to_save") == "lm_head" for case in CASES) >= 4


def test_ranks_stand_in_machines_of_eight() -> None:
    for case in CASES:
        cluster = case.scenario().cluster
        assert cluster.world_size == case.ranks
        assert cluster.gpus == min(case.ranks, 8)


def test_a_model_outside_the_grid_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"model of the grid 'gpt2'"):
        sharded_grid(["gpt2"])


# ---------------------------------------------------------------- stored traces


def test_every_case_has_been_traced() -> None:
    assert [case.id for case in CASES if case.id not in STORED.rows] == []


def test_peaks_agree_as_promised(agreement: Agreement) -> None:
    assert agreement.headline is not None
    assert agreement.headline.n >= 0.9 * len(CASES)
    assert agreement.headline.median <= MEDIAN
    assert abs(agreement.headline.worst) <= WORST, agreement.headline.case


@pytest.mark.parametrize("side", ["by_method", "by_ranks", "by_family", "by_phase", "by_owner"])
def test_no_group_is_off_in_its_median(agreement: Agreement, side: str) -> None:
    for one in getattr(agreement, side):
        assert one.median <= MEDIAN, one


def test_every_phase_is_near(agreement: Agreement) -> None:
    # Loading, the closed form counts the 16-bit original of a matrix that is quantised; a trace begins after that.
    phases = [phase for phase in PHASES if phase != "load"]
    errors = [abs(one.phase_error(phase)) for one in agreement.comparisons for phase in phases]

    assert median(errors) <= MEDIAN
    assert max(errors) <= WORST


def test_by_number_of_ranks_every_case_counts_once(agreement: Agreement) -> None:
    assert sum(one.n for one in agreement.by_ranks) == len(agreement.comparisons)
    assert [int(one.name) for one in agreement.by_ranks] == list(RANKS)


def test_what_the_closed_form_refuses_it_sends_to_the_trace(agreement: Agreement) -> None:
    for name, why in agreement.only_traced:
        assert "--evidence traced" in why, name
