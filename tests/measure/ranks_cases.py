"""Tiny models that are measured on real gloo ranks: run as a program it measures all cases of groups of ranks.

``python -m tests.measure.ranks_cases FILE 2 4`` writes what each rank of each group reported into FILE.RANKS.RANK. A
group does all of its cases, and all ranks are forked, so that the libraries are loaded once.
"""

# ruff: noqa: PLC0415  (torch is loaded by those who measure, not by those who collect tests)

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from planner.families.build import model_from_config
from planner.measure.here import card_of_device, cpu_here
from planner.measure.task import Task
from planner.spec import Cluster, Method, Scenario
from planner.stacks.resolve import resolve
from tests.forked_ranks import fork
from tests.trace.sharding_cases import CONFIGS

STEPS = 2
LAYERS = 2


class Case(NamedTuple):
    """One job on as many ranks as there are."""

    model: str
    method: Method
    sharding: str
    stack: str = "hf"
    accumulation: int = 1

    @property
    def name(self) -> str:
        """For test ids and for the files of results."""
        return "-".join(map(str, self))


ZERO = ("zero1", "zero2", "zero3") if find_spec("deepspeed") else ()

CASES = (
    *(Case(model, method, "fsdp") for model in CONFIGS for method in ("full", "lora")),
    Case("llama", "full", "ddp"),
    Case("qwen3", "lora", "ddp", "trl"),
    Case("mixtral", "lora", "ddp"),
    Case("llama", "qlora", "fsdp"),
    Case("llama", "full", "fsdp", accumulation=2),
    *(Case("llama", "full", sharding) for sharding in ZERO[:1]),
    *(Case("llama", "lora", sharding, "trl") for sharding in ZERO[1:2]),
    *(Case("llama", "full", sharding) for sharding in ZERO[2:]),
)

ON_FOUR = (
    Case("llama", "full", "fsdp"),
    Case("qwen3", "lora", "fsdp"),
    Case("mixtral", "full", "fsdp"),
    Case("llama", "lora", "ddp"),
)


def cases(ranks: int) -> tuple[Case, ...]:
    """Which are measured on so many ranks."""
    return CASES if ranks == 2 else ON_FOUR


def scenario(case: Case, ranks: int) -> Scenario:
    """The whole question."""
    settings = {
        "seq_len": 32,
        "micro_batch_size": 2,
        "sharding": case.sharding,
        "grad_accumulation": case.accumulation,
    }
    cluster = Cluster(gpu=card_of_device(cpu_here()), gpus=ranks)
    return resolve(model_from_config(CONFIGS[case.model], name=case.model), cluster, case.method, settings, case.stack)


def task(case: Case, ranks: int) -> Task:
    """Its real steps."""
    return Task(kind="measure", scenario=scenario(case, ranks), device="cpu", steps=STEPS, layers=LAYERS)


def main(target: Path) -> None:
    """Measure every case, and write every report."""
    import torch.distributed as dist

    from planner.measure import engine, work
    from planner.measure.step import without_kernels_hub

    without_kernels_hub()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    engine.process_group = _already_there  # type: ignore[assignment]
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases(ranks):
        lines = found[case.name] = []
        work.measure(task(case, ranks), lambda event, _to=lines, **facts: _to.append({"event": event, **facts}))
        _forget()
        lines.append({"event": "done"})
    target.with_name(f"{target.name}.{ranks}.{rank}").write_text(json.dumps(found), encoding="utf-8")


@contextmanager
def _already_there(_device: str) -> Iterator[None]:
    yield


def _forget() -> None:
    """Accelerate keeps its state in the process."""
    import gc

    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    gc.collect()


if __name__ == "__main__":
    fork(partial(main, Path(sys.argv[1])), map(int, sys.argv[2:]))
