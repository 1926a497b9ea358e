"""Open settings set for speed: never the user's, never the batch that learning sees, never beyond the card."""

from typing import Any

import pytest

from planner.recommend.batches import global_batch
from planner.recommend.pareto import seconds_per_sequence
from planner.recommend.tuning import INDISTINCT, points, tuned
from planner.result import Way
from planner.spec import Job, Method
from tests.recommend.fakes import ask, card, fake_estimate, flat, llama, needs


def settings(way: Way | None, *names: str) -> dict[str, Any]:
    assert way is not None
    train = way.candidate.scenario.train
    return {name: getattr(train, name) for name in names}


def test_checkpointing_is_left_off_where_there_is_room() -> None:
    assert settings(tuned(ask(gpu=card(80)), "lora", flat(10)), "gradient_checkpointing") == {
        "gradient_checkpointing": False
    }


def test_checkpointing_stays_on_where_the_card_is_full_without() -> None:
    estimate = needs(lambda s: 20 if s.train.gradient_checkpointing else 30)

    assert settings(tuned(ask(), "lora", estimate), "gradient_checkpointing") == {"gradient_checkpointing": True}


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("world", [1, 2, 8])
def test_a_step_learns_from_the_sequences_of_the_recipe(method: Method, world: int) -> None:
    way = tuned(ask(gpus=world), method, flat(10))

    assert way is not None
    train = way.candidate.scenario.train
    assert train.micro_batch_size * train.grad_accumulation * world == global_batch(method, "sft")


def test_short_sequences_share_a_micro_batch_and_long_ones_do_not() -> None:
    """Below some thousand tokens kernels wait to be launched; at 8,192 a larger micro-batch gains nothing."""
    short = settings(tuned(ask(settings={"seq_len": 256}), "lora", flat(10)), "micro_batch_size")
    long = settings(tuned(ask(settings={"seq_len": 8192}), "lora", flat(10)), "micro_batch_size")

    assert short["micro_batch_size"] >= 4
    assert long["micro_batch_size"] == 1


def test_the_largest_micro_batch_that_fits_bounds_the_climb() -> None:
    estimate = needs(lambda s: 20 if s.train.micro_batch_size <= 2 else 30)

    way = tuned(ask(settings={"seq_len": 128}), "lora", estimate)

    assert settings(way, "micro_batch_size", "grad_accumulation") == {"micro_batch_size": 2, "grad_accumulation": 8}


@pytest.mark.parametrize(
    "held",
    [
        {"micro_batch_size": 3},
        {"grad_accumulation": 5},
        {"gradient_checkpointing": False},
        {"micro_batch_size": 2, "grad_accumulation": 7, "gradient_checkpointing": True},
    ],
)
def test_what_the_user_set_is_held(held: dict[str, Any]) -> None:
    assert settings(tuned(ask(settings=held), "lora", flat(10)), *held) == held


def test_what_the_plan_set_says_so() -> None:
    way = tuned(ask(settings={"micro_batch_size": 2}), "lora", flat(10))

    assert way is not None
    origins = way.candidate.scenario.origins
    assert (origins["micro_batch_size"], origins["grad_accumulation"]) == ("user", "plan")


def test_of_settings_about_as_fast_the_least_demanding_is_taken() -> None:
    asked = ask(gpu=card(80))
    way = tuned(asked, "lora", fake_estimate)

    assert way is not None
    tried = [one for _, one in points(asked.using("lora", {}), "lora", "fits", fake_estimate)]
    fastest = min(map(seconds_per_sequence, tried))
    close = [one for one in tried if seconds_per_sequence(one) <= fastest * (1 + INDISTINCT)]
    least = min(one.estimate.peak.required_bytes for one in close)
    assert way.candidate.estimate.peak.required_bytes == least


def test_what_fits_only_with_mild_changes_is_tuned_from_there() -> None:
    estimate = needs(lambda s: 20 if "8bit" in s.train.optimizer else 30)

    assert settings(tuned(ask(), "lora", estimate), "optimizer") == {"optimizer": "adamw_8bit"}


def test_accumulation_that_would_not_fit_is_left_out() -> None:
    estimate = needs(lambda s: 20 if s.train.grad_accumulation == 1 else 30)

    assert settings(tuned(ask(), "lora", estimate), "grad_accumulation") == {"grad_accumulation": 1}


def test_tight_only_where_nothing_fits() -> None:
    way = tuned(ask(), "lora", flat(23))

    assert way is not None
    assert way.candidate.verdict == "tight"
    assert tuned(ask(), "lora", flat(30)) is None


def test_whole_copies_are_preferred_to_shards_over_a_slow_link() -> None:
    way = tuned(ask(llama(h=2048, f=8192, layers=16), gpus=4), "lora", flat(10))

    assert settings(way, "sharding") == {"sharding": "ddp"}


def test_padding_counts_against_large_micro_batches() -> None:
    from planner.spec import Lengths  # noqa: PLC0415

    skewed = Job(lengths=Lengths(((64, 900), (4096, 100))))
    even = Job(lengths=Lengths(((468, 1000),)))
    batches = {
        name: settings(tuned(ask(settings={"seq_len": 4096}, job=job), "lora", flat(10)), "micro_batch_size")
        for name, job in {"skewed": skewed, "even": even}.items()
    }

    assert batches["skewed"]["micro_batch_size"] < batches["even"]["micro_batch_size"]
