"""Heads that never make all logits: each number multiplied out by hand."""

from collections.abc import Callable

import pytest

from planner.formulas.loss import Head, LossBytes, checkpointed_chunks, liger_fused, next_power_of_2, trl_fused

MIB = 2**20

SMALL = Head(t=2048, h=4096, V=128256, e=2, hidden_bytes=2, weight_bytes=2, trained=False)
LARGE = SMALL._replace(t=16384)

# ---------------------------------------------------------------- TRL 1.15 and later


def test_trl_tile_is_all_that_exists_of_the_logits() -> None:
    # hidden 2048*4096*2 = 16 MiB and 32*2048 = 64 KiB kept; tile 2048*32768*2 = 128 MiB; statistics 40*2048 = 80 KiB;
    # in forward the scored rows are a copy beside the hidden states, 16 MiB
    kept = 16 * MIB + 64 * 1024
    forward = kept + 16 * MIB + 128 * MIB + 80 * 1024
    # backward: fp32 gradient of hidden 2048*4096*4 = 32 MiB, the tile, and the 16-bit result 16 MiB
    expected = LossBytes(kept, forward, kept + 32 * MIB + 128 * MIB + 16 * MIB, 128 * MIB, 128 * MIB)

    assert trl_fused(SMALL) == expected


def test_trl_tile_stops_growing_at_4096_tokens() -> None:
    # tile 4096*32768*2 = 256 MiB for 4,096 and for 16,384 tokens alike
    at_4096 = trl_fused(SMALL._replace(t=4096))
    at_16384 = trl_fused(LARGE)

    # besides: the hidden states under their own name, 4096*4096*2 = 32 MiB and 128 MiB; 40 bytes per token
    assert at_4096.forward - at_4096.kept == 256 * MIB + 32 * MIB + 40 * 4096
    assert at_16384.forward - at_16384.kept == 256 * MIB + 128 * MIB + 40 * 16384


def test_trl_tile_is_as_wide_for_a_small_vocabulary() -> None:
    # torch.empty((min(N, 4096), 32768)) whatever V is
    assert trl_fused(SMALL._replace(V=8000)) == trl_fused(SMALL)


def test_trl_gradients_of_a_trained_head_accumulate_in_fp32() -> None:
    # 4*V*h for the sum, and at the end its 16-bit copy 2*V*h
    frozen, trained = trl_fused(SMALL), trl_fused(SMALL._replace(trained=True))

    assert trained.kept == frozen.kept
    assert trained.forward == frozen.forward
    assert trained.backward - frozen.backward == 6 * 128256 * 4096


def test_trl_casts_an_fp32_weight_by_tiles() -> None:
    # 32768*4096*2 = 256 MiB once in forward; twice in backward, as the loop rebinds its name: 512 MiB, more than the
    # 16 MiB of the result that they replace as the largest
    bf16, fp32 = trl_fused(SMALL), trl_fused(SMALL._replace(weight_bytes=4))

    assert fp32.forward - bf16.forward == 256 * MIB
    assert fp32.backward - bf16.backward == 512 * MIB - 16 * MIB


def test_trl_keeps_an_fp32_hidden_state_in_fp32() -> None:
    # kept: 2048*4096*4 = 32 MiB instead of 16, and in forward a second time; a 16-bit copy of the tokens, 16 MiB
    bf16, fp32 = trl_fused(SMALL), trl_fused(SMALL._replace(hidden_bytes=4))

    assert fp32.kept - bf16.kept == 16 * MIB
    assert fp32.forward - bf16.forward == 2 * 16 * MIB + 16 * MIB


def test_trl_holds_two_copies_of_the_hidden_chunk_from_the_second_chunk_on() -> None:
    # `hidden_chunk = hidden[...].to(...)` in a loop: the old chunk goes when the new one has been made.
    # 4096*4096*2 = 32 MiB each. Forward of 16,384 fp32 tokens: kept, its 256 MiB again, tile, statistics.
    found = trl_fused(LARGE._replace(hidden_bytes=4))

    assert found.forward - found.kept == 256 * MIB + 256 * MIB + 40 * 16384 + 2 * 32 * MIB


# ---------------------------------------------------------------- TRL 1.4 to 1.14


def test_chunks_keep_the_hidden_state_only() -> None:
    assert checkpointed_chunks(SMALL, upcasts_weight=False).kept == 16 * MIB


def test_chunks_of_256_tokens_in_four_fp32_tensors() -> None:
    # logits, log-softmax, exponential, product: 16 * 256 * 128256 = 525,336,576
    found = checkpointed_chunks(SMALL, upcasts_weight=False)

    assert found.forward - found.kept == 525_336_576
    # fewer tokens than a chunk: 16 * 100 * V
    few = checkpointed_chunks(SMALL._replace(t=100), upcasts_weight=False)
    assert few.forward - few.kept == 16 * 100 * 128256


def test_before_trl_1_13_a_chunk_copied_the_weight_to_fp32_and_back() -> None:
    # 4*V*h for w.float() and 2*V*h for autocast's 16-bit copy of that
    old, new = (checkpointed_chunks(SMALL, upcasts_weight=flag) for flag in (True, False))

    assert old.forward - new.forward == 6 * 128256 * 4096


@pytest.mark.parametrize(("upcasts", "bytes_per_entry"), [(True, 8), (False, 6)])
def test_gradient_of_a_trained_head_in_chunks(upcasts: bool, bytes_per_entry: int) -> None:
    # seen: accumulated 2 + new 2 + sum 2; with upcasts 8
    trained = checkpointed_chunks(SMALL._replace(trained=True), upcasts_weight=upcasts)
    chunk = 16 * 256 * 128256

    assert trained.backward - 2 * trained.kept - chunk == bytes_per_entry * 128256 * 4096


# ---------------------------------------------------------------- Liger


def test_liger_chunks() -> None:
    # V/h = 32000/4096 -> 8 chunks of 16384/8 = 2048 tokens; gradient of hidden 16384*4096*2 = 128 MiB kept and made
    # beside hidden itself; one chunk of logits 2048*32000*2 = 131,072,000
    found = liger_fused(Head(t=16384, h=4096, V=32000, e=2, hidden_bytes=2, weight_bytes=2, trained=False))

    assert found == LossBytes(128 * MIB, 256 * MIB + 131_072_000, 128 * MIB, 131_072_000)


def test_liger_keeps_the_weight_gradient_of_a_trained_head() -> None:
    head = Head(t=16384, h=4096, V=32000, e=2, hidden_bytes=2, weight_bytes=2, trained=False)

    trained = liger_fused(head._replace(trained=True))
    assert trained.kept - liger_fused(head).kept == trained.gradients == 2 * 32000 * 4096


@pytest.mark.parametrize(("trained", "tokens", "copies"), [(False, 16384, 1), (True, 16384, 2), (True, 1, 1)])
def test_liger_casts_an_fp32_weight(trained: bool, tokens: int, copies: int) -> None:
    # autocast keeps one copy of a leaf; a second one, of its transposed view, comes beside it from the next chunk on
    head = Head(t=tokens, h=4096, V=32000, e=2, hidden_bytes=2, weight_bytes=2, trained=trained)
    narrow, wide = liger_fused(head), liger_fused(head._replace(weight_bytes=4))

    assert wide.forward - wide.gradients - (narrow.forward - narrow.gradients) == copies * 32000 * 4096 * 2


def test_liger_rounds_its_chunk_to_a_power_of_two() -> None:
    # 128256/4096 -> 32 chunks of 3000/32 -> 94 tokens -> 128
    found = liger_fused(Head(t=3000, h=4096, V=128256, e=2, hidden_bytes=2, weight_bytes=2, trained=False))

    assert found.forward - 2 * 3000 * 4096 * 2 == 128 * 128256 * 2


def test_liger_never_has_more_rows_than_tokens() -> None:
    # 3 tokens in one chunk: next_power_of_2(3) = 4 rows would be more than there are
    found = liger_fused(Head(t=3, h=4096, V=4096, e=2, hidden_bytes=2, weight_bytes=2, trained=False))

    assert found.forward - 2 * 3 * 4096 * 2 == 3 * 4096 * 2


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_next_power_of_two(count: int, expected: int) -> None:
    assert next_power_of_2(count) == expected


@pytest.mark.parametrize("formula", [trl_fused, liger_fused])
def test_a_fused_head_takes_less_than_full_logits(formula: Callable[[Head], LossBytes]) -> None:
    # 16,384 tokens of Llama 3: full logits 10 bytes each = 21 GB; a fused head a twentieth of that
    assert formula(LARGE).forward < 16384 * 128256 * 10 / 20
