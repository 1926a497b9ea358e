"""The staging buffer of a reduction that several thread blocks share: torch's own arithmetic, in Python.

torch 2.13, torch/include/ATen/native/cuda/Reduce.cuh: ``setReduceConfig``, ``ReduceConfig::global_memory_size``. A sum
over tokens (the gradient of a bias or of a norm's weight) takes far more than it returns, since the size is multiplied
by the columns of a block although it counts all outputs already: 108 MiB for (8192, 4096) on an A100.
"""

from typing import NamedTuple

from planner.trace.cuda.card import Card

MAX_THREADS = 512
"""Threads per block. Reduce.cuh, mnt_wrapper."""

WARP = 32
VECTOR = 4
"""Elements per load, and outputs per thread at most. Reduce.cuh, vt0 and get_output_vec_size."""

LEAST_PER_THREAD, MOST_PER_THREAD = 16, 256
"""Reduce.cuh, min_values_per_thread and max_values_per_thread."""


class Reduction(NamedTuple):
    """``inputs`` per output; ``fastest``: the contiguous dimension is reduced; ``single``: it alone is.

    ``width``: outputs that are contiguous in the input where it is not reduced. ``e``: bytes of an accumulator.
    """

    inputs: int
    outputs: int
    fastest: bool
    single: bool = True
    width: int = 1
    e: int = 4


class _Shape(NamedTuple):
    """A launch: threads along the contiguous dimension and across it, outputs per thread."""

    width: int
    height: int
    vector: int


def staging_bytes(reduction: Reduction, card: Card) -> tuple[int, ...]:
    """Buffer and semaphores of one reduction, or nothing where each block finishes alone.

    Shapes:    (outputs, blocks per output), and where the contiguous dimension is kept, once more per column of a block
    Source:    Reduce.cuh, global_memory_size, semaphore_size

    >>> staging_bytes(Reduction(8192, 4096, fastest=False, width=4096), Card((8, 0), 108))
    (113246208, 128)
    >>> staging_bytes(Reduction(4096, 8192, fastest=True), Card((8, 0), 108))
    ()
    """
    shape = _launch(reduction)
    step_input = shape.width if reduction.fastest else 1
    step_output = 1 if reduction.fastest else shape.width
    across = _ceil(reduction.inputs, step_input) >= min(shape.height * 16, MOST_PER_THREAD)
    if not across:
        return ()
    per_thread = _ceil(reduction.inputs, step_input * shape.height)
    grid = _ceil(reduction.outputs // shape.vector, step_output)
    target = card.multiprocessors * (card.threads // (shape.width * shape.height))
    if per_thread < MOST_PER_THREAD or grid > target:
        return ()
    blocks = min(_ceil(target, grid), _ceil(per_thread, LEAST_PER_THREAD))
    blocks = max(blocks, _ceil(per_thread, MOST_PER_THREAD))
    if blocks == 1:
        return ()
    columns = 1 if reduction.fastest else shape.width * shape.vector
    return reduction.e * reduction.outputs * blocks * columns, 4 * grid


def _launch(reduction: Reduction) -> _Shape:
    """``set_block_dimension``, after vectorisation."""
    dim0, dim1 = (reduction.inputs, reduction.outputs) if reduction.fastest else (reduction.outputs, reduction.inputs)
    vector = 1
    if reduction.fastest and reduction.single and dim0 >= 128:
        dim0 //= VECTOR
    elif not reduction.fastest:
        vector = next(size for size in (4, 2, 1) if reduction.width % size == 0)
        dim0 //= vector
    most = MAX_THREADS // vector
    dim0, dim1 = (_power(size) if size < most else most for size in (dim0, dim1))
    width = min(dim0, WARP)
    height = min(dim1, most // width)
    return _Shape(min(dim0, most // height), height, vector)


def _power(count: int) -> int:
    """The largest power of two that is at most ``count``. Reduce.cuh, last_pow2."""
    return 1 << (max(count, 1).bit_length() - 1)


def _ceil(count: int, unit: int) -> int:
    return -(-count // unit)
