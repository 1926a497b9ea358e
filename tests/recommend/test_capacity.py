"""Adapter capacity against tinker's published sums, and every threshold on both sides."""

import pytest

from planner.catalog import load_model
from planner.recommend.capacity import (
    LARGE_CORPUS,
    LARGEST_RANK,
    SMALL_DATA,
    capacity,
    full_from,
    least_rank,
    params_per_rank,
    rank_for,
)

# tinker-cookbook 9dfcc3a2 hyperparam_utils.py, _LORA_PARAMS_PER_RANK_BY_COMPONENT, attention and MLP, in millions
PUBLISHED = {
    "llama-3.2-1b": 0.70,
    "llama-3.2-3b": 1.52,
    "llama-3.1-8b": 2.62,
    "llama-3.1-70b": 12.94,
    "qwen3-8b": 2.73,
    "qwen3-32b": 8.39,
}
LLAMA_8B = 2_621_440


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_per_rank_are_tinkers(name: str) -> None:
    found = params_per_rank(load_model(name).model)

    assert round(found / 1e6, 2) == PUBLISHED[name]


def test_parameters_per_rank_of_a_gpt_by_hand() -> None:
    """GPT-2: per layer h + 3h, h + h, h + 4h and 4h + h, sixteen h of 768 in twelve layers."""
    assert params_per_rank(load_model("gpt2").model) == 12 * 16 * 768


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [
        (None, 16),
        (SMALL_DATA, 16),
        (capacity(LLAMA_8B, 16), 16),
        (capacity(LLAMA_8B, 16) + 1, 32),
        (capacity(LLAMA_8B, 32), 32),
        (capacity(LLAMA_8B, 128) + 1, 256),
        (capacity(LLAMA_8B, LARGEST_RANK) + 1, 256),
    ],
)
def test_rank_follows_capacity(tokens: int | None, rank: int) -> None:
    assert rank_for(tokens, LLAMA_8B) == rank


def test_small_data_takes_the_least_rank_on_small_models_too() -> None:
    """Rank 16 of a 1B model holds 22 M tokens; up to 50 M nothing more is asked for."""
    small = params_per_rank(load_model("llama-3.2-1b").model)

    assert rank_for(SMALL_DATA - 1, small) == 16
    assert rank_for(SMALL_DATA, small) == 64
    assert rank_for(SMALL_DATA - 1, small, "cpt") == 64


def test_least_rank_holds_the_tokens() -> None:
    for tokens in (1, 10**6, 123_456_789, 10**10):
        rank = least_rank(tokens, LLAMA_8B)

        assert capacity(LLAMA_8B, rank) >= tokens
        assert rank == 1 or capacity(LLAMA_8B, rank - 1) < tokens


def test_full_fine_tuning_starts_where_the_largest_rank_ends() -> None:
    assert full_from(LLAMA_8B) == capacity(LLAMA_8B, LARGEST_RANK)
    assert full_from(LLAMA_8B, "cpt") == LARGE_CORPUS
    assert full_from(704_512, "cpt") == capacity(704_512, LARGEST_RANK)
    assert full_from(LLAMA_8B, "rl") is None
    assert full_from(LLAMA_8B, "dpo") is None


def test_reinforcement_learning_and_preferences_need_little_rank() -> None:
    assert rank_for(10**12, LLAMA_8B, "rl") == 16
    assert rank_for(None, LLAMA_8B, "dpo") == 16
    assert rank_for(10**12, LLAMA_8B, "dpo") == 64


def test_a_model_of_unknown_matrices_gets_no_threshold() -> None:
    assert rank_for(10**12, 0) == 16
    assert full_from(0) is None
