"""What a child does: look at its device, trace the step, or take it; each result is reported at once."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from planner.allocator.events import Instant, peaks
from planner.build.installed import installed_versions
from planner.build.job import Job, assemble
from planner.build.place import device_place
from planner.errors import UnsupportedScenario
from planner.measure.counters import counter_for, cuda_here
from planner.measure.here import cpu_here
from planner.measure.sizes import gradient_bytes, standing_bytes
from planner.measure.task import Kind, Task
from planner.result import Memory, Phase
from planner.trace.run import quiet_collector, record
from planner.trace.semantics import Semantics, cpu_semantics, cuda_semantics

Report = Callable[..., None]
"""``report(event, **facts)``."""


def look(_task: Task, report: Report) -> None:
    """Report the device."""
    report("device", **(cuda_here() or cpu_here())._asdict())


def semantics_for(task: Task) -> Semantics:
    """How the step behaves on the task's device."""
    assert task.scenario is not None
    return (cuda_semantics if task.device == "cuda" else cpu_semantics)(task.scenario)


def predict(task: Task, report: Report) -> None:
    """Trace two steps; report every phase's owners at its peak."""
    assert task.scenario is not None
    run = record(task.scenario, semantics_for(task), layers=task.layers)
    instants = peaks(run.trace)
    first, steady = (highest(instants, step) for step in (0, 1))
    report("predicted", load=first.pop("load"), first=first, steady=steady)


def highest(instants: tuple[Instant, ...], step: int) -> dict[Phase, Memory]:
    """The highest instant of every phase of a step."""
    found: dict[Phase, Memory] = {}
    for instant in instants:
        if instant.step == step:
            before = found.get(instant.phase)
            if before is None or instant.memory.total > before.total:
                found[instant.phase] = instant.memory
    return found


def measure(task: Task, report: Report) -> None:
    """Build the job and take its steps; report where it is, and what each step took."""
    scenario = task.scenario
    assert scenario is not None
    report("versions", found=installed_versions())
    device = cuda_here() if task.device == "cuda" else cpu_here()
    if device is None:
        raise UnsupportedScenario("torch finds no CUDA device any more")
    report("device", **device._asdict())
    counter, place = counter_for(task.device), device_place(task.device)
    with quiet_collector():
        with counter.counting():
            report("begin", step=0, phase="load")
            counter.begin("load")
            job = assemble(scenario, place, attention=semantics_for(task).attention, layers=task.layers)
        report("load", phases=[counter.standing()])
        gradients = 0
        for number in range(task.steps):

            def begin(phase: Phase, number: int = number) -> None:
                nonlocal gradients
                if phase == "optimizer_step":
                    gradients = gradient_bytes(job)
                report("begin", step=number, phase=phase)
                counter.begin(phase)

            with counter.counting() as found:
                seconds = _timed(job, begin, counter.settle)
            report("step", number=number, seconds=seconds, phases=found)
        report("owners", bytes={**standing_bytes(job), "gradients": gradients})


def _timed(job: Job, begin: Callable[[Phase], None], settle: Callable[[], None]) -> float:
    settle()
    start = time.perf_counter()
    job.step(begin)
    settle()
    return time.perf_counter() - start


WORK: Mapping[Kind, Callable[[Task, Report], None]] = {"look": look, "predict": predict, "measure": measure}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's own class, or the CPU allocator's plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""The CPU allocator's words on Linux and on Windows, the driver's, and cuBLAS'."""


def explain(error: BaseException) -> Mapping[str, Any]:
    """An unexpected error as a report."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0][:300]}".rstrip(": ")
    return {"event": "out_of_memory" if is_out_of_memory(error) else "failed", "text": text}
