"""What ranks share and what engines add, by hand."""

import pytest

from planner.formulas.sharding import (
    Divided,
    ddp_buckets,
    deepspeed_reduce_buffers,
    divisors,
    fsdp_gathered,
    shard,
    zero3_live_parameters,
)

STAGES = [
    # ZeRO section 5: stage 1 optimizer states, 2 and gradients, 3 and parameters; FSDP is stage 3
    ("none", Divided(1, 1, 1)),
    ("ddp", Divided(1, 1, 1)),
    ("zero1", Divided(1, 1, 8)),
    ("zero2", Divided(1, 8, 8)),
    ("zero3", Divided(8, 8, 8)),
    ("fsdp", Divided(8, 8, 8)),
]


@pytest.mark.parametrize(("scheme", "expected"), STAGES)
def test_what_a_scheme_divides(scheme: str, expected: Divided) -> None:
    assert divisors(scheme, 8) == expected


def test_an_unknown_scheme_is_a_bug_of_ours() -> None:
    with pytest.raises(KeyError):
        divisors("zero4", 8)


@pytest.mark.parametrize(("count", "ranks", "expected"), [(10, 4, 3), (12, 4, 3), (1, 8, 1), (0, 8, 0), (7, 1, 7)])
def test_the_fullest_rank_gets_the_remainder(count: int, ranks: int, expected: int) -> None:
    assert shard(count, ranks) == expected


@pytest.mark.parametrize("count", [1, 999, 10_007])
@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_shards_cover_the_whole(count: int, ranks: int) -> None:
    assert count <= ranks * shard(count, ranks) < count + ranks


def test_ddp_copies_all_gradients_into_buckets() -> None:
    # LoRA of 13,631,488 fp32 entries: the buckets are as large as the gradients, 54,525,952 bytes
    assert ddp_buckets(4 * 13_631_488) == 54_525_952


def test_deepspeed_reduces_through_two_buffers() -> None:
    # reduce_bucket_size auto = hidden_size**2: 2 * 2 bytes * 4096**2 = 64 MiB
    assert deepspeed_reduce_buffers(h=4096, e=2) == 64 * 2**20


ZERO3 = [
    # everything of a small model is live: 2*1e8 + prefetch 2 * 0.9 * 2048**2 = 7,549,747
    (100_000_000, 2048, 200_000_000 + 2 * int(0.9 * 2048 * 2048)),
    # a large model keeps 1e9 parameters: 2e9 + 2 * 0.9 * 8192**2 = 120,795,954
    (70_000_000_000, 8192, 2_000_000_000 + 120_795_954),
]


@pytest.mark.parametrize(("params", "h", "expected"), ZERO3)
def test_zero3_keeps_at_most_a_billion_parameters_gathered(params: int, h: int, expected: int) -> None:
    assert zero3_live_parameters(params=params, h=h, e=2) == expected


def test_fsdp_gathers_two_layers_and_the_last_group() -> None:
    # Llama-3.1-8B: layers of 218,112,000, norm and head 4096 + 128256*4096 = 525,340,672; twice the one and the other,
    # two bytes each
    assert 4096 + 128256 * 4096 == 525_340_672
    assert fsdp_gathered(block=218_112_000, outer=525_340_672, e=2) == 1_923_129_344
