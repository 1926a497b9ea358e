"""What a trainer does around a model: checkpoints, autocast, the loss, clipping. Each is the trainer's own code."""

from collections import defaultdict
from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import Trainer

from planner.build.installed import installed_versions, require
from planner.build.model import DTYPES
from planner.errors import UnsupportedScenario, first_line
from planner.spec import Scenario

MAX_GRAD_NORM = 1.0
"""TrainingArguments.max_grad_norm. transformers 5.23 training_args.py."""

Loss = Callable[..., Any]
"""Model and batch to the loss, whose graph holds whatever the trainer keeps; with ``True`` behind them, to the pair of
loss and outputs that a trainer's evaluation asks for."""


def enable_checkpoints(model: Any, scenario: Scenario) -> None:
    """Recompute every layer in backward, as the Trainer enables it; inputs of adapters need gradients then."""
    if not scenario.train.gradient_checkpointing:
        return
    options = {"use_reentrant": scenario.stack.reentrant_checkpoint}
    try:
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise UnsupportedScenario(
            f"{scenario.model.name} cannot recompute its layers: {first_line(error)}; use --no-gradient-checkpointing"
        ) from error
    if scenario.train.uses_adapters:
        model.enable_input_require_grads()


def wrap_autocast(model: Any, scenario: Scenario, device: str) -> None:
    """Forward under autocast with fp32 outputs, as accelerate 1.15 accelerator.py, prepare_model wraps it.

    A bare loop has autocast alone: its outputs stay 16-bit.
    """
    name = scenario.train.autocast
    if name == "none":
        return
    bound = hasattr(model.forward, "__func__")
    wrapped = torch.autocast(device_type=device, dtype=DTYPES[name])(model.forward.__func__ if bound else model.forward)
    if scenario.stack.name != "plain":
        wrapped = convert_outputs_to_fp32(wrapped)
    model.forward = MethodType(wrapped, model) if bound else wrapped


def loss_of(model: Any, scenario: Scenario) -> Loss:
    """The loss that the stack computes with the installed libraries; raise ``UnsupportedScenario`` for another."""
    kind, stack = scenario.train.loss, scenario.stack.name
    if kind == "full":
        return _plain_loss if stack == "plain" else _trainer_loss
    if kind == "fused":  # Liger's head is in the model's forward: planner.build.kernels
        return _trl_loss(model) if stack == "trl" else _plain_loss if stack == "plain" else _trainer_loss
    raise UnsupportedScenario(
        f"the {kind} loss of stack {stack} cannot be traced yet: use --loss full, or --evidence closed-form"
    )


def _plain_loss(model: Any, batch: dict[str, Any]) -> Any:
    """``outputs.loss`` of a bare loop, whose variable ``outputs`` lives on (see ``planner.build.job``)."""
    outputs = model(**batch)
    loss = outputs.loss
    loss.outputs = outputs
    return loss


def _trainer_loss(model: Any, batch: dict[str, Any], return_outputs: bool = False) -> Any:
    """The Trainer's own ``compute_loss``; the outputs end with it."""
    tokens = torch.ones((), dtype=torch.int64, device=batch["labels"].device)
    stand_in = SimpleNamespace(
        accelerator=SimpleNamespace(parallelism_config=None, num_processes=1, unwrap_model=lambda model: model),
        args=SimpleNamespace(past_index=-1, average_tokens_across_devices=True, n_gpu=1),
        label_smoother=None,
        compute_loss_func=None,
        model_accepts_loss_kwargs=True,
        _tp_size=1,
        get_tp_size=lambda: 1,
        model=model,
    )
    return Trainer.compute_loss(stand_in, model, dict(batch), return_outputs, num_items_in_batch=tokens)


class _One(float):
    """What ``gather_for_metrics`` returns to metrics that nobody reads."""

    def sum(self) -> "_One":
        return self

    def item(self) -> int:
        return 1

    def __truediv__(self, _other: object) -> "_One":
        return _One(1)


def _trl_loss(model: Any) -> Loss:
    """``SFTTrainer.compute_loss`` with the fused head that SFTTrainer puts on every model."""
    require("trl")
    from trl.trainer import utils  # noqa: PLC0415  (slow to import)
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415

    if not hasattr(utils, "add_fused_lm_head"):  # it came with trl 1.15
        raise UnsupportedScenario(
            f"trl {installed_versions()['trl']} has no fused head: use --loss full, or --evidence closed-form"
        )
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if inner.base_model is inner:  # which TRL's head calls for hidden states, and gets logits
        raise UnsupportedScenario(f"TRL's fused head finds no backbone in {type(inner).__name__}: use --stack hf")
    utils.add_fused_lm_head(inner, outputs=("log_probs", "entropy", "is_top1"))
    accelerator = SimpleNamespace(parallelism_config=None, num_processes=1, gather_for_metrics=lambda _value: _One(1))
    stand_in = SimpleNamespace(
        model=model,
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _tp_size=1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        get_tp_size=lambda: 1,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=True, max_length=None),
        accelerator=accelerator,
    )

    def compute(model: Any, batch: dict[str, Any], return_outputs: bool = False) -> Any:
        tokens = torch.ones((), dtype=torch.int64, device=batch["labels"].device)
        return SFTTrainer.compute_loss(stand_in, model, dict(batch), return_outputs, num_items_in_batch=tokens)

    return compute


def decayed_names(model: Any) -> set[str]:
    """Parameters with weight decay, as the Trainer chooses them."""
    return set(Trainer.get_decay_parameter_names(None, model))
