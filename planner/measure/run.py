"""Look at the device, predict and measure: each in a child of its own, so that none disturbs another."""

import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from planner import errors
from planner.errors import PlannerError, UnsupportedScenario
from planner.measure.child import Ended, Line, Tell, run_child
from planner.measure.gather import gathered
from planner.measure.here import cpu_here, may_have_gpu
from planner.measure.ranks import run_ranks
from planner.measure.task import Device, DeviceKind, Task
from planner.measure.values import (
    Environment,
    Measurement,
    Outcome,
    PhasePeak,
    Place,
    Prediction,
    Room,
    StepPeaks,
    highest,
)
from planner.result import Memory, Phase
from planner.spec import Scenario

STARTING_SECONDS = 300.0
"""For what comes before any step: a slow disk takes a minute to load the libraries."""

STEPS = 3
WARMUP = 1
"""Steps that a median leaves out: the first allocates the optimizer's states and loads kernels."""
TIMEOUT_SECONDS = 600.0


def _nobody(_line: Line) -> None:
    """Hears nothing."""


def look() -> Device:
    """The device that a measurement would use: the first CUDA device, else the CPU."""
    if not may_have_gpu():
        return cpu_here()
    ended = run_child(Task(kind="look"), timeout=STARTING_SECONDS, tell=_nobody)
    return _device(_answer(ended, "device"))


def predict(
    scenario: Scenario,
    device: DeviceKind,
    *,
    layers: int | None = None,
    lengths: tuple[int, ...] = (),
    timeout: float = STARTING_SECONDS,
) -> Prediction:
    """The traced step of a scenario, as it would run on ``device``; of steps of these lengths, the longest first."""
    task = Task(kind="predict", scenario=scenario, device=device, layers=layers, lengths=lengths)
    found = _answer(run_child(task, timeout=timeout, tell=_nobody), "predicted")
    return prediction_of(found, apart=bool(lengths))


def prediction_of(found: Line, *, apart: bool = False) -> Prediction:
    """What a child's report amounts to; with the later steps ``apart``, where their lengths differ."""
    later = tuple(_owners(step) for step in found["later"])
    steady = highest(phase for step in later for phase in step.items())
    reserved = {step: MappingProxyType(dict(phases)) for step, phases in found.get("reserved", {}).items()}
    return Prediction(
        "traced",
        Memory(*found["load"]),
        _owners(found["first"]),
        MappingProxyType(steady),
        later if apart else (),
        MappingProxyType(reserved),
        found.get("context"),
        found.get("required"),
    )


def _owners(phases: Mapping[Phase, Sequence[int]]) -> Mapping[Phase, Memory]:
    return MappingProxyType({phase: Memory(*owners) for phase, owners in phases.items()})


def measure(
    scenario: Scenario,
    device: DeviceKind,
    *,
    steps: int = STEPS,
    warmup: int = WARMUP,
    layers: int | None = None,
    lengths: tuple[int, ...] = (),
    timeout: float = TIMEOUT_SECONDS,
    cap_bytes: int | None = None,
    snapshot: str | None = None,
    tell: Tell = _nobody,
) -> Measurement:
    """``steps`` real optimizer steps of the first ``layers`` layers, or of all; never raises for how they end.

    On as many ranks as the scenario has cards.

    What the arguments mean is said by ``planner.measure.task.Task``. Raise ``PlannerError`` where the child refuses the
    scenario, or cannot pretend the cap.
    """
    task = Task(
        kind="measure",
        scenario=scenario,
        device=device,
        steps=len(lengths) or steps,
        warmup=warmup,
        layers=layers,
        lengths=lengths,
        cap_bytes=cap_bytes,
        snapshot=snapshot,
    )
    if task.ranks == 1:
        return measurement_of(task, run_child(task, timeout=timeout, tell=tell))
    ends = run_ranks(task, timeout=timeout, tell=tell)
    return gathered([measurement_of(task, ended) for ended in ends], ends)


def measurement_of(task: Task, ended: Ended) -> Measurement:
    """What a child's reports and its end amount to; raise ``PlannerError`` where the child refused the scenario."""
    _raise_refusal(ended)
    assert task.scenario is not None
    outcome, detail = _outcome(ended)
    device, load, owners, versions, surroundings, room, snapshot, unwritten = map(ended.first, FACTS)
    host = ended.all("host")
    return Measurement(
        scenario=task.scenario,
        layers=task.layers,
        outcome=outcome,
        device=_device(device) if device else None,
        versions=MappingProxyType(dict(versions["found"]) if versions else {}),
        owners=MappingProxyType(dict(owners["bytes"]) if owners else {}),
        load=_peaks(load["phases"])[0] if load else None,
        steps=_with_moments([_step(line) for line in ended.all("step")], ended.all("moment")),
        died_in=None if outcome == "done" else _last_place(ended),
        detail=detail,
        log="" if outcome == "done" else ended.log,
        warmup=task.warmup,
        lengths=task.lengths,
        cap_bytes=task.cap_bytes,
        environment=Environment(*_facts(surroundings, Environment)) if surroundings else None,
        room=Room(*_facts(room, Room)) if room else None,
        host_bytes=host[-1]["bytes"] if host else None,
        snapshot=snapshot["path"] if snapshot else None,
        snapshot_error=unwritten["text"] if unwritten else "",
    )


FACTS = ("device", "load", "owners", "versions", "environment", "room", "snapshot", "no_snapshot")
"""Reports that come once at most."""


def _facts(line: Line, kind: type[Environment] | type[Room]) -> list[Any]:
    return [line[name] for name in kind._fields]


def _step(line: Line) -> StepPeaks:
    return StepPeaks(line["number"], line["seconds"], _peaks(line["phases"]), line.get("tokens", 0))


def _with_moments(steps: Sequence[StepPeaks], moments: Sequence[Line]) -> tuple[StepPeaks, ...]:
    """The steps, the last one with the phases of the moments that came after it."""
    if not moments:
        return tuple(steps)
    *before, last = steps
    after = (peak for line in moments for peak in _peaks(line["phases"]))
    return (*before, last._replace(phases=(*last.phases, *after)))


def _outcome(ended: Ended) -> tuple[Outcome, str]:
    if ended.first("done"):
        return "done", "the process had said all, did not leave, and was ended" if ended.lingered else ""
    if line := ended.first("out_of_memory"):
        return "out_of_memory", line["text"]
    if line := ended.first("failed"):
        return "failed", line["text"]
    if ended.timed_out:
        return "timed_out", "the time was up"
    if ended.stopped:
        return "killed", "ended with the other ranks"
    if ended.status == -signal.SIGABRT and BAD_ALLOC in ended.log:
        return "out_of_memory", f"{BAD_ALLOC} outside Python"
    if ended.status > 0 and BITSANDBYTES in ended.log:
        return "out_of_memory", f"bitsandbytes: {BITSANDBYTES}"
    if ended.status < 0:
        return "killed", _signal_text(-ended.status)
    return "failed", f"the process ended with status {ended.status} and without a word"


BAD_ALLOC = "std::bad_alloc"
"""What the C++ runtime says before it aborts a process in which nobody catches that there is no memory."""


BITSANDBYTES = "Error out of memory at line"
"""What bitsandbytes says before it leaves by itself. Source: bitsandbytes csrc/common.cuh, CUDA_CHECK_RETURN."""


def _signal_text(number: int) -> str:
    """What a signal means to somebody who did not send it."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if name == "SIGKILL":
        return "ended by SIGKILL: the system was short of memory, or somebody ended it"
    return f"ended by {name}"


def _last_place(ended: Ended) -> Place | None:
    begun = ended.all("begin")
    return Place(begun[-1]["step"], begun[-1]["phase"]) if begun else None


def _device(line: Line) -> Device:
    capability = tuple(line["capability"]) if line["capability"] else None
    return Device(
        line["kind"], line["name"], line["total_bytes"], capability, line["multiprocessors"], line.get("devices", 1)
    )


def _peaks(phases: Sequence[Sequence[object]]) -> tuple[PhasePeak, ...]:
    return tuple(PhasePeak(*phase) for phase in phases)  # type: ignore[arg-type]  # as the child wrote them


# ---------------------------------------------------------------- answers that have to come


def _answer(ended: Ended, event: str) -> Line:
    """The one report that a task is for; raise ``UnsupportedScenario`` in one line when it did not come."""
    _raise_refusal(ended)
    line = ended.first(event)
    if line is not None and ended.first("done"):
        return line
    outcome, detail = _outcome(ended)
    if outcome == "failed":
        raise ChildFailed(f"{detail}\n{ended.log}")
    raise UnsupportedScenario(f"the step could not be traced here: {detail}")


class ChildFailed(RuntimeError):
    """A bug in the child, with its traceback."""


def _raise_refusal(ended: Ended) -> None:
    """A refusal of the child's is the parent's own."""
    line = ended.first("refused")
    if line is not None:
        kind = getattr(errors, line["kind"], UnsupportedScenario)
        message = PlannerError.__new__(kind)
        message.args = (line["text"],)
        raise message
