"""What ranks of a divided model hold: parts that add up to the model and to what is held more than once."""

from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.divided import expert_part, tensor_part, with_all_experts
from planner.closed_form.loss import end_of_layers
from planner.closed_form.parallel import beside, kinds_of_rank, model_part, stage_of
from planner.closed_form.step import prepare
from planner.formulas.parallel import chunks_in_flight, layer_activations, padded_vocabulary
from planner.formulas.params import block_params, expert_params, model_params
from planner.spec import Block, Mlp, ModelSpec, TrainSpec
from tests.parallel.samples import scenario

MODELS = (
    "llama-3.1-8b", "gpt2", "pythia-1b", "qwen3-8b", "gemma-2-2b", "olmo-2-7b", "phi-3-mini", "deepseek-v2-lite",
    "deepseek-v3", "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "llama-4-scout", "starcoder2-3b", "bloom-560m",
)  # fmt: skip


def whole(name: str) -> ModelSpec:
    """A model of the catalogue."""
    return load_model(name).model


def held_by_each(block: Block) -> int:
    """Parameters of a layer that every tensor-parallel rank has: what acts on the whole residual stream."""
    attention, experts = block.attention, block.experts
    norms = sum(norm.params for norm in block.norms)
    of_heads = sum(norm.params for norm in attention.norms if attention.latent or norm.size == attention.head_dim)
    compressions = attention.inputs[1:] if attention.latent else ()
    if attention.latent and attention.latent.q_lora_rank is not None:
        compressions = attention.inputs
    outputs = [attention.output, *(mlp.output for mlp in mlps(block))]
    biases = sum(linear.d_out for linear in outputs if linear.bias)
    total = norms + of_heads + biases + sum(linear.params for linear in compressions)
    if block.mlp:
        total += sum(table.params for table in block.mlp.tables)
    if experts:
        routers = (experts.router, *experts.router_tables)
        total += sum(table.params for table in routers)
        total += sum(table.params for table in experts.tables if len(table.shape) == 2 and "down" in table.name)
        total += experts.shared_gate.params if experts.shared_gate else 0
    return total


def mlps(block: Block) -> list[Mlp]:
    """MLPs through which every token goes."""
    beside_experts = (block.experts.shared, block.experts.parallel_dense) if block.experts else ()
    return [mlp for mlp in (block.mlp, *beside_experts) if mlp]


@pytest.mark.parametrize("name", MODELS)
def test_tensor_parts_add_up_to_the_layer_and_what_each_rank_has(name: str) -> None:
    for block in whole(name).blocks:
        heads, keys = block.attention.num_attention_heads, block.attention.num_key_value_heads
        if heads % 2 or keys % 2:
            continue
        part = tensor_part(block, 2)

        assert 2 * block_params(part) == block_params(block) + held_by_each(block)


def test_key_value_heads_are_copied_where_there_are_fewer_than_ranks() -> None:
    (block,) = whole("llama-3.1-8b").blocks  # 8 heads of 128 for keys and for values, hidden size 4096
    part = tensor_part(block, 32)

    assert part.attention.num_key_value_heads == 1
    # 32 ranks have one of 8: four have the same
    keys_and_values = 2 * 8 * 128 * 4096
    assert 32 * block_params(part) == block_params(block) + 31 * held_by_each(block) + 3 * keys_and_values


@pytest.mark.parametrize("name", [name for name in MODELS if load_model(name).model.is_moe])
@pytest.mark.parametrize("ranks", [2, 8])
def test_expert_parts_add_up(name: str, ranks: int) -> None:
    model = whole(name)
    part = replace(model, blocks=tuple(expert_part(block, ranks) for block in model.blocks))

    assert ranks * expert_params(part) == expert_params(model)
    assert model_params(part) - expert_params(part) == model_params(model) - expert_params(model)
    assert model_params(with_all_experts(part)) == model_params(model)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("stages", "chunks"), [(2, 1), (3, 1), (4, 1), (2, 2)])
def test_stages_add_up_to_the_model(name: str, stages: int, chunks: int) -> None:
    model = whole(name)
    parts = [stage_of(model, stage, stages, chunks) for stage in range(stages)]

    tied = model.lm_head.weight_params if model.tie_word_embeddings else 0  # both ends have the table
    assert sum(map(model_params, parts)) == model_params(model) + tied
    assert sum(part.num_hidden_layers for part in parts) == model.num_hidden_layers
    assert [bool(part.embeddings) for part in parts] == [True] + [False] * (stages - 1)
    assert [part.lm_head.d_out for part in parts] == [0] * (stages - 1) + [model.lm_head.d_out]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "phi-3-mini"])
@pytest.mark.parametrize("t", [2, 4, 8])
def test_vocabulary_is_padded_by_megatron_only(name: str, t: int) -> None:
    model = whole(name)
    settings = TrainSpec(method="full", tensor_parallel=t)

    ours = model_part(model, settings)
    megatron = model_part(model, replace(settings, sequence_parallel=True))
    assert ours.embeddings[0].shape[0] == -(-model.vocab_size // t)
    assert megatron.embeddings[0].shape[0] * t == padded_vocabulary(model.vocab_size, t)


# ---------------------------------------------------------------- laws of the estimate


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "gpt2"])
def test_sizes_of_one_change_nothing(name: str) -> None:
    plain = scenario(name, gpus=8)
    (rank,) = kinds_of_rank(plain)

    assert rank.scenario is plain
    assert rank.beside == 0


LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {"tensor_parallel": 8}),
    ("llama-3.1-8b", {"tensor_parallel": 4, "sequence_parallel": True}),
    ("llama-3.1-8b", {"pipeline_parallel": 4, "grad_accumulation": 8}),
    ("llama-3.1-8b", {"context_parallel": 4}),
    ("llama-3.1-8b", {"ulysses_parallel": 4}),
    ("mixtral-8x7b", {"expert_parallel": 8, "sharding": "ddp"}),
    ("mixtral-8x7b", {"expert_parallel": 4, "sharding": "zero1"}),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_divided_step_takes_less_than_a_replicated_one(name: str, layout: dict[str, Any]) -> None:
    shared: dict[str, Any] = {"seq_len": 4096, "loss": "full", "gradient_checkpointing": False}
    accumulation = layout.get("grad_accumulation", 1)
    alone = estimate(scenario(name, gpus=8, sharding="ddp", grad_accumulation=accumulation, **shared))
    divided = estimate(scenario(name, gpus=8, **shared, **layout))

    assert divided.peak.required_bytes < alone.peak.required_bytes
    assert divided.parameters == alone.parameters


@pytest.mark.parametrize("axis", ["context_parallel", "ulysses_parallel"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_ranks_that_share_a_sequence_keep_their_part_of_it(axis: str, checkpointing: bool) -> None:
    settings: dict[str, Any] = {
        "attention": "sdpa",
        "gradient_checkpointing": checkpointing,
        "loss": "full",
        "autocast": "none",
    }
    sharding = "fsdp" if axis == "context_parallel" else "zero3"
    one = estimate(scenario("llama-3.1-8b", gpus=4, seq_len=8192, sharding=sharding, **settings))
    four = estimate(scenario("llama-3.1-8b", gpus=4, seq_len=4 * 8192, sharding=sharding, **(settings | {axis: 4})))

    # the output is exchanged back to the rank's tokens, and both are kept: 4096 channels of 32 layers
    twice = 0 if axis == "context_parallel" or checkpointing else 32 * 8192 * 4096 * 2
    assert four.phases["loss"].activations - twice == pytest.approx(one.phases["loss"].activations, rel=0.01)
    assert four.phases["loss"].weights == one.phases["loss"].weights


@pytest.mark.parametrize("m", [1, 2, 4, 16])
def test_the_first_stage_keeps_as_many_micro_batches_as_1f1b(m: int) -> None:
    """Checkpointed inputs of 8 layers a stage, 4 stages: min(m, 4) times."""
    found = scenario("llama-3.1-8b", gpus=4, pipeline_parallel=4, grad_accumulation=m, seq_len=2048)
    held = [beside(found.train, stage) + 1 for stage in range(4)]

    assert held == [chunks_in_flight(stage=stage, p=4, m=m) for stage in range(4)]

    one = estimate(scenario("llama-3.1-8b", gpus=4, pipeline_parallel=4, grad_accumulation=1, seq_len=2048))
    inputs = 8 * layer_activations(s=2048, b=1, h=4096, a=32, recompute="full")
    ids = 24 * 2048
    grown = first_stage_activations(found) - first_stage_activations(
        scenario("llama-3.1-8b", gpus=4, pipeline_parallel=4, grad_accumulation=1, seq_len=2048)
    )
    assert grown == (min(m, 4) - 1) * (inputs + ids)
    assert one.parameters.total == model_params(whole("llama-3.1-8b"))


def first_stage_activations(of: Any) -> int:
    """Activations when the first stage begins its last layer's backward."""
    first = kinds_of_rank(of)[0]
    return end_of_layers(prepare(first.scenario, first.beside)).activations


def test_interleaving_holds_more_than_1f1b() -> None:
    settings: dict[str, Any] = {
        "pipeline_parallel": 4,
        "grad_accumulation": 16,
        "gradient_checkpointing": False,
        "seq_len": 2048,
    }
    plain = estimate(scenario("llama-3.1-8b", gpus=4, **settings))
    interleaved = estimate(scenario("llama-3.1-8b", gpus=4, virtual_stages=2, **settings))

    # arXiv:2205.05198, section 4.2.3: 1 + (p-1)/(pv) = 1.375 times the activations
    ratio = interleaved.phases["backward"].activations / plain.phases["backward"].activations
    assert 1.3 < ratio < 1.4


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2"])
@pytest.mark.parametrize(("name", "ranks"), [("mixtral-8x7b", 8), ("qwen3-30b-a3b", 4)])
def test_experts_are_held_once_by_the_ranks_that_share_them(name: str, ranks: int, sharding: str) -> None:
    """In 16 bit on 8 ranks: what every rank has is divided by ``ranks``, what all divide is as much as without."""
    experts = expert_params(whole(name))
    shared: dict[str, Any] = {"sharding": sharding, "autocast": "none", "optimizer": "adamw_loop"}
    divided = estimate(scenario(name, gpus=8, expert_parallel=ranks, **shared)).phases["optimizer_step"]
    alone = estimate(scenario(name, gpus=8, **shared)).phases["optimizer_step"]

    left = 2 * experts * (ranks - 1) // ranks
    assert alone.weights - divided.weights == left
    # ZeRO divides gradients and moments among all ranks already, DDP does not: 16-bit gradients, two 16-bit moments
    whole_gradients = sharding == "ddp"
    assert alone.gradients - divided.gradients == pytest.approx(left * whole_gradients, abs=experts // 500)
    assert alone.optimizer - divided.optimizer == pytest.approx(2 * left * whole_gradients, abs=experts // 500)
