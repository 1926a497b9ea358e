"""What the operations of a tape move through memory besides the products, and how many kernels they start.

A product's own operands are read while it computes, and attention kernels keep theirs on the chip; all other
operations do so little arithmetic that their time is the bytes they read and write.
"""

from collections import Counter
from typing import NamedTuple

from planner.formulas.attention import FLASH
from planner.formulas.experts import JOINED, OTHERS, UNPACKED
from planner.formulas.tape import ZERO, Op, Size, Tape, Tensor, total

FREE = frozenset({"view", "slice", UNPACKED})
"""Operations without a kernel in forward: the same memory under another shape."""

ATTENTION_BACKWARD_KERNELS = 3
"""Row sums, the gradients, and the conversion of dq. Dao-AILab/flash-attention csrc/flash_attn/src,
flash_bwd_launch_template.h, run_flash_bwd."""

DEQUANT_KERNELS = 1
"""Of a 4-bit matrix; double quantisation adds a small one for its scales. bitsandbytes 0.50 functional.py,
dequantize_4bit."""


class Moved(NamedTuple):
    """Bytes that one pass forward and one backward move, and the kernels that they start."""

    forward: Size
    backward: Size
    forward_kernels: int
    backward_kernels: int


NOTHING = Moved(ZERO, ZERO, 0, 0)


def moved(tape: Tape, *, experts: int = 1) -> Moved:
    """Traffic of a tape.

    Shapes:    an operation reads its inputs and writes its output; backward reads the output's gradient and what was
               saved, and writes a gradient for each input that has one; where n gradients meet, n - 1 additions
    Formula:   the sum over operations; products count the casts of their weights only
    Source:    the tape (``tape``), which mirrors the eager code; torch tools/autograd/derivatives.yaml
    Valid:     operands that do not fit the card's cache
    Excludes:  products, attention kernels, dequantisation (``flops.dequant_bytes``)

    ``experts``: how many times the operations of one expert run, where experts are a loop of which one is recorded.
    """
    found, times = NOTHING, 1
    for op in tape.ops:
        if op.name == OTHERS:
            times = experts
            continue
        if op.name == JOINED:
            times = 1
        found = _plus(found, _one(op), times)
    return _plus(found, _meetings(tape), 1)


def _plus(one: Moved, other: Moved, times: int) -> Moved:
    return Moved(
        one.forward + other.forward.times(times),
        one.backward + other.backward.times(times),
        one.forward_kernels + times * other.forward_kernels,
        one.backward_kernels + times * other.backward_kernels,
    )


def _one(op: Op) -> Moved:
    if op.name in FREE:
        return Moved(ZERO, op.inputs[0].size if op.name == "slice" else ZERO, 0, int(op.name == "slice"))
    if op.reloads:
        return _product(op)
    gradients = [tensor for tensor in op.inputs if tensor.grad and tensor not in op.passes]
    if op.name == FLASH:
        return Moved(ZERO, ZERO, 1, ATTENTION_BACKWARD_KERNELS if gradients else 0)
    made = [tensor for tensor in op.saved if not tensor.grad]
    forward = total(tensor.size for tensor in (*op.inputs, op.output, *made))
    if not (op.output.grad and gradients):
        return Moved(forward, ZERO, 1, 0)
    backward = total(tensor.size for tensor in (op.output, *op.saved, *gradients))
    return Moved(forward, backward, 1, len(gradients) + int(op.weight_grad > 0))


def _product(op: Op) -> Moved:
    """A matrix product: its kernels, and a wider weight that is read to write its 16-bit copy."""
    made = (tensor for tensor in op.saved if tensor.grad or tensor not in op.inputs)  # others made the rest
    casts = total(tensor.size for tensor in made if tensor.size.token == 0).times(3)
    dequantised = DEQUANT_KERNELS if op.scratch_forward.fixed else 0
    forward_kernels = 1 + dequantised + int(casts.fixed > 0)
    backward_kernels = (1 + dequantised if _passes_on(op) else 0) + int(op.weight_grad > 0)
    return Moved(casts, casts if op.weight_grad else ZERO, forward_kernels, backward_kernels)


def _passes_on(op: Op) -> bool:
    return any(tensor.grad for tensor in op.inputs)


def _meetings(tape: Tape) -> Moved:
    """Where several readers of one tensor send gradients back: additions that read two and write one."""
    readers: Counter[int] = Counter()
    tensors: dict[int, Tensor] = {}
    for op in tape.ops:
        for tensor in op.inputs:
            if tensor.grad and op.output.grad:
                readers[id(tensor)] += 1
                tensors[id(tensor)] = tensor
    again = [(tensors[key], count - 1) for key, count in readers.items() if count > 1]
    size = total(tensor.size.times(3 * count) for tensor, count in again)
    return Moved(ZERO, size, 0, sum(count for _, count in again))
