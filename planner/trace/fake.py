"""Fake tensors: shapes, dtypes and storages without memory, on which the libraries' own code runs."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from planner.build.place import Place


def fake_mode() -> Any:
    """A mode under which every new tensor is fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_place(mode: Any) -> Place:
    """The CPU, on which nothing has memory."""

    def empty(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    return Place("cpu", empty, lambda tensor: isinstance(tensor, FakeTensor), real=False)
