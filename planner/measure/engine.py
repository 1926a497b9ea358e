"""The sharding engine of a real rank: its process group, and FSDP2, DDP or DeepSpeed as accelerate applies them.

Each is proved to be there: nothing falls back to another one without a word.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypedDict
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.tensor import DTensor

from planner.build.fsdp import fsdp_plugin, mixed_precision
from planner.measure.collectives import in_host_memory
from planner.measure.task import DeviceKind, Task
from planner.spec import Scenario, TrainSpec

Wrap = Callable[[Any], Any]
"""What divides a model, or wraps it."""


class Parts(TypedDict, total=False):
    """Arguments of ``assemble`` that put an engine on."""

    after_materialising: Wrap
    around_optimizer: Callable[[Any, Any], Any]


@contextmanager
def engine(task: Task) -> Iterator[Parts]:
    """What divides or wraps the model of a task on this rank; nothing where there is one rank."""
    if task.ranks == 1:
        yield {}
        return
    assert task.scenario is not None
    train = task.scenario.train
    with ExitStack() as stack:
        stack.enter_context(process_group(task.device))
        if task.device == "cpu":
            stack.enter_context(in_host_memory())
        if train.sharding.startswith("zero"):
            stack.enter_context(on_device(task.device))
            yield {"around_optimizer": partial(_zero, task.scenario)}
        else:
            yield {"after_materialising": _fsdp(train, task) if train.shards_by_fsdp else _ddp(task)}


@contextmanager
def process_group(device: DeviceKind) -> Iterator[None]:
    """All ranks of the launcher: by NCCL on GPUs, by gloo on processors."""
    if device == "cuda":
        dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank()))
    else:
        dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


def local_rank() -> int:
    """The number of this rank on its machine, which is that of its device."""
    return int(os.environ["LOCAL_RANK"])


def _fsdp(train: TrainSpec, task: Task) -> Wrap:
    def wrap(model: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # accelerate tells about replicated 4-bit weights; so does the plan
            model = fsdp2_prepare_model(accelerator(train, task.device), model)
        check_shards(model, dist.get_rank(), task.ranks)
        return model

    return wrap


def accelerator(train: TrainSpec, device: DeviceKind) -> Any:
    """An ``Accelerator`` whose engine is FSDP2, with the plugin that the Trainer makes.

    On the CPU accelerate 1.15 leaves the plugin aside and takes DDP without a word (state.py,
    AcceleratorState.__init__), so it is told there.
    """
    plugin = fsdp_plugin(train)
    found = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision(train), fsdp_plugin=plugin)
    if device == "cpu":
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
    if not found.is_fsdp2:
        raise RuntimeError(f"accelerate took {found.distributed_type}, not FSDP2")
    return found


def _ddp(task: Task) -> Wrap:
    """As accelerate 1.15 accelerator.py, prepare_model, wraps a model.

    On the CPU ranks keep their own random weights: gloo's threads hold the copies that are sent around, unseen by the
    profiler, for as long as they like.
    """
    on_cuda = task.device == "cuda"
    devices = [local_rank()] if on_cuda else None

    def wrap(model: Any) -> Any:
        check_whole(model)
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, init_sync=on_cuda)

    return wrap


@contextmanager
def on_device(device: DeviceKind) -> Iterator[None]:
    """DeepSpeed asks this variable for its device: deepspeed 0.19 accelerator/real_accelerator.py, get_accelerator."""
    with patch.dict(os.environ, {"DS_ACCELERATOR": device}):
        yield


def _zero(scenario: Scenario, model: Any, optimizer: Any) -> Any:
    from planner.build.deepspeed import engine_of, stage_of  # noqa: PLC0415  (deepspeed only where it is used)

    made = engine_of(scenario, model, optimizer)
    if made.zero_optimization_stage() != stage_of(scenario):
        raise RuntimeError(f"DeepSpeed runs stage {made.zero_optimization_stage()}, not {stage_of(scenario)}")
    return made


# ---------------------------------------------------------------- proofs


def check_shards(model: Any, rank: int, ranks: int) -> None:
    """Raise ``RuntimeError`` unless this rank holds its part of every parameter and no more.

    FSDP2 divides the first dimension into as many chunks as there are ranks; the last ones may be smaller, or empty.
    Packed integers cannot be divided and stay whole.
    """
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            if parameter.requires_grad or parameter.is_floating_point():
                raise RuntimeError(f"{name} is whole on every rank: FSDP2 did not divide it")
            continue
        rows, local = parameter.shape[0], parameter.to_local().shape[0]
        if local != rows_of(rows, rank, ranks):
            raise RuntimeError(f"{name}: rank {rank} of {ranks} holds {local} of {rows} rows")


def rows_of(rows: int, rank: int, ranks: int) -> int:
    """Rows in the chunk of a rank, as ``torch.chunk`` makes them.

    >>> [rows_of(10, rank, 4) for rank in range(4)], [rows_of(2, rank, 4) for rank in range(4)]
    ([3, 3, 3, 1], [1, 1, 0, 0])
    """
    chunk = -(-rows // ranks)
    return max(min(chunk, rows - rank * chunk), 0)


def check_whole(model: Any) -> None:
    """Raise ``RuntimeError`` where something divided parameters that every rank should hold whole."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise RuntimeError(f"{name} is divided among ranks under DDP")
