"""Full fine-tuning, LoRA and QLoRA, or any other PEFT method, put on a model."""

import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType, get_peft_model, prepare_model_for_kbit_training
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from planner.build.installed import INSTALL
from planner.build.model import DTYPES
from planner.build.peft_patches import finish, importable, settled, stand_ins
from planner.build.place import Place, materialise
from planner.errors import PlannerError, UnsupportedScenario, UsageError, first_line, nearest, show
from planner.spec import Behaviour, Scenario, TrainSpec


def prepare_base(model: Any, scenario: Scenario) -> None:
    """What is done to a base before it has memory and adapters: quantised, and prepared as the stack does it."""
    if scenario.train.quantized:
        from planner.build.quantise import quantise  # noqa: PLC0415  (bitsandbytes only where it is used)

        quantise(model, scenario.train)
        _prepare(model, scenario.stack, checkpoints=scenario.train.gradient_checkpointing)


def _prepare(model: Any, stack: Behaviour, *, checkpoints: bool) -> None:
    """What the stack does to a quantised base before adapters come; PEFT turns checkpoints on unless told not to."""
    if stack.kbit_upcast == "all":
        prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpoints,
            gradient_checkpointing_kwargs={"use_reentrant": stack.reentrant_checkpoint},
        )
    elif stack.kbit_upcast == "norms":
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                parameter.data = parameter.data.float()


def put_adapters(model: Any, scenario: Scenario, place: Place, adapter: Mapping[str, object] | None = None) -> Any:
    """A base that is at ``place``, with adapters there, by PEFT's own code.

    ``adapter`` holds the fields of an ``adapter_config.json``; without one, LoRA comes from the scenario.
    """
    train = scenario.train
    config = _lora(train) if adapter is None else _from_fields(adapter)
    base = [tensor for _, tensor in tensors_of(model)]
    _refuse(config, train)
    _refuse_unknown(getattr(config, "modules_to_save", None) or (), model, scenario)
    try:
        with place.inside(), nullcontext() if place.real else stand_ins(config):
            model = get_peft_model(model, config, autocast_adapter_dtype=train.adapter_dtype == "fp32")
            if train.quantized and train.adapter_dtype != "fp32":
                _cast_adapters(model, DTYPES[train.adapter_dtype], whole=scenario.stack.name == "trl")
            if not place.real:
                finish(model, config)
    except PlannerError:
        raise
    except TROUBLE as error:
        raise UnsupportedScenario(
            f"PEFT cannot put {config.peft_type.value} on {scenario.model.name}: {first_line(error)}"
        ) from error
    materialise(model, place)
    of_base = set(map(id, base))
    model.added_by_peft = {name for name, tensor in tensors_of(model) if id(tensor) not in of_base}
    return model.train()


def _cast_adapters(model: Any, dtype: torch.dtype, *, whole: bool) -> None:
    """Adapters on a quantised base, which PEFT leaves in fp32, in ``dtype``; ``whole``: saved modules with them.

    TRL casts both. trl 1.16 trainer/sft_trainer.py, SFTTrainer.__init__.
    """
    for name, parameter in model.named_parameters():
        meant = (whole or "modules_to_save" not in name) and "lora_magnitude_vector" not in name
        if meant and parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


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
    """The configuration object of an ``adapter_config.json``; raise a ``PlannerError`` in one line."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(str(fields.get("peft_type")))
    if kind is None:
        raise UnsupportedScenario(
            f"--peft-config: the installed peft has no {show(fields.get('peft_type'))}: {INSTALL}"
        )
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in fields.items():
        if key not in (*known, *WRITTEN_BY_PEFT) and value not in (None, False, {}, []):
            near = nearest(key, known, count=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--peft-config: PEFT's {fields['peft_type']} does not know {show(key)}{hint}")
    try:
        with warnings.catch_warnings(), importable("sklearn"):
            warnings.simplefilter("ignore")
            return kind(**{key: value for key, value in settled(fields).items() if key in known})
    except TROUBLE as error:
        raise UsageError(f"--peft-config: PEFT does not take it: {first_line(error)}") from error


WRITTEN_BY_PEFT = ("peft_version", "auto_mapping", "runtime_config")
"""Keys of a saved file that say nothing about the adapter. peft 0.21 config.py, save_pretrained and from_json_file."""

TROUBLE = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, NotImplementedError),
    *(RuntimeError, ImportError, OSError, re.error),
)
"""What PEFT raises for configurations that it cannot use, or that do not suit the model."""


def _refuse(config: PeftConfig, train: TrainSpec) -> None:
    """Raise ``UnsupportedScenario`` for what does not survive recomputation."""
    if config.peft_type.value in WITHOUT_CHECKPOINTS and train.gradient_checkpointing:
        raise UnsupportedScenario(
            f"PEFT's {config.peft_type.value} does not work with checkpoints: use --no-gradient-checkpointing"
        )


def _refuse_unknown(saved: Iterable[str], model: Any, scenario: Scenario) -> None:
    """Raise ``UsageError`` for a module to save that the model lacks, which PEFT passes over in silence."""
    names = [name for name, _ in model.named_modules()]
    for wanted in saved:
        if not any(name.endswith(wanted) for name in names):
            raise UsageError(f"module to save {show(wanted)} is no module of {scenario.model.name}")


WITHOUT_CHECKPOINTS = frozenset({"PREFIX_TUNING", "CARTRIDGE", "POLY"})
"""A cache of keys and values is dropped (peft 0.21 peft_model.py, _setup_prompt_encoder, refuses it when checkpoints
come first); Poly's layers know their tasks only during forward (tuners/poly/model.py, _enable_peft_forward_hooks)."""


@contextmanager
def refusing(adapter: Mapping[str, object] | None, scenario: Scenario) -> Iterator[None]:
    """A step that PEFT's layers cannot run on this base is refused in one line: their code is not ours to mend."""
    try:
        yield
    except PlannerError:
        raise
    except TROUBLE as error:
        if adapter is None:
            raise
        base = f"{scenario.model.name}{' in ' + scenario.train.quant if scenario.train.quantized else ''}"
        raise UnsupportedScenario(
            f"a step of PEFT's {adapter['peft_type']} on {base} cannot be traced: {first_line(error)}"
        ) from error


TASKS = frozenset({PeftType.POLY, PeftType.MULTITASK_PROMPT_TUNING})
"""Tuners that want to know the task of every sequence."""


def extra_inputs(model: Any, sequences: int, place: Place) -> dict[str, torch.Tensor]:
    """What a batch carries for the tuner beside ids, labels and mask: (sequences,) int64 numbers of tasks."""
    if getattr(model, "peft_type", None) not in TASKS:
        return {}
    shape = torch.Size((sequences,))
    tasks = place.empty(shape, torch.int64)
    return {"task_ids": tasks.zero_() if place.real else tasks}


def adapter_parameters(model: Any) -> set[str]:
    """Names of the tensors that PEFT added, saved copies of whole modules included."""
    return getattr(model, "added_by_peft", set())


def tensors_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer, and the tensors that modules keep beside them, with names."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    yield from loose_tensors(model)


def loose_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors among the plain attributes of modules, and in their lists and dictionaries: indices, mostly."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if not key.startswith("_"):
                yield from ((f"{name}.{key}", tensor) for tensor in _tensors_in(value))


def loose_adapters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Those of them that PEFT added."""
    added = adapter_parameters(model)
    yield from ((name, tensor) for name, tensor in loose_tensors(model) if name in added)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors_in(one)


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """What the optimizer sees."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
