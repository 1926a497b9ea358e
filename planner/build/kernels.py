"""Fused kernels in a real model: Liger's, put in as transformers' Trainer does with ``use_liger_kernel``.

What a scenario asks for is in the model afterwards, or refused: nothing is left out in silence.
"""

import inspect
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from planner.errors import UnsupportedScenario, UsageError, first_line
from planner.spec import Scenario

INSTALL = "pip install --no-deps liger-kernel"
ELSE = "--evidence closed-form"

PARTS: Mapping[str, tuple[str, ...]] = {
    "norm": ("rms_norm", "layer_norm"),
    "rope": ("rope",),
    "swiglu": ("swiglu", "geglu", "relu_squared"),
}
"""Liger's options for the parts that a stack lists as fused. liger-kernel 0.8 transformers/monkey_patch.py."""

HEAD, LOSS = "fused_linear_cross_entropy", "cross_entropy"


def wants_liger(scenario: Scenario) -> bool:
    """Whether any of Liger's kernels is asked for; TRL has a fused head of its own."""
    train = scenario.train
    return train.kernels == "fused" or (train.loss == "fused" and scenario.stack.name != "trl")


def put_kernels(model: Any, scenario: Scenario) -> None:
    """Replace what the scenario wants fused, in place, adapters or none around it."""
    if not wants_liger(scenario):
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    options = options_of(scenario, base.config.model_type)
    try:
        from transformers.integrations import liger  # noqa: PLC0415  (not in every transformers 5)

        liger.apply_liger_kernel(model, options)
    except (ImportError, NotImplementedError, ValueError, AttributeError, AssertionError) as error:
        raise UnsupportedScenario(
            f"Liger's kernels cannot be put into {scenario.model.name}: {first_line(error)}; use {ELSE}"
        ) from error


def check_kernels(scenario: Scenario, *, real: bool) -> None:
    """Raise ``PlannerError`` for kernels that no installed library has, or that only a trace can run."""
    if not wants_liger(scenario):
        return
    if real:
        raise UnsupportedScenario(
            f"Liger's kernels are traced, not run: use --kernels eager and --loss full, or {ELSE}"
        )
    parts, train = scenario.stack.fused_parts, scenario.train
    adapts = train.peft_type == "LORA" and ("lora" in parts or (train.quantized and "lora_quantized" in parts))
    if train.kernels == "fused" and adapts:
        raise UnsupportedScenario(
            "--kernels fused includes fused LoRA as in Unsloth, and none of the installed libraries has it: "
            f"use --kernels eager, or {ELSE}"
        )
    if not find_spec("liger_kernel"):
        wish = "--kernels fused" if train.kernels == "fused" else f"--loss fused of stack {scenario.stack.name}"
        raise UsageError(f"a trace of {wish} needs liger-kernel: {INSTALL}, or {ELSE}")


def options_of(scenario: Scenario, model_type: str) -> dict[str, bool]:
    """Each of Liger's switches for one type of model, on or off; raise ``UnsupportedScenario`` for a missing one."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # noqa: PLC0415  (only if asked)
    except ImportError as error:
        raise UnsupportedScenario(f"liger-kernel cannot be imported: {first_line(error)}; use {ELSE}") from error
    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UnsupportedScenario(f"Liger has no kernels for {model_type} models: use --kernels eager, or {ELSE}")
    parameters = inspect.signature(MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]).parameters
    switches = {name: False for name, parameter in parameters.items() if isinstance(parameter.default, bool)}
    for part, names in _wanted(scenario).items():
        found = [name for name in names if name in switches]
        if not found:
            raise UnsupportedScenario(f"Liger has no fused {part} for {model_type} models: use {ELSE}")
        switches.update(dict.fromkeys(found, True))
    return switches


def _wanted(scenario: Scenario) -> dict[str, Collection[str]]:
    """What is to be fused, with Liger's names for it."""
    train, parts = scenario.train, scenario.stack.fused_parts if scenario.train.kernels == "fused" else ()
    found: dict[str, Collection[str]] = {part: names for part, names in PARTS.items() if part in parts}
    if train.loss == "fused" and scenario.stack.name != "trl":
        found["head"] = (HEAD,)
    elif train.loss == "full" and "loss" in parts:
        found["loss"] = (LOSS,)
    return found
