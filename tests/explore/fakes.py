"""Times that are made up, so that what is drawn does not follow every refinement of the time model."""

from types import MappingProxyType

from planner.result import Estimate, StepTime, TimeBasis
from planner.spec import Scenario
from planner.throughput import Load


def step_of(scenario: Scenario, _estimate: Estimate, _load: Load | None = None) -> StepTime:
    """Ten thousand tokens a second on each card, and half a second for each step."""
    train, ranks = scenario.train, scenario.cluster.world_size
    tokens = train.tokens * train.grad_accumulation * ranks
    seconds = 0.5 + tokens / (10_000 * ranks)
    parts = MappingProxyType({"compute": seconds - 0.5, "launch": 0.5})
    return StepTime(
        seconds=seconds,
        low=seconds / 1.5,
        high=seconds * 1.5,
        tokens_per_second=tokens / seconds,
        parts=parts,  # type: ignore[arg-type]  # names of parts
        bound="compute",
        basis=TimeBasis("stated"),
    )
