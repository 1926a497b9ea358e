"""What CUDA does differently from the CPU on which a step is traced; every entry names its source.

Read as installed: torch's headers (reductions, sorts, tiles and workspaces of the memory-efficient kernel, the checks
of attention, autocast's lists), transformers, TRL, bitsandbytes. Where a ``.cu`` or ``.cpp`` file of pytorch or
flash-attn is named, no package ships it: the entry is written from knowledge of that file. Nothing here has been held
against a device.

====================  ==================================================================================
module                what is in it
====================  ==================================================================================
card                  what kernels ask the driver: capability, multiprocessors, shared memory
backends              which attention kernel torch takes, a pure function
flash, efficient      FlashAttention-2 and the memory-efficient kernel as allocations
attention             installs them under transformers' code: ``cuda_attention``
masks                 the branches of an unpadded batch: ``unpadded_masks``
trl_kernels           TRL's fused head with its Triton kernels: ``triton_logprob``
liger                 Liger's kernels, its Triton without effect: ``liger_on_cuda``
quantised             bitsandbytes: hidden copies, ``cuda_int8``, states in managed memory
kernels, reduction    what kernels allocate inside themselves, formulas
hidden                the same by operator: ``hidden_bytes``, ``hidden_on``
autocast              ``torch.autocast("cpu")`` by CUDA's lists: ``cuda_autocast``
defaults              multi-tensor optimizers and clipping, fused dropout: ``cuda_defaults``
workspaces            cuBLAS's buffers: ``Workspaces``
context               all of these contexts at once: ``as_on_cuda``
====================  ==================================================================================
"""

from planner.trace.cuda.attention import IMPLEMENTATIONS, Attention, cuda_attention
from planner.trace.cuda.autocast import cuda_autocast
from planner.trace.cuda.backends import choose_backend
from planner.trace.cuda.card import Card, card_of
from planner.trace.cuda.context import as_on_cuda
from planner.trace.cuda.defaults import cuda_defaults
from planner.trace.cuda.hidden import hidden_bytes, hidden_on
from planner.trace.cuda.liger import liger_on_cuda
from planner.trace.cuda.masks import unpadded_masks
from planner.trace.cuda.quantised import cuda_int8, managed_states
from planner.trace.cuda.trl_kernels import triton_logprob
from planner.trace.cuda.workspaces import Workspaces

__all__ = [
    "IMPLEMENTATIONS",
    "Attention",
    "Card",
    "Workspaces",
    "as_on_cuda",
    "card_of",
    "choose_backend",
    "cuda_attention",
    "cuda_autocast",
    "cuda_defaults",
    "cuda_int8",
    "hidden_bytes",
    "hidden_on",
    "liger_on_cuda",
    "managed_states",
    "triton_logprob",
    "unpadded_masks",
]
