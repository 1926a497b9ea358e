"""The frontier's law: what an entry says fits by its own plan, and one more does not."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.errors import UsageError
from planner.recommend.frontier import (
    Batches,
    Frontier,
    Lane,
    batches_of,
    frontier,
    frontier_for,
    lane_of,
    largest,
    lengths_to,
    shaped,
)
from planner.recommend.request import request_of
from planner.recommend.verdict import judge
from planner.render.frontier import frontier_lines, frontier_sheets
from planner.render.lines import Screen, plain
from planner.render.markdown import sheet_markdown
from planner.spec import Scenario
from tests.cli.conftest import Run
from tests.explore.fakes import step_of

CASES: tuple[dict[str, Any], ...] = (
    {"model": "8b", "gpu": "4090"},
    {"model": "qwen3-30b-a3b", "gpu": "h100", "headroom": "3GiB", "method": "qlora"},
    {"model": "bloom-560m", "gpu": "t4", "stack": "hf"},
    {"model": "llama-2-7b", "gpu": "3090", "gpus": 2, "optimizer": "paged_adamw_8bit", "grad_accumulation": 4},
    {"model": "gpt2", "gpu": "rtx3060-12gb", "gradient_checkpointing": False},
)
SAMPLED = 3
"""Of all entries of a lane, so many are asked of ``plan`` itself, which also recommends."""


def verdict(case: dict[str, Any], lane: Lane, seq_len: int, batch: int) -> str:
    """What ``plan`` says of one entry."""
    settings = {**case, "method": lane.method, "gradient_checkpointing": lane.checkpointing}
    answer = planner.plan(**settings, seq_len=seq_len, micro_batch_size=batch)
    return answer.candidates[0].verdict


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"])
def test_an_entry_fits_by_its_plan_and_one_more_does_not(case: dict[str, Any]) -> None:
    found = frontier_for(**case)
    checked = 0
    for lane in found.lanes:
        entries = [cell for cell in lane.cells if cell.tight]
        for cell in (*entries[:1], *entries[-SAMPLED:]):
            assert cell.fits <= cell.tight
            if cell.fits:
                assert verdict(case, lane, cell.seq_len, cell.fits) == "fits"
            assert verdict(case, lane, cell.seq_len, cell.fits + 1) != "fits"
            assert verdict(case, lane, cell.seq_len, cell.tight) in ("fits", "tight")
            assert verdict(case, lane, cell.seq_len, cell.tight + 1) == "does_not_fit"
            checked += 1
        for cell in lane.cells[len(entries) :]:
            assert verdict(case, lane, cell.seq_len, 1) == "does_not_fit"
            break

    assert checked


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"])
def test_the_longest_sequence_fits_by_its_plan_and_the_next_does_not(case: dict[str, Any]) -> None:
    found = frontier_for(**case)
    for lane in found.lanes:
        for length, verdicts in ((lane.longest_fits, {"fits"}), (lane.longest_tight, {"fits", "tight"})):
            if length:
                assert verdict(case, lane, length, 1) in verdicts
            assert length == found.limit or verdict(case, lane, length + 64, 1) not in verdicts


def test_tokens_per_second_are_those_of_the_plan() -> None:
    found = frontier_for(model="8b", gpu="4090", method="qlora", gradient_checkpointing=True)
    cell = found.lanes[0].cells[3]
    answer = planner.plan(model="8b", gpu="4090", method="qlora", seq_len=cell.seq_len, micro_batch_size=cell.fits)

    assert answer.candidates[0].step is not None
    assert cell.tokens_per_second == answer.candidates[0].step.tokens_per_second


def test_a_held_setting_has_no_second_lane() -> None:
    found = frontier_for(model="1b", gpu="4090", method="lora", gradient_checkpointing=False)

    assert [(lane.method, lane.checkpointing) for lane in found.lanes] == [("lora", False)]


@pytest.mark.parametrize("name", ["seq_len", "micro_batch_size"])
def test_what_it_varies_cannot_be_set(name: str) -> None:
    settings: dict[str, Any] = {name: 4}
    with pytest.raises(UsageError, match="what a frontier varies"):
        frontier_for(model="8b", gpu="4090", **settings)


# ---------------------------------------------------------------- the search


@given(st.integers(0, 400), st.integers(1, 300), st.integers(-5, 500))
def test_the_largest_number_is_found_from_any_guess(bound: int, most: int, guess: int) -> None:
    assert largest(lambda n: n <= bound, most, guess) == min(bound, most)


@given(st.sets(st.integers(1, 60)), st.integers(1, 60), st.integers(1, 60))
def test_whatever_holds_it_holds_for_the_answer_and_not_for_one_more(holds: set[int], most: int, guess: int) -> None:
    found = largest(lambda n: n in holds, most, guess)

    assert found == 0 or found in holds
    assert found == most or found + 1 not in holds


@given(st.integers(1, 2**20))
def test_lengths_double_up_to_the_limit(limit: int) -> None:
    lengths = lengths_to(limit)

    assert lengths[-1] == limit
    assert all(2 * one == other for one, other in pairwise(lengths[:-1]))


# ---------------------------------------------------------------- what is shown


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Frontier]:
    """The frontier with made-up times and without notes."""

    monkeypatch.setattr("planner.recommend.frontier.timed", step_of)
    return lambda **case: replace(
        frontier_for(**case), notes=("a note that is rather long, so that it wraps at sixty",)
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("gpu", ["4090", "rtx3080-10gb"])
def test_drawn_at_every_width(
    steady: Callable[..., Frontier], golden: Callable[[str, str], None], width: int, gpu: str
) -> None:
    text = plain(frontier_lines(steady(model="8b" if gpu == "4090" else "70b", gpu=gpu), Screen(width)), Screen(width))

    assert max(map(len, text.splitlines())) <= width
    golden(f"frontier_{gpu}_{width}.txt", text)


def test_markdown(steady: Callable[..., Frontier], golden: Callable[[str, str], None]) -> None:
    golden("frontier.md", "\n".join(map(sheet_markdown, frontier_sheets(steady(model="8b", gpu="4090")))))


def test_the_command_prints_one_document(run: Run) -> None:
    answer = run("frontier", "--model", "8b", "--gpu", "4090", "--format", "json")
    document = json.loads(answer.out)

    assert answer.code == 0
    assert document["positions"] == 131_072
    assert [(one["method"], one["gradient_checkpointing"]) for one in document["lanes"]] == [
        (method, kept) for method in ("full", "lora", "qlora") for kept in (True, False)
    ]
    assert {"seq_len", "fits", "tight", "tokens_per_second"} == set(document["lanes"][0]["cells"][0])


def test_nothing_that_fits_is_exit_code_4(run: Run) -> None:
    answer = run("frontier", "--model", "70b", "--gpu", "4090")

    assert answer.code == 4
    assert answer.out.startswith("Nothing fits")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--model is missing"),
        (("--model", "8b", "--gpu", "4090", "--evidence", "traced"), "rests on closed forms"),
        (("--model", "8b", "--gpu", "4090", "--seq-len", "512"), "what a frontier varies"),
    ],
)
def test_a_bad_option_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    answer = run("frontier", *arguments)

    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert words in answer.err


@pytest.mark.parametrize("settings", [{}, {"completion_len": 600}])
def test_groups_of_completions_are_settled_at_each_length(settings: dict[str, Any]) -> None:
    """Completions are half of a short sequence, or leave no room in it; each entry is what the plan itself says."""
    asked = {"objective": "grpo", **settings}
    found = frontier(request_of(model="1b", gpu="4090", method="lora", settings=asked))

    assert found.lengths[0] == (1024 if settings else 256)
    lane = found.lanes[0]
    for cell in lane.cells[:2]:
        shape = {**asked, "seq_len": cell.seq_len, "micro_batch_size": cell.fits, "gradient_checkpointing": True}
        asked_alone = planner.scenario(model="1b", gpu="4090", method="lora", **shape)
        assert judge(planner.estimate(asked_alone), asked_alone.cluster) == "fits"
    assert all(cell.tokens_per_second is None or cell.tokens_per_second > 0 for cell in lane.cells)


# ---------------------------------------------------------------- groups of completions

GROUPS: tuple[dict[str, Any], ...] = (
    {"model": "1b", "gpu": "4090", "method": "lora"},
    {"model": "1b", "gpu": "4090", "method": "full", "num_generations": 6},
    {"model": "8b", "gpu": "h100", "method": "qlora", "num_generations": 12, "completion_len": 300},
    {"model": "1b", "gpu": "4090", "gpus": 2, "method": "lora", "grad_accumulation": 4},
    {"model": "3b", "gpu": "a100-80gb", "gpus": 3, "method": "lora", "num_generations": 9, "sharding": "ddp"},
)
BEYOND = 3
"""Rounds of a group above the answer that are tried one by one."""


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_no_larger_micro_batch_of_whole_groups_fits(case: dict[str, Any], checkpointing: bool) -> None:
    """Three sequences in eight micro-steps may need more than four in two: a search by halves had ended at two."""
    scenario = planner.scenario(**case, objective="grpo", gradient_checkpointing=checkpointing)
    lengths = (512, 1024, 4096)
    found = lane_of(scenario, lengths, 8192, planner.estimate)

    for cell in found.cells:
        for most, goals in ((cell.fits, {"fits"}), (cell.tight, {"fits", "tight"})):
            beyond = range(most, most + BEYOND * scenario.train.num_generations)
            verdicts = [judged_as(shaped(scenario, cell.seq_len, batch)) for batch in beyond if batch]
            assert all(one not in goals for one in verdicts[bool(most) :]), (cell, most)
            assert not most or verdicts[0] in goals


def judged_as(scenario: Scenario) -> str:
    return judge(planner.estimate(scenario), scenario.cluster)


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_a_larger_micro_batch_of_its_kind_needs_more(case: dict[str, Any]) -> None:
    """What the search rests on; and so does a longer sequence, alone."""
    scenario = planner.scenario(**case, objective="grpo")
    kinds = batches_of(scenario)
    for kind in kinds:
        shapes = [shaped(scenario, 1024, kind.at(place)) for place in range(1, 12)]
        needs = [planner.estimate(shape).peak.required_bytes for shape in shapes]
        assert needs == sorted(needs)
        assert len({shape.train.grad_accumulation for shape in shapes}) == 1
    found = [kind.at(place) for kind in kinds for place in range(1, kind.up_to(40) + 1)]
    assert sorted(found) == list(range(1, 41))

    lengths = range(scenario.train.completion_len + 64, 6000, 192)
    needs = [planner.estimate(shaped(scenario, length, 1)).peak.required_bytes for length in lengths]
    assert needs == sorted(needs)


@given(st.sets(st.integers(1, 12), min_size=1), st.integers(0, 60))
def test_micro_batches_of_a_kind_are_counted(first: set[int], most: int) -> None:
    kind = Batches(tuple(sorted(first)), 12)
    members = [number for number in range(1, 100) if (number - 1) % 12 + 1 in first]

    assert [kind.at(place) for place in range(1, 9)] == members[:8]
    assert kind.up_to(most) == sum(number <= most for number in members)


def test_a_longest_sequence_may_be_shorter_than_every_length_of_the_table() -> None:
    """Completions of 300 tokens fit beside a short prompt where 512 tokens do not."""
    scenario = planner.scenario(model="8b", gpu="rtx4060ti-16gb", method="lora", objective="grpo", completion_len=300)
    needs = {length: planner.estimate(shaped(scenario, length, 1)).peak.required_bytes for length in (384, 448)}
    card = replace(scenario.cluster, headroom_bytes=scenario.cluster.usable_bytes - needs[384])
    found = lane_of(replace(scenario, cluster=card), (512,), 8192, planner.estimate)

    assert needs[384] < needs[448]
    assert found.cells[0].tight == 0
    assert found.longest_tight == 384


def test_long_completions_have_a_frontier_and_those_that_fill_the_model_a_line(run: Run) -> None:
    answer = run("frontier", "--model", "1b", "--gpu", "h100", "--objective", "grpo", "--completion-len", "4096")
    assert answer.code == 0
    assert "8,192" in answer.out

    for tokens in (1024, 5000):
        full = ("--model", "gpt2", "--gpu", "h100", "--objective", "grpo", "--completion-len", str(tokens))
        refused = run("frontier", *full)
        assert refused.code == 2
        assert refused.err == (
            f"error: --completion-len {tokens} leaves no prompt in the 1,024 positions of gpt2: "
            "name fewer tokens than that\n"
        )
