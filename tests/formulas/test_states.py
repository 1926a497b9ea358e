"""Weights, gradients and optimizer states: thresholds of bitsandbytes, temporaries of torch, each by hand."""

import pytest

from planner.formulas.states import (
    OptimizerBytes,
    Trainable,
    adam_mixed_precision,
    int8_bytes,
    nf4_bytes,
    optimizer_bytes,
)
from planner.spec import OPTIMIZERS

MATRIX = Trainable(4096, 4096, 1)
NUMEL = 4096 * 4096


def states(name: str, *tensors: Trainable, e: int = 2, shards: int = 1) -> OptimizerBytes:
    return optimizer_bytes(name, tensors or (MATRIX,), e=e, shards=shards)


# ---------------------------------------------------------------- quantised weights


def test_bits_of_a_4_bit_weight() -> None:
    # QLoRA section 3: 4 + 32/64 = 4.5 bits; with double quantisation 4 + 8/64 + 32/(64*256) = 4.127 bits
    assert nf4_bytes(NUMEL, double_quant=False) * 8 == 4.5 * NUMEL
    assert nf4_bytes(NUMEL, double_quant=True) * 8 == (4 + 8 / 64 + 32 / (64 * 256)) * NUMEL
    assert round(nf4_bytes(NUMEL, double_quant=True) * 8 / NUMEL, 3) == 4.127


def test_odd_sizes_are_rounded_up_at_every_level() -> None:
    # 65 weights: 33 bytes packed, two blocks: two fp32 scales, or two bytes and one fp32 scale of theirs
    assert nf4_bytes(65, double_quant=False) == 33 + 2 * 4
    assert nf4_bytes(65, double_quant=True) == 33 + 2 + 4
    # 16,385 weights: 257 blocks are one more than a second-level block holds
    assert nf4_bytes(16_385, double_quant=True) == 8193 + 257 + 2 * 4


def test_double_quantisation_pays_from_two_blocks_on() -> None:
    # One block of 64: 4 bytes of scale against 1 + 4
    assert nf4_bytes(64, double_quant=True) - nf4_bytes(64, double_quant=False) == 1
    assert nf4_bytes(128, double_quant=True) < nf4_bytes(128, double_quant=False)


def test_int8_has_one_fp32_scale_per_row() -> None:
    assert int8_bytes(14336, 4096) == 14336 * 4096 + 4 * 14336


# ---------------------------------------------------------------- states

STATES = [
    # (name, element bytes, bytes of states per parameter of a large matrix)
    ("adamw_foreach", 2, 4.0),  # two moments in the parameter's dtype
    ("adamw_foreach", 4, 8.0),
    ("adamw_loop", 2, 4.0),
    ("adamw_8bit", 2, 2 * (1 + 4 / 256)),  # two bytes and two fp32 scales per 256: 2.03
    ("adamw_8bit", 4, 2 * (1 + 4 / 256)),
    ("lion_8bit", 2, 1 + 4 / 256),
    ("lion", 2, 4.0),  # bitsandbytes keeps one fp32 moment
    ("sgd", 2, 0.0),  # torch's default momentum is 0
    ("muon", 2, 2.0),  # one momentum in the parameter's dtype
    ("muon", 4, 4.0),
    ("adafactor", 2, 4 * (4096 + 4096) / NUMEL),  # row and column sums in fp32
]


@pytest.mark.parametrize(("name", "e", "per_parameter"), STATES)
def test_state_bytes_of_a_large_matrix(name: str, e: int, per_parameter: float) -> None:
    found = states(name, e=e)

    assert found.states == per_parameter * NUMEL
    assert found.managed == 0


def test_fused_adamw_keeps_its_step_counters_on_the_card() -> None:
    # one fp32 scalar per tensor, which the allocator rounds to 512 bytes
    assert states("adamw_fused", Trainable(10, 10, 3)).states == 3 * (2 * 100 * 2 + 512)


def test_8_bit_adam_leaves_small_tensors_in_fp32() -> None:
    # min_8bit_size = 4096: one element fewer and both moments are fp32
    assert states("adamw_8bit", Trainable(4095, 1, 1)).states == 4095 * 8
    assert states("adamw_8bit", Trainable(4096, 1, 1)).states == 2 * (4096 + 4 * 16)


def test_8_bit_adam_of_a_7b_model_is_2_03_bytes_per_parameter() -> None:
    assert round(states("adamw_8bit").states / NUMEL, 2) == 2.03


def test_paging_starts_at_a_hundred_thousand_elements() -> None:
    small, large = Trainable(99_999, 1, 1), Trainable(100_000, 1, 1)

    assert states("paged_adamw_32bit", small)[:2] == (8 * 99_999, 0)
    assert states("paged_adamw_32bit", large)[:2] == (0, 800_000)


def test_scales_of_paged_8_bit_states_stay_on_the_card() -> None:
    # 100,096 = 391 blocks of 256: two fp32 scales each on the card, the states managed
    found = states("paged_adamw_8bit", Trainable(100_096, 1, 1))

    assert found[:2] == (2 * 391 * 4, 2 * 100_096)
    # below the threshold nothing is managed, and below 4096 elements nothing is 8-bit
    assert states("paged_adamw_8bit", Trainable(99_840, 1, 1))[:2] == (2 * (99_840 + 4 * 390), 0)
    assert states("paged_adamw_8bit", Trainable(1000, 1, 1))[:2] == (8000, 0)


def test_adafactor_does_not_factor_vectors() -> None:
    assert states("adafactor", Trainable(4096, 1, 1)).states == 4 * 4096
    assert states("adafactor", Trainable(4096, 2, 1)).states == 4 * (4096 + 2)


def test_muon_leaves_vectors_and_embeddings_to_adamw() -> None:
    # torch's Muon takes matrices of layers only; embeddings and vectors need AdamW beside it: two moments
    assert states("muon", Trainable(4096, 1, 1)).states == 2 * 2 * 4096
    assert states("muon", Trainable(32000, 4096, 1, embedding=True)).states == 2 * 2 * 32000 * 4096


def test_muons_step_is_that_of_its_largest_matrix_or_of_adamw_on_the_rest() -> None:
    # Five 16-bit copies of 1024 x 4096, or the square roots of all second moments of a 32000 x 1024 embedding.
    matrix, table = Trainable(1024, 4096, 8), Trainable(32000, 1024, 1, embedding=True)

    assert states("muon", matrix).temporary == 10 * 1024 * 4096
    assert optimizer_bytes("muon", [matrix, table], e=2).temporary == 2 * 32000 * 1024


# ---------------------------------------------------------------- temporaries

PAIR = (Trainable(1000, 100, 3), Trainable(200, 100, 5))  # 300,000 + 100,000 elements, the largest 100,000

TEMPORARIES = [
    ("adamw_foreach", 2, 400_000 * 2),  # the square roots of all second moments at once: the size of the parameters
    ("adamw_foreach", 4, 400_000 * 4),
    ("adamw_fused", 2, 0),
    ("adamw_loop", 4, 2 * 100_000 * 4),  # sqrt and quotient of one tensor at a time
    ("adamw_8bit", 2, 0),
    ("paged_adamw_8bit", 2, 0),
    ("paged_adamw_32bit", 2, 0),
    ("lion", 2, 0),
    ("lion_8bit", 2, 0),
    ("sgd", 2, 0),
    ("adafactor", 2, 16 * 100_000),  # fp32 copies of gradient and parameter, the update and its square
    ("adafactor", 4, 8 * 100_000),
    ("muon", 2, 10 * 100_000),  # five 16-bit copies of one matrix
    ("muon", 4, 12 * 100_000),  # four of them beside an fp32 update
]


@pytest.mark.parametrize(("name", "e", "expected"), TEMPORARIES)
def test_what_the_step_needs_besides(name: str, e: int, expected: int) -> None:
    assert states(name, *PAIR, e=e).temporary == expected


# ---------------------------------------------------------------- sharding and counting


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equal_tensors_cost_the_same_one_by_one(name: str) -> None:
    together = states(name, Trainable(1000, 100, 4))
    apart = states(name, *[Trainable(1000, 100, 1)] * 4)

    assert together == apart


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_trained_tensors_no_states(name: str) -> None:
    assert optimizer_bytes(name, [], e=2) == OptimizerBytes(0, 0, 0)


def test_shards_are_rounded_up() -> None:
    # 10 elements on 4 ranks: the fullest has 3
    assert states("adamw_foreach", Trainable(10, 1, 1), shards=4) == OptimizerBytes(3 * 2 * 2, 0, 3 * 2)


def test_sixteen_bytes_per_parameter() -> None:
    # ZeRO section 3.1: 2 + 2 + 12
    assert adam_mixed_precision(10) == 160
    # stage 3 on 3 ranks rounds each part up: ceil(20/3) + ceil(20/3) + ceil(120/3)
    assert adam_mixed_precision(10, zero_stage=3, world_size=3) == 7 + 7 + 40
