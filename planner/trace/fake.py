"""Fake tensors: shapes, dtypes and storages without memory, on which the libraries' own code runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.build.place import Place
from planner.trace.private import FakeTensor, FakeTensorMode, TorchDispatchMode, conversions_in_place
from planner.trace.standins import Answers


def fake_mode() -> Any:
    """A mode under which every new tensor is fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


ELSEWHERE = "meta"
"""What stands for the host in a trace of a device that is not the host; nothing there is counted."""


def fake_place(mode: Any, *, host: str = "cpu") -> Place:
    """The CPU, on which nothing has memory; ``host`` is ``ELSEWHERE`` where it stands for another device."""

    def empty(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    @contextmanager
    def inside() -> Iterator[None]:
        with mode, Answering(), copied_like_real_ones():
            yield

    return Place("cpu", empty, lambda tensor: isinstance(tensor, FakeTensor), real=False, inside=inside, host=host)


@contextmanager
def copied_like_real_ones() -> Iterator[None]:
    """Conversions of modules and deep copies do with fake tensors what they do with real ones."""
    with conversions_in_place(), patch.object(FakeTensor, "__deepcopy__", _copied, create=True):
        yield


class Answering(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for us
    """Stand-ins for operators that ask for values, where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = Answers()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._answers(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def _copied(self: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy`` of a fake tensor: torch's own leaves one whose views have another storage than it has."""
    if id(self) not in memo:
        copy = self.detach().clone()
        memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy
    return memo[id(self)]
