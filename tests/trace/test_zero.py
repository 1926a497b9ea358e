"""DeepSpeed's ZeRO: what its own engine keeps on fake tensors, by hand for world sizes that no test machine has."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from planner.allocator.events import Trace, peaks
from planner.errors import UnsupportedScenario
from planner.result import Memory
from planner.spec.training import TrainSpec
from tests.trace.sharding_cases import STEPS, Case, scenario
from tests.trace.test_sharded import run

if TYPE_CHECKING:
    from planner.spec import Scenario

for needed in ("torch", "transformers", "accelerate", "peft", "deepspeed"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

H, F, V, KV, LAYERS = 256, 768, 4001, 64, 2
MATRICES = [V * H, V * H, *LAYERS * [H * H, KV * H, KV * H, H * H, F * H, F * H, H * F]]
NORMS = [H] * (2 * LAYERS + 1)
BUFFERS = 2 * 4 * 16  # rotary frequencies, and their originals


def question(sharding: str, ranks: int, method: Any = "full", **settings: object) -> "Scenario":
    base = scenario(Case("llama", "lora" if method == "qlora" else method, mixed=True), ranks)
    train: TrainSpec = replace(base.train, method=method, sharding=sharding, **settings)  # type: ignore[arg-type]
    return replace(base, train=train)


@cache
def traced(sharding: str, ranks: int) -> Trace:
    return run(question(sharding, ranks)).trace


def standing(trace: Trace) -> Memory:
    """Bytes by owner in the second forward pass, when states are there and gradients are not."""
    return next(one.memory for one in peaks(trace) if one.phase == "forward" and one.step == STEPS - 1)


@pytest.mark.parametrize("sharding", ["zero1", "zero2"])
@pytest.mark.parametrize("ranks", [2, 512])
def test_flat_weights_are_padded_so_that_every_rank_has_an_equal_part(sharding: str, ranks: int) -> None:
    """Weights with decay and without are a flat tensor each, of a multiple of two entries per rank."""
    memory = standing(traced(sharding, ranks))
    parts = [2 * math.ceil(sum(group) / (2 * ranks)) for group in (MATRICES, NORMS)]
    assert memory.weights == 2 * ranks * sum(parts) + BUFFERS
    assert memory.optimizer == (4 + 8) * sum(parts) + 4 * len(parts)  # master, two moments, a count for each group


@pytest.mark.parametrize("ranks", [2, 512])
def test_stage_3_divides_every_tensor_and_keeps_small_ones_whole(ranks: int) -> None:
    """A gathered tensor has room for as many equal parts as there are ranks."""
    memory = standing(traced("zero3", ranks))
    whole = sum(ranks * math.ceil(norm / ranks) for norm in NORMS)
    part = sum(math.ceil(tensor / ranks) for tensor in (*MATRICES, *NORMS))
    assert memory.optimizer == (4 + 8) * part + 4 * 2
    assert memory.weights == 2 * (part + whole) + BUFFERS
    assert memory.gradients == 2 * part


def test_gathering_at_once_allocates_what_gathering_part_by_part_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.trace import zero  # noqa: PLC0415  (torch may be missing)

    def sizes(trace: Trace) -> list[tuple[int, int]]:
        return [(trace.blocks[max(event, ~event)].bytes, event >= 0) for event in trace.events]

    at_once = sizes(traced("zero3", 2))
    monkeypatch.setattr(zero, "gathered_at_once", nullcontext)
    assert sizes(run(question("zero3", 2)).trace) == at_once


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"autocast": "fp16"}, "fp16 under DeepSpeed .*: use"),
        ({"autocast": "none"}, "use --autocast bf16"),
        ({"offload": ("optimizer",)}, "--offload optimizer .* --evidence closed-form"),
        ({"optimizer": "muon"}, "--evidence closed-form"),
    ],
)
def test_what_the_engine_has_not_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedScenario, match=words):
        run(question("zero2", 2, **settings))


def test_a_trace_of_zero_changes_no_later_one() -> None:
    """DeepSpeed puts a product of its own in the place of torch's."""
    import torch  # noqa: PLC0415  (torch may be missing)

    linear = torch.nn.functional.linear
    run(question("zero3", 2))
    assert torch.nn.functional.linear is linear
