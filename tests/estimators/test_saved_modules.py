"""``modules_to_save``: PEFT trains a copy in the frozen original's dtype and upcasts low-rank adapters only."""

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.hardware import load_gpu
from planner.spec import Cluster
from planner.stacks import resolve

HEAD = 128256 * 4096
"""Entries of Llama-3.1-8B's head."""


def test_a_saved_head_adds_a_16_bit_copy_and_its_16_bit_states() -> None:
    """Copy 2, gradient 2, two Adam moments 2 + 2 bytes a parameter (and one fused step counter of 512 bytes)."""
    model, cluster = load_model("llama-3.1-8b").model, Cluster(gpu=load_gpu("a100-80gb"))
    plain = estimate(resolve(model, cluster, "lora")).phases["optimizer_step"]
    saved = estimate(resolve(model, cluster, "lora", {"modules_to_save": "lm_head"})).phases["optimizer_step"]

    assert saved.weights == plain.weights
    assert saved.adapters - plain.adapters == 2 * HEAD
    assert saved.gradients - plain.gradients == 2 * HEAD
    assert saved.optimizer - plain.optimizer == 4 * HEAD + 512


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_peft_leaves_saved_modules_in_16_bit() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=100
    )
    base = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)

    made = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"]))

    trained = {name: weight.dtype for name, weight in made.named_parameters() if weight.requires_grad}
    assert {kind for name, kind in trained.items() if "modules_to_save" in name} == {torch.bfloat16}
    assert {kind for name, kind in trained.items() if "lora_" in name} == {torch.float32}
