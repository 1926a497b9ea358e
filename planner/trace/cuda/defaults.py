"""Choices that torch makes by device, which a trace on the CPU would make otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn.functional import dropout as torch_dropout

from planner.trace.private import foreach_by_default


@contextmanager
def cuda_defaults() -> Iterator[None]:
    """Multi-tensor optimizers where none is named, multi-tensor clipping, fused dropout."""
    with foreach_by_default(), patch.object(torch.nn.functional, "dropout", fused_dropout):
        yield


def fused_dropout(
    input: torch.Tensor,  # noqa: A002  (torch's name, which callers may use)
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """Dropout that saves one byte per element, not a 16- or 32-bit mask.

    Source: pytorch aten/src/ATen/native/Dropout.cpp, dropout and is_fused_kernel_acceptable: CUDA takes native_dropout
    for 0 < p < 1, out of place; the CPU multiplies by a mask in the input's dtype and saves that.
    """
    if training and not inplace and 0 < p < 1 and input.numel():
        return torch.native_dropout(input, p, True)[0]
    return torch_dropout(input, p, training, inplace)
