"""Every private name of torch that a trace or a run needs, with the versions that have it: an upgrade breaks one file.

Private names of the other libraries stand where they are used: ``_model_mapping`` of transformers' ``Auto`` classes in
``planner.build.model``, its padding functions in ``planner.trace.cuda.attention``, TRL's chunk size in
``planner.trace.run``, bitsandbytes' rules for its kernels in ``planner.trace.cuda.quantised``.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor  # torch 2.9 to 2.13, as the next two
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map

from planner.errors import UnsupportedScenario


class DispatchMode(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for us
    """A dispatch mode that costs nothing but its own work: torch wraps others against compilation, call by call.

    torch 2.9 to 2.13: ``_should_skip_dynamo``, where a version asks for it.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@cache
def bitsandbytes_cuda() -> Any:
    """The CUDA module of bitsandbytes, with its rules for which kernel runs; no kernel of it can run here.

    torch 2.9 to 2.13: it reads ``torch._C._cuda_getCurrentRawStream`` on import, which a build without CUDA lacks.
    """
    with patch.object(torch._C, "_cuda_getCurrentRawStream", lambda _device: 0, create=True):
        from bitsandbytes.backends.cuda import ops  # noqa: PLC0415
    return ops


@contextmanager
def real_tensors() -> Iterator[None]:
    """Operators run for real although a fake mode or a recorder is at work.

    torch 2.9 to 2.13: ``torch.utils._python_dispatch._disable_current_modes``.
    """
    from torch.utils._python_dispatch import _disable_current_modes  # noqa: PLC0415

    with _disable_current_modes():
        yield


@contextmanager
def fake_process_group(ranks: int, rank: int = 0) -> Iterator[None]:
    """The default process group, in which this process is one of ``ranks`` and every collective returns at once.

    torch 2.9 to 2.13: ``torch.testing._internal.distributed.fake_pg`` registers the backend and has its store. What
    collectives do with fake tensors stands in ``torch.distributed._meta_registrations``, which 2.11 to 2.13 load by
    themselves, and where torch has no such file in ``torch.distributed._tools.fake_collectives``.
    """
    import torch.distributed as dist  # noqa: PLC0415  (only for several ranks)
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

    if find_spec("torch.distributed._meta_registrations") is None:
        import_module("torch.distributed._tools.fake_collectives")
    if dist.is_initialized():
        raise UnsupportedScenario("several ranks cannot be traced inside a process that is one of several itself")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        if dist.is_initialized():  # DeepSpeed has destroyed it with its own
            dist.destroy_process_group()


def fsdp_communication() -> list[tuple[type, str]]:
    """The methods in which FSDP2 allocates what it gathers and reduces.

    torch 2.9 to 2.13: ``FSDPParamGroup`` in torch.distributed.fsdp._fully_shard._fsdp_param_group.
    """
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup  # noqa: PLC0415

    return [(FSDPParamGroup, name) for name in ("unshard", "wait_for_unshard", "post_backward")]


@contextmanager
def meshes_of_real_ranks() -> Iterator[None]:
    """A mesh that is cut out of another looks for this process among its ranks, which are no tensors of the job.

    torch 2.9 to 2.13: ``DeviceMesh.__init__`` in torch.distributed.device_mesh, where hybrid sharding cuts one for each
    dimension.
    """
    from torch.distributed.device_mesh import DeviceMesh  # noqa: PLC0415

    make = DeviceMesh.__init__

    def made(*arguments: Any, **keywords: Any) -> None:
        with real_tensors():
            make(*arguments, **keywords)

    with patch.object(DeviceMesh, "__init__", made):
        yield


@contextmanager
def parts_on_demand() -> Iterator[None]:
    """FSDP2 cuts the parts of a tensor that it asks for, its own and the first, not those of all ranks.

    torch 2.9 to 2.13: ``_chunk_with_empty``, as torch.distributed.fsdp._fully_shard._fsdp_param calls it. Hundreds of
    views for every tensor would be most of the work of a trace of hundreds of ranks.
    """
    from torch.distributed.fsdp._fully_shard import _fsdp_param  # noqa: PLC0415

    with patch.object(_fsdp_param, "_chunk_with_empty", Parts):
        yield


class Parts:
    """What ``torch.chunk`` makes of a tensor, with empty tensors behind it up to ``count``."""

    def __init__(self, tensor: torch.Tensor, count: int, dim: int) -> None:
        self.tensor, self.dim = tensor, dim
        self.rows = -(-tensor.size(dim) // count)

    def __getitem__(self, number: int) -> torch.Tensor:
        start, end = (min(self.rows * n, self.tensor.size(self.dim)) for n in (number, number + 1))
        return self.tensor.narrow(self.dim, start, end - start) if start < end else self.tensor.new_empty(0)


def dtensor_shapes() -> tuple[type, str]:
    """The method in which DTensor learns the shape of a result from fake tensors as large as the whole.

    torch 2.9 to 2.13: ``ShardingPropagator`` in torch.distributed.tensor._sharding_prop.
    """
    from torch.distributed.tensor._sharding_prop import ShardingPropagator  # noqa: PLC0415

    return ShardingPropagator, "_propagate_tensor_meta_non_cached"


def autocast_operators(device: str) -> frozenset[str]:
    """Names, ``aten::name.overload``, of the operators that autocast treats on ``"CPU"`` or ``"CUDA"``.

    torch 2.9 to 2.13: both tables are registered in every build (aten/src/ATen/autocast_mode.cpp).
    """
    return frozenset(
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, f"Autocast{device}")
    )


def without_cpu_autocast() -> Any:
    """A guard under which operators run below the CPU's autocast, as its own kernels run them.

    torch 2.9 to 2.13: ``torch._C._ExcludeDispatchKeyGuard``.
    """
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


@contextmanager
def cpu_autocast_kernels(kernels: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Operators by name, with what the CPU's autocast does with them for the length of this context.

    torch 2.9 to 2.13: ``torch.library._scoped_library`` takes its registrations back.
    """
    with torch.library._scoped_library("aten", "IMPL") as library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Overriding a previously registered kernel"
            for name, kernel in kernels.items():
                library.impl(name.removeprefix("aten::"), kernel, "AutocastCPU")
        yield


@contextmanager
def foreach_by_default() -> Iterator[None]:
    """Optimizers and clipping pick their multi-tensor form for fake tensors on the CPU, as they do for tensors on CUDA.

    torch 2.9 to 2.13: ``_foreach_supported_types`` and ``_get_foreach_kernels_supported_devices`` in
    torch/utils/_foreach_utils.py and torch/optim/optimizer.py.
    """
    from torch.optim import optimizer  # noqa: PLC0415
    from torch.utils import _foreach_utils  # noqa: PLC0415

    devices = [*_foreach_utils._get_foreach_kernels_supported_devices(), "cpu"]
    with ExitStack() as stack:
        for module in (optimizer, _foreach_utils):
            types = [*module._foreach_supported_types, FakeTensor]
            stack.enter_context(patch.object(module, "_foreach_supported_types", types))
            stack.enter_context(patch.object(module, "_get_foreach_kernels_supported_devices", lambda: [*devices]))
        yield


@contextmanager
def conversions_in_place() -> Iterator[None]:
    """``module.to(...)`` sets the data of fake parameters, as it does on a device.

    torch's own code exchanges the two Python objects instead, and refuses when anyone holds a weak reference to one of
    them, as a fake mode does. torch 2.9 to 2.13 nn/modules/module.py, Module._apply.
    """
    original = torch.nn.Module._apply
    torch.nn.Module._apply = _apply
    try:
        yield
    finally:
        torch.nn.Module._apply = original


def _apply(self: Any, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
    """Every parameter and buffer of a module, and of those within, replaced by what ``fn`` makes of it."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for parameter in self._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                parameter.data = fn(parameter)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


# ---------------------------------------------------------------- CUDA's memory history, torch 2.9 to 2.14


def record_memory_history(most: int) -> None:
    """Begin to keep allocations and releases, the latest ``most`` of them."""
    torch.cuda.memory._record_memory_history(max_entries=most)


def write_memory_history(path: str) -> None:
    """Write what was kept."""
    torch.cuda.memory._dump_snapshot(path)


def end_memory_history() -> None:
    """Keep no more."""
    torch.cuda.memory._record_memory_history(enabled=None)
