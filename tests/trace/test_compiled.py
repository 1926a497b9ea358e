"""What a compiled layer keeps, held against AOTAutograd's own partition of the layers of transformers, on the CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form.recipe import key_of, recipe_of
from planner.formulas.blocks import block_tape
from planner.hardware import load_gpu
from planner.spec import Cluster
from planner.stacks import resolve

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, LENGTH, WIDTH = 2, 128, 256
SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 704,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": False,
}
PARTITIONED = "aot_eager_decomp_partition"
"""Inductor's decompositions and its partitioner, without its code generation."""


def kept(model: Any, *, compiled: bool) -> float:
    """Bytes per token that the first layer saves beside its inputs and parameters."""
    layer = model.model.layers[0]
    tensors: list[Any] = []
    run = torch.compile(layer.forward, backend=PARTITIONED) if compiled else layer.forward
    given = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def seen(one: Any) -> Any:
        tensors.append(one)
        return one

    def forward(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        flat, _ = torch.utils._pytree.tree_flatten((hidden, args, kwargs))
        given.update(one.untyped_storage().data_ptr() for one in flat if torch.is_tensor(one))
        with torch.autograd.graph.saved_tensors_hooks(seen, lambda one: one):
            return run(hidden, *args, **kwargs)

    layer.forward = forward
    model(torch.ones(BATCH, LENGTH, dtype=torch.long), use_cache=False).logits.sum().backward()
    storages: dict[int, int] = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    total: int = sum(size for place, size in storages.items() if place not in given)
    return total / (BATCH * LENGTH)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmo2"])
def test_a_compiled_layer_keeps_what_the_partitioner_keeps(kind: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(kind, **SHAPE, pad_token_id=0)
    name = transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": [name]}, default=str))
    spec = load_model(str(tmp_path / "config.json")).model
    settings = {"micro_batch_size": BATCH, "autocast": "none", "attention": "sdpa"}
    scenario = resolve(spec, Cluster(gpu=load_gpu("a100-80gb-sxm")), "full", settings, "hf")
    recipe = recipe_of(spec, key_of(scenario), scenario.stack)

    for compiled in (False, True):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).train()
        tape = block_tape(spec.blocks[0], WIDTH, recipe._replace(compiled=compiled))
        assert sum(one.size.token for one in tape.saved()) == pytest.approx(kept(model, compiled=compiled), rel=0.005)
