"""cuBLAS's workspaces: a buffer in torch's allocator for every handle, taken by its first product and kept.

pytorch 2.13 aten/src/ATen/cuda/CublasHandlePool.cpp: getCurrentCUDABlasHandle, getChosenWorkspaceSize. Forward and the
optimizer run on the caller's thread, backward with all that it recomputes on autograd's thread for the device: a handle
each. cuBLASLt (products with a bias) shares the buffer; an int8 product of bitsandbytes has a handle outside torch.
"""

from typing import Any

from planner.formulas.overhead import CUBLAS_HANDLES, cublas_workspace
from planner.trace.cuda.card import Card

PRODUCTS = frozenset(
    ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm", "mv", "addmv", "dot", "vdot", "gemm_4bit")
)
"""Operators that take a cuBLAS handle."""


class Workspaces:
    """Which handles have their buffer already."""

    def __init__(self, card: Card) -> None:
        self._bytes = cublas_workspace(card.capability) // CUBLAS_HANDLES
        self._taken: set[bool] = set()

    def due(self, func: Any, *, backward: bool) -> int:
        """Bytes that this operator makes the process keep from now on: a whole buffer, or nothing."""
        if backward in self._taken or func.overloadpacket.__name__ not in PRODUCTS:
            return 0
        self._taken.add(backward)
        return self._bytes
