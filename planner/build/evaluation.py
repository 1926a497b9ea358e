"""Evaluation as the stack runs it: forward passes without gradients, logits gathered until the end.

The loop is transformers' own, ``Trainer.evaluation_loop``, on a stand-in for the trainer; the step in it is the
Trainer's or the SFTTrainer's. A bare loop collects what the model returns and joins it once.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import Trainer, trainer_pt_utils

from planner.build.job import Job
from planner.build.kernels import wants_liger
from planner.build.place import Place

RUN_AT_FIRST = 2
"""Batches at the beginning that a trace runs: from the second on, the batch before is still there."""


def evaluate(job: Job) -> None:
    """One evaluation of ``eval_samples`` sequences in batches of ``eval_batch_size``."""
    job.called.eval()
    try:
        (_bare_loop if job.scenario.stack.name == "plain" else _trainer_loop)(job)
    finally:
        job.called.train()


def batch_sizes(job: Job) -> list[int]:
    """Sequences in each batch; the last one may be smaller."""
    train = job.scenario.train
    whole, rest = divmod(train.eval_samples, train.eval_batch_size)
    return [train.eval_batch_size] * whole + ([rest] if rest else [])


def ran(sizes: Sequence[int], accumulation_steps: int) -> frozenset[int]:
    """Numbers, from 0, of the batches whose forward pass a trace runs; the others only leave their logits.

    The first two, the last, the last of full size, and the last before gathered logits move to the host: all that
    differ.

    >>> sorted(ran([8] * 100, 0)), sorted(ran([8] * 9 + [3], 4))
    ([0, 1, 99], [0, 1, 7, 8, 9])
    """
    batches = len(sizes)
    last = {batches - 1, sizes.count(sizes[0]) - 1}
    if accumulation_steps:
        last.add(batches // accumulation_steps * accumulation_steps - 1)
    return frozenset({*range(min(RUN_AT_FIRST, batches)), *last} - {-1})


# ---------------------------------------------------------------- a bare loop


def _bare_loop(job: Job) -> None:
    """Losses or logits of all batches in a list; logits joined at the end."""
    train, place = job.scenario.train, job.place
    steps = train.eval_accumulation_steps
    gathered: list[torch.Tensor] = []
    host: list[Any] = []
    step = skipping(job, lambda batch: job.called(**batch))
    with torch.no_grad():
        for number, size in enumerate(batch_sizes(job)):
            outputs = step(job.batch(sequences=size))
            gathered.append(outputs.logits if train.eval_logits else outputs.loss)
            if steps and (number + 1) % steps == 0:
                host += [to_host(tensor, place) for tensor in gathered]
                gathered.clear()
        if train.eval_logits and gathered:
            host.append(to_host(torch.cat(gathered), place))


def to_host(tensor: torch.Tensor, place: Place) -> Any:
    """What a tensor is on the host: itself where the device is the host."""
    return tensor.cpu() if place.real or place.host == place.name else None


# ---------------------------------------------------------------- the Trainer's loop


def _trainer_loop(job: Job) -> None:
    """``Trainer.evaluation_loop`` as ``Trainer.evaluate`` calls it. transformers 5.23 trainer.py."""
    loop = _stand_in(job)
    loop.prediction_step = skipping(job, _prediction_step(job, loop))
    with _numbers(job.place):
        Trainer.evaluation_loop(
            loop,
            _Batches(job),
            description="Evaluation",
            prediction_loss_only=not job.scenario.train.eval_logits,
        )


class _Batches:
    """As much of a data loader as the loop asks for."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for size in batch_sizes(self._job):
            yield self._job.batch(sequences=size)

    def __len__(self) -> int:
        return len(batch_sizes(self._job))


def _stand_in(job: Job) -> Any:
    """As much of a ``Trainer`` on one device as its loop and its step ask for."""
    train = job.scenario.train
    args = SimpleNamespace(
        prediction_loss_only=False,
        eval_batch_size=train.eval_batch_size,
        eval_do_concat_batches=True,
        include_for_metrics=[],
        batch_eval_metrics=False,
        eval_accumulation_steps=train.eval_accumulation_steps or None,
        use_liger_kernel=wants_liger(job.scenario),
        logging_nan_inf_filter=True,
        device=torch.device(job.place.name),
    )
    accelerator = SimpleNamespace(
        _models=[job.called],
        pad_across_processes=lambda tensor, **_: tensor,
        gather_for_metrics=lambda tensor: tensor,
    )
    return SimpleNamespace(
        args=args,
        accelerator=accelerator,
        model=job.called,
        optimizer=job.optimizer,
        is_deepspeed_enabled=False,
        is_fsdp_enabled=False,
        is_in_train=True,
        callback_handler=SimpleNamespace(eval_dataloader=None, on_prediction_step=lambda *_: None),
        control=None,
        state=None,
        gather_function=lambda tensor: tensor,
        preprocess_logits_for_metrics=None,
        compute_metrics=None,
        label_names=["labels"],
        can_return_loss=False,
        num_examples=lambda _loader: train.eval_samples,
        compute_loss=lambda model, inputs, return_outputs=False, **_: job.loss(model, inputs, return_outputs),
        compute_loss_context_manager=nullcontext,
        _wrap_model=lambda model, **_: model,
        _prepare_inputs=lambda inputs: inputs,
        _prepare_context_parallel_inputs=lambda _model, inputs: (nullcontext, inputs),
        _get_num_items_in_batch=lambda _batches, _device: None,
    )


def _prediction_step(job: Job, loop: Any) -> Callable[..., Any]:
    """The step of the trainer that the stack has: TRL's fused head computes logits in a forward pass of their own.

    trl 1.16 trainer/sft_trainer.py, SFTTrainer.prediction_step and compute_loss.
    """
    if job.scenario.stack.name == "trl" and job.scenario.train.loss == "fused":
        from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415  (slow to import)

        return functools.partial(SFTTrainer.prediction_step, loop)
    return functools.partial(Trainer.prediction_step, loop)


# ---------------------------------------------------------------- what a trace leaves out


def skipping(job: Job, step: Callable[..., Any]) -> Callable[..., Any]:
    """``step``; on fake tensors, batches that are like their neighbours get results of the first one's shapes."""
    if job.place.real:
        return step
    sizes, steps = batch_sizes(job), job.scenario.train.eval_accumulation_steps
    running = ran(sizes, steps)
    counter = iter(range(len(sizes)))
    like: list[Any] = []

    def step_or_skip(*arguments: Any, **keywords: Any) -> Any:
        number = next(counter)
        if number in running:
            result = step(*arguments, **keywords)
            if not like:
                like.append(_shapes(result))
            return result
        return _empty(like[0], job.place)

    return step_or_skip


def _shapes(result: Any) -> Any:
    """A result with the shapes of its tensors in their place."""
    if isinstance(result, torch.Tensor):
        return (result.shape, result.dtype)
    if isinstance(result, dict):  # a bare model's outputs, of which a loop keeps loss and logits
        return {name: _shapes(result[name]) for name in ("loss", "logits")}
    return None if result is None else [_shapes(one) for one in result]


def _empty(shapes: Any, place: Place) -> Any:
    """Tensors of these shapes."""
    if isinstance(shapes, dict):
        return SimpleNamespace(**{name: _empty(one, place) for name, one in shapes.items()})
    if isinstance(shapes, list):
        return tuple(_empty(one, place) for one in shapes)
    return None if shapes is None else place.empty(*shapes)


class _Memory:
    """What an array of numbers without values lies in: it keeps the tensor whose memory a real one would share."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._numbers = np.zeros((1, 1))
        self.__array_interface__ = self._numbers.__array_interface__


def _numbers(place: Place) -> AbstractContextManager[Any]:
    """Arrays for fake tensors, which have no numbers. transformers 5.23 trainer_pt_utils.py, nested_numpify."""
    if place.real:
        return nullcontext()

    def numpify(tensors: Any) -> Any:
        if isinstance(tensors, list | tuple):
            return type(tensors)(numpify(one) for one in tensors)
        return np.asarray(_Memory(to_host(tensors, place)))

    return patch.object(trainer_pt_utils, "nested_numpify", numpify)
