"""Where a parameter is: in which decoder layer, or in none."""

from collections.abc import Callable
from typing import Any

from planner.allocator.events import OUTSIDE
from planner.build.model import decoder_layers


def layer_numbers(model: Any) -> Callable[[str], int]:
    """From a parameter's name to its decoder layer."""
    stack = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is stack) + "."

    def number(name: str) -> int:
        return int(name[len(prefix) :].split(".")[0]) if name.startswith(prefix) else OUTSIDE

    return number
