"""The options of a job: what they become, and one line for each that has no meaning."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cli.data import DATA, job_from, task_from
from planner.errors import PlannerError, UsageError
from planner.spec import TASK_NAMES, TASKS, Job
from planner.units import format_count, parse_count
from tests.datasets.writing import CHAT, COMPARED, jsonl


def test_nothing_said_is_the_usual_job() -> None:
    assert job_from({}, "8b") == (Job(), None)


def test_a_count_of_tokens_needs_no_file() -> None:
    job, data = job_from({"dataset_tokens": "50M", "epochs": "3", "task": "pretraining", "packing": True}, "8b")

    assert (job.tokens, job.epochs, job.task, job.packing) == (50_000_000, 3.0, "cpt", True)
    assert data is None


def test_a_file_says_it_all(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [CHAT] * 3)

    job, data = job_from({"dataset": str(path), "epochs": "2", "adapters": "4", "new_vocabulary": True}, None)

    assert data is not None
    assert (job.tokens, job.lengths, job.sequences) == (data.tokens, data.lengths, 3)
    assert (job.epochs, job.adapters, job.new_vocabulary) == (2.0, 4, True)


def test_the_shape_of_the_data_says_the_task_and_the_user_may_say_another(tmp_path: Path) -> None:
    path = str(jsonl(tmp_path / "x.jsonl", [COMPARED]))

    assert job_from({"dataset": path}, None)[0].task == "dpo"
    assert job_from({"dataset": path, "task": "sft"}, None)[0].task == "sft"


@pytest.mark.parametrize("name", [*TASKS, *TASK_NAMES, "SFT", " GRPO "])
def test_tasks_have_many_names(name: str) -> None:
    assert task_from(name) in TASKS


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dataset_tokens": "50 million"}, "--dataset-tokens '50 million' is not a count: write 50M"),
    ({"dataset_tokens": "1.5 bn"}, "write 1.5B"),
    ({"dataset_tokens": "fifty"}, "write for instance 50M"),
    ({"dataset_tokens": "50MiB"}, "is not a count"),
    ({"dataset_tokens": "0"}, "outside 1 to"),
    ({"dataset_tokens": "-3"}, "is not a count"),
    ({"dataset_tokens": "nan"}, "is not a count"),
    ({"dataset_tokens": "9" * 19}, "is not a count"),
    ({"dataset_tokens": "9999999T"}, "outside 1 to"),
    ({"dataset_tokens": "10", "dataset_sequences": "11"}, "more than --dataset-tokens"),
    ({"epochs": "0"}, "--epochs 0.0 is not a number above 0"),
    ({"epochs": "-1"}, "--epochs -1.0 is not a number above 0"),
    ({"epochs": "1001"}, "outside 0 to 1000"),
    ({"epochs": "nan"}, "is not a number"),
    ({"epochs": "three"}, "is not a number"),
    ({"adapters": "0"}, "--adapters 0"),
    ({"adapters": "2.5"}, "whole number"),
    ({"task": "sfd"}, "did you mean sft"),
    ({"task": ""}, "unknown task"),
    ({"dataset": "x", "dataset_tokens": "5M"}, "both say how much"),
    ({"dataset": "x", "dataset_sequences": "5M"}, "both say how much"),
    ({"dataset": ""}, "is a folder"),
    ({"tokenizer": "x"}, "name one with --dataset"),
]


@pytest.mark.parametrize(("values", "says"), WRONG, ids=lambda value: str(value)[:50])
def test_what_has_no_meaning_is_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(PlannerError) as caught:
        job_from(values, "8b")

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_is_read() -> None:
    """Each changes the job or the file, or is refused: an option that does nothing would be a lie."""
    values = {"dataset_tokens": "9M", "dataset_sequences": "9", "epochs": "2", "task": "cpt", "packing": True}
    values |= {"adapters": "3", "new_vocabulary": True, "keep_skills": True}
    elsewhere = {"dataset", "tokenizer"}

    assert {option.name for option in DATA} == values.keys() | elsewhere
    for name, value in values.items():
        assert job_from({name: value}, None)[0] != Job(), name


@given(st.integers(1, 10**15))
def test_counts_are_read_as_they_are_shown(count: int) -> None:
    assert parse_count(str(count)) == parse_count(f"{count:,}") == parse_count(f"{count:_}") == count
    assert parse_count(format_count(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("text", "count"),
    [("50m", 50_000_000), (" 1.5 B ", 1_500_000_000), ("2t", 2 * 10**12), ("1e6", None), ("1,00", None), ("", None)],
)
def test_counts(text: str, count: int | None) -> None:
    if count is None:
        with pytest.raises(UsageError):
            parse_count(text)
    else:
        assert parse_count(text) == count
