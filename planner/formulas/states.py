"""Model states: weights, gradients and optimizer states by precision, and what the optimizer step adds.

Counts of parameters in, bytes out. Symbols: ``P`` parameters, ``e`` bytes per element.
"""

from collections.abc import Iterable
from typing import NamedTuple

NF4_BLOCK = 64
"""Weights per first-level scale. bitsandbytes 0.50 functional.py, quantize_4bit; QLoRA (arXiv:2305.14314) section 3."""

NESTED_BLOCK = 256
"""First-level scales per second-level scale. QLoRA section 3, Double Quantization."""

QUANT_TABLES = 16 * 4
"""Bytes of the 16-entry codebook that every 4-bit tensor carries. bitsandbytes 0.50 functional.py, QuantState.code."""

NESTED_TABLES = 256 * 4 + 4
"""Bytes of the second level's codebook and offset. bitsandbytes 0.50 functional.py, QuantState.state2, offset."""

EIGHT_BIT_BLOCK = 256
"""Elements per fp32 scale of an 8-bit optimizer state. bitsandbytes 0.50 optim/optimizer.py."""

EIGHT_BIT_LEAST = 4096
"""Tensors with fewer elements keep fp32 states. bitsandbytes 0.50 optim/optimizer.py, min_8bit_size."""

PAGED_LEAST = 100_000
"""Tensors with fewer elements are not paged. bitsandbytes 0.50 optim/optimizer.py, get_state_buffer."""

ALLOCATION = 512
"""Bytes to which the CUDA caching allocator rounds every request. pytorch c10/core/AllocatorConfig.h, kMinBlockSize."""


class Trainable(NamedTuple):
    """``copies`` trained tensors of one shape: ``rows`` by ``columns``, with ``columns`` 1 for vectors.

    ``e`` is their element size where it differs from the others', else 0.
    """

    rows: int
    columns: int
    copies: int
    embedding: bool = False
    e: int = 0

    @property
    def numel(self) -> int:
        """Elements of one of them."""
        return self.rows * self.columns


class OptimizerBytes(NamedTuple):
    """What an optimizer keeps on the device, in managed memory, and needs besides during the step."""

    states: int
    managed: int
    temporary: int


def nf4_bytes(numel: int, *, double_quant: bool) -> int:
    """Bytes of one 4-bit tensor with its scales.

    Shapes:    packed (numel / 2), absmax (numel / 64) in fp32, or in 8 bits with its own fp32 absmax per 256
    Formula:   numel/2 + 4*numel/64, or numel/2 + numel/64 + 4*numel/(64*256)
    Source:    Dettmers 2023, arXiv:2305.14314, section 3; bitsandbytes 0.50 functional.py quantize_4bit
    Valid:     NF4 and FP4 with block size 64
    Excludes:  the codebooks (``QUANT_TABLES``, ``NESTED_TABLES``)

    >>> nf4_bytes(4096 * 4096, double_quant=False) * 8 / 4096**2
    4.5
    >>> round(nf4_bytes(4096 * 4096, double_quant=True) * 8 / 4096**2, 3)
    4.127
    """
    packed = -(-numel // 2)
    blocks = -(-numel // NF4_BLOCK)
    if not double_quant:
        return packed + 4 * blocks
    return packed + blocks + 4 * -(-blocks // NESTED_BLOCK)


def dequantized_bytes(numel: int, e: int, *, nested: bool) -> int:
    """Bytes of one 4-bit tensor as bitsandbytes dequantises it, with its scales where these are quantised, too.

    Shapes:    (numel) of e bytes; absmax (numel / 64) in fp32
    Formula:   e*numel (+ 4*numel/64)
    Source:    bitsandbytes 0.50 functional.py, dequantize_4bit
    Valid:     NF4 and FP4 with block size 64
    Excludes:  the packed tensor itself

    >>> dequantized_bytes(6400, 2, nested=True)
    13200
    """
    return e * numel + (numel // NF4_BLOCK * 4 if nested else 0)


def torchao_nf4_bytes(numel: int) -> int:
    """Bytes of one of torchao's 4-bit tensors, whose scales are always quantised.

    Shapes:    packed (numel / 2) uint8; scalers (numel / 64) int8, a 16-bit factor per 256 of them; their mean and the
               16-entry codebook in 16 bits
    Formula:   numel/2 + numel/64 + 2*numel/(64*256) + 2 + 32
    Source:    torchao 0.9 dtypes/nf4tensor.py, NF4Tensor.from_tensor and double_quantize_scalers
    Valid:     block size 64, scaler block size 256, made from bf16 weights, as torchtune 0.6 makes them
    Excludes:  what dequantising needs (``torchao_nf4_scratch``)

    >>> round(torchao_nf4_bytes(4096 * 4096) * 8 / 4096**2, 3)
    4.126
    """
    blocks = -(-numel // NF4_BLOCK)
    return -(-numel // 2) + blocks + 2 * -(-blocks // NESTED_BLOCK) + 2 + 2 * 16


def torchao_nf4_scratch(numel: int) -> int:
    """Bytes that dequantising one of torchao's 4-bit tensors takes at once, its result among them.

    Shapes:    both halves (numel / 2 each) as int64 indices, looked up, and scaled; the result (numel) in 16 bits
    Formula:   2 * (numel/2) * (8 + 2 + 2) + 2*numel
    Source:    torchao 0.9 dtypes/nf4tensor.py, NF4Tensor.get_original_weight: every step's tensors have names
    Valid:     eager torch; a compiled one makes none but the result
    Excludes:  the dequantised scalers

    >>> torchao_nf4_scratch(1000)
    14000
    """
    return numel * (8 + 2 + 2) + 2 * numel


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of one LLM.int8() weight: 8-bit entries and one fp32 scale per row.

    Shapes:    CB (rows, columns) int8, SCB (rows) fp32
    Formula:   rows*columns + 4*rows
    Source:    Dettmers 2022, arXiv:2208.07339, section 2.1; bitsandbytes 0.50 nn/modules.py Int8Params
    Valid:     ``load_in_8bit``
    Excludes:  the bias

    >>> int8_bytes(4096, 4096)
    16793600
    """
    return rows * columns + 4 * rows


def adam_mixed_precision(params: int, *, zero_stage: int = 0, world_size: int = 1) -> int:
    """Bytes per rank of 16-bit weights and gradients with fp32 master weights and Adam moments.

    Shapes:    weights 2P, gradients 2P, master and two moments 12P
    Formula:   2P + 2P + 12P, of which stage 1 divides the last, 2 the last two, 3 all by N
    Source:    Rajbhandari 2020, arXiv:1910.02054, section 3.1 and figure 1
    Valid:     the paper's mixed-precision recipe
    Excludes:  activations, buckets, temporaries (see ``formulas.sharding``)

    >>> [round(adam_mixed_precision(7_500_000_000, zero_stage=z, world_size=64) / 1e9, 1) for z in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    shards = [world_size if zero_stage >= stage else 1 for stage in (3, 2, 1)]
    return sum(-(-size * params // shard) for size, shard in zip((2, 2, 12), shards, strict=True))


def optimizer_bytes(name: str, tensors: Iterable[Trainable], *, e: int, shards: int = 1) -> OptimizerBytes:
    """Bytes of an optimizer over trained ``tensors`` of ``e``-byte elements, each divided among ``shards`` ranks.

    Shapes:    per tensor, see each function of this module
    Formula:   sum over tensors; the temporary of a foreach step over all, of a loop over the largest
    Source:    torch 2.13 torch/optim; bitsandbytes 0.50 optim/optimizer.py; transformers 5.23 optimization.py
    Valid:     the names of ``spec.OPTIMIZERS``
    Excludes:  step counters (fused AdamW: one fp32 scalar per tensor, counted in ``fused_steps``)

    >>> optimizer_bytes("adamw_foreach", [Trainable(1024, 1024, 10)], e=2)
    OptimizerBytes(states=41943040, managed=0, temporary=20971520)
    """
    states = managed = largest = matrix = rest = 0
    groups: dict[int, int] = {}
    for tensor in tensors:
        size = tensor.e or e
        numel = -(-tensor.numel // shards)
        on_device, paged = _state_bytes(name, tensor, numel, size)
        states += tensor.copies * on_device
        managed += tensor.copies * paged
        groups[size] = groups.get(size, 0) + tensor.copies * numel * size
        largest = max(largest, numel)
        if tensor.embedding or tensor.columns == 1:
            rest += tensor.copies * numel * size
        else:
            matrix = max(matrix, numel)
    if name == "muon":
        return OptimizerBytes(states, managed, max(_temporary_bytes(name, matrix, 0, e), rest))
    return OptimizerBytes(states, managed, _temporary_bytes(name, largest, max(groups.values(), default=0), e))


def _state_bytes(name: str, tensor: Trainable, numel: int, e: int) -> tuple[int, int]:
    """(device, managed) bytes of one tensor's states."""
    if name in ("adamw_foreach", "adamw_loop"):
        return 2 * numel * e, 0
    if name == "adamw_fused":
        return 2 * numel * e + ALLOCATION, 0
    if name == "adamw_8bit":
        return _eight_bit(numel, moments=2), 0
    if name == "lion_8bit":
        return _eight_bit(numel, moments=1), 0
    if name == "lion":
        return 4 * numel, 0
    if name == "paged_adamw_32bit":
        return (0, 8 * numel) if numel >= PAGED_LEAST else (8 * numel, 0)
    if name == "paged_adamw_8bit":
        return _paged_eight_bit(numel)
    if name == "adafactor":
        factored = tensor.columns > 1
        return 4 * ((tensor.rows + tensor.columns) if factored else tensor.numel), 0
    if name == "muon":
        moments = 2 if tensor.embedding or tensor.columns == 1 else 1
        return moments * numel * e, 0
    return 0, 0  # sgd without momentum, torch's default, keeps nothing


def _eight_bit(numel: int, *, moments: int) -> int:
    if numel < EIGHT_BIT_LEAST:
        return moments * 4 * numel
    return moments * (numel + 4 * -(-numel // EIGHT_BIT_BLOCK))


def _paged_eight_bit(numel: int) -> tuple[int, int]:
    if numel < PAGED_LEAST:
        return _eight_bit(numel, moments=2), 0
    return 2 * 4 * -(-numel // EIGHT_BIT_BLOCK), 2 * numel


def _temporary_bytes(name: str, largest: int, total: int, e: int) -> int:
    """What the step allocates besides parameters, gradients and states.

    foreach AdamW makes the square roots of all second moments of one dtype at once; the loop makes two tensors of one
    parameter's size; transformers' Adafactor an update and its square, beside fp32 copies of a 16-bit gradient and
    parameter; Muon orthogonalises one matrix at a time in five 16-bit copies, besides an fp32 update of fp32 gradients,
    and embeddings, head and vectors are left to foreach AdamW, which steps on its own.
    """
    if name == "adamw_foreach":
        return total
    if name == "adamw_loop":
        return 2 * largest * e
    if name == "adafactor":
        return largest * (16 if e == 2 else 8)
    if name == "muon":
        return largest * (10 if e == 2 else 12)
    return 0
