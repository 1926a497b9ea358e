"""The closed form against the stored traces of the whole grid, and a part of the grid traced again."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import list_models, load_model
from planner.cli import main
from planner.closed_form import estimate
from planner.errors import BrokenInput, UnknownName, UnsupportedScenario, UsageError
from planner.result import OWNERS, PHASES, Estimate, Memory
from planner.spec import Scenario
from planner.validation import traced
from planner.validation.against import MEDIAN, WORST, Agreement, compare
from planner.validation.grid import FOR_ALL, MODELS, SETTINGS, grid, quick_grid
from planner.validation.traced import Row, TracedFile, read_traced, run_grid, stored_grid

STORED = read_traced(stored_grid())


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    return compare(grid(), STORED)


# ---------------------------------------------------------------- the grid


def test_the_grid_has_every_architecture_of_the_catalogue() -> None:
    assert {load_model(name).model.model_type for name in MODELS} == {row.model_type for row in list_models()}
    assert len(MODELS) >= 40


def test_every_model_meets_every_method_both_shapes_and_checkpoints_on_and_off() -> None:
    for name in MODELS:
        cases = [case for case in grid() if case.model == name]
        trains = [case.scenario().train for case in cases]

        assert 10 <= len(cases) <= len(SETTINGS)
        assert {train.method for train in trains} == {"full", "lora", "qlora"}
        assert {train.micro_batch_size for train in trains} == {1, 4}
        assert {train.gradient_checkpointing for train in trains} == {True, False}
        assert {train.loss for train in trains} == {"full", "fused"}
        assert {case.stack for case in cases} == {"plain", "hf", "trl"}


def test_every_setting_is_asked_of_half_the_models_at_least() -> None:
    assert len(grid()) == len(MODELS) * (FOR_ALL + (len(SETTINGS) - FOR_ALL) // 2)


def test_a_model_outside_the_grid_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"model of the grid 'gpt3'"):
        grid(["gpt3"])


# ---------------------------------------------------------------- stored traces


def test_every_case_has_been_traced() -> None:
    assert [case.id for case in grid() if case.id not in STORED.rows] == []


def test_peaks_agree_as_promised(agreement: Agreement) -> None:
    assert agreement.headline is not None
    assert agreement.headline.median <= MEDIAN
    assert abs(agreement.headline.worst) <= WORST, agreement.headline.case
    assert agreement.kept


@pytest.mark.parametrize("side", ["by_method", "by_phase", "by_owner"])
def test_no_group_is_off_in_its_median(agreement: Agreement, side: str) -> None:
    for one in getattr(agreement, side):
        assert one.median <= MEDIAN, one


def test_no_family_is_off(agreement: Agreement) -> None:
    # SmolLM3's matrices have 43 MiB, and the allocator hands out 44: nearly 2 % that only a trace counts.
    for one in agreement.by_family:
        assert one.median <= (0.015 if one.name == "smollm3" else MEDIAN), one


def test_what_the_closed_form_refuses_it_sends_to_the_trace(agreement: Agreement) -> None:
    for name, why in agreement.only_traced:
        assert "--evidence traced" in why, name


def test_groups_hold_every_case_once(agreement: Agreement) -> None:
    n = len(agreement.comparisons)

    assert sum(one.n for one in agreement.by_method) == sum(one.n for one in agreement.by_family) == n
    assert [one.n for one in agreement.by_phase] == [n] * len(PHASES)
    assert [one.name for one in agreement.by_owner] == list(OWNERS)


# ---------------------------------------------------------------- comparing


def doubled(scenario: Scenario) -> Estimate:
    answer = estimate(scenario)
    peak = replace(answer.peak, allocated_bytes=2 * answer.peak.allocated_bytes)
    return replace(
        answer, peak=peak, phases={name: Memory(*(2 * part for part in m)) for name, m in answer.phases.items()}
    )


def by_formula(case: Any) -> Row:
    return Row(case.id, estimate(case.scenario()).phases, capacity_bytes=2**30)


def test_an_estimator_that_says_twice_as_much_is_found_out() -> None:
    cases = quick_grid()
    same = TracedFile({}, "", {case.id: by_formula(case) for case in cases})

    found, right = compare(cases, same, doubled), compare(cases, same)

    assert right.kept
    assert right.headline is not None
    assert right.headline.worst == 0
    assert not found.kept
    assert found.headline is not None
    assert found.headline.median == found.headline.worst == pytest.approx(1.0)
    assert sum(one.owner_error(owner) for one in found.comparisons for owner in OWNERS) == pytest.approx(len(cases))


def test_refusals_are_listed_by_who_refuses() -> None:
    ours, theirs, both = quick_grid()[:3]
    rows = {
        ours.id: by_formula(ours),
        theirs.id: Row(theirs.id, {}, "no such kernel"),
        both.id: Row(both.id, {}, "no such model"),
    }

    def refusing(scenario: Scenario) -> Estimate:
        if scenario.model.name == theirs.scenario().model.name:
            return estimate(scenario)
        raise UnsupportedScenario("not covered: use --evidence traced")

    found = compare((ours, theirs, both), TracedFile({}, "", rows), refusing)

    assert found.headline is None
    assert not found.kept
    assert found.only_traced == ((ours.id, "not covered: use --evidence traced"),)
    assert found.only_closed == ((theirs.id, "no such kernel"),)
    assert [name for name, _ in found.neither] == [both.id]


# ---------------------------------------------------------------- files


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    cases, path = quick_grid()[:3], tmp_path / "grid.jsonl"

    def row(case: Any) -> Row:
        asked.append(case.id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return by_formula(case)

    monkeypatch.setattr(traced, "traced_row", row)
    with pytest.raises(KeyboardInterrupt):
        run_grid(cases, path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "cut o')

    found = run_grid(cases, path)

    assert asked == [cases[0].id, cases[1].id, cases[1].id, cases[2].id]
    assert found.rows == read_traced(path).rows == {case.id: by_formula(case) for case in cases}


def test_an_unfinished_last_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text('{"versions": {}, "date": ""}\n{"id": "x", "refused": "no"}\n{"id": "cut o', encoding="utf-8")

    assert list(read_traced(path).rows) == ["x"]


def test_a_file_of_other_versions_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text(json.dumps({"versions": {"torch": "1.0"}, "date": ""}) + "\n", encoding="utf-8")

    with pytest.raises(UsageError, match=r"was traced with torch 1\.0.*name another file"):
        run_grid(quick_grid(), path)


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"versions": {}, "date": ""}\nnonsense\n{}\n', "\x00"])
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BrokenInput, match="no file of traced cases"):
        read_traced(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--against", "nothing"], "--against 'nothing' is not published, traced, sharded or times"),
        (["--quick"], "--quick belongs to traces"),
        (["--against", "traced", "--quick", "--model", "gpt2"], "--quick names its own models"),
        (["--against", "sharded", "--quick"], "--quick belongs to --against traced"),
        (["--against", "sharded", "--model", "gpt2"], "unknown model of the grid 'gpt2'"),
        (["--against", "traced", "--model", "gpt3"], "unknown model of the grid 'gpt3'"),
    ],
)
def test_the_command_refuses_what_has_no_meaning(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *arguments]) == 2
    assert says in capsys.readouterr().err


# ---------------------------------------------------------------- live


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_part_traced_now_is_as_it_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if any(version(name) != have for name, have in STORED.versions.items() if name != "torch"):
        pytest.skip("the stored traces are of other versions: run make validate")
    path = tmp_path / "grid.jsonl"

    code = main(["validate", "--against", "traced", "--quick", "--out", str(path), "--format", "json"])

    document = json.loads(capsys.readouterr().out)
    again = read_traced(path)
    assert code == 0
    assert document["headline"]["n"] == len(quick_grid()) == len(again.rows)
    for case in quick_grid():
        assert again.rows[case.id] == STORED.rows[case.id], case.id
