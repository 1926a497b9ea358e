"""Collectives of gloo that leave torch's memory alone.

NCCL reads and writes the buffers that it is given, and has its own beside the caching allocator. Gloo makes copies with
torch's CPU allocator and drops them in threads of its own, when these get to it: bytes that no GPU has, for a time that
differs from run to run. Here it gets copies outside torch's allocator instead.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

NAMES = (
    *("all_gather_single", "all_gather_into_tensor", "reduce_scatter_single", "reduce_scatter_tensor"),
    *("all_reduce", "reduce", "broadcast"),
)
"""What FSDP2 calls to gather parameters and to reduce gradients (torch 2.9 to 2.13
distributed/fsdp/_fully_shard/_fsdp_collectives.py), and DeepSpeed beside (deepspeed 0.19 comm/torch.py)."""


@contextmanager
def in_host_memory() -> Iterator[None]:
    """Collectives on copies, each over when its call returns."""
    with ExitStack() as stack:
        for name in NAMES:
            if hasattr(dist, name):
                stack.enter_context(patch.object(dist, name, _on_copies(getattr(dist, name))))
        yield


def _on_copies(collective: Callable[..., Any]) -> Callable[..., Any]:
    """A collective whose tensors are copied before and after it."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []

        def swapped(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            copies.append((value, _copy_of(value)))
            return copies[-1][1]

        work = collective(*map(swapped, arguments), **{name: swapped(value) for name, value in keywords.items()})
        if work is not None:
            work.wait()
        for tensor, copy in copies:
            tensor.copy_(copy)
        return work

    return call


def _copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """The same in memory that Python owns."""
    if tensor.numel() == 0:
        return tensor
    copy = torch.frombuffer(bytearray(tensor.numel() * tensor.element_size()), dtype=tensor.dtype)
    return copy.view(tensor.shape).copy_(tensor)
