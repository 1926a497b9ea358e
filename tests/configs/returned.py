"""A plan that leaves as files and comes back: what both scenarios are."""

from dataclasses import replace
from typing import Any

from planner.closed_form import estimate
from planner.configs.exporting import Places, chosen_of
from planner.configs.targets import TARGETS
from planner.configs.written import Written
from planner.planning import plan
from planner.recommend.request import Request
from planner.spec import Job, Scenario

HELD: dict[str, Any] = {"seq_len": 1024, "micro_batch_size": 2, "grad_accumulation": 2, "attention": "flash"}


def request(method: str, *, gpus: int = 1, stack: str = "", job: Job | None = None, **settings: Any) -> Request:
    """A run of a small model that fits whatever its settings are."""
    return Request(
        model="llama-3.2-1b",
        gpu="h200",
        gpus=gpus,
        methods=(method,),  # type: ignore[arg-type]
        settings={**HELD, **settings},
        stack=stack,
        job=job or Job(),
    )


def leave(target: str, asked: Request, writer: Any) -> tuple[Written, Scenario]:
    """What ``writer`` writes for a plan of ``asked``, and the scenario that it wrote."""
    asked = replace(asked, stack=asked.stack or TARGETS[target].stack)
    found = plan(asked)
    chosen = chosen_of(found, asked, Places("data.jsonl", ""))
    return writer.write(chosen), chosen.scenario


def peak(scenario: Scenario) -> int:
    """Bytes at the peak."""
    return estimate(scenario).peak.allocated_bytes
