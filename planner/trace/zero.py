"""One rank of DeepSpeed's ZeRO: its own engine on fake tensors, in a process group that only pretends to communicate.

What the engine keeps is found by what is alive, not by the names of its attributes: after ``deepspeed.initialize``
every fake tensor that stands is the model's, a master, a flat gradient, or a buffer for buckets.

- Stages 1 and 2 put all trained weights into one flat 16-bit tensor for each parameter group, padded so that every
  rank's part begins at a multiple of 4 bytes of NCCL's alignment, and hold one part of its fp32 master.
- Stage 3 keeps a part of every tensor, those below the persistence threshold whole besides, flat gradients of all
  its parts from the beginning, and a bucket to reduce with.

The engine runs as on its "cpu" accelerator. Where that differs from CUDA's (``is_synchronized_device``,
``resolves_data_dependency``, ``handles_memory_backpressure`` in deepspeed 0.19 runtime/zero) are streams, events and
``record_stream``: they delay when memory can be used again, not what is referenced. So allocated bytes are CUDA's, but
for leaf modules of experts, whose parts CUDA holds until the next fetch; and reserved bytes are a lower bound.
"""

import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from planner.allocator.events import OUTSIDE
from planner.build.deepspeed import engine_of, on_cpu
from planner.build.job import Job
from planner.build.method import adapter_parameters
from planner.build.standing import averaged_gradients, flat_gradients, masters, parts_of_weights
from planner.spec import Scenario
from planner.trace.engine import Engine, inside
from planner.trace.fake import ELSEWHERE, Answering, copied_like_real_ones
from planner.trace.private import FakeTensor
from planner.trace.recorder import Recorder, storage_of


@contextmanager
def zero_engine(scenario: Scenario, mode: Any) -> Iterator[Engine]:
    """The engine, as long as DeepSpeed's process group stands."""

    def around(model: Any, optimizer: Any) -> Any:
        with mode, Answering(), copied_like_real_ones():
            return engine_of(scenario, model, optimizer)

    def seed(recorder: Recorder, job: Job) -> None:
        seed_engine(recorder, job, alive(mode))

    @contextmanager
    def watched(recorder: Recorder, job: Job) -> Iterator[None]:
        with recorder.following_resizes(), never_failing(), gathered_at_once(), labelled(recorder, job):
            yield

    with on_cpu(), agreeing(), linear_restored():
        from deepspeed.comm import comm  # noqa: PLC0415  (only where it is used)

        try:
            yield Engine(around=around, seed=seed, watched=watched)
        finally:
            if comm.cdb is not None:
                comm.destroy_process_group()
                comm.cdb = None


def linear_restored() -> Any:
    """ZeRO-3 replaces ``linear`` for the whole process, and so for later traces of other engines.

    deepspeed 0.19 runtime/zero/partition_parameters.py, Init, with memory_efficient_linear.
    """
    return patch.object(torch.nn.functional, "linear", torch.nn.functional.linear)


def seed_engine(recorder: Recorder, job: Job, tensors: list[Any]) -> None:
    """Watch what the engine keeps; what is among ``tensors``, and nothing else tells whose it is, is its buffers."""
    known = [(owner, site, tensor) for owner, site, kept in standing(job) for tensor in kept]
    for owner, site, tensor in [*known, *(("temporaries", "DeepSpeed", tensor) for tensor in tensors)]:
        if not recorder.knows(tensor):
            recorder.add(storage_of(tensor), owner, site, OUTSIDE)


def standing(job: Job) -> Iterator[tuple[str, str, list[Any]]]:
    """Owner, site and tensors of what the engine keeps and names: parts of weights, masters, gradients."""
    adapters = adapter_parameters(job.model)
    for name, part in parts_of_weights(job.model):
        yield "adapters" if name in adapters else "weights", name, [part]
    yield "optimizer", "DeepSpeed: fp32 masters", masters(job.optimizer)
    yield "gradients", "DeepSpeed: parts of gradients", flat_gradients(job.optimizer)


def alive(mode: Any) -> list[Any]:
    """Every fake tensor of this mode that something refers to, but for those that are nowhere."""
    gc.collect()
    fakes = [each for each in gc.get_objects() if isinstance(each, FakeTensor) and each.fake_mode is mode]
    return [fake for fake in fakes if fake.device.type != ELSEWHERE]


@contextmanager
def labelled(recorder: Recorder, job: Job) -> Iterator[None]:
    """What the update begins with, and what it hands to the optimizer inside, were gradients from the start.

    Tensors below stage 3's persistence threshold are weights once they have been gathered, which they stay.
    """

    @contextmanager
    def updating() -> Iterator[None]:
        recorder.relabel((p.grad for p in job.model.parameters() if p.grad is not None), "gradients")
        recorder.relabel(averaged_gradients(job.optimizer), "gradients")
        recorder.relabel((p for p in job.model.parameters() if getattr(p, "ds_persist", False)), "weights")
        yield

    @contextmanager
    def stepping() -> Iterator[None]:
        recorder.relabel((master.grad for master in masters(job.optimizer) if master.grad is not None), "gradients")
        yield

    with inside(job.engine, "step", updating), inside(job.optimizer.optimizer, "step", stepping):
        yield


@contextmanager
def never_failing() -> Iterator[None]:
    """The test for infinite gradients runs, and finds none: it adds up what fake tensors do not have."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3  # noqa: PLC0415
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer  # noqa: PLC0415

    with ExitStack() as stack:
        for kind in (DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3):
            test = kind.has_overflow

            def finite(self: Any, *arguments: Any, test: Any = test, **keywords: Any) -> bool:
                return bool(test(self, *arguments, **keywords)) and False

            stack.enter_context(patch.object(kind, "has_overflow", finite))
        yield


@contextmanager
def gathered_at_once() -> Iterator[None]:
    """Stage 3 gathers and reduces a tensor at once, not by a view of every rank's part.

    deepspeed 0.19 runtime/zero/partition_parameters.py, _all_gather_dtype and AllGatherCoalescedHandle.wait: they cut
    as many views as there are ranks for every tensor, which is most of the work of a trace of hundreds. The rank's own
    view is the only one that anybody looks at before the tensor is whole.
    """
    from deepspeed.runtime.zero import partition_parameters as parts  # noqa: PLC0415
    from deepspeed.runtime.zero import stage3  # noqa: PLC0415

    handle, wait = parts.AllGatherCoalescedHandle, parts.AllGatherCoalescedHandle.wait

    def waited(self: Any, handle_dependency: bool = True) -> None:
        if self.complete or self.quantization or self.use_secondary_tensor:
            wait(self, handle_dependency=handle_dependency)
            return
        self.allgather_handle.wait()
        for parameter in self.params:
            whole = self.partitions[0].new_empty(parameter.ds_numel)
            parameter.data = whole.view(parameter.ds_shape).to(parameter.ds_tensor.dtype)
            parameter.ds_status = parts.ZeroParamStatus.AVAILABLE
        self.complete = True

    with (
        patch.object(handle, "wait", waited),
        patch.object(parts, "torch", _CuttingLittle()),
        patch.object(stage3, "reduce_scatter_coalesced", reduced_at_once),
    ):
        yield


def reduced_at_once(tensors: list[Any], group: Any = None) -> list[Any]:
    """The rank's part of every tensor's sum: deepspeed 0.19 runtime/comm/coalesced_collectives.py,
    reduce_scatter_coalesced, without the views of other ranks' parts. What fills incomplete parts up is made alike.
    """
    from deepspeed.runtime.comm.coalesced_collectives import _torch_reduce_scatter_fn  # noqa: PLC0415

    ranks, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
    parts = [-(-tensor.numel() // ranks) for tensor in tensors]
    padding = []
    if len(tensors) == 1 and tensors[0].numel() % ranks == 0:
        flat = tensors[0].view(-1)
    else:
        for tensor, part in zip(tensors, parts, strict=True):
            full, rest = divmod(tensor.numel(), part)
            padding += [tensor.new_empty(part - rest)] if rest else []
            padding += [tensor.new_empty(part) for _ in range(full + bool(rest), ranks)]
        flat = tensors[0].new_empty(sum(parts) * ranks)
    flat.div_(ranks)
    own = flat.narrow(0, sum(parts) * rank, sum(parts))
    _torch_reduce_scatter_fn(flat, own, group=group)
    starts = [sum(parts[:place]) for place in range(len(parts))]
    filled = [min(part, max(t.numel() - rank * part, 0)) for t, part in zip(tensors, parts, strict=True)]
    return [own.narrow(0, start, size) for start, size in zip(starts, filled, strict=True)]


class _CuttingLittle:
    """torch for ``_all_gather_dtype``, whose flat tensors give views of the rank's own part alone."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*arguments: Any, **keywords: Any) -> Any:
        """``torch.empty``."""
        flat = torch.empty(*arguments, **keywords)
        if sys._getframe(1).f_code.co_name == "_all_gather_dtype":
            itself, rank = weakref.ref(flat), torch.distributed.get_rank()

            def narrow(dim: int, start: int, length: int) -> Any:
                whole = itself()
                return torch.Tensor.narrow(whole, dim, start, length) if start == rank * length else whole

            flat.narrow = narrow
        return flat


@contextmanager
def agreeing() -> Iterator[None]:
    """Ranks are not asked whether they do the same, which needs values: deepspeed 0.19 runtime/zero/utils.py."""
    with ExitStack() as stack:
        for name in ("stage3", "partition_parameters", "partitioned_param_coordinator"):
            module = import_module(f"deepspeed.runtime.zero.{name}")
            stack.enter_context(patch.object(module, "assert_ints_same_as_other_ranks", lambda _ints: None))
        yield
