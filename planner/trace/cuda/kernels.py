"""What CUDA kernels of torch allocate inside themselves: one formula per kernel, bytes from sizes.

Every formula gives the blocks that stand together at the kernel's highest instant, outputs not among them. pytorch 2.13
aten/src/ATen/native/cuda; cub is NVIDIA's CCCL.
"""

SMALL_EMBEDDING = 3072
"""Indices up to which an embedding's gradient is scattered without sorting. Embedding.cu."""

ROWS_PER_THREAD = 10
"""Rows that one thread adds up in a sorted embedding's gradient. EmbeddingBackwardKernel.cu, NROWS_PER_THREAD."""

SMALL_SORT = 4096
"""Elements up to which a sort happens in shared memory. Sort.cpp, should_use_small_sort."""

LARGE_SEGMENT = 1_000_000
"""Elements from which every row is sorted on its own. SortStable.cu."""

FEW_SEGMENTS = 128
"""Rows below which all are sorted at once, keyed by row. SortStable.cu."""

NORM_CHUNK = 65536
"""Elements per partial norm. MultiTensorApply.cuh, kChunkSize."""


def radix_sort_bytes(n: int, key: int, value: int) -> int:
    """Temporary storage of cub's radix sort: a second buffer of keys and of values, for more than one pass of 8 bits.

    Formula:   n * (key + value)
    Source:    cub/device/dispatch/dispatch_radix_sort.cuh, InvokeOnesweep, allocation_sizes
    Excludes:  bins and look-back, about 0.2 bytes per element
    """
    return n * (key + value)


def embedding_backward_bytes(n: int, vocabulary: int, width: int) -> tuple[int, ...]:
    """Gradient of an embedding for ``n`` indices: sorted, cut into segments, summed in fp32 by part.

    Shapes:    sorted and original indices (n), segment offsets (n), parts per segment and their offsets
               (min(n, V)), part offsets and fp32 parts (n / 10 + min(n, V)) by (1, width)
    Source:    Embedding.cu, embedding_dense_backward_cuda; EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel
    Valid:     more than 3072 indices, no scaling by frequency

    >>> embedding_backward_bytes(3072, 32000, 4096)
    ()
    >>> embedding_backward_bytes(8192, 128256, 4096)[-1] == (819 + 8192) * 4096 * 4
    True
    """
    if n <= SMALL_EMBEDDING:
        return ()
    segments = min(n, vocabulary)
    parts = n // ROWS_PER_THREAD + segments
    return (8 * n, 8 * n, 8 * n, 8 * segments, 8 * segments, 8 * parts, 4 * parts * width)


def softmax_backward_bytes(scores: int, e: int) -> tuple[int, ...]:
    """``grad * output`` as a tensor of its own, ``scores`` elements of the gradient's ``e`` bytes.

    Source:    SoftMax.cu, softmax_backward_cuda_out; torch/include/ATen/native/cuda/PersistentSoftmax.cuh,
               softmax_warp_backward, is given the product. log_softmax has none

    >>> softmax_backward_bytes(10, 4)
    (40,)
    """
    return (scores * e,)


def sort_bytes(n: int, rows: int, key: int) -> tuple[int, ...]:
    """Stable sort of ``rows`` rows of ``n`` elements, with the places from which they came.

    Shapes:    positions (n) and cub's storage; a few rows: two int2 tables (rows * n) and a storage; many: one table
    Source:    SortStable.cu, launch_stable_sort_kernel

    >>> sort_bytes(4096, 1, 8), sort_bytes(65536, 1, 8)
    ((), (524288, 1048576))
    """
    total = n * rows
    if n <= SMALL_SORT:
        return ()
    if rows == 1 or n >= LARGE_SEGMENT:
        return 8 * n, radix_sort_bytes(n, key, 8)
    if rows < FEW_SEGMENTS:
        return 8 * total, 8 * total, radix_sort_bytes(total, key, 8)
    return 8 * total, radix_sort_bytes(total, key, 8)


def index_put_bytes(n: int) -> tuple[int, ...]:
    """Adding at ``n`` places: linear index, its sorted form, the original order, a range, and cub's storage.

    Source:    Indexing.cu, index_put_with_sort_kernel

    >>> sum(index_put_bytes(100))
    4800
    """
    return 8 * n, 8 * n, 8 * n, 8 * n, radix_sort_bytes(n, 8, 8)


def foreach_norm_bytes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Norms of many tensors at once: a partial norm in fp32 for every tensor and every chunk of the largest.

    Formula:   4 * tensors * ceil(largest / 65536)
    Source:    ForeachReduceOp.cu, foreach_tensor_norm_cuda, output_per_tensor

    >>> foreach_norm_bytes((128256 * 4096, 4096))
    (64128,)
    """
    return (4 * len(sizes) * max(-(-size // NORM_CHUNK) for size in sizes),) if sizes else ()


def logsumexp_bytes(n: int, outputs: int, e: int) -> tuple[int, ...]:
    """``exp(x - max)`` of every element, and the maxima twice.

    Source:    pytorch aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl; the CPU does the same

    >>> logsumexp_bytes(100, 10, 4)
    (40, 40, 400)
    """
    return outputs * e, outputs * e, n * e


def masked_scatter_bytes(n: int) -> tuple[int, ...]:
    """Places of the selected elements, as a running sum over the mask in int64.

    Source:    IndexKernel.cpp, masked_scatter__cuda, maskPrefixSum

    >>> masked_scatter_bytes(10)
    (80,)
    """
    return (8 * n,)
