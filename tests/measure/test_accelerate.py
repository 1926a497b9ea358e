"""The builder applies accelerate's own functions; a real ``Accelerator`` around the same job allocates the same."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from planner.families import model_from_config
from planner.measure.here import card_of_device, cpu_here
from planner.measure.step import without_kernels_hub
from planner.measure.values import PhasePeak
from planner.result import Phase
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from tests.measure.conftest import TINY

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "bitsandbytes"):
    pytest.importorskip(library)
without_kernels_hub()

from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

from planner.build import job as building  # noqa: E402
from planner.build.job import Job, assemble  # noqa: E402
from planner.build.place import Place, device_place, materialise  # noqa: E402
from planner.build.trainer import MAX_GRAD_NORM  # noqa: E402
from planner.measure.counters import CpuCounter  # noqa: E402
from planner.trace.run import quiet_collector  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

Step = Callable[[Job, Callable[[Phase], None]], None]


@pytest.fixture
def _alone() -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def scenario_of(method: str, accumulation: int) -> Scenario:
    settings = {"seq_len": 32, "micro_batch_size": 2, "grad_accumulation": accumulation, "lora_rank": 4}
    cluster = Cluster(gpu=card_of_device(cpu_here()))
    return resolve(model_from_config(dict(TINY), name="tiny"), cluster, method, settings, "hf")  # type: ignore[arg-type]


def phases(scenario: Scenario, step: Step, prepare: Callable[[Job], None]) -> list[list[PhasePeak]]:
    """Two steps of a job that ``prepare`` has finished."""
    counter, found = CpuCounter(), []
    with quiet_collector():
        with counter.counting():
            job = assemble(scenario, device_place("cpu"), attention="sdpa")
            prepare(job)
        for _ in range(2):
            with counter.counting() as peaks:
                step(job, counter.begin)
            found.append(peaks)
    return found


def own_step(job: Job, begin: Callable[[Phase], None]) -> None:
    """The builder's."""
    job.step(begin)


def with_accelerator(accelerator: Accelerator) -> Step:
    """The loop of the Trainer around ``Accelerator``. transformers 5.23 trainer.py, training_step and its callers."""

    def step(job: Job, begin: Callable[[Phase], None]) -> None:
        hook = job._tell_last_layer(begin)
        for number in range(job.scenario.train.grad_accumulation):
            accelerator.sync_gradients = number + 1 == job.scenario.train.grad_accumulation
            begin("forward")
            batch = job.batch()
            loss = job.loss(job.called, batch)
            begin("backward")
            job.recomputing = True
            accelerator.backward(loss)
            job.recomputing = False
            del batch, loss
        hook.remove()
        begin("optimizer_step")
        accelerator.clip_grad_norm_(job.model.parameters(), MAX_GRAD_NORM)
        job.optimizer.step()
        job.optimizer.zero_grad()

    return step


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(("method", "accumulation"), [("full", 1), ("lora", 1), ("lora", 2), ("qlora", 1)])
def test_a_real_accelerator_allocates_the_same_in_every_phase(
    monkeypatch: pytest.MonkeyPatch, method: str, accumulation: int
) -> None:
    scenario = scenario_of(method, accumulation)
    assert scenario.train.autocast == "bf16"
    phases(scenario, own_step, lambda _job: None)  # bitsandbytes makes tables once in a process
    ours = phases(scenario, own_step, lambda _job: None)

    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=accumulation)
    monkeypatch.setattr(building, "wrap_autocast", lambda *_arguments: None)

    def prepare(job: Job) -> None:
        job.model, job.optimizer = accelerator.prepare(job.model, job.optimizer)
        job.called = job.model

    theirs = phases(scenario, with_accelerator(accelerator), prepare)

    assert [[peak.phase for peak in step] for step in ours] == [[peak.phase for peak in step] for step in theirs]
    for own, other in zip(ours, theirs, strict=True):
        for one, two in zip(own, other, strict=True):
            assert one.allocated_bytes == pytest.approx(two.allocated_bytes, abs=SCALARS), one.phase


SCALARS = 64
"""Bytes: losses and norms, of which a loop may keep one more."""


def test_buffers_with_values_keep_them_on_another_device() -> None:
    """Position ids and masks are indices: random ones would fail on a device."""
    elsewhere = Place("cpu", device_place("cpu").empty, lambda _tensor: False, real=True)
    module = torch.nn.Linear(4, 4, device="meta")
    module.register_buffer("positions", torch.arange(9))
    materialise(module, elsewhere)

    assert module.positions.tolist() == list(range(9))
    assert 0 < module.weight.std() < 0.1
