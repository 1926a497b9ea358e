"""Answers where the code asks a tensor for its values, which fake tensors do not have: the one place of guesses.

What is answered, and why no other answer would do:

- a number read from a tensor (``.item()``, a Python ``float``): 1. Zero divides by zero in Adam's bias correction.
- a truth value: false when it comes from a test for broken values (``isnan``, ``isinf``, ``any``, ``ne``), so that no
  step is skipped and no branch for failures is taken; otherwise true, so that a module that a random draw may switch
  off (LoHa's module dropout) runs, which is what needs memory.
- the places of non-zero entries, and selection by a mask: every entry is selected, the most that can be.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

aten = torch.ops.aten

DOUBTS = ("any", "isnan", "isinf", "ne", "isfinite", "logical_not")
"""Operators whose truth means that something is wrong or different."""


class Answers:
    """Remembers which operator made each truth value, and answers for it."""

    def __init__(self) -> None:
        self._makers: dict[int, str] = {}

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The stand-in for one call, or ``NotImplemented``."""
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(self, args)
        if func is aten.index.Tensor:
            return _selected(func, args, kwargs)
        if func in (aten.index_put.default, aten.index_put_.default):
            return _put(func, args, kwargs)
        return NotImplemented

    def remember(self, func: Any, result: Any) -> None:
        """Note who made a truth value."""
        if isinstance(result, torch.Tensor) and result.dtype == torch.bool and result.ndim == 0:
            self._makers[id(result)] = func.overloadpacket.__name__

    def number(self, args: Sequence[Any]) -> int | float | bool:
        """What ``.item()`` returns."""
        tensor = args[0]
        if tensor.dtype == torch.bool:
            return self._makers.get(id(tensor), "") not in DOUBTS
        return 1.0 if tensor.is_floating_point() else 1


def _everywhere(_answers: Answers, args: Sequence[Any]) -> torch.Tensor:
    """``nonzero``: (entries, dimensions) int64, with every entry in it."""
    mask = args[0]
    return mask.new_empty((mask.numel(), mask.ndim), dtype=torch.int64)


_ANSWERS: Mapping[Any, Callable[[Answers, Sequence[Any]], Any]] = {
    aten._local_scalar_dense.default: Answers.number,
    aten.nonzero.default: _everywhere,
}


def _places(indices: Sequence[Any]) -> list[Any] | None:
    """The same selection with masks replaced by places of all their entries, or ``None`` without a mask."""
    if not any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return None
    found: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            place = index.new_empty((index.numel(),), dtype=torch.int64)
            found.extend([place] * index.ndim)
        else:
            found.append(index)
    return found


def _selected(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    places = _places(args[1])
    return NotImplemented if places is None else func(args[0], places, **kwargs)


def _put(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    places = _places(args[1])
    return NotImplemented if places is None else func(args[0], places, *args[2:], **kwargs)
