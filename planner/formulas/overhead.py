"""What a process takes besides its tensors: cuBLAS workspaces, fragmentation, context."""

from collections.abc import Mapping
from types import MappingProxyType

CUBLAS_WORKSPACE = 4096 * 1024 * 2 + 16 * 1024 * 8
"""Bytes of ``:4096:2:16:8``, 8.125 MiB. pytorch aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize."""

CUBLAS_WORKSPACE_HOPPER = 32 * 2**20
"""Bytes on compute capability 9.0 and newer. Same file."""

CUBLAS_HANDLES = 2
"""One for the main thread and one for autograd's. Published peaks of LoRA runs hold exactly twice 8.125 MiB
(fms-acceleration scripts/benchmarks/refs/a100_80gb.csv, 20 rows)."""

FRAGMENTED_FRACTION, FRAGMENTED_BYTES = 0.02, 100 * 2**20
"""What the squeezed allocator cannot use: fitted to replays of traced steps, docs/how-it-works/overhead.md."""

SPARE_FRACTIONS: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("full", "eager"): 0.27,
        ("full", "fused"): 0.55,
        ("chunked", "eager"): 0.11,
        ("chunked", "fused"): 0.11,
        ("fused", "eager"): 0.11,
        ("fused", "fused"): 0.11,
        ("full", "compiled"): 0.27,
        ("chunked", "compiled"): 0.11,
    }
)
"""Reserved minus allocated, as a share of the bytes that vary within a step, by loss and kernels, when memory
is plentiful: fitted, as medians of fms-acceleration's one-GPU A100 rows that leave the card at least 15 % empty (n = 10
with full logits and eager kernels, 12 with fused kernels, 6 with a fused loss; see docs/how-it-works/overhead.md).
Chunked is taken as fused, and compiled as eager: nobody has published either."""

SHARED_SPARE_FRACTION, SHARED_SPARE_BYTES = 0.15, 3 * 2**29
"""The same with several GPUs, whatever loss and kernels: a line through fms-acceleration's adapter rows on Mistral-7B
(a100_80gb_liger.csv, 24 rows), where streams have caches of their own. See docs/how-it-works/overhead.md for others."""

NCCL = 1 * 2**30
"""Bytes per rank of NCCL's buffers and its extra context: 0.34 to 0.39 GiB (ai-dynamo/aiconfigurator systems/*.yaml)
to 1.45 GiB (stas00/ml-engineering, two ranks, first barrier); the value is between them."""


def spare_fraction(loss: str, kernels: str) -> float:
    """Share of varying bytes by which reserved exceeds allocated on one GPU.

    >>> spare_fraction("full", "eager")
    0.27
    """
    return SPARE_FRACTIONS[loss, kernels]


def spare_bytes(loss: str, kernels: str, *, varying: int, allocated: int, world_size: int) -> int:
    """Bytes that the allocator keeps beyond what is allocated, with memory to spare.

    Shapes:    varying: bytes of activations, logits and temporaries at the peak; allocated: all bytes
    Formula:   one GPU: a share of varying by loss and kernels;  several: 0.15 varying + min(1.5 GiB, allocated)
    Source:    fitted: fms-acceleration scripts/benchmarks/refs/a100_80gb.csv, a100_80gb_liger.csv
    Valid:     runs that leave the card at least 15 % empty
    Excludes:  full fine-tuning on several GPUs, where published runs keep 5 to 15 GiB more

    >>> spare_bytes("full", "eager", varying=100 * 2**20, allocated=2**30, world_size=1) // 2**20
    27
    >>> spare_bytes("full", "fused", varying=10 * 2**30, allocated=16 * 2**30, world_size=2) // 2**30
    3
    """
    if world_size > 1:
        return int(SHARED_SPARE_FRACTION * varying) + min(SHARED_SPARE_BYTES, allocated)
    return int(spare_fraction(loss, kernels) * varying)


def fragmentation(allocated: int) -> int:
    """Bytes that the caching allocator must have beyond what is allocated, although it gives back its cache first.

    Shapes:    allocated bytes at the peak
    Formula:   allocated / 50 + 100 MiB
    Source:    ours: smallest capacities of replayed steps (planner/allocator/capacity.py), 514 cases, 52 models;
               nine in ten lie 3 % below to 9 % above allocated bytes with this (docs/how-it-works/overhead.md)
    Valid:     steps of one shape under the default settings of the allocator
    Excludes:  what is left behind by batches of other lengths

    >>> fragmentation(50 * 2**20), fragmentation(40 * 2**30) // 2**20
    (105906176, 919)
    """
    return int(FRAGMENTED_FRACTION * allocated) + FRAGMENTED_BYTES


def cublas_workspace(capability: tuple[int, int] | None) -> int:
    """Bytes that cuBLAS holds inside the allocator.

    Shapes:    one buffer per handle and stream
    Formula:   2 * 8.125 MiB, or 2 * 32 MiB from compute capability 9.0 on
    Source:    pytorch aten/src/ATen/cuda/CublasHandlePool.cpp
    Valid:     one compute stream; not for AMD, where hipBLAS keeps its own
    Excludes:  cuBLASLt, which shares it in current torch

    >>> cublas_workspace((8, 9)), cublas_workspace((9, 0))
    (17039360, 67108864)
    """
    if capability is not None and capability >= (9, 0):
        return CUBLAS_HANDLES * CUBLAS_WORKSPACE_HOPPER
    return CUBLAS_HANDLES * CUBLAS_WORKSPACE
