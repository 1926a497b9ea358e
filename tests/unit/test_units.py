"""FSDP2's units: nothing is lost among them, and what each moment holds."""

from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.profile import profile_of
from planner.closed_form.shards import shard_states
from planner.closed_form.units import Units
from planner.errors import UnsupportedScenario
from planner.hardware import load_gpu
from planner.spec import Cluster, Method, Scenario
from planner.stacks import resolve

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "gpt2", "opt-350m", "falcon-7b", "gemma-2-2b", "phi-2", "bloom-560m")
EXPERTS = ("mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "granite-3.1-1b-a400m")


def question(model: str, method: Method, ranks: int = 8, stack: str = "hf", **settings: Any) -> Scenario:
    nodes = max(ranks // 8, 1)
    cluster = Cluster(gpu=load_gpu("h100"), gpus=ranks // nodes, nodes=nodes)
    return resolve(load_model(model).model, cluster, method, {"sharding": "fsdp", **settings}, stack)


def units(scenario: Scenario) -> Units:
    found = shard_states(scenario, profile_of(scenario)).units
    assert found is not None
    return found


# ---------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("model", MODELS + EXPERTS)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("stack", ["hf", "plain"])
def test_one_rank_holds_what_one_card_holds(model: str, method: Method, stack: str) -> None:
    scenario = question(model, method, ranks=1, stack=stack, quant_storage="bf16")
    inventory = profile_of(scenario).inventory
    found = shard_states(scenario, profile_of(scenario))

    assert found.weights == inventory.weights
    assert found.adapters == inventory.adapters
    assert found.gradients == inventory.gradients


@pytest.mark.parametrize("model", MODELS + EXPERTS)
@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_the_fullest_rank_holds_its_share_or_more(model: str, ranks: int) -> None:
    whole, part = units(question(model, "full", ranks=1)), units(question(model, "full", ranks))

    assert part.total("trained") >= -(-whole.total("trained") // ranks)
    assert part.total("gathered") >= whole.total("trained") // 2
    assert part.total("reduce_input") == part.total("reduced") * ranks
    assert part.total("whole") == whole.total("whole")


def test_integers_stay_whole_and_words_are_divided() -> None:
    integers = question("llama-3.1-8b", "qlora", quant_storage="uint8")
    words = question("llama-3.1-8b", "qlora", quant_storage="bf16")
    inventory = profile_of(words).inventory
    packed = inventory.quantized_weights - inventory.scales

    kept, divided = (shard_states(one, profile_of(one)) for one in (integers, words))

    assert kept.weights - divided.weights == packed - packed // 8
    assert units(words).layer(0).gathered - units(integers).layer(0).gathered == packed // 32


def test_experts_are_padded_to_the_ranks() -> None:
    few, many = (units(question("mixtral-8x7b", "full", ranks)).layer(0) for ranks in (8, 64))

    assert 7.5 < many.gathered / few.gathered < 8
    assert many.whole == few.whole


@pytest.mark.parametrize(("method", "stored"), [("full", 4), ("lora", 4), ("qlora", 2)])
def test_mixed_precision_widens_what_is_trained_unless_the_base_is_quantised(method: Method, stored: int) -> None:
    scenario = question("llama-3.1-8b", method, adapter_dtype="bf16")
    trained = profile_of(scenario).inventory.trainable

    assert shard_states(scenario, profile_of(scenario)).gradients == pytest.approx(stored * trained / 8, rel=1e-3)
    assert units(scenario).total("whole") == 2 * trained


# ---------------------------------------------------------------- moments


def test_moments_of_a_layer_are_those_of_the_worked_example() -> None:
    found = units(question("llama-3.1-8b", "full"))
    layer, table, norm = 436_224_000, 1_050_673_152, 8192

    assert found.in_layer(7) == 2 * layer
    assert found.entering(7) == 3 * layer
    assert found.entering(0) == 2 * layer + table
    assert found.at_head() == 2 * (table + norm)
    assert found.in_backward(7) == 3 * layer
    assert found.in_backward(0) == 2 * layer + table
    assert found.in_backward(31) == 2 * layer + table + norm
    assert max(found.ends(stands=False)) == 2 * table + layer


def test_a_tied_matrix_is_gathered_all_the_time_and_reduced_last() -> None:
    found = units(question("llama-3.2-1b", "full"))

    assert found.embedding.gathered == 0
    assert found.in_layer(3) - 2 * found.layer(3).gathered == found.tail.gathered
    assert found.gradients_after(-1) == found.of_layers("trained", 0, 16)
    assert found.prefetched(0) == 0


def test_what_is_not_freed_is_not_gathered_again() -> None:
    freed = units(question("llama-3.1-8b", "full"))
    kept = units(question("llama-3.1-8b", "full", reshard_after_forward=False))
    layer = freed.layer(0).gathered

    assert kept.in_layer(31) - freed.in_layer(31) == 31 * layer + freed.embedding.gathered
    assert kept.prefetched(5) == 0
    assert kept.entering_backward(31) == kept.in_backward(31)


def test_hybrid_shards_keep_what_goes_into_the_sums() -> None:
    scenario = question("llama-3.1-8b", "full", ranks=32, sharding="hsdp")
    alone = question("llama-3.1-8b", "full", ranks=8)
    hybrid, plain = units(scenario), units(alone)

    assert hybrid.total("trained") == plain.total("trained")
    assert hybrid.gradients_after(-1) - plain.gradients_after(-1) == (
        plain.of_layers("reduced", 0, 32) + plain.tail.reduced
    )
    assert estimate(scenario).peak.allocated_bytes > estimate(alone).peak.allocated_bytes


def test_without_another_dtype_there_is_nothing_else_to_keep() -> None:
    hybrid = units(question("llama-3.1-8b", "full", ranks=32, sharding="hsdp", stack="plain"))

    assert hybrid.summed(-1) == 0


def test_whole_gradients_stand_until_the_last_micro_step_of_a_trainer() -> None:
    once, four = (question("llama-3.1-8b", "full", 64, grad_accumulation=count) for count in (1, 4))
    bare = replace(four, stack=question("llama-3.1-8b", "full", stack="plain").stack)

    def peak(scenario: Scenario) -> int:
        return estimate(scenario).peak.allocated_bytes

    assert peak(four) - peak(once) > 12 * 2**30
    assert peak(bare) - peak(once) < 2**30


@pytest.mark.parametrize("saved", ["lm_head", "embed_tokens", "lm_head,embed_tokens"])
def test_a_tied_matrix_that_is_trained_as_a_copy_cannot_be_divided(saved: str) -> None:
    with pytest.raises(UnsupportedScenario, match="embedding and head are one matrix; leave it out, or use --sharding"):
        estimate(question("llama-3.2-1b", "lora", modules_to_save=saved))

    assert estimate(question("llama-3.1-8b", "lora", modules_to_save=saved)).peak.allocated_bytes > 0
