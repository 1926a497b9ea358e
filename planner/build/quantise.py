"""bitsandbytes' layers in place of linear ones, by transformers' own quantizers, and their weights at a place."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from bitsandbytes import nn as bnb
from bitsandbytes.functional import QuantState, int8_vectorwise_quant
from transformers import BitsAndBytesConfig
from transformers.quantizers import AutoHfQuantizer

from planner.build.model import DTYPES
from planner.build.place import STANDARD_DEVIATION, Place
from planner.spec import TrainSpec

BLOCK = 64
"""Weights per scale. bitsandbytes 0.50 functional.py, quantize_4bit."""

NESTED_BLOCK = 256
"""Scales per second-level scale. Same file, quantize_blockwise."""

STORAGE = {**DTYPES, "uint8": torch.uint8}


def quantise(model: Any, train: TrainSpec) -> None:  # an nn.Module
    """Replace what transformers replaces for a quantised base; the weights stay on the meta device."""
    quantizer = AutoHfQuantizer.from_config(_config(train), pre_quantized=False)
    with init_empty_weights():
        quantizer.preprocess_model(model=model, device_map=None)
    quantizer.postprocess_model(model)


def compute_dtype(train: TrainSpec) -> torch.dtype:
    """What 4-bit products are computed in: autocast's dtype, or a 16-bit one that the weights have."""
    name = train.autocast if train.autocast != "none" else train.weights_dtype
    return DTYPES["bf16" if name == "fp32" else name]


def _config(train: TrainSpec) -> BitsAndBytesConfig:
    if train.quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=train.quant,
        bnb_4bit_use_double_quant=train.double_quant,
        bnb_4bit_compute_dtype=compute_dtype(train),
        bnb_4bit_quant_storage=STORAGE[train.quant_storage],
    )


def materialise_quantised(model: Any, place: Place, dtype: torch.dtype) -> None:
    """Give every quantised matrix its memory; ``dtype`` is what it was loaded in.

    The other parameters and buffers stay where they are.
    """
    matrices = [module for module in model.modules() if isinstance(module, bnb.Linear4bit | bnb.Linear8bitLt)]
    if place.real:
        _quantise(matrices, place, dtype)
        return
    for module in matrices:
        if isinstance(module, bnb.Linear4bit):
            _lay_out_4bit(module, place, dtype)
        else:
            _lay_out_8bit(module, place)


def _quantise(matrices: Sequence[Any], place: Place, dtype: torch.dtype) -> None:
    """Quantise random matrices one by one, all from the same memory.

    With memory of its own each would leave a hole behind, which the caching allocator keeps: half a gigabyte in eight
    layers of a 70B model.
    """
    counts = [module.out_features * module.in_features for module in matrices]
    space = place.empty(torch.Size((max(counts, default=0),)), dtype)
    for module, count in zip(matrices, counts, strict=True):
        four = isinstance(module, bnb.Linear4bit)
        loaded = space if four else space.view(torch.float16)
        weight = loaded[:count].view(module.out_features, module.in_features).normal_(std=STANDARD_DEVIATION)
        (_quantise_4bit if four else _quantise_8bit)(module, weight)


def _quantise_4bit(module: Any, weight: torch.Tensor) -> None:
    module.weight = bnb.Params4bit(weight, requires_grad=False, **module.weight.__dict__).to(weight.device)


def _lay_out_4bit(module: Any, place: Place, dtype: torch.dtype) -> None:
    """Packed weights, scales and tables as ``quantize_4bit`` returns them, without values."""
    count, old = module.out_features * module.in_features, module.weight
    per_item = 2 * old.quant_storage.itemsize
    packed = place.empty(torch.Size((-(-count // per_item), 1)), old.quant_storage)
    state = _state_4bit(-(-count // BLOCK), place, nested=old.compress_statistics)
    state.update(shape=torch.Size((module.out_features, module.in_features)), dtype=dtype)
    module.quant_state = QuantState(blocksize=BLOCK, quant_type=old.quant_type, **state)
    weight = torch.nn.Parameter(packed, requires_grad=False)
    weight.quant_state, weight.quant_type = module.quant_state, old.quant_type
    weight.compress_statistics, weight.bnb_quantized = old.compress_statistics, True
    weight.quant_storage, weight.module = old.quant_storage, module
    if place.host != place.name:  # evaluation on a CPU packs the matrix anew, for its own instructions
        module.support_avx512bf16_for_cpu = False
    module.weight = weight


def _state_4bit(scales: int, place: Place, *, nested: bool) -> dict[str, Any]:
    def make(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return place.empty(torch.Size(shape), dtype)

    if not nested:
        return {"absmax": make(scales), "code": make(16)}
    second = QuantState(
        absmax=make(-(-scales // NESTED_BLOCK)), code=make(256), blocksize=NESTED_BLOCK, dtype=torch.float32
    )
    return {"absmax": make(scales, dtype=torch.uint8), "code": make(16), "offset": make(), "state2": second}


def _quantise_8bit(module: Any, weight: torch.Tensor) -> None:
    """By hand: ``Int8Params.to`` quantises what comes from the CPU, and leaves alone what is on its device already.

    Source: bitsandbytes 0.50 nn/modules.py.
    """
    rows, scales, _ = int8_vectorwise_quant(weight)
    module.weight = bnb.Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=scales)


def _lay_out_8bit(module: Any, place: Place) -> None:
    """Bytes in rows and one fp32 scale a row, where the first forward pass moves them."""
    rows, columns = module.out_features, module.in_features
    weight = torch.nn.Parameter(place.empty(torch.Size((rows, columns)), torch.int8), requires_grad=False)
    weight.CB, weight.SCB, weight.has_fp16_weights = None, None, False
    module.weight = weight
    module.state.CB, module.state.SCB = weight.data, place.empty(torch.Size((rows,)), torch.float32)
