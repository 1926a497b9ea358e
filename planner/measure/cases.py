"""The cases of a matrix on the device that is here: which can run, and how each is measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from planner.build.installed import with_installed
from planner.catalog import load_model
from planner.errors import BrokenInput, PlannerError, UnsupportedScenario, UsageError
from planner.formulas.flops import linear_flops
from planner.local.processor import available_bytes
from planner.measure.here import (
    as_it_can_run,
    check_cap,
    check_flash,
    check_libraries,
    check_measurable,
    check_snapshot,
)
from planner.measure.ledger import ANY, key_of
from planner.measure.limit import limit_record, search_limit, usable_bytes
from planner.measure.matrix import Case
from planner.measure.process import allocator_text
from planner.measure.recording import closed_form, record_of
from planner.measure.room import PROCESS_BYTES, check_room
from planner.measure.run import measure, predict
from planner.measure.search import Dimension
from planner.measure.series import Planned, Skipped
from planner.measure.task import Device
from planner.measure.truncation import closed_form_of, depth_of, measure_depths
from planner.measure.values import Measurement, Prediction
from planner.records import Record, document_of
from planner.result import Estimate
from planner.spec import Cluster, Gpu, Scenario
from planner.stacks import resolve
from planner.units import format_bytes

DIMENSIONS: Mapping[str, Dimension] = {"find_max_batch": "micro_batch_size", "find_max_seq": "seq_len"}
CPU_MARGIN = 1.1
"""Of predicted bytes on the processor, whose system starts to swap instead of failing."""


def scenario_of(case: Case, card: Gpu) -> Scenario:
    """The scenario of a case on a card, by the installed libraries; raise ``BrokenInput`` that names its block."""
    try:
        model = load_model(case.model, opaque=True).model
        return resolve(model, Cluster(gpu=card), case.method, case.settings, with_installed(case.stack))
    except (UsageError, BrokenInput) as error:
        raise BrokenInput(f"block {case.block[:60]!r}: {error}") from None


# ---------------------------------------------------------------- room


def free_bytes(device: Device, cap_bytes: int | None = None) -> int | None:
    """What a run may take: a pretended size, the device's, or what this machine has left; ``None`` if nobody says.

    Of a GPU with its context, of the processor for tensors alone.
    """
    if device.kind == "cuda":
        return min(device.total_bytes, cap_bytes or device.total_bytes)
    left = available_bytes()
    known = [
        count for count in (None if left is None else max(left - PROCESS_BYTES, 0), cap_bytes) if count is not None
    ]
    return min(known, default=None)


def needed_bytes(found: Estimate, device: Device) -> int:
    """What a run takes by its closed form, in the same way of counting."""
    peak = found.peak
    return peak.required_bytes if device.kind == "cuda" else int(peak.allocated_bytes * CPU_MARGIN)


def fits(scenario: Scenario, device: Device, cap_bytes: int | None, layers: int | None = None) -> bool | None:
    """Whether the first ``layers`` layers, or all, fit by the closed form; ``None`` where there is none."""
    found = closed_form_of(scenario, layers)
    return None if found is None else not _excess(found, device, cap_bytes)


def too_large(scenario: Scenario, device: Device, cap_bytes: int | None, layers: int | None) -> str:
    """Why a case is left out, or nothing."""
    found = closed_form_of(scenario, layers)
    return "" if found is None else _excess(found, device, cap_bytes)


def _excess(found: Estimate, device: Device, cap_bytes: int | None) -> str:
    """What is needed beside what is free, where that is less."""
    need, free = needed_bytes(found, device), free_bytes(device, cap_bytes)
    if free is None or need <= free:
        return ""
    return f"needs {format_bytes(need)} of {format_bytes(free)}, as predicted"


# ---------------------------------------------------------------- planning


def plan_cases(
    cases: Iterable[Case], card: Gpu, device: Device, versions: Mapping[str, str], snapshots: Path | None = None
) -> tuple[tuple[Planned, ...], tuple[Skipped, ...]]:
    """Which cases can run here, in order, and which cannot and why; memory histories go to the folder ``snapshots``.

    Raise ``BrokenInput`` for a case without meaning, before any has run.
    """
    planned: list[Planned] = []
    skipped: list[Skipped] = []
    for case in cases:
        try:
            scenario = as_it_can_run(scenario_of(case, card), device, case.settings)
            if reason := _missing(scenario, device):
                skipped.append(Skipped(case, reason))
                continue
            one = _planned(case, scenario, device, versions, snapshots)
        except UsageError as error:
            raise BrokenInput(f"block {case.block[:60]!r}: {error}") from None
        except UnsupportedScenario as error:
            skipped.append(Skipped(case, str(error)))
        else:
            planned.append(one)
    return tuple(planned), tuple(skipped)


def _missing(scenario: Scenario, device: Device) -> str:
    """Which library a case lacks, or which version it has; other cases may do without."""
    try:
        check_flash(device, scenario)
        check_libraries(scenario, exact=False)
    except PlannerError as error:
        return str(error)
    return ""


def _planned(
    case: Case, scenario: Scenario, device: Device, versions: Mapping[str, str], snapshots: Path | None
) -> Planned:
    auto = case.layers == "auto" and fits(scenario, device, case.cap_bytes) is False
    layers = case.layers if isinstance(case.layers, int) else None
    snapshot = None if case.kind != "snapshot" else (snapshots or Path()) / f"{_file_name(case)}.pickle"
    check_measurable(scenario, layers)
    if case.cap_bytes is not None and case.cap_bytes > device.total_bytes:
        raise UnsupportedScenario(f"this device has less than {case.cap}")
    check_cap(device, case.cap_bytes)
    check_snapshot(device, str(snapshot) if snapshot else None)
    if case.kind in DIMENSIONS:
        usable_bytes(device, case.cap_bytes)
    if not auto and (reason := too_large(_smallest(scenario, case), device, case.cap_bytes, layers)):
        raise UnsupportedScenario(reason)
    key = key_of(
        kind=DIMENSIONS.get(case.kind, "steps"),
        scenario=document_of(scenario),
        layers=ANY if auto else layers,
        cap_bytes=case.cap_bytes,
        device=device,
        versions=versions,
        allocator=allocator_text(),
    )
    return Planned(case, scenario, key, work_seconds(case, scenario), auto, snapshot)


def _smallest(scenario: Scenario, case: Case) -> Scenario:
    """What has to fit for a case to make sense: of a search of batches, one sequence."""
    if case.kind != "find_max_batch":
        return scenario
    return replace(scenario, train=replace(scenario.train, micro_batch_size=1))


def _file_name(case: Case) -> str:
    return "".join(char if char.isalnum() or char in "-.=" else "_" for char in case.label)


START_SECONDS = 25.0
"""Two children that load torch and the libraries, one to predict and one to measure."""
LOADED_BYTES_PER_SECOND = 3e9
FLOPS_PER_SECOND = 5e13
RUNS_OF_A_SEARCH = 4
"""Its runs take one child each, and its traces are few."""
RUNS_OF_AUTO = 3


def work_seconds(case: Case, scenario: Scenario) -> float:
    """A guess of a case's time, good for comparing it with others: how fast this device is shows when some have run."""
    found = closed_form_of(scenario, case.layers if isinstance(case.layers, int) else None)
    if found is None:
        return START_SECONDS
    train, parameters = scenario.train, found.parameters
    each = linear_flops(
        blocks=parameters.total,
        head=0,
        adapters=parameters.trainable if train.uses_adapters else 0,
        full=train.method == "full",
        g=int(train.gradient_checkpointing),
    )
    step = each * train.tokens * train.grad_accumulation / FLOPS_PER_SECOND
    once = START_SECONDS + found.phases["load"].total / LOADED_BYTES_PER_SECOND + case.steps * step
    several = RUNS_OF_A_SEARCH if case.kind in DIMENSIONS else RUNS_OF_AUTO if case.layers == "auto" else 1
    return once * several


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What predicts and what measures: the two kinds of children, or stand-ins of theirs."""

    predict: Callable[..., Prediction] = predict
    measure: Callable[..., Measurement] = measure


def perform(
    planned: Planned, device: Device, versions: Mapping[str, str], tools: Tools = Tools()
) -> tuple[Record, ...]:
    """Measure one case; its records, of which a case of several depths has several.

    Raise ``UnsupportedScenario`` for what turns out not to run here.
    """
    case, scenario = planned.case, planned.scenario

    def run(asked: Scenario, layers: int | None = None) -> Measurement:
        found = tools.measure(
            asked,
            device.kind,
            steps=case.steps,
            warmup=min(case.warmup, case.steps - 1),
            layers=layers,
            timeout=case.timeout,
            cap_bytes=case.cap_bytes,
            snapshot=str(planned.snapshot) if planned.snapshot else None,
        )
        return replace(found, device=found.device or device, versions=found.versions or versions)

    def foresee(asked: Scenario, layers: int | None = None) -> Prediction:
        return tools.predict(asked, device.kind, layers=layers)

    if dimension := DIMENSIONS.get(case.kind):
        limit = search_limit(scenario, dimension, device, predict=foresee, measure=run, cap_bytes=case.cap_bytes)
        return (limit_record(limit),)
    if planned.several:
        return _truncated(planned, device, run, foresee)
    layers = case.layers if isinstance(case.layers, int) else None
    return (_record(scenario, layers, device, run, foresee),)


Run = Callable[[Scenario, int | None], Measurement]
Foresee = Callable[[Scenario, int | None], Prediction]


def _record(scenario: Scenario, layers: int | None, device: Device, run: Run, foresee: Foresee) -> Record:
    prediction = foresee(scenario, layers)
    if device.kind == "cpu":
        check_room(prediction.peak_bytes, layers or scenario.model.num_hidden_layers)
    found = run(scenario, layers)
    return record_of(found, prediction, closed_form(found))


def _truncated(planned: Planned, device: Device, run: Run, foresee: Foresee) -> tuple[Record, ...]:
    """A record for each depth; those that were made, when one of them does not end well."""
    scenario, cap = planned.scenario, planned.case.cap_bytes
    records: list[Record] = []

    def run_at(layers: int) -> Measurement:
        prediction = foresee(scenario, layers)
        found = run(scenario, layers)
        records.append(record_of(found, prediction, closed_form(found)))
        return found

    try:
        measure_depths(depth_of(scenario), lambda layers: fits(scenario, device, cap, layers) is not False, run_at)
    except UnsupportedScenario:
        if not records:
            raise
    return tuple(records)
