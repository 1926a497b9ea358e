"""What an optimizer step does in memory: bytes by kind of optimizer, and the products of Muon."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CLIPPED = 3
"""Passes over the gradients to clip their norm: read, then read and write. torch nn/utils/clip_grad.py."""

SUMMED = 3
"""Passes over the gradients for each micro-step that adds to them: two reads and a write."""


class Passes(NamedTuple):
    """Passes over tensors of the trained dtype, and bytes of states in a dtype of their own, per parameter."""

    own: int
    states: int = 0
    kernels: int = 0
    """Started for each tensor."""


PASSES: Mapping[str, Passes] = MappingProxyType(
    {
        "adamw_fused": Passes(7),
        "adamw_foreach": Passes(20),
        "adamw_loop": Passes(20, kernels=10),
        "adamw_8bit": Passes(3, 4, 1),
        "paged_adamw_8bit": Passes(3, 4, 1),
        "paged_adamw_32bit": Passes(3, 16, 1),
        "adafactor": Passes(3, 60, 15),
        "lion": Passes(3, 8, 1),
        "lion_8bit": Passes(3, 2, 1),
        "sgd": Passes(3),
        "muon": Passes(8, 20, 20),
    }
)
"""Fused AdamW reads weight, gradient and two moments and writes three of them. foreach AdamW: weight decay 2, first
moment 3, second 2 + 4, root 2, division 2, epsilon 2, update 3. bitsandbytes reads weight and gradient, writes the
weight, and reads and writes its states. torch 2.13 optim/adamw.py, _multi_tensor_adamw and _fused_adamw, and
optim/_muon.py; bitsandbytes 0.50 functional.py, optimizer_update_8bit_blockwise; transformers 5.23 optimization.py,
Adafactor.step."""

NEWTON_STEPS = 5
"""Of Muon's orthogonalisation. torch 2.13 optim/_muon.py, DEFAULT_NS_STEPS."""


class Update(NamedTuple):
    """One optimizer step of one rank: bytes moved, FLOPs of products, kernels started."""

    moved: float
    products: float
    kernels: float


def update_of(name: str, *, params: float, tensors: int, e: int, hidden: int, accumulated: int) -> Update:
    """Traffic of one optimizer step, with clipping and the sums of ``accumulated`` further micro-steps.

    Shapes:    params: trained entries of this rank, in ``tensors`` tensors of e-byte entries
    Formula:   params * (e * (passes + 3 + 3 * accumulated) + states); Muon's products: 5 steps of 6 * h FLOPs per entry
    Source:    ``PASSES``; Jordan 2024, kellerjordan.github.io/posts/muon, for Newton and Schulz's iteration
    Valid:     square matrices for Muon's products
    Excludes:  communication

    >>> update_of("adamw_fused", params=1000, tensors=1, e=2, hidden=64, accumulated=0)
    Update(moved=20000.0, products=0.0, kernels=0)
    """
    passes = PASSES[name]
    moved = float(params * (e * (passes.own + CLIPPED + SUMMED * accumulated) + passes.states))
    products = float(NEWTON_STEPS * 6 * hidden * params) if name == "muon" else 0.0
    return Update(moved, products, tensors * passes.kernels)
