"""What a child does: look at its device, trace the step, or take it; each result is reported at once.

The real job comes from the builder that the trace uses, which applies accelerate's own functions where a trainer would
hold an ``Accelerator`` (empty weights, autocast, fp32 outputs); a test takes the same steps under a real one.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from planner.allocator.capacity import smallest_capacity
from planner.allocator.config import parse
from planner.allocator.events import Trace, peaks
from planner.allocator.replay import Usage, replay
from planner.allocator.steps import sequence
from planner.build.installed import installed_versions
from planner.build.job import Job, assemble
from planner.build.moments import run_moment
from planner.build.place import device_place
from planner.errors import PlannerError, UnsupportedScenario
from planner.measure.cap import cap_cuda, capped_process, prepare_process
from planner.measure.counters import Counter, counter_for, cuda_here, cuda_room
from planner.measure.driver import Driver, ask_driver
from planner.measure.engine import Parts, engine, local_rank
from planner.measure.here import cpu_here
from planner.measure.history import history
from planner.measure.process import allocator_text, peak_resident_bytes, system_text
from planner.measure.sizes import gradient_bytes, standing_bytes
from planner.measure.task import Kind, Task
from planner.measure.values import Environment, highest
from planner.result import Memory, Phase
from planner.spec import Moment, Scenario
from planner.trace.estimator import trace as trace_whole
from planner.trace.judgement import resolution
from planner.trace.lengths import plan_steps
from planner.trace.run import quiet_collector, record
from planner.trace.semantics import Semantics, cpu_semantics, cuda_semantics

Report = Callable[..., None]
"""``report(event, **facts)``."""


def look(_task: Task, report: Report) -> None:
    """Report the device."""
    report("device", **(cuda_here() or cpu_here())._asdict())


def semantics_for(task: Task) -> Semantics:
    """How the step behaves on the task's device."""
    return (cuda_semantics if task.device == "cuda" else cpu_semantics)(scenario_of(task))


def scenario_of(task: Task) -> Scenario:
    """What every task but ``look`` is about."""
    assert task.scenario is not None
    return task.scenario


# ---------------------------------------------------------------- predict


def predict(task: Task, report: Report) -> None:
    """Trace the steps; report every phase's owners at its peak, and on CUDA what the allocator makes of them."""
    if task.device == "cpu":
        with threads_of_a_rank(scenario_of(task)):
            report("predicted", **_owners(traced(task)))
        return
    trace = traced(task)
    settings = parse(allocator_text())
    replayed = replay(trace, settings)
    context = scenario_of(task).cluster.gpu.context_bytes
    capacity = smallest_capacity(trace, settings, resolution=resolution(replayed.reserved))
    report(
        "predicted",
        **_owners(trace, replayed.handed_out),
        reserved=reserved_by_step(replayed.phases),
        context=context or None,
        required=context + max(capacity, replayed.reserved) if context else None,
    )


@contextmanager
def threads_of_a_rank(scenario: Scenario) -> Iterator[None]:
    """As many threads as each of several ranks has, on whose number scratch memory of the processor's kernels depends.

    torch 2.13 distributed/run.py, config_from_args: OMP_NUM_THREADS is set to 1 where several ranks find it unset.
    """
    before = torch.get_num_threads()
    if scenario.cluster.world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def traced(task: Task) -> Trace:
    """The steps of a task on fake tensors; every layer that will run is there."""
    scenario = scenario_of(task)
    steps = plan_steps(task.lengths) if task.lengths else None
    lengths = steps.recorded if steps else ()
    if task.device == "cuda" and task.layers is None:
        trace = trace_whole(scenario, lengths=lengths).trace
    else:
        trace = record(scenario, semantics_for(task), layers=task.layers, lengths=lengths).trace
    return sequence(trace, steps.order[1:]) if steps else trace


def _owners(trace: Trace, handed_out: tuple[int, ...] = ()) -> dict[str, Any]:
    """Owners at the peak of every phase: of ``load``, of the first step, of each later one."""
    steps: dict[int, dict[Phase, Memory]] = {}
    for instant in peaks(trace, handed_out):
        found = steps.setdefault(instant.step, {})
        found |= highest([*found.items(), (instant.phase, instant.memory)])
    first, *later = (steps[step] for step in sorted(steps))
    return {"load": first.pop("load"), "first": first, "later": later}


def reserved_by_step(phases: tuple[Usage, ...]) -> dict[str, dict[Phase, int]]:
    """The most that is reserved in each phase: while loading, in the first step, and in all later ones.

    >>> usage = [Usage("load", 0, 1, 1, 5, 0), Usage("loss", 0, 1, 1, 7, 0), Usage("loss", 1, 1, 1, 9, 0)]
    >>> reserved_by_step(tuple(usage))
    {'load': {'load': 5}, 'first': {'loss': 7}, 'steady': {'loss': 9}}
    """
    found: dict[str, dict[Phase, int]] = {"load": {}, "first": {}, "steady": {}}
    for usage in phases:
        place = found["load" if usage.phase == "load" else "steady" if usage.step else "first"]
        place[usage.phase] = max(usage.reserved, place.get(usage.phase, 0))
    return found


# ---------------------------------------------------------------- measure


def measure(task: Task, report: Report) -> None:
    """Build the job and take its steps; report where it is, and what each step took."""
    counter = _prepared(task, report)
    with engine(task) as parts, quiet_collector(), history(task.snapshot, report):
        run = _Run(task, counter, report, parts)
        run.load()
        for number in range(task.steps):
            run.step(number)
        report("owners", bytes=run.standing())
        for name in scenario_of(task).train.moments:
            run.moment(name)


def _prepared(task: Task, report: Report) -> Counter:
    """Say where this is; make the device as large as it shall be, before anything is on it."""
    on_cuda = task.device == "cuda"
    if on_cuda and task.ranks > 1:
        torch.cuda.set_device(local_rank())
    report("versions", found=installed_versions())
    driver = ask_driver() if on_cuda else Driver()
    device = cuda_here() if on_cuda else cpu_here()
    if device is None:
        raise UnsupportedScenario("torch finds no CUDA device any more")
    report("device", **device._asdict())
    report("environment", **environment(driver)._asdict())
    if not on_cuda:
        if task.cap_bytes is not None:
            prepare_process()
        return counter_for(task.device, ranks=task.ranks)
    room = cuda_room(driver)
    report("room", **room._asdict())
    cap_cuda(task.cap_bytes, room)
    return counter_for(task.device, room)


def environment(driver: Driver) -> Environment:
    """What else bytes and seconds depend on."""
    cuda = torch.version.cuda or torch.version.hip or ""
    return Environment(*system_text(), torch.get_num_threads(), allocator_text(), driver.version, cuda)


class _Run:
    """One job while it is loaded and stepped; ``gradients`` are the bytes that the last optimizer step found."""

    def __init__(self, task: Task, counter: Counter, report: Report, parts: Parts) -> None:
        self.task, self.counter, self.report, self.parts = task, counter, report, parts
        self.job: Any = None
        self.gradients = 0

    def load(self) -> None:
        """The model on the device, with adapters and optimizer."""
        task = self.task
        place, attention = device_place(task.device), semantics_for(task).attention
        with self.counter.counting(), self._capped():
            self._begin(0, "load")
            self.job = assemble(scenario_of(task), place, attention=attention, layers=task.layers, **self.parts)
            self.counter.forget()
        self._tell("load", phases=[self.counter.standing()])

    def step(self, number: int) -> None:
        """One optimizer step, timed until the device has caught up."""
        length = self.task.lengths[number] if self.task.lengths else None
        with self.counter.counting() as found, self._capped():
            self.counter.settle()
            start = time.perf_counter()
            self.job.step(lambda phase: self._begin(number, phase), length)
            self.counter.settle()
            seconds = time.perf_counter() - start
        self._tell("step", number=number, seconds=seconds, phases=found, tokens=tokens_of(self.job, length))

    def moment(self, name: Moment) -> None:
        """What the job does besides its steps; its phase stands with those of the last step."""
        with self.counter.counting() as found, self._capped():
            run_moment(name, self.job, lambda phase: self._begin(self.task.steps - 1, phase))
            self.counter.settle()
        self._tell("moment", phases=found)

    def standing(self) -> Mapping[str, int]:
        """Bytes that stay from step to step, and those of all gradients."""
        return {**standing_bytes(self.job), "gradients": self.gradients}

    def _begin(self, step: int, phase: Phase) -> None:
        if phase == "optimizer_step":
            self.gradients = gradient_bytes(self.job)
        self.report("begin", step=step, phase=phase)
        self.counter.begin(phase)

    def _capped(self) -> AbstractContextManager[None]:
        """The processor's cap; a CUDA device has its own from the beginning."""
        cap = self.task.cap_bytes if self.task.device == "cpu" else None
        return capped_process(cap, self.counter.standing().allocated_bytes)

    def _tell(self, event: str, **facts: Any) -> None:
        self.report(event, **facts)
        self.report("host", bytes=peak_resident_bytes())


def tokens_of(job: Job, length: int | None) -> int:
    """Tokens of one step, padding included: the job takes two micro-batches for any larger number."""
    train = job.scenario.train
    return train.micro_batch_size * (length or train.seq_len) * min(train.grad_accumulation, 2)


WORK: Mapping[Kind, Callable[[Task, Report], None]] = {"look": look, "predict": predict, "measure": measure}


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out: CUDA's own class, or the CPU allocator's plain RuntimeError.

    Where a library's error became a refusal of ours, it is the cause that says it.
    """
    if isinstance(error, PlannerError):
        return is_out_of_memory(error.__cause__)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "'out of memory'"),
)
"""The CPU allocator's words on Linux and on Windows, the driver's, cuBLAS', which needs memory for its handle, and
NCCL's (``Cuda failure 2 'out of memory'``: nccl src/include/checks.h, CUDACHECK)."""


def explain(error: BaseException) -> Mapping[str, Any]:
    """An unexpected error as a report."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0][:300]}".rstrip(": ")
    return {"event": "out_of_memory" if is_out_of_memory(error) else "failed", "text": text}
