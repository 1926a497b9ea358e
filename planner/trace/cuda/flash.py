"""FlashAttention-2 as allocations: what ``mha_fwd`` and ``mha_bwd`` take, keep and give back.

Source: pytorch 2.13 aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, and the flash-attn package 2.8
csrc/flash_attn/flash_api.cpp with flash_attn/flash_attn_interface.py, from which it comes. Letters: ``b`` batch,
``s`` queries, ``t`` keys, ``n`` query heads, ``k`` key heads, ``d`` head size.
"""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import torch

from planner.errors import UnsupportedScenario
from planner.trace.cuda.card import Card

BLOCK = 128
"""Rows to which the kernels round sequences. flash_api.cpp, seqlen_q_rounded."""


class Sizes(NamedTuple):
    """Shapes of one call; ``total`` queries where sequences are packed (``b`` sequences of at most ``s``), else 0."""

    b: int
    s: int
    t: int
    n: int
    k: int
    d: int
    total: int = 0


def rounded(count: int, unit: int) -> int:
    """``count`` rounded up to a multiple of ``unit``.

    >>> rounded(130, 128)
    256
    """
    return -(-count // unit) * unit


def rounded_head(d: int) -> int:
    """Head size of fp32 accumulators. flash_api.cpp: ``head_size <= 128 ? round_multiple(32) : round_multiple(64)``.

    >>> rounded_head(80), rounded_head(160)
    (96, 192)
    """
    return rounded(d, 32 if d <= 128 else 64)


def query_rows(sizes: Sizes) -> tuple[int, ...]:
    """Leading dimensions of what backward keeps per query: (b, s) rounded, or packed rows with a block per sequence."""
    return (sizes.total + BLOCK * sizes.b,) if sizes.total else (sizes.b, rounded(sizes.s, BLOCK))


def row_sum_shape(sizes: Sizes) -> tuple[int, ...]:
    """``softmax_d``, fp32: (b, n, s rounded), packed (n, rows)."""
    rows = query_rows(sizes)
    return (sizes.n, *rows) if sizes.total else (rows[0], sizes.n, rows[1])


def query_gradient_shape(sizes: Sizes, *, copies: int = 0) -> tuple[int, ...]:
    """``dq_accum``, fp32: (rows, n, d rounded); the deterministic kernel has ``copies`` of it."""
    shape = (*query_rows(sizes), sizes.n, rounded_head(sizes.d))
    return (copies, *shape) if copies else shape


def deterministic_copies(sizes: Sizes, card: Card) -> int:
    """``nsplits`` of a deterministic backward: one accumulator per wave of blocks. flash_api.cpp, mha_bwd."""
    return -(-card.multiprocessors // (sizes.b * sizes.n))


def forward_splits(sizes: Sizes, card: Card, *, dropout: float) -> int:
    """Parts into which a call too small for the card splits its keys. flash_api.cpp, set_params_splitkv.

    >>> forward_splits(Sizes(1, 2048, 2048, 32, 8, 128), Card(), dropout=0.0)
    1
    >>> forward_splits(Sizes(1, 64, 4096, 8, 8, 128), Card(), dropout=0.0) > 1
    True
    """
    if dropout > 0 or sizes.total:
        return 1
    block = 256 if sizes.d <= 64 else 128 if sizes.d <= 128 else 64
    return _splits(sizes.b * sizes.n * -(-sizes.s // 64), 2 * card.multiprocessors, -(-sizes.t // block))


def _splits(blocks: int, slots: int, key_blocks: int) -> int:
    """``num_splits_heuristic``: the fewest splits within 85 % of the best use of the card."""
    if blocks >= 0.8 * slots:
        return 1
    eligible = [
        count
        for count in range(1, min(128, slots, key_blocks) + 1)
        if count == 1 or -(-key_blocks // count) != -(-key_blocks // (count - 1))
    ]
    waves = {count: blocks * count / slots for count in eligible}
    use = {count: wave / ceil(wave) for count, wave in waves.items()}
    return next(count for count in eligible if use[count] >= 0.85 * max(use.values()))


FLASH_HEAD = 256
"""Largest head size. flash_api.cpp, mha_fwd."""


def refuse_what_the_package_refuses(query: torch.Tensor, card: Card) -> None:
    """The checks at the head of ``mha_fwd``: 8.0 or newer, 16 bit, heads of at most 256."""
    if card.capability < (8, 0):
        raise UnsupportedScenario("FlashAttention-2 needs compute capability 8.0 or newer; take --attention sdpa")
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise UnsupportedScenario(
            "FlashAttention-2 takes fp16 and bf16 only; take --attention sdpa, or --autocast bf16"
        )
    if query.shape[-1] > FLASH_HEAD:
        raise UnsupportedScenario(f"FlashAttention-2 takes heads of at most {FLASH_HEAD}; take --attention sdpa")


class Options(NamedTuple):
    """What changes allocations besides shapes."""

    card: Card
    dropout: float = 0.0
    deterministic: bool = False


def forward(query: torch.Tensor, sizes: Sizes, options: Options) -> tuple[torch.Tensor, ...]:
    """``mha_fwd``: an output like the query, an fp32 log-sum-exp (b, n, s), the random state; split parts come and go.

    Keys and values are read in place, grouped or not.
    """
    out = torch.empty_like(query)
    lse_shape = (sizes.n, sizes.total) if sizes.total else (sizes.b, sizes.n, sizes.s)
    lse = query.new_empty(lse_shape, dtype=torch.float32)
    splits = forward_splits(sizes, options.card, dropout=options.dropout)
    if splits > 1:
        query.new_empty((splits, *lse_shape), dtype=torch.float32)
        parts = query.new_empty((splits, *lse_shape, rounded_head(sizes.d)), dtype=torch.float32)
        del parts
    return out, lse, query.new_empty(2, dtype=torch.int64)


def backward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sizes: Sizes, options: Options
) -> tuple[torch.Tensor, ...]:
    """``mha_bwd``: dq, dk, dv; a row sum, an fp32 dq, and dk and dv for every query head live until it returns."""
    gradients = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
    copies = deterministic_copies(sizes, options.card) if options.deterministic else 0
    scratch = [
        query.new_empty(row_sum_shape(sizes), dtype=torch.float32),
        query.new_empty(query_gradient_shape(sizes, copies=copies), dtype=torch.float32),
    ]
    if sizes.k != sizes.n:
        scratch += [tensor.new_empty((*tensor.shape[:-2], sizes.n, sizes.d)) for tensor in (key, value)]
    del scratch
    return gradients


class FlashAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """(b, s, n, d) in and out. Saves query, key, value, the output, the log-sum-exp and the random state."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sizes: Sizes,
        options: Options,
    ) -> torch.Tensor:
        out, lse, state = forward(query, sizes, options)
        ctx.save_for_backward(query, key, value, out, lse, state)
        ctx.sizes, ctx.options = sizes, options
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, _out, _lse, _state = ctx.saved_tensors
        gradient = gradient if gradient.stride(-1) == 1 else gradient.contiguous()
        return (*backward(query, key, value, ctx.sizes, ctx.options), None, None)


def flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Options, packed: Sizes | None = None
) -> torch.Tensor:
    """One call on (b, s, n, d), or on (rows, n, d) with the sizes of its ``packed`` sequences.

    Head sizes are padded to multiples of 8 (sdpa: ``pad_last_dim<8>``; package: ``FlashAttnFunc.forward``), and the
    padded tensors are what is saved.
    """
    head = query.shape[-1]
    padding = -head % 8
    if padding:
        query, key, value = (torch.nn.functional.pad(tensor, [0, padding]) for tensor in (query, key, value))
    sizes = packed or Sizes(query.shape[0], query.shape[1], key.shape[1], query.shape[2], key.shape[2], query.shape[3])
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    out = FlashAttention.apply(query, key, value, sizes._replace(d=query.shape[-1]), options)
    return out[..., :head] if padding else out


def package_functions(card: Card) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """``flash_attn_func`` and ``flash_attn_varlen_func`` with the package's own signatures."""

    def flash_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> torch.Tensor:
        refuse_what_the_package_refuses(q, card)
        return flash_attention(q, k, v, Options(card, dropout_p, deterministic))

    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        refuse_what_the_package_refuses(q, card)
        sequences = cu_seqlens_q.shape[0] - 1
        packed = Sizes(sequences, max_seqlen_q, max_seqlen_k, q.shape[1], k.shape[1], q.shape[2], total=q.shape[0])
        return flash_attention(q, k, v, Options(card, dropout_p, deterministic), packed)

    return flash_attn_func, flash_attn_varlen_func
