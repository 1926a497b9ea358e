"""What ranks share and what engines add, by hand."""

import pytest

from planner.formulas.sharding import (
    Divided,
    Piece,
    ddp_buckets,
    divisors,
    fsdp_gathered,
    fsdp_gradients,
    fsdp_reduced,
    fsdp_shard,
    shard,
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


# Llama-3.1-8B: embedding and head of 128256 x 4096; Mixtral's w1 and w3 of 8 experts as one tensor
TABLE = Piece(rows=128256, columns=4096, copies=1, stored=4, computed=2, trained=True)
EXPERTS = Piece(rows=8, columns=28672 * 4096, copies=1, stored=2, computed=2, trained=False)
NORMS = Piece(rows=4096, columns=1, copies=65, stored=4, computed=2, trained=True)


@pytest.mark.parametrize(
    ("piece", "ranks", "expected"),
    [
        (TABLE, 8, 16032 * 4096),  # divides evenly
        (TABLE, 512, 251 * 4096),  # 250.5 rows each: the first ranks hold 251
        (EXPERTS, 8, 28672 * 4096),  # an expert each
        (EXPERTS, 64, 28672 * 4096),  # no rank holds less than one, and 56 hold none
        (NORMS, 512, 8 * 65),
        (NORMS, 8192, 1 * 65),
    ],
)
def test_rows_are_rounded_up_tensor_by_tensor(piece: Piece, ranks: int, expected: int) -> None:
    assert piece.chunk(ranks) == expected
    assert fsdp_shard([piece], ranks) == piece.stored * expected


@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_what_is_gathered_is_padded_to_the_ranks(ranks: int) -> None:
    assert fsdp_gathered([TABLE, EXPERTS], ranks) == 2 * ranks * (TABLE.chunk(ranks) + EXPERTS.chunk(ranks))
    assert fsdp_gathered([TABLE], ranks) >= 2 * TABLE.numel
    assert fsdp_gathered([EXPERTS], 64) == 8 * fsdp_gathered([EXPERTS], 8)


def test_gradients_are_whole_in_the_dtype_of_compute_and_reduced_to_a_shard() -> None:
    assert fsdp_gradients([TABLE, EXPERTS, NORMS]) == 2 * (TABLE.numel + 4096 * 65)
    assert fsdp_reduced([TABLE, EXPERTS], 512) == 2 * 251 * 4096
