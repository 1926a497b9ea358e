"""What data and task settle before any method is estimated, and the order of methods that follows."""

from typing import Any

import pytest

from planner.recommend.capacity import SMALL_DATA, capacity, full_from
from planner.recommend.informed import beyond_adapters, informed, per_rank
from planner.recommend.order import ADAPTERS_FIRST, EVERY_WEIGHT_FIRST, preference
from planner.recommend.request import Ask
from planner.spec import Job, Lengths
from tests.recommend.fakes import ask, llama


def settled(**asked: Any) -> dict[str, Any]:
    return dict(informed(ask(**asked)).request.settings)


def test_without_data_nothing_is_filled_in() -> None:
    assert settled() == {}


def test_length_is_that_of_the_data_within_the_positions_of_the_model() -> None:
    job = Job(lengths=Lengths(((100, 10), (700, 5))))

    assert settled(job=job)["seq_len"] == 768
    short = llama(max_position_embeddings=512)
    assert settled(model=short, job=job)["seq_len"] == 512


def test_rank_is_what_the_tokens_ask_for() -> None:
    one = per_rank(ask())
    fits = capacity(one, 16)

    assert "lora_rank" not in settled(job=Job(tokens=fits))
    assert settled(job=Job(tokens=fits + 1))["lora_rank"] == 32
    assert fits > SMALL_DATA


@pytest.mark.parametrize("held", [{"lora_rank": 8}, {"seq_len": 300}, {"modules_to_save": ("norm",)}])
def test_the_user_is_never_overruled(held: dict[str, Any]) -> None:
    job = Job(tokens=500_000_000, lengths=Lengths(((100, 10),)), new_vocabulary=True)

    found = informed(ask(job=job, settings=held))

    assert {name: found.request.settings[name] for name in held} == held
    assert not found.planned & held.keys()
    assert found.held == held.keys()


def test_new_vocabulary_trains_embeddings_and_a_head_of_its_own() -> None:
    assert settled(job=Job(new_vocabulary=True))["modules_to_save"] == ("embed_tokens", "lm_head")
    tied = llama(tie_word_embeddings=True)
    assert settled(model=tied, job=Job(new_vocabulary=True))["modules_to_save"] == ("embed_tokens",)


def order(job: Job) -> tuple[str, ...]:
    return preference(ask(job=job), ())


def mark(task: Any = "sft") -> int:
    found = full_from(per_rank(ask()), task)
    assert found is not None
    return found


@pytest.mark.parametrize("task", ["sft", "cpt"])
def test_every_weight_first_just_beyond_the_capacity_of_adapters(task: Any) -> None:
    assert order(Job(task=task, tokens=mark(task))) == ADAPTERS_FIRST
    assert order(Job(task=task, tokens=mark(task) + 1)) == EVERY_WEIGHT_FIRST


@pytest.mark.parametrize("said", [{"task": "rl"}, {"task": "dpo"}, {"adapters": 2}, {"keep_skills": True}])
def test_adapters_first_however_much_data(said: dict[str, Any]) -> None:
    assert order(Job(tokens=mark() * 100, **said)) == ADAPTERS_FIRST


def test_supervised_tokens_count_not_all() -> None:
    assert order(Job(tokens=mark() * 2, supervised_tokens=mark())) == ADAPTERS_FIRST


def test_a_model_without_closed_form_has_no_capacity() -> None:
    opaque: Ask = ask(llama(blocks=(), layout=()), job=Job(tokens=10**12))

    assert per_rank(opaque) == 0
    assert not beyond_adapters(opaque)
