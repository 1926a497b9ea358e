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


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_closed_form_walks_as_the_engine_does(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that are gathered or on their way at every module of a step, under limits that bind."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import (  # noqa: PLC0415
        PartitionedParameterCoordinator as Coordinator,
    )

    from planner.build import deepspeed as built  # noqa: PLC0415
    from planner.closed_form import estimate, flat  # noqa: PLC0415
    from planner.formulas.coordinator import live  # noqa: PLC0415

    seen: list[int] = []
    counted: list[int] = []
    fetch, reset, settings = Coordinator.fetch_sub_module, Coordinator.reset_step, built.settings_of
    limits = {"live": 3_000_000, "reuse": 1_500_000, "persistence": H}

    def fetched(self: Any, module: Any, forward: bool) -> None:
        fetch(self, module, forward)
        seen.append(self._PartitionedParameterCoordinator__n_available_params)

    def begun(self: Any) -> None:
        seen.clear()
        reset(self)

    def limited(asked: "Scenario") -> dict[str, Any]:
        names = ("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_param_persistence_threshold")
        found = settings(asked)
        found["zero_optimization"] |= dict(zip(names, limits.values(), strict=True))
        return found

    def walked(tensors: Any, trace: Any, buckets: Any) -> Any:
        found = live(tensors, trace, buckets._replace(**limits))
        counted[:] = [one.numel for one in found]
        return found

    monkeypatch.setattr(Coordinator, "fetch_sub_module", fetched)
    monkeypatch.setattr(Coordinator, "reset_step", begun)
    monkeypatch.setattr(built, "settings_of", limited)
    asked = question("zero3", 8, method)
    run(asked)
    monkeypatch.setattr(flat, "live", walked)
    for known in (flat._walked, flat.flat_of):
        known.cache_clear()
    estimate(asked)
    for known in (flat._walked, flat.flat_of):
        known.cache_clear()

    assert counted == seen
    assert max(counted) > limits["live"] - V * H


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
