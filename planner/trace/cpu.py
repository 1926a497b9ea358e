"""What a step on this machine's processor allocates beyond what its operators return.

oneDNN's 16-bit matrix products and the CPU's flash attention take scratch memory whose size depends on the instruction
set and on the number of threads, and no formula of it is published; arithmetic on two dtypes copies one operand, which
CUDA's kernels convert on the fly. The kernels themselves are asked, once for every shape. Recomputed layers keep the
state of the random generator, which lives on the CPU too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.build.quiet import speechless
from planner.trace.private import real_tensors, tree_map

aten = torch.ops.aten

ASKED = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._grouped_mm.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    }
)
"""Operators whose kernels take scratch memory worth counting."""

NAMESPACES = frozenset({"bitsandbytes"})
"""Of libraries whose operators are whole programs: a product with a 4-bit matrix unpacks it first."""

ARITHMETIC = frozenset(
    overload
    for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")
    for overload in (getattr(aten, name).Tensor,)
)
"""Operators that copy an operand of another dtype."""

_KNOWN: dict[object, int] = {}


def hidden_on_cpu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], _result: Any) -> tuple[int, ...]:
    """Bytes that a kernel has at its highest point beside its results; see ``planner.trace.recorder.Hidden``."""
    if not (func in ASKED or func.namespace in NAMESPACES or (func in ARITHMETIC and _mixed(args))):
        return ()
    key = (func, torch.get_num_threads(), *(repr(tree_map(_described, part)) for part in (args, kwargs)))
    if key not in _KNOWN:
        _KNOWN[key] = scratch_bytes(func, args, kwargs)
    return (_KNOWN[key],) if _KNOWN[key] else ()


def _mixed(args: Sequence[Any]) -> bool:
    """Whether two tensors (not scalars, which cost nothing) have different dtypes."""
    return len({arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.ndim}) > 1


def _described(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value


def scratch_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Run ``func`` on real tensors of the same shapes, and have the profiler count."""
    with real_tensors(), torch.no_grad(), speechless():
        real_args, real_kwargs = tree_map(_real, tuple(args)), tree_map(_real, dict(kwargs))
        if func is aten._grouped_mm.default:
            real_args, real_kwargs = _evenly(*real_args, **real_kwargs), {}
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            result = func(*real_args, **real_kwargs)
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        level = highest = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            level += event.nbytes()
            highest = max(highest, level)
        del result
    return highest - level


def _evenly(first: torch.Tensor, second: torch.Tensor, offs: torch.Tensor, *rest: Any, **named: Any) -> tuple[Any, ...]:
    """A grouped product whose groups, which tokens choose, are of one size: ``offs`` says where each ends."""
    grouped, groups = first.shape[0] if second.ndim == 3 else first.shape[1], offs.numel()
    ends = [grouped * (group + 1) // groups for group in range(groups)]
    return first, second, torch.tensor(ends, dtype=offs.dtype), *rest, *named.values()


def _real(value: Any) -> Any:
    """A real tensor like a fake one: zeros, since places to look up have to exist."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu").zero_()


@contextmanager
def random_states_counted() -> Iterator[None]:
    """A saved state of the random generator has a fake twin that lives as long, so that its bytes are seen.

    ``torch.utils.checkpoint`` saves one for every layer, and another while it recomputes (``torch.random.fork_rng``).
    """
    real: Callable[[], torch.Tensor] = torch.get_rng_state

    def get_rng_state() -> torch.Tensor:
        state = real()
        state.twin = torch.empty(state.shape, dtype=state.dtype)
        return state

    with patch.object(torch, "get_rng_state", get_rng_state):
        yield
