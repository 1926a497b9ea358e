"""The largest batch or sequence of a scenario on the device that is here: predicted in two ways, then searched for.

Every run of the search is a child process of its own, so a failure is a real one and leaves nothing behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from planner.closed_form import estimate
from planner.errors import UnsupportedScenario, UsageError
from planner.measure.recording import environment_of, peak_of, run_device
from planner.measure.search import (
    MOST_BATCH,
    MOST_PROBES,
    MOST_TOKENS,
    SEQUENCE_STEP,
    Dimension,
    Found,
    Probe,
    Range,
    find_limit,
    predicted_limit,
)
from planner.measure.task import Device
from planner.measure.values import Measurement, Outcome, Prediction
from planner.records import Limits, Record, document_of, now
from planner.result import Estimate, Evidence
from planner.spec import Scenario

Predict = Callable[[Scenario], Prediction]
Measure = Callable[[Scenario], Measurement]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What was predicted and found. ``usable_bytes``: the memory that predictions are held against.

    ``predicted`` has the largest size by evidence, ``None`` where not even the smallest fits; evidence that cannot
    answer is absent. ``best`` is the largest run that completed.
    """

    scenario: Scenario
    device: Device
    dimension: Dimension
    usable_bytes: int
    cap_bytes: int | None
    predicted: Mapping[Evidence, int | None]
    found: Found
    runs: tuple[Measurement, ...]

    @property
    def best(self) -> Measurement | None:
        """The largest run that completed."""
        done = [run for run in self.runs if run.outcome == "done"]
        return max(done, key=lambda run: size_of(run.scenario, self.dimension), default=None)


def size_of(scenario: Scenario, dimension: Dimension) -> int:
    """The batch or the length of a scenario."""
    size: int = getattr(scenario.train, dimension)
    return size


def at_size(scenario: Scenario, dimension: Dimension, size: int) -> Scenario:
    """The same question with another batch or length."""
    train = scenario.train
    if dimension == "seq_len":
        return replace(scenario, train=replace(train, seq_len=size))
    return replace(scenario, train=replace(train, micro_batch_size=size))


def sizes_for(scenario: Scenario, dimension: Dimension, step: int | None = None) -> Range:
    """The sizes in question: batches one by one, or lengths by ``step`` up to the model's positions.

    Raise ``UsageError`` when the model has fewer positions than one step.
    """
    if dimension == "micro_batch_size":
        return Range(lowest=1, highest=MOST_BATCH)
    step = SEQUENCE_STEP if step is None else step
    positions = scenario.model.max_position_embeddings or MOST_TOKENS
    if not 1 <= step <= positions:
        raise UsageError(f"--seq-step {step} is outside 1 to {positions}, the positions of {scenario.model.name}")
    return Range(lowest=step, highest=positions - positions % step, step=step)


def usable_bytes(device: Device, cap_bytes: int | None) -> int:
    """What a run may take: of a GPU all, or the cap; of the processor the cap, without which nothing would fail.

    Raise ``UsageError`` for a processor without a cap: the system would end some process, maybe another one.
    """
    if cap_bytes is not None:
        return cap_bytes
    if device.kind == "cpu":
        raise UsageError("a limit on the processor needs --cap, for instance --cap 1GiB: it would swap before it fails")
    return device.total_bytes


# ---------------------------------------------------------------- predicted


def closed_form_bytes(scenario: Scenario, device: Device) -> int:
    """What a run needs by the closed form: of a card all, of the processor what tensors take."""
    found: Estimate = estimate(scenario)
    return found.peak.required_bytes if device.kind == "cuda" else found.peak.allocated_bytes


def traced_bytes(prediction: Prediction, device: Device) -> int:
    """The same by a trace."""
    required = prediction.required_bytes
    return required if device.kind == "cuda" and required is not None else prediction.peak_bytes


def predicted_limits(
    scenario: Scenario, dimension: Dimension, device: Device, usable: int, sizes: Range, predict: Predict
) -> dict[Evidence, int | None]:
    """The largest size by each kind of evidence that can answer; the trace begins where the closed form ends."""
    limits: dict[Evidence, int | None] = {}

    def by_closed_form(size: int) -> int:
        return closed_form_bytes(at_size(scenario, dimension, size), device)

    def by_trace(size: int) -> int:
        return traced_bytes(predict(at_size(scenario, dimension, size)), device)

    start = sizes.near(size_of(scenario, dimension))
    try:
        limits["closed-form"] = predicted_limit(by_closed_form, usable, sizes, start)
    except UnsupportedScenario:
        pass
    else:
        start = limits["closed-form"] or sizes.lowest
    limits["traced"] = predicted_limit(by_trace, usable, sizes, start)
    return limits


# ---------------------------------------------------------------- found


def search_limit(
    scenario: Scenario,
    dimension: Dimension,
    device: Device,
    *,
    predict: Predict,
    measure: Measure,
    cap_bytes: int | None = None,
    step: int | None = None,
    most: int = MOST_PROBES,
    repeat: bool = True,
    tell: Tell = lambda _text: None,
) -> Limit:
    """Predict the limit, then find it by runs around the prediction, at most ``most`` of them.

    ``repeat`` runs both sides of it twice.
    """
    sizes, usable = sizes_for(scenario, dimension, step), usable_bytes(device, cap_bytes)
    tell("tracing for the predicted limit")
    limits = predicted_limits(scenario, dimension, device, usable, sizes, predict)
    runs: list[Measurement] = []

    def attempt(size: int) -> Probe:
        tell(f"run {len(runs) + 1}: {WORDS[dimension]} {size}")
        run = measure(at_size(scenario, dimension, size))
        runs.append(run)
        return Probe(size, run.outcome, run.peak.allocated_bytes if run.peak else None, run.detail)

    found = find_limit(attempt, sizes, limits["traced"] or sizes.lowest, most=most, confirm=repeat)
    return Limit(
        scenario=scenario,
        device=device,
        dimension=dimension,
        usable_bytes=usable,
        cap_bytes=cap_bytes,
        predicted=MappingProxyType(limits),
        found=found,
        runs=tuple(runs),
    )


WORDS: Mapping[Dimension, str] = MappingProxyType({"micro_batch_size": "batch", "seq_len": "length"})


def limit_record(limit: Limit) -> Record:
    """The search as a record: the scenario as it was asked, the bytes of the largest run, both sides of the limit.

    ``predicted`` holds the predicted limit in its own unit, not bytes.
    """
    best, last, found = limit.best, limit.runs[-1], limit.found
    return Record(
        taken_at=now(),
        kind="limit",
        scenario=document_of(limit.scenario),
        device=run_device(limit.device),
        outcome="done" if found.exact else _unfinished(found),
        detail=found.stopped,
        environment=environment_of(last),
        peak=peak_of([phase for step in best.steps for phase in step.phases] if best else []),
        predicted=MappingProxyType(
            {
                kind: MappingProxyType({limit.dimension: size})
                for kind, size in limit.predicted.items()
                if size is not None
            }
        ),
        limits=Limits(unit=limit.dimension, largest_ran=found.largest, smallest_failed=found.failed),
    )


def _unfinished(found: Found) -> Outcome:
    """How a search ended that knows no limit: as the run that told nothing about memory, or without success."""
    last = found.probes[-1]
    return "failed" if last.tells else last.outcome
