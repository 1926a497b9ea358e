"""FSDP2 and DDP: traced against two real ranks on the CPU, and at world sizes that no test machine has."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from planner.allocator.depth import extend
from planner.allocator.events import OUTSIDE, Trace, peaks
from planner.result import Memory
from planner.spec import Method, Scenario
from planner.spec.training import QuantStorage
from tests.trace.sharding_cases import STEPS, Case, Held, by_owner, cases, scenario

if TYPE_CHECKING:
    from planner.trace.run import Run

for needed in ("torch", "transformers", "accelerate", "peft"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]


GROUPS = (2, 4)


@cache
def real() -> dict[int, dict[str, Held]]:
    """What the first of so many gloo ranks held, in processes of their own."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "held"
        arguments = ["tests.trace.sharding_cases", str(target), *map(str, GROUPS)]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        files = {ranks: json.loads(target.with_name(f"held.{ranks}").read_text(encoding="utf-8")) for ranks in GROUPS}
    return {ranks: {name: Held(*held) for name, held in file.items()} for ranks, file in files.items()}


def run(question: Scenario, layers: int | None = None, rank: int = 0) -> "Run":
    """A trace that sees what a recorder on a real rank sees: tensors, and no kernel's scratch."""
    from planner.trace.cuda import unpadded_masks  # noqa: PLC0415  (torch may be missing)
    from planner.trace.run import record  # noqa: PLC0415
    from planner.trace.semantics import cpu_semantics  # noqa: PLC0415

    visible = cpu_semantics(question)._replace(hidden=lambda *_: (), patched=unpadded_masks)
    return record(question, visible, layers=layers, rank=rank)


@cache
def traced(case: Case, ranks: int = 2, rank: int = 0) -> Trace:
    return run(scenario(case, ranks), rank=rank).trace


def before_update(trace: Trace) -> Memory:
    """Bytes by owner at the highest instant of the last update."""
    return next(one.memory for one in peaks(trace) if one.phase == "optimizer_step" and one.step == STEPS - 1)


def highest(trace: Trace) -> int:
    """The highest level of the last step."""
    return max(one.memory.total for one in peaks(trace) if one.step == STEPS - 1)


RUNS = [(case, ranks) for ranks in GROUPS for case in cases(ranks)]


@pytest.mark.parametrize(("case", "ranks"), RUNS, ids=lambda part: part.name if isinstance(part, Case) else f"{part}")
def test_a_real_rank_holds_what_is_traced(case: Case, ranks: int) -> None:
    held, trace = real()[ranks][case.name], traced(case, ranks)
    assert by_owner(trace) == (held.parameters, held.gradients, held.optimizer)
    assert highest(trace) == pytest.approx(held.peak, rel=0.02)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_rank_is_the_fullest(method: Method) -> None:
    """4001 rows among 8 ranks: seven have 501, the last 494 and room for as many; its states have no such room."""
    first, last = (traced(Case("llama", method, mixed=True), 8, rank) for rank in (0, 7))
    states = 2 * 2 * 4 * 7 * 256 if method == "full" else 0
    assert before_update(first).weights == before_update(last).weights
    assert before_update(first).optimizer == before_update(last).optimizer + states
    assert highest(first) >= highest(last)


def test_copies_among_machines_change_no_state() -> None:
    """Four machines of two ranks hold what two ranks hold, and a buffer for what they exchange at most besides."""
    case = Case("llama", "full", mixed=True)
    alone, many = traced(case, 2), traced(case._replace(sharding="hsdp"), 4)
    assert by_owner(many) == by_owner(alone)


def test_gathered_weights_that_stay_are_held_until_the_backward_pass() -> None:
    trace, staying = (traced(Case("llama", "full", mixed=True, reshard=reshard)) for reshard in (True, False))
    layers = 2 * 2 * (2 * 256 * 256 + 2 * 64 * 256 + 3 * 768 * 256 + 2 * 256)
    loss = [next(one.memory for one in peaks(t) if (one.phase, one.step) == ("loss", 1)) for t in (trace, staying)]
    assert loss[1].temporaries - loss[0].temporaries >= layers // 2


@pytest.mark.parametrize("ranks", [1, 2, 512, 4096])
def test_shards_are_rounded_up_by_rows(ranks: int) -> None:
    """FSDP2 divides the first dimension of every tensor; mixed precision makes what is trained fp32."""
    h, f, v, layers = 256, 768, 4001, 2
    rows = [(v, h), (v, h), (h, 1)]
    rows += layers * [(h, h), (64, h), (64, h), (h, h), (f, h), (f, h), (h, f), (h, 1), (h, 1)]
    shard = 4 * sum(math.ceil(first / ranks) * second for first, second in rows)
    buffers = 2 * 4 * 16  # rotary frequencies, and their originals
    memory = before_update(traced(Case("llama", "full", mixed=True), ranks))
    assert (memory.weights, memory.gradients) == (shard + buffers, shard)
    assert 2 * shard <= memory.optimizer <= 2 * shard + 4 * len(rows)  # two moments, and a count for each tensor


@pytest.mark.parametrize(("rows", "count"), [(8, 8), (4001, 2), (5, 8), (1, 3)])
def test_parts_are_those_that_torch_cuts(rows: int, count: int) -> None:
    import torch  # noqa: PLC0415
    from torch.distributed.fsdp._fully_shard._fsdp_common import _chunk_with_empty  # noqa: PLC0415

    from planner.trace.private import Parts  # noqa: PLC0415

    tensor = torch.arange(3 * rows).view(rows, 3)
    cut, parts = _chunk_with_empty(tensor, count, dim=0), Parts(tensor, count, 0)
    assert all(torch.equal(cut[number], parts[number]) for number in range(count))


def test_layers_do_the_same() -> None:
    """Every event belongs to a layer, in a way that repeats: the two middle ones allocate alike in number and size."""
    trace = traced(Case("llama", "full", mixed=True, layers=4))

    def allocated(layer: int) -> list[tuple[int, str]]:
        pairs = zip(trace.events, trace.layers, strict=True)
        own = [trace.blocks[event] for event, at in pairs if event >= 0 and at == layer]
        return [(block.bytes, block.owner) for block in own]

    assert allocated(1) == allocated(2)
    assert not any(block.owner == "activations" and block.bytes > 4 * 4001 * 256 for block in trace.blocks)


def test_buckets_are_a_second_copy_of_gradients() -> None:
    trace = traced(Case("llama", "full", mixed=True, sharding="ddp", layers=4))
    found = [block for block in trace.blocks if block.site == "DistributedDataParallel"]
    assert sum(block.bytes for block in found) == before_update(trace).gradients
    assert {block.layer for block in found} == {OUTSIDE, 0, 1, 2, 3}
    assert {block.owner for block in found} == {"temporaries"}


def test_buckets_of_layers_that_did_not_run_are_there() -> None:
    case = Case("llama", "full", mixed=True, sharding="ddp", layers=4)
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
    whole = 2 * (2 * 256 * 256 + 2 * 64 * 256 + 3 * 768 * 256) // 2
    assert packed == (whole // 8 if divided else whole)
