"""How long one optimizer step takes: the work of each phase at the rates that a card and a stack reach."""

from planner.result import Estimate, StepTime, TimeBasis
from planner.spec import Scenario
from planner.throughput.rates import Chip, rates_of
from planner.throughput.roofline import parts_of, seconds_of
from planner.throughput.work import Load, Work, work_of

__all__ = ["Load", "Work", "step_time"]

MANY_TOKENS = 4096


def step_time(scenario: Scenario, estimate: Estimate, load: Load | None = None) -> StepTime | None:
    """Seconds of one optimizer step; ``None`` where the card's 16-bit peak or a link that is needed is unknown."""
    rates = rates_of(scenario)
    if rates is None:
        return None
    work = work_of(scenario, estimate, load)
    parts = parts_of(work, rates)
    seconds = seconds_of(parts)
    share, group = _regime(scenario, work, rates.chip, launch=parts["launch"] > parts["compute"])
    return StepTime(
        seconds=seconds,
        low=seconds / (1 + share),
        high=seconds * (1 + share),
        tokens_per_second=work.tokens * work.micro_steps * work.ranks / seconds,
        parts=parts,
        bound=max(parts, key=lambda part: parts[part]),
        basis=TimeBasis("published" if rates.chip.n else "stated", rates.chip.n, rates.chip.sources, group),
    )


def _regime(scenario: Scenario, work: Work, chip: Chip, *, launch: bool) -> tuple[float, str]:
    """How far from the middle the bounds are, and for which kind of run."""
    if scenario.model.is_moe:
        return 1.0, "mixture of experts"
    if launch:
        return 1.0, "bound by launches"
    if work.paged:
        return 1.0, "offloaded"
    name = scenario.cluster.gpu.architecture
    if name in ("Ampere GA100", "Hopper GH100") and work.tokens >= MANY_TOKENS:
        return 0.25, f"{name}, 4k or more tokens per micro-step"
    return (0.5, name) if chip.n else (1.0, f"{name}, no measurement")
