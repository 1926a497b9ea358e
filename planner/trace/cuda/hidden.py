"""Operator by operator, what its CUDA kernel allocates and releases before it returns; a fake run shows outputs only.

The table names operators; ``kernels``, ``reduction`` and ``quantised`` hold the arithmetic. Left out because they take
nothing, or less than a few hundred KiB: forward and backward of nll_loss and log_softmax, softmax forward, topk, scans,
index_add, scatter, gather, dropout, layer and group norm (partial sums of a few rows), nonzero, histograms, grouped
matrix products (problem tables), fused optimizers. cuBLASLt's workspace is cuBLAS's (see ``workspaces``). Not known:
workspaces of cuDNN's convolutions.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch

from planner.trace.cuda import kernels
from planner.trace.cuda.card import Card
from planner.trace.cuda.quantised import gemm_4bit_bytes, int8_product_bytes
from planner.trace.cuda.reduction import Reduction, staging_bytes

aten = torch.ops.aten

Bytes = tuple[int, ...]
Formula = Callable[[Sequence[Any], Mapping[str, Any], Any, Card], Bytes]

H100 = Card()

FORMULAS: dict[str, Formula] = {}
"""By the operator's name, overload included."""


def hidden_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, card: Card = H100) -> Bytes:
    """Blocks that the kernel holds at its highest instant besides inputs and outputs."""
    formula = FORMULAS.get(str(func))
    return () if formula is None else formula(args, kwargs, outputs, card)


def hidden_on(card: Card) -> Callable[[Any, Sequence[Any], Mapping[str, Any], Any], Bytes]:
    """``hidden_bytes`` for one card, as a recorder calls it."""
    return lambda func, args, kwargs, outputs: hidden_bytes(func, args, kwargs, outputs, card)


def register(*names: str) -> Callable[[Formula], Formula]:
    """Put a formula into the table; a second one for the same operator is an error."""

    def enter(formula: Formula) -> Formula:
        for name in names:
            if name in FORMULAS:
                raise ValueError(f"{name} has a formula already")
            FORMULAS[name] = formula
        return formula

    return enter


# ---------------------------------------------------------------- single kernels


@register("aten.embedding_dense_backward.default")
def _embedding(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    gradient, indices, vocabulary = args[:3]
    copy = _copied(gradient, contiguous=True)
    return copy + kernels.embedding_backward_bytes(indices.numel(), vocabulary, gradient.shape[-1])


@register("aten._softmax_backward_data.default")
def _softmax_backward(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    return kernels.softmax_backward_bytes(args[0].numel(), args[0].element_size())


@register("aten._log_softmax.default", "aten._softmax.default")
def _softmax(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    """SoftMax.cu, host_softmax: ``input_.contiguous()``."""
    return _copied(args[0], contiguous=True)


@register("aten._log_softmax_backward_data.default")
def _log_softmax_backward(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    """SoftMax.cu, host_softmax_backward: ``grad_.contiguous()``, ``output_.contiguous()``."""
    return _copied(args[0], contiguous=True) + _copied(args[1], contiguous=True)


@register("aten.sort.default", "aten.sort.stable", "aten.argsort.default", "aten.argsort.stable")
def _sort(args: Sequence[Any], kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    keys = args[0]
    given = args[1] if len(args) > 1 and isinstance(args[1], int) and not isinstance(args[1], bool) else -1
    n = keys.shape[kwargs.get("dim", given)] if keys.ndim else 1
    return kernels.sort_bytes(n, keys.numel() // max(n, 1), keys.element_size())


@register("aten.index_put.default", "aten.index_put_.default", "aten._index_put_impl_.default")
def _index_put(args: Sequence[Any], kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    places = [index for index in args[1] if index is not None]
    if not accumulate or not places:
        return ()
    return kernels.index_put_bytes(prod(torch.broadcast_shapes(*(index.shape for index in places))))


@register("aten._foreach_norm.Scalar")
def _foreach_norm(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    return kernels.foreach_norm_bytes(tuple(tensor.numel() for tensor in args[0]))


@register("aten.logsumexp.default")
def _logsumexp(args: Sequence[Any], _kwargs: Mapping[str, Any], outputs: Any, _card: Card) -> Bytes:
    return kernels.logsumexp_bytes(args[0].numel(), outputs.numel(), outputs.element_size())


@register("aten.masked_scatter.default", "aten.masked_scatter_.default")
def _masked_scatter(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    return kernels.masked_scatter_bytes(args[0].numel())


@register("bitsandbytes.gemm_4bit.default")
def _gemm_4bit(args: Sequence[Any], kwargs: Mapping[str, Any], _outputs: Any, card: Card) -> Bytes:
    return gemm_4bit_bytes(args, kwargs, card)


@register("bitsandbytes.int8_scaled_mm.default")
def _int8_product(args: Sequence[Any], _kwargs: Mapping[str, Any], outputs: Any, _card: Card) -> Bytes:
    return int8_product_bytes(args[0].numel() // args[0].shape[-1], args[1].shape[0], dtype=outputs.dtype)


# ---------------------------------------------------------------- matrix products


@register("aten.mm.default", "aten.mm.out", "aten.bmm.default", "aten.bmm.out")
def _product(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    return _copied(args[0]) + _copied(args[1])


@register("aten.addmm.default", "aten.addmm_.default", "aten.addmm.out", "aten.baddbmm.default")
def _sum_and_product(args: Sequence[Any], _kwargs: Mapping[str, Any], _outputs: Any, _card: Card) -> Bytes:
    return _copied(args[1]) + _copied(args[2])


def _copied(tensor: Any, *, contiguous: bool = False) -> Bytes:
    """The contiguous copy that a kernel makes of an operand whose layout it cannot read, or nothing.

    cuBLAS reads a matrix whose rows or columns are contiguous and do not overlap. pytorch
    aten/src/ATen/native/cuda/Blas.cpp, prepare_matrix_for_cublas and prepare_batch_matrix_for_cublas.
    """
    readable = tensor.is_contiguous() if contiguous else _is_matrix(tensor)
    return () if readable else (tensor.numel() * tensor.element_size(),)


def _is_matrix(tensor: Any) -> bool:
    (rows, columns), (down, across) = tensor.shape[-2:], tensor.stride()[-2:]
    return bool((across == 1 and down >= max(1, columns)) or (down == 1 and across >= max(1, rows)))


# ---------------------------------------------------------------- reductions


@register(
    "aten.sum.default",
    "aten.sum.dim_IntList",
    "aten.mean.default",
    "aten.mean.dim",
    "aten.amax.default",
    "aten.amin.default",
    "aten.linalg_vector_norm.default",
)
def _reduction(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, card: Card) -> Bytes:
    source = args[0]
    if not source.numel() or not outputs.numel():
        return ()
    return staging_bytes(_describe(source, _reduced(args, kwargs), outputs.numel()), card)


def _reduced(args: Sequence[Any], kwargs: Mapping[str, Any]) -> set[int]:
    """Dimensions that are reduced, from 0 up; all without a list."""
    ndim = args[0].ndim
    listed = kwargs.get("dim", next((arg for arg in args[1:] if isinstance(arg, list | tuple)), None))
    listed = [listed] if isinstance(listed, int) else listed
    return {dim % ndim for dim in listed} if listed and ndim else set(range(ndim))


def _describe(source: Any, reduced: set[int], outputs: int) -> Reduction:
    """How a reduction looks to the kernel; neighbouring dimensions have been merged, those of size 1 dropped."""
    order = sorted((dim for dim in range(source.ndim) if source.shape[dim] > 1), key=source.stride)
    fastest = not order or order[0] in reduced
    kept = [source.shape[dim] for dim in order if dim not in reduced]
    changes = sum((a in reduced) != (b in reduced) for a, b in pairwise(order))
    width = 1 if fastest or not kept else kept[0] if changes > 1 else prod(kept)
    e = max(source.element_size(), 4)
    return Reduction(source.numel() // outputs, outputs, fastest, single=changes <= 1, width=width, e=e)
