"""bitsandbytes on CUDA: what its 4- and 8-bit products take inside, the int8 path, states in managed memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from planner.formulas.states import PAGED_LEAST
from planner.trace.cuda.card import Card
from planner.trace.private import bitsandbytes_cuda

FUSED_ROWS = 1536
"""Rows of the input from which a 4-bit weight is always dequantised. bitsandbytes 0.50 backends/cuda/ops.py,
_gemm_4bit_custom_max_m."""


class Product(NamedTuple):
    """``m`` rows times a 4-bit weight (``n``, ``k``), computed in ``dtype``; ``scales`` of ``block`` weights each."""

    m: int
    n: int
    k: int
    dtype: torch.dtype
    block: int
    scales: int
    nested: bool


def is_fused(product: Product, card: Card) -> bool:
    """Whether the kernel reads 4-bit weights itself: bitsandbytes' own rule, asked with this card's properties.

    Source:    bitsandbytes 0.50 backends/cuda/ops.py, gemm_4bit and _gemm_4bit_use_custom_cuda
    """
    if product.m > FUSED_ROWS or product.k % product.block:
        return False
    ops = bitsandbytes_cuda()
    rule = unwrap(ops._gemm_4bit_use_custom_cuda)  # without its cache, which knows one card only
    properties = (card.multiprocessors, *card.capability)
    with patch.object(ops, "_gpu_dispatch_props", lambda _index: properties):
        return bool(rule(0, product.dtype, product.m, product.n, product.k))


def dequantised_bytes(product: Product) -> tuple[int, ...]:
    """What ``gemm_4bit`` holds while it multiplies by a dequantised copy.

    Shapes:    weight (n, k) in the input's dtype; nested: scales in fp32, and again with their offset added
    Source:    bitsandbytes 0.50 backends/cuda/ops.py, _dequant_linear_fallback

    >>> dequantised_bytes(Product(2048, 4096, 4096, torch.bfloat16, 64, 262144, nested=True))
    (1048576, 1048576, 33554432)
    """
    scales = (4 * product.scales,) * 2 if product.nested else ()
    return (*scales, product.n * product.k * product.dtype.itemsize)


def gemm_4bit_bytes(args: Any, kwargs: Any, card: Card) -> tuple[int, ...]:
    """``bitsandbytes::gemm_4bit``: nothing where the fused kernel runs, else the dequantised weight."""
    inputs, shape, block = args[0], args[2], args[4]
    scales = kwargs.get("absmax_8bit")
    k = inputs.shape[-1]
    product = Product(
        inputs.numel() // k,
        shape[0],
        k,
        inputs.dtype,
        block,
        0 if scales is None else scales.numel(),
        scales is not None,
    )
    return () if is_fused(product, card) else dequantised_bytes(product)


def int8_product_bytes(rows: int, n: int, *, dtype: torch.dtype) -> tuple[int, ...]:
    """``bitsandbytes::int8_scaled_mm``: the int32 product, and its fp16 form where another dtype is wanted.

    Source:    bitsandbytes 0.50 backends/default/ops.py, int8_scaled_mm; backends/cuda/ops.py, int8_mm_dequant

    >>> int8_product_bytes(2, 8, dtype=torch.bfloat16), int8_product_bytes(2, 8, dtype=torch.float16)
    ((64, 32), (64,))
    """
    product = 4 * rows * n
    return (product,) if dtype == torch.float16 else (product, 2 * rows * n)


# ---------------------------------------------------------------- optimizers


@contextmanager
def states_anywhere() -> Iterator[None]:
    """Optimizers of bitsandbytes take states on the CPU, where a trace has all, the paged ones too.

    bitsandbytes 0.48 and 0.49 refuse them (functional.py, is_on_gpu) and ask the driver for pages (optim/optimizer.py,
    get_state_buffer); 0.50 does neither on the CPU.
    """
    from bitsandbytes import functional  # noqa: PLC0415
    from bitsandbytes.optim import optimizer  # noqa: PLC0415

    def get_state_buffer(_self: Any, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros_like(p, dtype=dtype)

    with (
        patch.object(functional, "is_on_gpu", lambda _tensors: True),
        patch.object(optimizer.Optimizer8bit, "get_state_buffer", get_state_buffer),
    ):
        yield


# ---------------------------------------------------------------- 8-bit products


@contextmanager
def cuda_int8(outliers: int = 0) -> Iterator[None]:
    """``bitsandbytes.matmul`` takes ``MatMul8bitLt``, as on CUDA, with this many outlier columns in every product.

    Its two operators whose result depends on values get stand-ins that allocate as the CUDA kernels do.
    bitsandbytes 0.50: autograd/_functions.py, matmul; backends/cuda/ops.py, int8_vectorwise_quant.
    """
    import bitsandbytes  # noqa: PLC0415

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (bitsandbytes, "matmul", _matmul),
        (bitsandbytes.functional, "int8_vectorwise_quant", lambda a, threshold=0.0: _quantised(a, threshold, outliers)),
        (torch.ops.bitsandbytes, "int8_mixed_scaled_mm", _mixed_product),
    ]
    patches = [patch.object(owner, name, new) for owner, name, new in replaced]
    with patches[0], patches[1], patches[2]:
        yield


def _matmul(
    a: torch.Tensor, b: torch.Tensor, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
) -> torch.Tensor:
    from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState  # noqa: PLC0415

    state = state or MatmulLtState()
    if threshold > 0.0:
        state.threshold = threshold
    result: torch.Tensor = MatMul8bitLt.apply(a, b, out, bias, state)
    return result


def _quantised(a: torch.Tensor, threshold: float, outliers: int) -> tuple[Any, ...]:
    """Rows in int8 with an fp32 scale each; above a threshold the magnitudes are compared, and columns cleared."""
    scales = a.new_empty(a.numel() // a.shape[-1], dtype=torch.float32)
    rows = torch.empty_like(a, dtype=torch.int8)
    if threshold <= 0.0:
        return rows, scales, None
    found = a.abs() >= threshold
    found.any()
    columns = a.new_empty(outliers, dtype=torch.int64)
    if outliers:
        rows[:, columns] = 0
    return rows, scales, columns


def _mixed_product(
    a: torch.Tensor,
    rows: torch.Tensor,
    weight: torch.Tensor,
    row_scales: torch.Tensor,
    weight_scales: torch.Tensor,
    columns: Any = None,
    bias: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``int8_mixed_scaled_mm``: the int8 product, and the outlier columns in 16 bit added to it. Same source."""
    ops = torch.ops.bitsandbytes
    wide = None
    part = a.new_empty(0)
    if columns is not None and columns.numel():
        part = a[:, columns].contiguous()
        wide = ops.int8_vectorwise_dequant.default(weight[:, columns].contiguous(), weight_scales).to(a.dtype).t()
    product = ops.int8_scaled_mm.default(rows, weight, row_scales, weight_scales, bias=bias, dtype=a.dtype)
    return (product if wide is None else product.addmm(part, wide)), part


# ---------------------------------------------------------------- optimizers


def managed_states(optimizer: Any) -> list[torch.Tensor]:
    """States that a paged optimizer keeps in managed memory, outside torch's allocator, on CUDA.

    ``state1`` and ``state2`` of parameters with at least 100 000 elements; scales and tables stay on the device.
    bitsandbytes 0.50 optim/optimizer.py, get_state_buffer.
    """
    if not getattr(optimizer, "is_paged", False):
        return []
    return [
        state[name]
        for parameter, state in optimizer.state.items()
        for name in ("state1", "state2")
        if parameter.numel() >= PAGED_LEAST and name in state
    ]
