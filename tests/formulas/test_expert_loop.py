"""Experts one after another, as transformers 4 trains them: numbers multiplied out by hand."""

from planner.catalog import load_model
from planner.closed_form.recipe import key_of, recipe_of
from planner.formulas.blocks import block_tape
from planner.formulas.experts import OTHERS
from planner.formulas.tape import Tape
from planner.hardware import load_gpu
from planner.spec import Cluster
from planner.stacks import resolve

H = F = 2880
EXPERTS, ACTIVE = 32, 4
"""gpt-oss 20B."""
STACKED = EXPERTS * 3 * H * F * 2
"""Bytes of one layer's gate_up_proj (2 h f) and down_proj in bf16."""


def layer(model: str, method: str, transformers: str) -> Tape:
    settings = {"autocast": "none", "attention": "eager", "lora_targets": ("q_proj",)}
    card = Cluster(gpu=load_gpu("a100-80gb-sxm"))
    given = resolve(load_model(model).model, card, method, settings, f"plain,transformers={transformers}")  # type: ignore[arg-type]
    return block_tape(
        given.model.blocks[-1], given.model.hidden_size, recipe_of(given.model, key_of(given), given.stack)
    )


def test_experts_that_a_tensor_takes_out_of_the_stack_are_copies_which_stay() -> None:
    for method in ("full", "lora"):
        older, newer = (sum(one.size.fixed for one in layer("gpt-oss-20b", method, v).saved()) for v in ("4.57", "5.0"))
        assert older - newer == STACKED


def test_the_gradient_of_each_begins_as_zeros_of_the_stack() -> None:
    others = next(op for op in layer("gpt-oss-20b", "full", "4.57").ops if op.name == OTHERS)
    assert others.scratch_backward.fixed == EXPERTS * 2 * H * F * 2
    assert others.weight_grad == STACKED * (EXPERTS - 1) // EXPERTS
    frozen = next(op for op in layer("gpt-oss-20b", "lora", "4.57").ops if op.name == OTHERS)
    assert frozen.scratch_backward.fixed == 0


def test_index_add_keeps_what_it_added() -> None:
    # for each of 32 experts its share of 4 rows per token: two tensors of h, what came out and what was weighted
    kept = [one for one in layer("gpt-oss-20b", "lora", "4.57").saved() if "weighted expert rows" in one.name]
    assert sum(one.size.token for one in kept) == ACTIVE * H * 2
    kept = [one for one in layer("mixtral-8x7b", "lora", "4.48").saved() if "weighted expert rows" in one.name]
    assert sum(one.size.token for one in kept) == 2 * 4096 * 2
