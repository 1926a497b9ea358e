"""What a job does besides its steps, after them: evaluation, generation, saving, resuming, merging.

Each is the libraries' own code over a ``Job``, on real tensors or on fake ones. Files are the edge: tensors are read
and written, with all that this allocates, and no byte of them reaches a disk.
"""

import gc
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.build.evaluation import evaluate
from planner.build.generation import generate
from planner.build.job import Begin, Job
from planner.build.merging import merge
from planner.build.optimizer import make_optimizer
from planner.build.place import Place
from planner.build.quiet import passing_folder
from planner.build.trainer import decayed_names
from planner.spec import Moment


def run_moment(name: Moment, job: Job, begin: Begin) -> None:
    """Tell ``begin`` that the moment begins, and run it. Gradients are gone since the last step; merging comes last."""
    if name == "resume":
        resume(job, begin)
        return
    begin(name)
    _RUNS[name](job)


def save(job: Job) -> None:
    """A checkpoint: the model, or its adapters, and the optimizer's states.

    transformers 5.23 trainer.py, Trainer._save and _save_optimizer_and_scheduler: ``save_pretrained`` and
    ``torch.save``, which take tensors to the host one at a time.
    """
    with passing_folder() as folder, _writing_nothing(job.place):
        job.model.save_pretrained(folder)
        for optimizer in _parts(job.optimizer):
            states = optimizer.state_dict()
            if job.place.real:
                torch.save(states, _Nowhere())


_RUNS: Mapping[str, Callable[[Job], None]] = {
    "evaluation": evaluate,
    "generation": generate,
    "save": save,
    "merge": merge,
}


class _Nowhere(io.RawIOBase):
    """A file that forgets."""

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes

    def writable(self) -> bool:
        return True


@contextmanager
def _writing_nothing(place: Place) -> Iterator[None]:
    """What safetensors prepares is not written; fake tensors, which have no bytes, are not prepared either.

    Who shares memory is asked by address, which fake tensors do not have either: there it is the storage itself.
    """
    from peft import peft_model  # noqa: PLC0415
    from safetensors import torch as safetensors_torch  # noqa: PLC0415
    from transformers import modeling_utils  # noqa: PLC0415

    with ExitStack() as stack:
        stack.enter_context(patch.object(modeling_utils.logging, "tqdm", lambda shards, **_: shards))
        if place.real:
            stack.enter_context(patch.object(safetensors_torch, "serialize_file", lambda *_, **__: None))
        else:
            for module in (peft_model, modeling_utils):
                stack.enter_context(patch.object(module, "safe_save_file", lambda *_, **__: None))
                stack.enter_context(patch.object(module, "id_tensor_storage", lambda one: id(one.untyped_storage())))
            stack.enter_context(patch.object(modeling_utils, "_find_disjoint", lambda shared, _: (list(shared), [])))
            stack.enter_context(
                patch.object(modeling_utils, "_find_identical", lambda shared, _: ([], list(map(set, shared))))
            )
        yield


# ---------------------------------------------------------------- resuming


def resume(job: Job, begin: Begin) -> None:
    """A checkpoint is loaded into a job without an optimizer, as a fresh process does it.

    transformers 5.23 trainer.py, Trainer._load_from_checkpoint: whole models are copied from the host, adapters are
    read onto the device and copied from there (peft 0.21 peft_model.py, load_adapter, which makes 16-bit ones fp32);
    then the optimizer is made, and Trainer._load_optimizer_and_scheduler: ``torch.load`` to the host on one GPU, and
    ``load_state_dict``.
    """
    saved = [_blueprint(optimizer.state_dict()) for optimizer in _parts(job.optimizer)]
    job.held.clear()
    job.optimizer = None
    gc.collect()  # a fresh process knows nothing of the old optimizer, whose parts refer to each other
    begin("resume")
    if job.scenario.train.uses_adapters:
        _load_adapters(job)
    job.optimizer = make_optimizer(job.scenario.train.optimizer, job.model.named_parameters(), decayed_names(job.model))
    for optimizer, states in zip(_parts(job.optimizer), saved, strict=True):
        optimizer.load_state_dict(_read(states, job.place.host))


def _parts(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "parts", [optimizer]))


class _Shape(tuple[torch.Size, torch.dtype]):
    """What a saved tensor looks like."""


def _blueprint(value: Any) -> Any:
    """A state dictionary with shapes in place of tensors."""
    if isinstance(value, torch.Tensor):
        return _Shape((value.shape, value.dtype))
    if isinstance(value, dict):
        return {key: _blueprint(one) for key, one in value.items()}
    return value


def _read(value: Any, device: str) -> Any:
    """The dictionary, its tensors as ``torch.load`` makes them on the host."""
    if isinstance(value, _Shape):
        return torch.zeros(value[0], dtype=value[1], device=device)
    if isinstance(value, dict):
        return {key: _read(one, device) for key, one in value.items()}
    return value


def _load_adapters(job: Job) -> None:
    """``PeftModel.load_adapter`` with an adapter that is read onto the device in whole."""
    from peft import get_peft_model_state_dict, peft_model  # noqa: PLC0415

    def read(*_arguments: Any, **_keywords: Any) -> dict[str, torch.Tensor]:
        return {name: torch.zeros_like(tensor) for name, tensor in get_peft_model_state_dict(job.model).items()}

    with patch.object(peft_model, "load_peft_weights", read):
        job.model.load_adapter("", job.model.active_adapter, is_trainable=True)
