"""What ``torch.compile`` leaves of a layer's tensors: numbers multiplied out by hand."""

from dataclasses import replace

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.recipe import key_of, recipe_of
from planner.errors import UnsupportedScenario
from planner.formulas.blocks import block_tape
from planner.formulas.loss import Head, chunked_outputs
from planner.formulas.tape import Tape, backward_instants, forward_instants
from planner.hardware import load_gpu
from planner.spec import Cluster, Scenario
from planner.stacks import resolve

CARD = Cluster(gpu=load_gpu("a100-80gb-sxm"))
H, FF, KV, HEADS = 2048, 8192, 512, 32
"""Llama 3.2 1B."""
ATTENTION = 4 * 2 * H + 4 * HEADS
"""Query, repeated key and value, and output, in 16 bits; a log-sum-exp for each head."""
STATISTICS = 2 * 4


def scenario(method: str = "full", **settings: object) -> Scenario:
    given = {"seq_len": 2048, "micro_batch_size": 2, "gradient_checkpointing": False, **settings}
    return resolve(load_model("llama-3.2-1b").model, CARD, method, given, "torchtune")  # type: ignore[arg-type]


def layer(method: str = "full", **settings: object) -> Tape:
    given = scenario(method, kernels="compiled", **settings)
    return block_tape(given.model.blocks[0], H, recipe_of(given.model, key_of(given), given.stack))


def kept(tape: Tape) -> int:
    return sum(tensor.size.token for tensor in tape.saved())


def test_full_fine_tuning_keeps_inputs_of_products_and_no_fp32_copy() -> None:
    # both norms' outputs and the sum between them; gate, up and their product
    assert kept(layer()) == STATISTICS + ATTENTION + 3 * 2 * H + 3 * 2 * FF


def test_adapters_keep_sums_in_place_of_both_terms() -> None:
    # beside the same, what the seven A make: 8 numbers of 16 bits; gate and up with their adapters, not apart
    assert kept(layer("lora", lora_rank=8)) == STATISTICS + ATTENTION + 3 * 2 * H + 3 * 2 * FF + 7 * 2 * 8


def test_a_frozen_mlp_keeps_neither_its_input_nor_its_product() -> None:
    adapted = kept(layer("lora", lora_rank=8, lora_targets=("q_proj", "v_proj")))
    assert adapted == STATISTICS + ATTENTION + 2 * 2 * H + 2 * 2 * FF + 2 * 2 * 8


def test_what_is_between_exists_neither_in_forward_nor_in_backward() -> None:
    eager, compiled = scenario(), layer()
    plain = block_tape(eager.model.blocks[0], H, recipe_of(eager.model, key_of(eager), eager.stack))

    def largest(tape: Tape) -> tuple[int, int]:
        forward = max(one.total.token for one in forward_instants(tape, keep=False))
        return forward, max(one.total.token for one in backward_instants(tape))

    assert all(less < more for less, more in zip(largest(compiled), largest(plain), strict=True))
    assert compiled.weight_grad() == plain.weight_grad()
    assert compiled.result.size == plain.result.size


def test_a_chunked_loss_is_compiled_and_a_full_one_is_not() -> None:
    # torchtune's compile_loss changes the chunked loss in place; what it returns for others is dropped
    head = Head(4096, 2048, 128256, 2, 2, 2, trained=False)
    less = chunked_outputs(head).forward - chunked_outputs(head, compiled=True).forward
    assert less == 4 * 4096 * 128256 * 9 // 8  # the log-softmax, and one of eight chunks in fp32

    def logits(loss: str, kernels: str) -> int:
        return estimate(scenario(loss=loss, kernels=kernels)).phases["loss"].logits

    assert logits("full", "compiled") == logits("full", "eager")
    assert logits("chunked", "compiled") < logits("chunked", "eager")


def test_what_a_compiler_does_elsewhere_is_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="stack hf with --kernels compiled is not planned"):
        resolve(load_model("llama-3.2-1b").model, CARD, "full", {"kernels": "compiled"}, "hf")
    experts = replace(scenario(kernels="compiled"), model=load_model("olmoe-1b-7b").model)
    with pytest.raises(UnsupportedScenario, match="keeps of the experts of olmoe-1b-7b"):
        estimate(experts)
