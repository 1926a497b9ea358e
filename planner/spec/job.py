"""What a training run is for, and how much data it sees.

Nothing here changes the bytes of a given scenario; a task decides only which objective holds where none is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from planner.errors import UsageError, show
from planner.spec.training import Objective
from planner.units import MOST_COUNT, positive, whole

Task = Literal["sft", "cpt", "dpo", "rl"]
TASKS: tuple[Task, ...] = ("sft", "cpt", "dpo", "rl")
"""Supervised fine-tuning, continued pretraining, direct preference optimisation, reinforcement learning."""

TASK_NAMES: Mapping[str, Task] = MappingProxyType(
    {
        "instruct": "sft",
        "chat": "sft",
        "pretrain": "cpt",
        "pretraining": "cpt",
        "kto": "dpo",
        "orpo": "dpo",
        "preference": "dpo",
        "grpo": "rl",
        "ppo": "rl",
        "rlvr": "rl",
        "rlhf": "rl",
    }
)
"""Other names under which people ask for a task."""

OBJECTIVE_OF: Mapping[Task, Objective] = MappingProxyType({"dpo": "dpo", "rl": "grpo"})
"""What a task's step optimises unless the user says it; of the others, likelihood."""

OTHER_TRAINERS: Mapping[str, str] = MappingProxyType(
    {
        "kto": "single sequences against a reference, and a second forward pass on mismatched answers",
        "orpo": "pairs without a reference",
        "ppo": "a value model and a reward model beside the reference",
        "rlhf": "PPO as a rule, with a value model and a reward model",
    }
)
"""Names of tasks whose trainers do not step as DPO or GRPO do."""

MOST_EPOCHS = 1000.0
MOST_ADAPTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Sequences by length: ``counts`` holds pairs of tokens and how many sequences have them, shortest first."""

    counts: tuple[tuple[int, int], ...]

    @property
    def sequences(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.counts)

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(length * count for length, count in self.counts)

    @property
    def longest(self) -> int:
        """Tokens of the longest; 0 when there are none."""
        return self.counts[-1][0] if self.counts else 0

    @property
    def mean(self) -> float:
        """Tokens of one on average."""
        return self.tokens / self.sequences if self.counts else 0.0

    @property
    def attended(self) -> float:
        """Mean length as attention feels it, each token counted: sum of squares over sum."""
        return sum(length**2 * count for length, count in self.counts) / self.tokens if self.tokens else 0.0

    def truncated(self, seq_len: int) -> "Lengths":
        """The same cut at ``seq_len`` tokens."""
        merged: dict[int, int] = {}
        for length, count in self.counts:
            merged[min(length, seq_len)] = merged.get(min(length, seq_len), 0) + count
        return Lengths(tuple(sorted(merged.items())))

    def padded(self, batch: int) -> float:
        """Mean tokens of one sequence when each of ``batch`` drawn at random is padded to the longest of them.

        Formula:   sum over lengths of l * (F(l)^b - F(l-)^b), the expected maximum of b draws
        Source:    order statistics of independent draws
        Excludes:  sorting by length
        """
        total, below, mean = self.sequences, 0, 0.0
        for length, count in self.counts:
            share, before = (below + count) / total, below / total
            mean += length * (share**batch - before**batch)
            below += count
        return mean


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run. ``None``: not said.

    ``tokens`` and ``sequences``: of one epoch, before truncation and padding; ``supervised_tokens``: those of them that
    bear loss; ``adapters``: variants of one base that are to be served.
    """

    task: Task = "sft"
    tokens: int | None = None
    supervised_tokens: int | None = None
    sequences: int | None = None
    lengths: Lengths | None = field(default=None, repr=False)
    epochs: float = 1.0
    packing: bool = False
    adapters: int = 1
    new_vocabulary: bool = False
    keep_skills: bool = False

    @property
    def epoch_tokens(self) -> int | None:
        """Tokens of one epoch, whichever way they were said.

        >>> Job(tokens=50).epoch_tokens, Job(lengths=Lengths(((10, 2),))).epoch_tokens, Job().epoch_tokens
        (50, 20, None)
        """
        return self.lengths.tokens if self.tokens is None and self.lengths is not None else self.tokens

    @property
    def learned_tokens(self) -> int | None:
        """Unique tokens that bear loss, as far as we know: what an adapter's capacity is held against."""
        return self.tokens if self.supervised_tokens is None else self.supervised_tokens


NO_JOB = Job()
"""Nobody said anything."""


def check_job(job: Job) -> None:
    """Raise ``UsageError`` for a task that does not exist, and for amounts that no run has."""
    if job.task not in TASKS:
        raise UsageError(f"--task {show(job.task)} is not one of {', '.join(TASKS)}")
    amounts = (("dataset-tokens", job.tokens, 1), ("dataset-sequences", job.sequences, 1))
    for name, count, least in (*amounts, ("supervised-tokens", job.supervised_tokens, 0)):
        if count is not None:
            whole(f"--{name}", count, least, MOST_COUNT)
    positive("--epochs", job.epochs, MOST_EPOCHS)
    whole("--adapters", job.adapters, 1, MOST_ADAPTERS)
