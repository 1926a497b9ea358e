"""FSDP2 and DDP: traced against two real ranks on the CPU, and at world sizes that no test machine has."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planner.allocator.depth import extend
from planner.allocator.events import OUTSIDE, Trace, peaks
from planner.result import Memory
from planner.spec import Scenario
from planner.spec.training import QuantStorage
from tests.trace.sharding_cases import CASES, STEPS, Case, Held, scenario

if TYPE_CHECKING:
    from planner.trace.run import Run

for needed in ("torch", "transformers", "accelerate", "peft"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Held]:
    """What two gloo ranks held, in processes of their own."""
    target = tmp_path_factory.mktemp("real") / "held.json"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-W", "ignore", *launch, "-m", "tests.trace.sharding_cases", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Held(*held) for name, held in json.loads(target.read_text(encoding="utf-8")).items()}


def run(question: Scenario, layers: int | None = None) -> "Run":
    from planner.trace.run import record  # noqa: PLC0415  (torch may be missing)
    from planner.trace.semantics import cpu_semantics  # noqa: PLC0415

    return record(question, cpu_semantics(question), layers=layers)


@cache
def traced(case: Case, ranks: int = 2) -> Trace:
    return run(scenario(case, ranks)).trace


def before_update(trace: Trace) -> Memory:
    """Bytes by owner at the highest instant of the last update."""
    return next(one.memory for one in peaks(trace) if one.phase == "optimizer_step" and one.step == STEPS - 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_states_of_a_real_rank_are_exact(case: Case, real: dict[str, Held]) -> None:
    memory, held = before_update(traced(case)), real[case.name]
    assert memory.weights + memory.adapters == held.parameters
    assert memory.gradients == held.gradients
    assert memory.optimizer == held.optimizer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_peak_of_a_real_rank(case: Case, real: dict[str, Held]) -> None:
    highest = max(one.memory.total for one in peaks(traced(case)) if one.step == STEPS - 1)
    # On an idle machine the two agree within 2 %. On a busy one gloo's threads hold copies longer, in every one of the
    # runs, and lift the real side by up to 7 %: seen with the same code and the same case.
    assert real[case.name].peak * 0.90 <= highest <= real[case.name].peak * 1.02


@pytest.mark.parametrize("ranks", [1, 2, 8, 64, 512])
def test_shards_are_rounded_up_by_rows(ranks: int) -> None:
    """FSDP2 divides the first dimension of every tensor; mixed precision makes what is trained fp32."""
    h, f, v, layers = 256, 768, 4001, 4
    rows = [(v, h), (v, h), (h, 1)]
    rows += layers * [(h, h), (64, h), (64, h), (h, h), (f, h), (f, h), (h, f), (h, 1), (h, 1)]
    shard = 4 * sum(math.ceil(first / ranks) * second for first, second in rows)
    buffers = 2 * 4 * 16  # rotary frequencies, and their originals
    memory = before_update(traced(Case("llama", "full", mixed=True), ranks))
    assert (memory.weights, memory.gradients) == (shard + buffers, shard)
    assert 2 * shard <= memory.optimizer <= 2 * shard + 4 * len(rows)  # two moments, and a count for each tensor


def test_layers_do_the_same() -> None:
    """Every event belongs to a layer, in a way that repeats: the two middle ones allocate alike in number and size."""
    trace = traced(Case("llama", "full", mixed=True))

    def allocated(layer: int) -> list[tuple[int, str]]:
        pairs = zip(trace.events, trace.layers, strict=True)
        own = [trace.blocks[event] for event, at in pairs if event >= 0 and at == layer]
        return [(block.bytes, block.owner) for block in own]

    assert allocated(1) == allocated(2)
    assert not any(block.owner == "activations" and block.bytes > 4 * 4001 * 256 for block in trace.blocks)


def test_buckets_are_a_second_copy_of_gradients() -> None:
    trace = traced(Case("llama", "full", mixed=True, sharding="ddp"))
    found = [block for block in trace.blocks if block.site == "DistributedDataParallel"]
    assert sum(block.bytes for block in found) == before_update(trace).gradients
    assert {block.layer for block in found} == {OUTSIDE, 0, 1, 2, 3}
    assert {block.owner for block in found} == {"temporaries"}


def test_buckets_of_layers_that_did_not_run_are_there() -> None:
    case = Case("llama", "full", mixed=True, sharding="ddp")
    few, all_layers = (run(scenario(case), layers).trace for layers in (3, None))
    whole = extend(few, 4)

    def standing(trace: Trace) -> int:
        return sum(block.bytes for block in trace.blocks if block.site == "DistributedDataParallel")

    assert standing(whole) == standing(all_layers)


@pytest.mark.parametrize(("storage", "divided"), [("uint8", False), ("bf16", True)])
def test_packed_weights_are_divided_when_they_are_stored_as_floats(storage: QuantStorage, divided: bool) -> None:
    pytest.importorskip("bitsandbytes")
    question = scenario(Case("llama", "lora", mixed=True), ranks=8)
    question = replace(question, train=replace(question.train, method="qlora", quant_storage=storage))
    found = run(question).trace
    packed = sum(block.bytes for block in found.blocks if block.site.endswith("base_layer.weight"))
    whole = 4 * (2 * 256 * 256 + 2 * 64 * 256 + 3 * 768 * 256) // 2
    assert packed == (whole // 8 if divided else whole)
