"""Real steps on the CPU against the same steps on fake tensors, phase by phase and owner by owner.

The profiler counts every allocation of the real ones. Both take what the other takes: the machine's own kernels, two
layers, two sequences of 32 tokens.
"""

import gc
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from planner.families import model_from_config
from planner.measure.here import card_of_device, cpu_here
from planner.measure.step import without_kernels_hub
from planner.measure.task import Task
from planner.result import OWNERS
from planner.spec import Cluster, Method, Scenario
from planner.stacks import resolve

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(library)
without_kernels_hub()

from planner.build import job  # noqa: E402
from planner.measure import work  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.01

SIZES: Mapping[str, object] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "llama": {},
    "qwen3": {"head_dim": 48},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma3_text": {"head_dim": 32, "sliding_window": 16, "sliding_window_pattern": 2},
}


class Case(NamedTuple):
    """One scenario: every value of each setting meets every family or every stack."""

    family: str
    stack: str
    method: Method
    checkpointing: bool
    optimizer: str
    more: tuple[tuple[str, object], ...] = ()

    @property
    def title(self) -> str:
        """A short id for pytest."""
        told = [f"{name}={value}" for name, value in self.more]
        checkpointing = "recomputed" if self.checkpointing else "kept"
        return "-".join([self.family, self.stack, self.method, checkpointing, self.optimizer, *told])


CASES = [
    Case("llama", "plain", "full", False, "adamw_loop"),
    Case("llama", "plain", "lora", True, "adamw_foreach"),
    Case("llama", "hf", "lora", True, "adamw_foreach"),
    Case("llama", "trl", "full", True, "adamw_fused"),
    Case("qwen3", "plain", "lora", False, "adamw_loop"),
    Case("qwen3", "hf", "full", True, "adamw_foreach"),
    Case("qwen3", "trl", "lora", False, "adamw_foreach", (("grad_accumulation", 2),)),
    Case("mixtral", "plain", "full", True, "adamw_foreach"),
    Case("mixtral", "hf", "lora", False, "adamw_loop"),
    Case("mixtral", "trl", "lora", True, "adamw_fused"),
    Case("gemma3_text", "plain", "lora", False, "adamw_foreach"),
    Case("gemma3_text", "hf", "full", True, "adamw_loop"),
    Case("gemma3_text", "trl", "full", False, "adamw_foreach"),
    Case("llama", "hf", "qlora", True, "adamw_foreach", (("double_quant", True),)),
    Case("llama", "trl", "qlora", False, "adamw_fused", (("double_quant", False),)),
]


class Both(NamedTuple):
    """What the trace and the real steps reported, by event; and the real job, for counting by hand."""

    fake: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    load: int
    owners: Mapping[str, int]
    job: Any


def scenario_of(case: Case) -> Scenario:
    config = {**SIZES, **FAMILIES[case.family], "model_type": case.family}
    settings = {
        "micro_batch_size": 2,
        "seq_len": 32,
        "lora_rank": 4,
        "gradient_checkpointing": case.checkpointing,
        "optimizer": case.optimizer,
        **dict(case.more),
    }
    cluster = Cluster(gpu=card_of_device(cpu_here()))
    return resolve(model_from_config(config, name=case.title), cluster, case.method, settings, case.stack)


@cache
def both(case: Case) -> Both:
    """Two steps of each kind."""
    told: list[dict[str, Any]] = []
    jobs: list[Any] = []
    real_assemble = job.assemble

    def report(event: str, **facts: Any) -> None:
        told.append({"event": event, **facts})

    def assemble(*args: Any, **kwargs: Any) -> Any:
        jobs.append(real_assemble(*args, **kwargs))
        return jobs[-1]

    scenario = scenario_of(case)
    work.predict(Task(kind="predict", scenario=scenario), report)
    with patch.object(work, "assemble", assemble):
        work.measure(Task(kind="measure", scenario=scenario, steps=2), report)
    by_event = {line["event"]: line for line in told}
    steps = tuple(line for line in told if line["event"] == "step")
    load = by_event["load"]["phases"][0].allocated_bytes
    return Both(by_event["predicted"], steps, load, by_event["owners"]["bytes"], jobs[0])


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Products as small as these wait longer for their threads than they take, and so do collections of garbage."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture(params=CASES, ids=lambda case: case.title)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def rows(found: Both) -> list[tuple[str, int, int]]:
    """Step and phase, fake bytes, real bytes."""
    fakes = (found.fake["first"], *found.fake["later"])
    return [
        (f"{step['number']} {peak.phase}", fake[peak.phase].total, peak.allocated_bytes)
        for fake, step in zip(fakes, found.steps, strict=True)
        for peak in step["phases"]
    ]


def test_peaks_of_the_step_and_of_every_phase_are_those_of_the_real_one(case: Case) -> None:
    found = rows(both(case))
    table = "\n".join(f"{name:20} {fake:>10} {real:>10} {fake / real - 1:+.3%}" for name, fake, real in found)

    assert len(found) == 8
    assert max(fake for _, fake, _ in found) == pytest.approx(max(real for *_, real in found), rel=TOLERANCE), table
    assert [name for name, fake, real in found if abs(fake / real - 1) > TOLERANCE] == [], table


def test_what_stands_is_exact_to_the_byte(case: Case) -> None:
    found = both(case)
    load, steady = found.fake["load"], found.fake["later"][0]

    assert load.weights == found.owners["weights"]
    assert load.adapters == found.owners["adapters"]
    assert steady["forward"].optimizer == found.owners["optimizer"]
    assert steady["optimizer_step"].gradients == found.owners["gradients"]
    assert sum(load) == load.weights + load.adapters
    assert set(load._fields) == set(OWNERS)


def test_what_stands_is_what_counting_by_hand_gives(case: Case) -> None:
    found = both(case)
    model, optimizer = found.job.model, found.job.optimizer
    trained = [p for p in model.parameters() if p.requires_grad]
    fixed = [p for p in model.parameters() if not p.requires_grad]
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]

    assert found.owners["gradients"] == size(trained)
    assert found.owners["optimizer"] == size(states)
    if case.method == "full":
        assert found.owners["weights"] == size(trained) + size(model.buffers())
    else:
        assert found.owners["adapters"] == size(trained)
        scales = found.owners["weights"] - size(fixed) - size(model.buffers())
        assert (scales > 0) == (case.method == "qlora")


def size(tensors: Any) -> int:
    """The textbook's sum; tied weights come once from ``parameters``."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_every_value_meets_every_family_and_every_stack() -> None:
    for place in ("family", "stack"):
        for value in {getattr(case, place) for case in CASES}:
            mine = [case for case in CASES if getattr(case, place) == value]
            assert {case.method for case in mine} >= {"full", "lora"}
            assert {case.checkpointing for case in mine} == {True, False}
            assert len({case.optimizer for case in mine}) >= 2
