"""Which kernel ``torch.nn.functional.scaled_dot_product_attention`` takes on CUDA, from shapes alone.

pytorch 2.13 aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, ``select_sdp_backend``, ``can_use_flash_attention``
and ``can_use_mem_efficient_attention``; the checks that they share are in
torch/include/ATen/native/transformers/sdp_utils_cpp.h. The order is flash, memory-efficient, math. cuDNN's kernel is
not modelled: where a release of torch prefers it (9.0 and 10.0, with some releases of cuDNN, unless
TORCH_CUDNN_SDPA_DEPRIORITIZED is set), it saves what flash saves, or with a mask what the memory-efficient kernel
saves, and how large a workspace its backward takes is not known.
"""

from typing import Literal, NamedTuple

from planner.trace.cuda.card import Capability

Backend = Literal["flash", "efficient", "math"]
DType = Literal["fp16", "bf16", "fp32", "fp64"]

BYTES: dict[DType, int] = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}

FLASH_MAX_HEAD = 256
"""sdp_utils.cpp, check_head_dim_size_flash."""


class Call(NamedTuple):
    """One call: shapes (batch, heads, sequence, head_dim), and what else the choice depends on.

    ``strides_ok``: the last dimension of query, key, value (and of a mask) is contiguous. ``mask`` is the mask's shape.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    dtype: DType
    mask: tuple[int, ...] | None = None
    dropout: float = 0.0
    is_causal: bool = False
    enable_gqa: bool = False
    requires_grad: bool = True
    mask_requires_grad: bool = False
    strides_ok: bool = True


def choose_backend(call: Call, capability: Capability) -> Backend:
    """The kernel that runs this call.

    Source:    sdp_utils.cpp, select_sdp_backend
    Valid:     dense tensors, no user-disabled backend, cuDNN not preferred

    >>> choose_backend(Call((1, 32, 2048, 128), (1, 8, 2048, 128), (1, 8, 2048, 128), "bf16", enable_gqa=True), (8, 0))
    'flash'
    >>> choose_backend(Call((1, 32, 2048, 128), (1, 8, 2048, 128), (1, 8, 2048, 128), "fp32", enable_gqa=True), (8, 0))
    'math'
    """
    if not _dense(call):
        return "math"
    if _flash(call, capability):
        return "flash"
    return "efficient" if _efficient(call, capability) else "math"


def _dense(call: Call) -> bool:
    """What both fused kernels need: four dimensions, one batch size, no empty sequence, contiguous rows."""
    shapes = (call.query, call.key, call.value)
    if any(len(shape) != 4 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        return False
    return call.query[2] > 0 and call.key[2] > 0 and call.strides_ok


def _same_heads(call: Call) -> bool:
    return call.query[1] == call.key[1] == call.value[1]


def _grouped_heads(call: Call) -> bool:
    """``check_grouped_query_attention``: shared heads that divide the query's."""
    return call.key[1] == call.value[1] and call.query[1] % call.key[1] == 0


def _flash(call: Call, capability: Capability) -> bool:
    """``can_use_flash_attention``: 16 bit on 8.0 and newer, no mask, one head size up to 256, square where causal."""
    heads_ok = _grouped_heads(call) if call.enable_gqa else _same_heads(call)
    sizes = {call.query[3], call.key[3], call.value[3]}
    square = not call.is_causal or call.query[2] == call.key[2]
    return (
        capability >= (8, 0)
        and call.dtype in ("fp16", "bf16")
        and call.mask is None
        and heads_ok
        and len(sizes) == 1
        and max(sizes) <= FLASH_MAX_HEAD
        and square
        and not _small_shared_memory(call, capability)
    )


def _small_shared_memory(call: Call, capability: Capability) -> bool:
    """``check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120``: backward does not fit there."""
    if capability not in ((8, 6), (8, 9), (12, 0)) or not call.requires_grad:
        return False
    return 192 < call.query[3] <= 224 or (call.query[3] > 224 and call.dropout > 0)


def _efficient(call: Call, capability: Capability) -> bool:
    """``can_use_mem_efficient_attention``: any card, all heads given, head sizes in whole 16-byte rows."""
    dtypes = ("fp16", "bf16", "fp32") if capability >= (8, 0) else ("fp16", "fp32")
    alignment = head_alignment(call.dtype, capability)
    aligned = call.query[3] == call.key[3] and call.query[3] % alignment == 0 and call.value[3] % alignment == 0
    return (
        call.dtype in dtypes
        and not (call.enable_gqa and not _same_heads(call))
        and _same_heads(call)
        and aligned
        and _mask_fits(call)
    )


def head_alignment(dtype: DType, capability: Capability) -> int:
    """Elements to which the memory-efficient kernel wants head sizes aligned. sdp_utils.cpp, minimum_gemm_alignment.

    >>> head_alignment("bf16", (8, 0)), head_alignment("fp32", (8, 0))
    (8, 4)
    """
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and dtype == "fp16")
    least = 4 if capability >= (8, 0) else 1
    return max(least, 16 // BYTES[dtype]) if tensor_cores else least


def _mask_fits(call: Call) -> bool:
    """``check_attn_mask_shape``: two or four dimensions that broadcast, and no gradient wanted."""
    if call.mask is None:
        return True
    wanted = (call.query[0], call.query[1], call.query[2], call.key[2])
    fits = all(size in (1, target) for size, target in zip(reversed(call.mask), reversed(wanted), strict=False))
    return len(call.mask) in (2, 4) and fits and not call.mask_requires_grad
