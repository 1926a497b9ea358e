"""TRL's fused language-model head as on CUDA: its Triton kernels work in place on a tile and allocate nothing.

trl 1.15 and newer, trl/kernels/chunked_logprob.py, ``ChunkedLogProbFunction``; without Triton it folds tiles with torch
operators, which copy them in fp32.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch


class _Kernel:
    """A Triton kernel that is launched, ``kernel[grid](...)``, and does nothing."""

    def __getitem__(self, _grid: Any) -> Any:
        return lambda *_args, **_kwargs: None


TRITON = SimpleNamespace(cdiv=lambda count, size: -(-count // size))


@contextmanager
def triton_logprob() -> Iterator[None]:
    """``ChunkedLogProbFunction`` takes its Triton path, and ``acc += a @ b`` in fp32 runs inside cuBLAS.

    ``trl.trainer.utils`` has the question under its own name, and with it scores only the positions that count. It is
    loaded before anything is replaced: in here it would take ours, and keep it. Older TRL has no such kernel, and
    nothing happens.
    """
    try:
        from trl.kernels import chunked_logprob  # noqa: PLC0415
        from trl.trainer import utils  # noqa: PLC0415
    except ImportError:
        yield
        return
    replaced: dict[str, Any] = {
        "_use_triton": _always,
        "_addmm_fp32": lambda *_args: None,
        "_forward_kernel": _Kernel(),
        "_backward_kernel": _Kernel(),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(chunked_logprob, **replaced))
        stack.enter_context(patch.object(chunked_logprob, "triton", TRITON, create=True))
        if hasattr(utils, "_use_triton"):
            stack.enter_context(patch.object(utils, "_use_triton", _always))
        yield


def _always(_device: Any) -> bool:
    return True
