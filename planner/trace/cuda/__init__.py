"""What CUDA does differently from the CPU on which a step is traced; every entry names its source.

====================  ===========================================================================================
module                what is in it
====================  ===========================================================================================
card                  what kernels ask the driver: capability, multiprocessors, shared memory
backends              which attention kernel torch takes, a pure function
flash, efficient      FlashAttention-2 and the memory-efficient kernel as allocations
attention             installs them under transformers' code: ``cuda_attention``
masks                 the branches of an unpadded batch: ``unpadded_masks``
trl_kernels           TRL's fused head with its Triton kernels: ``triton_logprob``
====================  ===========================================================================================
"""

from planner.trace.cuda.attention import IMPLEMENTATIONS, Attention, cuda_attention
from planner.trace.cuda.backends import choose_backend
from planner.trace.cuda.card import Card, card_of
from planner.trace.cuda.masks import unpadded_masks
from planner.trace.cuda.trl_kernels import triton_logprob

__all__ = [
    "IMPLEMENTATIONS",
    "Attention",
    "Card",
    "card_of",
    "choose_backend",
    "cuda_attention",
    "triton_logprob",
    "unpadded_masks",
]
