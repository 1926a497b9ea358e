"""Fake tensors: shapes, dtypes and storages without memory, on which the libraries' own code runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from planner.build.place import Place
from planner.trace.standins import Answers


def fake_mode() -> Any:
    """A mode under which every new tensor is fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_place(mode: Any) -> Place:
    """The CPU, on which nothing has memory."""

    def empty(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    @contextmanager
    def inside() -> Iterator[None]:
        with mode, Answering(), _conversions_in_place(), patch.object(FakeTensor, "__deepcopy__", _copied, create=True):
            yield

    return Place("cpu", empty, lambda tensor: isinstance(tensor, FakeTensor), real=False, inside=inside)


class Answering(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for us
    """Stand-ins for operators that ask for values, where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = Answers()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._answers(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


@contextmanager
def _conversions_in_place() -> Iterator[None]:
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


def _copied(self: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy`` of a fake tensor: torch's own leaves one whose views have another storage than it has."""
    if id(self) not in memo:
        copy = self.detach().clone()
        memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy
    return memo[id(self)]


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
