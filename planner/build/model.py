"""The real transformers model of a ``ModelSpec``, without memory, at its own depth or at a smaller one."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from planner.errors import UnsupportedScenario, first_line
from planner.families.text import SAME_TEXT_CLASS
from planner.spec import Float, ModelSpec

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

DEPTH_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""How configurations call their depth."""


def config_of(model: ModelSpec, layers: int | None = None) -> Any:  # a PretrainedConfig
    """Transformers' configuration of a model, cut to its first ``layers`` layers; raise ``UnsupportedScenario``."""
    fields = {key: value for key, value in model.config.items() if key != "model_type"}
    model_type = str(model.config.get("model_type", model.model_type))
    fields = json.loads(json.dumps(fields))  # configurations keep and change what they are given
    try:
        config = AutoConfig.for_model(SAME_TEXT_CLASS.get(model_type, model_type), **fields)
        if layers is not None and layers != config.num_hidden_layers:
            config = AutoConfig.for_model(config.model_type, **_cut(fields, config, layers))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UnsupportedScenario(
            f"transformers cannot read the configuration of {model.name}: {first_line(error)}"
        ) from error
    return config


def _cut(fields: dict[str, Any], config: Any, layers: int) -> dict[str, Any]:
    """The same fields with a smaller depth, and with every list that has one entry per layer cut to it."""
    depth = config.num_hidden_layers
    per_layer = {
        name: value for name, value in config.to_dict().items() if isinstance(value, list) and len(value) == depth
    }
    known = {**{name: per_layer[name] for name in per_layer if name == "layer_types"}, **fields}
    short = {
        name: value[:layers] if isinstance(value, list) and len(value) == depth else value
        for name, value in known.items()
    }
    spelling = next((name for name in DEPTH_NAMES if name in fields), "num_hidden_layers")
    return {**short, spelling: layers}


def attention_for(config: Any, wanted: str) -> str:
    """``wanted``, or eager attention for a class that has no other; classes without attention ask for none."""
    try:
        kind = AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        return wanted  # transformers says what is wrong when it is asked to build it
    return "eager" if wanted == "sdpa" and not getattr(kind, "_supports_sdpa", True) else wanted


def empty_model(config: Any, *, dtype: Float, attention: str, buffers: bool = False) -> Any:
    """The causal language model of ``config`` on the meta device, as ``from_pretrained`` leaves its dtypes.

    Buffers keep their values (rotary frequencies) when ``buffers``; without, nothing takes memory even for a moment.
    """
    try:
        with init_empty_weights(include_buffers=not buffers):
            attention = attention_for(config, attention)
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation=attention)
    except UnsupportedScenario:
        raise
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise UnsupportedScenario(
            f"transformers cannot build {config.model_type} as a causal language model: {first_line(error)}"
        ) from error
    model.tie_weights()  # registering a parameter on meta makes another one of it
    _keep_in_fp32(model)
    return model.train()


def _keep_in_fp32(model: Any) -> None:
    """What ``from_pretrained`` keeps in fp32 whatever dtype is asked for (routers' correction biases and the like)."""
    names = {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    if names:
        for name, parameter in model.named_parameters():
            if names & set(name.split(".")):
                parameter.data = parameter.data.float()


def decoder_layers(model: Any) -> Any:  # an nn.ModuleList
    """The list of decoder layers; raise ``UnsupportedScenario`` where the class has none."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == depth]
    if not lists:
        raise UnsupportedScenario(f"{type(model).__name__} has no list of {depth} decoder layers")
    return lists[0]


QUANTISED = ("Linear4bit", "Linear8bitLt")


def is_quantised(module: Any) -> bool:
    """Whether a module holds a 4- or 8-bit matrix of bitsandbytes, which need not be installed to ask."""
    return any(
        kind.__name__ in QUANTISED and kind.__module__.startswith("bitsandbytes.") for kind in type(module).__mro__
    )
