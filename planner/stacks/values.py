"""What each setting may be, by itself: one of a few words, a number within limits, names.

What several settings say together is ``resolve``'s matter.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import get_args

from planner.errors import UnknownName, UsageError, option, show
from planner.peft_config import adapter_text
from planner.spec import (
    MOMENTS,
    OFFLOADS,
    OPTIMIZERS,
    Attend,
    Autocast,
    Float,
    Kernels,
    Loss,
    Method,
    Objective,
    OffloadDevice,
    Quant,
    QuantStorage,
    Reference,
    Sharding,
    TrainSpec,
    ZeroBuckets,
)

MAX_SEQ_LEN = 2**24
MAX_MICRO_BATCH = 2**16
MAX_RANK = 2**16
MAX_GPUS = 4096
MAX_SAMPLES = 2**20
MAX_NEW_TOKENS = 2**17

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": get_args(Method),
    "adapter_dtype": get_args(Float),
    "quant": get_args(Quant),
    "quant_storage": get_args(QuantStorage),
    "weights_dtype": get_args(Float),
    "autocast": get_args(Autocast),
    "optimizer": ("adamw", *OPTIMIZERS),
    "attention": get_args(Attend),
    "kernels": get_args(Kernels),
    "loss": get_args(Loss),
    "sharding": get_args(Sharding),
    "zero_buckets": get_args(ZeroBuckets),
    "offload_device": get_args(OffloadDevice),
    "objective": get_args(Objective),
    "reference": get_args(Reference),
}
_INTEGERS: Mapping[str, int] = {
    "seq_len": MAX_SEQ_LEN,
    "micro_batch_size": MAX_MICRO_BATCH,
    "grad_accumulation": 2**20,
    "lora_rank": MAX_RANK,
    "eval_batch_size": MAX_MICRO_BATCH,
    "eval_samples": MAX_SAMPLES,
    "eval_accumulation_steps": MAX_SAMPLES,
    "new_tokens": MAX_NEW_TOKENS,
    "num_generations": MAX_MICRO_BATCH,
    "completion_len": MAX_SEQ_LEN,
    "tensor_parallel": MAX_GPUS,
    "pipeline_parallel": MAX_GPUS,
    "virtual_stages": 2**10,
    "context_parallel": MAX_GPUS,
    "ulysses_parallel": MAX_GPUS,
    "expert_parallel": MAX_GPUS,
}
_BOOLEANS = (
    "double_quant",
    "gradient_checkpointing",
    "eval_logits",
    "reshard_after_forward",
    "overlap_comm",
    "pin_memory",
    "sequence_parallel",
)
_LISTS: Mapping[str, tuple[str, ...]] = {"moments": MOMENTS, "offload": OFFLOADS}
"""Settings that name some of a few things, with commas."""
_NAMES = ("lora_targets", "modules_to_save")
FILES = ("peft_config",)
"""Settings that name a file, which may change."""
_FLOATS: Mapping[str, tuple[float, float]] = {"lora_alpha": (0.0, 1e9), "lora_dropout": (0.0, 0.99)}


def choices(name: str) -> tuple[str, ...]:
    """What a setting may be, where that is one of a few words or some of them."""
    return _CHOICES.get(name) or _LISTS.get(name, ())


def checked(name: str, value: object) -> object:
    """A setting's value as a scenario holds it; raise ``UsageError`` for one without meaning, by itself."""
    if name in _LISTS:
        return _listed(name, value)
    if name in _CHOICES:
        return _choice(name, value)
    if name in _INTEGERS:
        return _integer(name, value, most=_INTEGERS[name])
    if name in _BOOLEANS:
        return _boolean(name, value)
    if name in _FLOATS:
        return _float(name, value, *_FLOATS[name])
    if name in _NAMES:
        return _names(name, value)
    if name in FILES:
        return adapter_text(value)
    raise UnknownName("setting", name, [field.name for field in fields(TrainSpec)], listing="plan --help")


def _choice(name: str, value: object) -> str:
    if not isinstance(value, str) or value not in _CHOICES[name]:
        raise UsageError(f"{option(name)} {show(value)} is not one of {', '.join(_CHOICES[name])}")
    return value


def _integer(name: str, value: object, *, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{option(name)} {show(value)} is not a whole number")
    if not 1 <= value <= most:
        raise UsageError(f"{option(name)} {show(value)} is outside 1 to {most}")
    return value


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{option(name)} {show(value)} is neither true nor false")
    return value


def _float(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise UsageError(f"{option(name)} {show(value)} is not a number")
    if not least <= value <= most:
        raise UsageError(f"{option(name)} {show(value)} is outside {least:g} to {most:g}")
    return float(value)


def _listed(name: str, value: object) -> tuple[str, ...]:
    """Names of a few things in their own order; ``all`` stands for every one.

    >>> _listed("moments", "merge,evaluation")
    ('evaluation', 'merge')
    """
    known, names = _LISTS[name], _names(name, value, "names")
    for one in names:
        if one not in (*known, "all"):
            raise UsageError(f"{option(name)} {show(one)} is not one of {', '.join(known)}, or all")
    return tuple(one for one in known if one in names or "all" in names)


def _names(name: str, value: object, what: str = "module names") -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{option(name)} {show(value)} is not a list of {what}")
    clean = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    return () if clean == ("none",) else clean
