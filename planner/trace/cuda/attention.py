"""Installs CUDA's attention for the length of a trace, under transformers' own code.

``sdpa``: transformers' ``sdpa_attention_forward`` runs as it is and calls our ``scaled_dot_product_attention``, which
takes the kernel that torch would take on the card. ``flash``: transformers' ``flash_attention_2`` runs as it is, mask
rules included, and finds our ``flash_attn_func`` where the flash-attn package would be. ``eager``: transformers' own
code, nothing to install.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

from planner.errors import UnsupportedScenario
from planner.trace.cuda.backends import Call, DType, choose_backend
from planner.trace.cuda.card import Card
from planner.trace.cuda.efficient import efficient_attention
from planner.trace.cuda.flash import Options, flash_attention, package_functions

Attention = Literal["flash", "sdpa", "eager"]

IMPLEMENTATIONS: dict[Attention, str] = {"flash": "flash_attention_2", "sdpa": "sdpa", "eager": "eager"}
"""What to write into ``config._attn_implementation``, under ``cuda_attention``."""

FORWARD = "_flash_attention_forward"

NAMES: dict[torch.dtype, DType] = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


class Arguments(NamedTuple):
    """What ``scaled_dot_product_attention`` is told besides tensors."""

    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def cuda_attention(attention: Attention, card: Card) -> AbstractContextManager[None]:
    """The context in which a model is built and its steps are traced."""
    if attention == "eager":
        return nullcontext()
    return _sdpa(card) if attention == "sdpa" else _flash(card)


@contextmanager
def _sdpa(card: Card) -> Iterator[None]:
    def scaled_dot_product_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        return sdpa(query, key, value, attn_mask, Arguments(dropout_p, is_causal, scale, enable_gqa), card)

    with patch.object(torch.nn.functional, "scaled_dot_product_attention", scaled_dot_product_attention):
        yield


def sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    arguments: Arguments,
    card: Card,
) -> torch.Tensor:
    """``scaled_dot_product_attention`` as the card runs it.

    Source: pytorch 2.13 aten/src/ATen/native/transformers/attention.cpp, scaled_dot_product_attention. Autocast casts
    first (a 16-bit operator of its lists), then the kernel is chosen, then a boolean mask becomes an additive one.
    """
    query, key, value, mask = (_autocast(tensor) for tensor in (query, key, value, mask))
    call = _describe(query, key, value, mask, arguments)
    backend = choose_backend(call, card.capability)
    if backend == "math":
        with sdpa_kernel(SDPBackend.MATH):
            return torch_sdpa(query, key, value, attn_mask=mask, **arguments._asdict())
    if backend == "efficient":
        return efficient_attention(query, key, value, additive(mask, query.dtype), card)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return flash_attention(query, key, value, Options(card, arguments.dropout_p)).transpose(1, 2)


def _autocast(tensor: torch.Tensor | None) -> Any:
    if tensor is None or not torch.is_autocast_enabled("cpu") or not tensor.is_floating_point():
        return tensor
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.get_autocast_dtype("cpu"))


def additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A boolean mask as zeros and minus infinities, anew in every call. attention.cpp, convert_boolean_attn_mask."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.full((), float("-inf"), dtype=dtype, device=mask.device))


def _describe(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    arguments: Arguments,
) -> Call:
    tensors = [tensor for tensor in (query, key, value, mask) if tensor is not None]
    one_dtype = query.dtype == key.dtype == value.dtype
    return Call(
        tuple(query.shape),
        tuple(key.shape),
        tuple(value.shape),
        NAMES[query.dtype] if one_dtype else "fp64",
        mask=None if mask is None else tuple(mask.shape),
        dropout=arguments.dropout_p,
        is_causal=arguments.is_causal,
        enable_gqa=arguments.enable_gqa,
        requires_grad=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value)),
        mask_requires_grad=mask is not None and mask.requires_grad,
        strides_ok=all(tensor.stride(-1) == 1 for tensor in tensors),
    )


@contextmanager
def _flash(card: Card) -> Iterator[None]:
    """Let transformers find flash-attn installed and the device fit for it.

    What ``lazy_import_flash_attention`` would load stands in its module's globals, so its own code runs from there on.
    ``_is_packed_sequence`` reads position ids; an unpacked batch answers no. transformers 5.0 to 5.23.
    """
    from transformers import modeling_flash_attention_utils as utils  # noqa: PLC0415
    from transformers import modeling_utils  # noqa: PLC0415

    flash, varlen = package_functions(card)
    loaded = {
        "_loaded_implementation": IMPLEMENTATIONS["flash"],
        "_flash_fn": flash,
        "_flash_varlen_fn": varlen,
        "_flash_with_kvcache_fn": None,
        "_pad_fn": utils._pad_input,
        "_unpad_fn": utils._unpad_input,
        "_process_flash_kwargs_fn": utils._lazy_define_process_function(varlen),
        "_process_with_kvcache_kwargs_fn": dict,
        "_is_packed_sequence": lambda *_args, **_kwargs: False,
    }
    loaded = {name: value for name, value in loaded.items() if name not in LATER or name in vars(utils)}
    with (
        patch.multiple(utils, **loaded),
        patch.object(modeling_utils, "lazy_import_flash_attention", _only_the_package),
        patch.object(utils, "is_flash_attn_available", lambda **_kwargs: True),
        ExitStack() as stack,
    ):
        for installed in _installed(utils, modeling_utils):
            stack.enter_context(installed)
        for module in _waiting_for_flash():
            stack.enter_context(patch.object(module, FORWARD, utils._flash_attention_forward, create=True))
        yield


LATER = ("_flash_with_kvcache_fn", "_process_with_kvcache_kwargs_fn")
"""For keys and values of generation, which training never asks: transformers 5.0 has neither, 5.10 the first."""


def _installed(utils: Any, modeling_utils: Any) -> list[AbstractContextManager[Any]]:
    """What answers transformers' questions for flash-attn and its device."""
    matrix = getattr(utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", None)
    if matrix is None:  # transformers 5.0 asks for each generation by name
        return [patch.object(modeling_utils, "is_flash_attn_2_available", lambda: True)]
    available = {"general_availability_check": lambda: True, "supported_devices": ((lambda: True, "cuda"),)}
    fit = patch.object(modeling_utils.PreTrainedModel, "_flash_attn_import_error", lambda *_args, **_kwargs: None)
    return [patch.dict(matrix[2], available), fit]


def _waiting_for_flash() -> list[Any]:
    """Models' files that import ``_flash_attention_forward`` only where flash-attn was there at the time."""
    loaded = [module for name, module in sys.modules.items() if name.startswith("transformers.models.")]
    return [m for m in loaded if "is_flash_attn_available" in vars(m) and FORWARD not in vars(m)]


def _only_the_package(implementation: str | None, *_args: Any, **_kwargs: Any) -> None:
    """A class that names kernels of its own gets those on a card, not FlashAttention-2; they are not modelled."""
    if implementation != IMPLEMENTATIONS["flash"]:
        raise UnsupportedScenario(
            f"this model attends with {implementation}, whose allocations are not known; take --attention eager or sdpa"
        )
