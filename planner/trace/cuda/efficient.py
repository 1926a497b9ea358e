"""The memory-efficient (cutlass) attention kernel as allocations.

Source: pytorch 2.13 aten/src/ATen/native/transformers/cuda/attention.cu (``_efficient_attention_forward``),
attention_backward.cu (``_efficient_attention_backward``); tile sizes and workspace from
torch/include/ATen/native/transformers/cuda/mem_eff_attention/{kernel_forward,kernel_backward,kernels/cutlassB}.h.
"""

from typing import Any, NamedTuple

import torch

from planner.trace.cuda.card import Card
from planner.trace.cuda.flash import rounded

LSE_ROWS = 32
"""Rows to which the log-sum-exp is padded. kernel_forward.h, kAlignLSE."""

FORWARD_HEAD_IN_REGISTERS = 128
"""Widest value head whose output forward keeps in registers. cutlassF.h: kernels for 64, 128 and any size."""

SPLITS = 200
"""Key splits over all heads where dk and dv need a staging buffer. attention_backward.cu, "let's avoid that"."""

BIAS_ALIGNMENT = 16
"""Columns to which an attention bias is padded. transformers/attention.cpp, pad_bias<16>."""


class Heads(NamedTuple):
    """One call: ``b`` batch, ``n`` heads, ``s`` queries, ``t`` keys, ``d`` and ``v`` head sizes, ``e`` bytes."""

    b: int
    n: int
    s: int
    t: int
    d: int
    v: int
    e: int


class Tile(NamedTuple):
    """One backward kernel: ``rows`` of queries by ``columns`` of keys, head sizes up to ``widest``.

    ``in_registers``: dk and dv stay in the multiprocessor (kOutputInRF), else they are summed in fp32 in the workspace.
    """

    rows: int
    columns: int
    widest: int
    in_registers: bool


def backward_tile(heads: Heads, card: Card) -> Tile:
    """The first kernel of ``cutlassB.h`` that takes this head size and fits into the card's shared memory.

    Only 163 KiB of shared memory and more hold the 128 x 128 tile: on 8.6, 8.9 and 12.0, heads of 97 to 128 take the
    smaller one.

    >>> backward_tile(Heads(1, 8, 512, 512, 128, 128, 2), Card((8, 0), 108)).in_registers
    True
    >>> backward_tile(Heads(1, 8, 512, 512, 128, 128, 2), Card((8, 9), 128)).in_registers
    False
    """
    widest = max(heads.d, heads.v)
    tensor_cores = heads.e == 2 and card.capability >= (8, 0)
    if widest <= 64:
        return Tile(64, 64, 32 if widest <= 32 else 64, in_registers=heads.e == 2)
    if tensor_cores and widest <= 96 and card.capability in ((8, 6), (8, 9)):
        return Tile(128, 64, 96, in_registers=True)
    large = card.shared_bytes >= 163 * 1024 and heads.e == 2
    if widest <= 128:
        return (
            Tile(128, 128, 128, in_registers=True) if tensor_cores and large else Tile(64, 64, 128, in_registers=False)
        )
    return Tile(128 if large else 64, 64, 65536, in_registers=False)


def key_splits(heads: Heads, tile: Tile) -> int:
    """Parts into which backward splits the keys. attention_backward.cu, "optimal number of splits"."""
    splits = -(-heads.t // tile.columns)
    blocks = heads.b * heads.n
    if blocks >= 256 and heads.t <= 2 * tile.columns:
        splits = 1
    if heads.e == 2 and not tile.in_registers:
        splits = min(splits, SPLITS // blocks)
    return max(splits, 1)


def backward_workspace(heads: Heads, card: Card) -> int:
    """Bytes of ``workspace_size()``: fp32 dq by tiles with a lock each, and dk and dv where registers do not hold them.

    Formula:   4*b*n*(gk + gv + gq), gq = ceil(s/I) * ceil(d/J) * (4 + I*J), gk = splits * J * ceil_I(d)
    Source:    kernel_backward.h, workspace_elements_gk, _gv, _gq, workspace_strideBH

    >>> backward_workspace(Heads(1, 1, 128, 128, 128, 128, 2), Card((8, 0), 108)) == 4 * (4 + 128 * 128)
    True
    """
    tile = backward_tile(heads, card)
    gq = -(-heads.s // tile.rows) * -(-heads.d // tile.columns) * (4 + tile.rows * tile.columns)
    staged = 0
    if heads.e == 2 and not tile.in_registers:
        staged = key_splits(heads, tile) * tile.columns * (rounded(heads.d, tile.rows) + rounded(heads.v, tile.rows))
    return 4 * heads.b * heads.n * rounded(gq + staged, 4)


class EfficientAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """(b, n, s, d) in and out. Saves query, key, value, the bias, the output, the log-sum-exp and the random state."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        heads: Heads,
        card: Card,
    ) -> torch.Tensor:
        out = query.new_empty((heads.b, heads.s, heads.n, heads.v))
        needs = any(ctx.needs_input_grad[:3])
        lse = query.new_empty((heads.b, heads.n, rounded(heads.s, LSE_ROWS) if needs else 0), dtype=torch.float32)
        state = query.new_empty(2, dtype=torch.int64)
        if heads.e == 2 and heads.v > FORWARD_HEAD_IN_REGISTERS:
            query.new_empty(out.shape, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, out, lse, state)
        ctx.heads, ctx.card = heads, card
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, _bias, out, _lse, _state = ctx.saved_tensors
        heads: Heads = ctx.heads
        gradients = tuple(tensor.new_empty(tensor.transpose(1, 2).shape) for tensor in (query, key, value))
        row_sum = _row_sum(query, out, gradient, heads, ctx.card)
        workspace = query.new_empty(backward_workspace(heads, ctx.card), dtype=torch.uint8)
        del row_sum, workspace
        return (*(grad.transpose(1, 2) for grad in gradients), None, None, None)


def _row_sum(query: torch.Tensor, out: torch.Tensor, gradient: torch.Tensor, heads: Heads, card: Card) -> torch.Tensor:
    """``delta``: the kernel makes it from 16 bit (not on 7.0), else it is grad * out in fp32, summed."""
    in_kernel = heads.e == 2 and (card.capability != (7, 0) or backward_tile(heads, card).in_registers)
    if in_kernel:
        return query.new_empty((heads.b, heads.n, heads.s), dtype=torch.float32)
    product = gradient.transpose(1, 2).to(torch.float32) * out.to(torch.float32)
    return product.sum(-1).transpose(-2, -1).contiguous()


def efficient_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, card: Card
) -> torch.Tensor:
    """One call on (b, n, s, d), with a mask in the query's dtype (``additive``), padded and broadcast as torch does."""
    b, n, s, d = query.shape
    heads = Heads(b, n, s, key.shape[2], d, value.shape[3], query.dtype.itemsize)
    bias = None if mask is None else _aligned(mask).expand(heads.b, heads.n, heads.s, heads.t)
    out: torch.Tensor = EfficientAttention.apply(query, key, value, bias, heads, card)
    return out


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """A bias whose rows are not whole vectors is padded, and the padding sliced off again. attention.cpp, pad_bias."""
    columns = mask.shape[-1]
    if columns % BIAS_ALIGNMENT == 0:
        return mask
    return torch.nn.functional.pad(mask, [0, -columns % BIAS_ALIGNMENT])[..., :columns]
