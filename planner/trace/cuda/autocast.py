"""CUDA's autocast on the CPU: ``torch.autocast("cpu")`` with the operator lists of ``torch.autocast("cuda")``.

Which operators CUDA treats is read from torch's dispatcher, where both devices' tables stand in every build; how it
treats them is below (pytorch 2.13 torch/include/ATen/autocast_mode.h, AT_FORALL_*; ATen/autocast_mode.cpp). Matrix
products stay with the CPU's own kernels, which cast to 16 bit by the same template and keep 16-bit copies of fp32 leaf
weights that want a gradient for as long as the outermost autocast lasts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.trace.private import autocast_operators, cpu_autocast_kernels, tree_map, without_cpu_autocast

# fmt: off
LOWER = frozenset((
    "_convolution", "_convolution.deprecated", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d",
    "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv", "addr", "matmul",
    "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_scaled_dot_product_flash_attention", "scaled_dot_product_attention", "cudnn_convolution",
    "cudnn_convolution_transpose",
))
"""Inputs are cast to 16 bit. AT_FORALL_LOWER_PRECISION_FP."""

WIDE_RESULT = frozenset((
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm",
    "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList",
))
"""The result is asked for in fp32, inputs stay as they are. AT_FORALL_FP32_SET_OPT_DTYPE."""

PROMOTE = frozenset((
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
    "scatter_add",
))
"""Inputs are cast to the widest among them, 16 bit at least. AT_FORALL_PROMOTE."""
# fmt: on

NORMS = {"norm.Scalar": "ScalarOpt_dtype", "norm.ScalarOpt_dim": "ScalarOpt_dim_dtype"}
"""The overload that takes a dtype is called instead. AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE."""

BANNED = "binary_cross_entropy"
"""Raises on CUDA; left alone here."""

Kernel = Callable[..., Any]


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """The context in which ``torch.autocast("cpu")`` acts by CUDA's lists, wherever it is entered.

    ``torch.is_autocast_enabled()`` without a device asks about CUDA; PEFT's quantised layers cast by the answer.
    """
    real = torch.is_autocast_enabled

    def is_autocast_enabled(*device: str) -> bool:
        return bool(real(*(device or ("cpu",))))

    with cpu_autocast_kernels(_replacements()), patch.object(torch, "is_autocast_enabled", is_autocast_enabled):
        yield


def _replacements() -> dict[str, Kernel]:
    """What differs: operators that only the CPU casts are let through, those that only CUDA casts are cast."""
    own, wanted = autocast_operators("CPU"), autocast_operators("CUDA")
    kernels: dict[str, Kernel] = dict.fromkeys(own - wanted, torch.library.fallthrough_kernel)
    for name in sorted(wanted):
        short = name.removeprefix("aten::")
        same = name in own and short not in WIDE_RESULT | PROMOTE
        if not same and short != BANNED:
            kernels[name] = _kernel(short)
    return kernels


def _kernel(short: str) -> Kernel:
    """The policy of one operator; what stands in no list computes in fp32 (AT_FORALL_FP32)."""
    operator = _operator(short)
    if short in NORMS:
        return _appending(operator, getattr(operator.overloadpacket, NORMS[short]))
    if short in WIDE_RESULT:
        return _asking(operator)
    if short in PROMOTE:
        return _casting(operator, _widest)
    target = (lambda _tensors: torch.get_autocast_dtype("cpu")) if short in LOWER else (lambda _tensors: torch.float32)
    return _casting(operator, target)


def _operator(short: str) -> Any:
    base, _, overload = short.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def _casting(operator: Any, target: Callable[[list[torch.Tensor]], torch.dtype]) -> Kernel:
    """Casts every eligible input."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with without_cpu_autocast():
            found: list[torch.Tensor] = []
            tree_map(lambda leaf: found.append(leaf) if _eligible(leaf) else None, (args, kwargs))
            dtype = target(found)
            args, kwargs = tree_map(lambda leaf: leaf.to(dtype) if _eligible(leaf) else leaf, (args, kwargs))
            return operator(*args, **kwargs)

    return kernel


def _asking(operator: Any) -> Kernel:
    """Asks for fp32 where the caller asks for nothing."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with without_cpu_autocast():
            given = kwargs.get("dtype") or next((arg for arg in args if isinstance(arg, torch.dtype)), None)
            if _eligible(args[0]) and given is None:
                kwargs = {**kwargs, "dtype": torch.float32}
                args = args[:-1] if args[-1] is None and operator is _operator("softmax.int") else args
            return operator(*args, **kwargs)

    return kernel


def _appending(operator: Any, with_dtype: Any) -> Kernel:
    """Calls the overload that takes a dtype, with fp32."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with without_cpu_autocast():
            if not _eligible(args[0]):
                return operator(*args, **kwargs)
            order = kwargs.pop("p", 2) if len(args) < 2 else args[1]
            return with_dtype(args[0], order, *args[2:], **kwargs, dtype=torch.float32)

    return kernel


def _eligible(leaf: Any) -> bool:
    """``is_autocast_eligible``, and not fp64, which no policy touches."""
    return (
        isinstance(leaf, torch.Tensor)
        and leaf.device.type == "cpu"
        and leaf.is_floating_point()
        and leaf.dtype != torch.float64
    )


def _widest(tensors: list[torch.Tensor]) -> torch.dtype:
    """``promote_type``: autocast's dtype, or fp32 once one input has it."""
    wide = any(tensor.dtype == torch.float32 for tensor in tensors)
    return torch.float32 if wide else torch.get_autocast_dtype("cpu")
