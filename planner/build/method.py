"""Full fine-tuning, LoRA and QLoRA (or any other PEFT method) put on a model that has no memory yet."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftConfig, get_peft_model, prepare_model_for_kbit_training

from planner.build.model import DTYPES, first_line
from planner.build.quantise import quantise
from planner.errors import UnsupportedScenario, UsageError
from planner.spec import Behaviour, Scenario, TrainSpec


def apply_method(model: Any, scenario: Scenario, adapter: Mapping[str, object] | None = None) -> Any:
    """The model as the scenario trains it: quantised, prepared, with adapters; all on the meta device.

    ``adapter`` holds the fields of an ``adapter_config.json``; without one, LoRA comes from the scenario.
    """
    train = scenario.train
    if train.quantized:
        quantise(model, train)
        _prepare(model, scenario.stack)
    if not train.uses_adapters:
        return model
    config = _lora(train) if adapter is None else _from_fields(adapter)
    try:
        with init_empty_weights():
            model = get_peft_model(model, config, autocast_adapter_dtype=train.adapter_dtype == "fp32")
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise UnsupportedScenario(
            f"PEFT cannot put {config.peft_type} on {scenario.model.name}: {first_line(error)}"
        ) from error
    if train.quantized:
        _cast_adapters(model, train)
    return model.train()


def _prepare(model: Any, stack: Behaviour) -> None:
    """What the stack does to a quantised base before adapters come."""
    if stack.kbit_upcast == "all":
        prepare_model_for_kbit_training(
            model, gradient_checkpointing_kwargs={"use_reentrant": stack.reentrant_checkpoint}
        )
    elif stack.kbit_upcast == "norms":
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                parameter.data = parameter.data.float()


def _cast_adapters(model: Any, train: TrainSpec) -> None:
    """TRL casts what is trained on a quantised base. trl 1.16 trainer/sft_trainer.py, SFTTrainer.__init__."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(DTYPES[train.adapter_dtype])


def _lora(train: TrainSpec) -> LoraConfig:
    targets = "all-linear" if train.lora_targets == ("all-linear",) else list(train.lora_targets)
    return LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=targets,
        modules_to_save=list(train.modules_to_save) or None,
        task_type="CAUSAL_LM",
    )


def _from_fields(fields: Mapping[str, object]) -> PeftConfig:
    """The configuration object of an ``adapter_config.json``; raise ``UsageError`` in one line."""
    try:
        return PeftConfig.from_peft_type(**{**fields, "inference_mode": False})
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise UsageError(f"--peft-config: PEFT does not take it: {first_line(error)}") from error


def adapter_parameters(model: Any) -> set[str]:
    """Names of the parameters that PEFT added, saved copies of whole modules included."""
    if not hasattr(model, "peft_config"):
        return set()
    tuner = getattr(model.base_model, "prefix", None)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or (tuner and tuner in name) or "modules_to_save" in name
    }


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """What the optimizer sees."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
