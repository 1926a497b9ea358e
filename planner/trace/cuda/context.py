"""Everything that makes a step on the CPU run as on CUDA, entered together."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from planner.trace.cuda.attention import Attention, cuda_attention
from planner.trace.cuda.autocast import cuda_autocast
from planner.trace.cuda.card import Card
from planner.trace.cuda.defaults import cuda_defaults
from planner.trace.cuda.liger import liger_on_cuda
from planner.trace.cuda.masks import unpadded_masks
from planner.trace.cuda.quantised import cuda_int8, states_anywhere
from planner.trace.cuda.trl_kernels import triton_logprob


@contextmanager
def as_on_cuda(
    attention: Attention,
    card: Card,
    *,
    autocast: bool = True,
    int8: bool = False,
    liger: bool = False,
    bitsandbytes: bool = False,
) -> Iterator[None]:
    """Build the model and run its steps in here; a fake mode and a recorder are entered inside.

    ``autocast``: the step may enter it. ``int8``: the base is quantised to 8 bits by bitsandbytes.
    ``liger``: Liger's kernels may be put into the model. ``bitsandbytes``: the optimizer is one of its. What kernels
    hide (``hidden_on``), cuBLAS's buffers (``Workspaces``) and managed states (``managed_states``) are the recorder's
    to ask for.
    """
    with ExitStack() as stack:
        for context in (unpadded_masks(), cuda_attention(attention, card), cuda_defaults(), triton_logprob()):
            stack.enter_context(context)
        if autocast:
            stack.enter_context(cuda_autocast())
        if int8:
            stack.enter_context(cuda_int8())
        if bitsandbytes:
            stack.enter_context(states_anywhere())
        if liger:
            stack.enter_context(liger_on_cuda(card))
        yield
