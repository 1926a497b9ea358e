"""Answers where the code asks a tensor for its values, which fake tensors do not have: the one place of guesses.

What is answered, and why no other answer would do:

- a number read from a tensor (``.item()``, a Python ``float``): 1. Zero divides by zero in Adam's bias correction.
- a truth value: false when it comes from a test for broken values (``isnan``, ``isinf``, ``any``, ``ne``), so that no
  step is skipped and no branch for failures is taken; otherwise true, so that a module that a random draw may switch
  off (LoHa's module dropout) runs, which is what needs memory.
- the places of non-zero entries, and selection by a mask: every entry is selected, the most that can be; of GRPO's
  labels those of the completions, whose number is known.
- counts of equal numbers (``bincount``): as many counts as are asked for, or one for each number.
- whether two tensors are equal (``equal``): they are, so that what is looked for is found (aLoRA's invocation tokens).
- distinct numbers (``unique``): one, so that a loop over them (CPT's, over kinds of tokens) runs once.

And two operators whose fake kernels know less than the real ones:

- grouped products of other dtypes than bfloat16, which CUDA runs group by group (torch 2.10 and newer,
  native/cuda/GroupedBlas.cpp, ``_grouped_mm_fallback``);
- waiting for a collective, which returns its tensor itself (distributed/c10d/Functional.cpp, ``wait_tensor``).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

aten = torch.ops.aten

DOUBTS = ("any", "isnan", "isinf", "ne", "logical_not")
"""Operators whose truth means that something is wrong or different."""


class Answers:
    """Answers for values, and marks the truth values that mean trouble.

    ``selected``: how many entries masks of some size select, where that is known.
    """

    def __init__(self, selected: Mapping[int, int] = MappingProxyType({})) -> None:
        self._selected = selected

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The stand-in for one call, or ``NotImplemented``."""
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(*args, **kwargs)
        if func is aten.index.Tensor:
            return _selected(func, args, kwargs, self._selected)
        if func in (aten.index_put.default, aten.index_put_.default):
            return _put(func, args, kwargs)
        if func is aten._grouped_mm.default:
            return _grouped(func, args, kwargs)
        if func.overloadpacket.__name__ in DOUBTS:
            return _marked(func(*args, **kwargs))
        return NotImplemented


def _grouped(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A grouped product with the layout that it has in bfloat16."""
    left, right, *others = args
    if left.dtype == torch.bfloat16:
        return NotImplemented
    narrow = func(left.to(torch.bfloat16), right.to(torch.bfloat16), *others, **kwargs)
    return left.new_empty_strided(narrow.shape, narrow.stride())


def _marked(result: torch.Tensor) -> torch.Tensor:
    """The same tensor, which says that its truth means trouble as long as it lives."""
    if isinstance(result, torch.Tensor) and result.ndim == 0:
        result.means_trouble = True
    return result


def _number(tensor: torch.Tensor) -> int | float | bool:
    """What ``.item()`` returns."""
    if tensor.dtype == torch.bool:
        return not hasattr(tensor, "means_trouble")
    return 1.0 if tensor.is_floating_point() else 1


def _everywhere(mask: torch.Tensor) -> torch.Tensor:
    """``nonzero``: (entries, dimensions) int64, with every entry in it."""
    return mask.new_empty((mask.numel(), mask.ndim), dtype=torch.int64)


def _counts(numbers: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    """``bincount``: int64, or of the dtype of ``weights``."""
    dtype = torch.int64 if weights is None else weights.dtype
    return numbers.new_empty((minlength or numbers.numel(),), dtype=dtype)


def _distinct(
    numbers: torch.Tensor,
    _sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``unique``: the numbers, the place of each entry among them, how often each occurs."""
    inverse = numbers.new_empty(numbers.shape if return_inverse else (0,), dtype=torch.int64)
    return numbers.new_empty((1,)), inverse, numbers.new_empty((int(return_counts),), dtype=torch.int64)


_ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _number,
    aten.nonzero.default: _everywhere,
    aten.bincount.default: _counts,
    aten._unique2.default: _distinct,
    aten.equal.default: lambda _one, _other: True,
    torch.ops._c10d_functional.wait_tensor.default: lambda tensor: tensor,
}


def _places(indices: Sequence[Any], known: Mapping[int, int] = MappingProxyType({})) -> list[Any] | None:
    """The same selection with masks replaced by places of all their entries, or ``None`` without a mask."""
    if not any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return None
    found: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            count = known.get(index.numel(), index.numel())
            place = index.new_empty((count,), dtype=torch.int64)
            found.extend([place] * index.ndim)
        else:
            found.append(index)
    return found


def _selected(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], known: Mapping[int, int]) -> Any:
    places = _places(args[1], known)
    return NotImplemented if places is None else func(args[0], places, **kwargs)


def _put(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    places = _places(args[1])
    return NotImplemented if places is None else func(args[0], places, *args[2:], **kwargs)
