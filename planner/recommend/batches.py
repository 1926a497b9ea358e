"""How many sequences an optimizer step learns from, by method and task."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.spec import Method, Task


class Batch(NamedTuple):
    """Sequences per optimizer step: a start, and the range in which published recipes lie."""

    value: int
    low: int
    high: int
    source: str


_TRL = "TRL docs, lora_without_regret.md: LoRA wants an effective batch below 32"

ADAPTER_BATCHES: Mapping[Task, Batch] = MappingProxyType(
    {
        "sft": Batch(16, 8, 32, _TRL),
        "cpt": Batch(32, 8, 32, _TRL),
        "dpo": Batch(32, 8, 32, _TRL),
        "rl": Batch(32, 8, 32, f"{_TRL}; in groups of num_generations = 8 (TRL 1.16 trainer/grpo_config.py)"),
    }
)
"""Under low-rank adapters. The start within the range is ours: its middle, or its end where data is plenty or noisy."""

FULL_BATCHES: Mapping[Task, Batch] = MappingProxyType(
    {
        "sft": Batch(64, 32, 128, "Touvron et al. 2023, arXiv:2307.09288, section 3.1: 64 sequences"),
        "cpt": Batch(128, 32, 1024, "as for sft; the start is twice as large, since data is plenty (ours)"),
        "dpo": Batch(64, 32, 128, "Rafailov et al. 2023, arXiv:2305.18290, appendix B: 64 pairs"),
        "rl": Batch(64, 8, 1024, "from one group of num_generations = 8 (TRL 1.16) to 1,024 (arXiv:2402.03300, 4.2)"),
    }
)
"""Where every weight is trained."""


def batch(method: Method, task: Task) -> Batch:
    """The batch of a method for a task, with its range and source."""
    return (FULL_BATCHES if method == "full" else ADAPTER_BATCHES)[task]


def global_batch(method: Method, task: Task) -> int:
    """Sequences per optimizer step to start from; pairs under DPO, completions under RL.

    >>> global_batch("lora", "sft"), global_batch("full", "sft")
    (16, 64)
    """
    return batch(method, task).value


def largest_batch(method: Method, task: Task) -> int:
    """Sequences per optimizer step beyond which no published recipe of the kind goes.

    >>> largest_batch("qlora", "sft"), largest_batch("full", "rl")
    (32, 1024)
    """
    return batch(method, task).high
