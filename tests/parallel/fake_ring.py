"""Torch's ring attention on a fake group of ranks and fake tensors: the most bytes that are alive at once.

Run as a program: a list of numbers of key-value heads; prints one JSON list of peaks, forward and backward.
"""

import json
import sys
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental._context_parallel import _attention
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RANKS, RANK = 4, 3
HEADS, DIM, TOKENS = 32, 128, 1024


class Living(TorchDispatchMode):  # type: ignore[misc]
    """Counts the storages that are made inside and still there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Waiting for a collective gives its tensor back, where the fake kernel gives a copy."""
        out = args[0] if "wait_tensor" in str(func) else func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > 16:  # no state of a random generator
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage: torch.UntypedStorage) -> None:
        """A storage that is new, until it goes."""
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        """A storage that went."""
        self.now -= self.known.pop(key)


def peaks(mesh: Any, key_heads: int) -> tuple[int, int]:
    """Most bytes that forward makes, and backward, besides queries, keys and values as they came."""

    def heads(count: int) -> torch.Tensor:
        return torch.empty(1, TOKENS, count * DIM, dtype=torch.bfloat16).view(1, TOKENS, count, DIM).transpose(1, 2)

    query, key, value = heads(HEADS), heads(key_heads), heads(key_heads)
    with torch.no_grad(), Living() as living:
        out, lse, *rest = _attention._scaled_dot_product_ring_flash_attention(mesh, query, key, value, is_causal=True)
        forward, before = living.most, living.now
        living.most = living.now
        _attention._scaled_dot_product_ring_flash_attention_backward(
            mesh, torch.empty_like(out), query, key, value, out, lse, *rest[:4], 0.0, True, *rest[4:6]
        )
    return forward, living.most - before


if __name__ == "__main__":
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=RANKS)
    ring = init_device_mesh("cpu", (RANKS,))
    with FakeTensorMode():
        found = [peaks(ring, int(count)) for count in sys.argv[1:]]
    sys.stdout.write(json.dumps(found))
    dist.destroy_process_group()
