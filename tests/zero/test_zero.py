"""ZeRO's closed form against DeepSpeed's engine, and against what its stages promise."""

from typing import Any

import pytest

from planner.closed_form import estimate
from planner.families.build import model_from_config
from planner.formulas.params import model_params
from planner.formulas.zero import buckets
from planner.hardware import load_gpu
from planner.result import Estimate, Memory, Phase
from planner.spec import Cluster, Method, ModelSpec
from planner.stacks.resolve import resolve


def llama(**sizes: Any) -> ModelSpec:
    config = {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return model_from_config({**config, **sizes}, name="small")


SMALL = llama()


def found(
    sharding: str, method: Method = "full", ranks: int = 8, model: ModelSpec = SMALL, **settings: Any
) -> Estimate:
    cluster = Cluster(gpu=load_gpu("h100"), gpus=min(ranks, 8), nodes=max(ranks // 8, 1), network_gbps=400.0)
    fixed = {"seq_len": 256, "micro_batch_size": 1, "attention": "sdpa", "sharding": sharding}
    return estimate(resolve(model, cluster, method, {**fixed, **settings}, "trl"))


TRACED = [
    # allocated megabytes of DeepSpeed 0.19.8's own engine on 8 pretended ranks, traced on fake tensors: rank 0
    ("zero1", "full", "forward", 423.14),
    ("zero1", "full", "loss", 437.11),
    ("zero1", "full", "backward", 684.38),
    ("zero1", "full", "optimizer_step", 581.99),
    ("zero2", "full", "forward", 423.14),
    ("zero2", "full", "loss", 437.83),
    ("zero2", "full", "backward", 636.52),
    ("zero2", "full", "optimizer_step", 580.95),
    ("zero3", "full", "loss", 491.24),
    ("zero3", "full", "backward", 689.93),
    ("zero3", "full", "optimizer_step", 343.75),
    ("zero2", "lora", "forward", 277.81),
    ("zero2", "lora", "backward", 290.52),
    ("zero2", "lora", "optimizer_step", 269.79),
    ("zero3", "lora", "forward", 312.73),
    ("zero3", "lora", "loss", 317.63),
    ("zero3", "lora", "backward", 318.66),
    ("zero3", "lora", "optimizer_step", 96.45),
    ("zero3", "qlora", "forward", 253.77),
    ("zero3", "qlora", "loss", 261.63),
    ("zero3", "qlora", "backward", 262.66),
    ("zero3", "qlora", "optimizer_step", 90.70),
]


@pytest.mark.parametrize(("sharding", "method", "phase", "megabytes"), TRACED)
def test_the_engines_phases(sharding: str, method: Method, phase: Phase, megabytes: float) -> None:
    """Stages 1 and 2 are counted for the fullest rank, whose gradients take more than the first's."""
    assert found(sharding, method).phases[phase].total / 1e6 == pytest.approx(megabytes, rel=0.02)


def lasting(memory: Memory) -> int:
    return memory.weights + memory.adapters + memory.gradients + memory.optimizer


@pytest.mark.parametrize(
    ("sharding", "standing", "besides"), [("zero1", 8.0, 0), ("zero2", 8.0, 0), ("zero3", 8.0, 10**9)]
)
def test_two_real_ranks(sharding: str, standing: float, besides: int) -> None:
    """8.4 million parameters on two ranks of gloo: 8.00 bytes each, and stage 3's bucket of 5e8 elements besides."""
    model = llama(hidden_size=512, intermediate_size=1024, num_hidden_layers=2, vocab_size=4096)
    memory = found(sharding, ranks=2, model=model, zero_buckets="deepspeed").phases["forward"]
    assert lasting(memory) / model_params(model) == pytest.approx(standing, rel=1e-3)
    assert memory.temporaries >= besides


@pytest.mark.parametrize(("sharding", "more"), [("zero1", 1), ("zero2", 1), ("zero3", 0)])
def test_overlap_comm_has_a_second_bucket(sharding: str, more: int) -> None:
    """DeepSpeed 0.19.8 stage_1_and_2.py, setup_buckets; stage 3 overlaps with the one that it has."""
    once, twice = (found(sharding, zero_buckets="deepspeed", overlap_comm=on) for on in (False, True))
    apart = twice.phases["backward"].total - once.phases["backward"].total
    assert apart == more * 2 * buckets("deepspeed", h=1).reduce
    assert twice.phases["forward"] == once.phases["forward"]


@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_stages_divide_what_they_promise(ranks: int) -> None:
    params = model_params(SMALL)
    one, two, three = (found(name, ranks=ranks).phases["optimizer_step"] for name in ("zero1", "zero2", "zero3"))
    assert one == two
    assert two.weights == 2 * params
    assert two.optimizer == three.optimizer == pytest.approx(12 * params / ranks, rel=2e-3, abs=1024)
    assert three.weights == three.gradients == pytest.approx(2 * params / ranks, rel=2e-3)
    assert two.gradients >= three.gradients


def test_a_tensor_that_crosses_parts_is_kept_whole() -> None:
    embedding = 2 * SMALL.embeddings[0].params
    assert found("zero2", ranks=512).phases["optimizer_step"].gradients >= embedding
    assert found("zero3", ranks=512).phases["optimizer_step"].gradients < embedding / 100


@pytest.mark.parametrize("method", ["full", "lora"])
def test_everything_is_cast_to_16_bit(method: Method) -> None:
    """Weights of a checkpoint in fp32, and adapters: DeepSpeed's engine.py, _cast_module_mixed_precision."""
    wide = found("zero2", method, weights_dtype="fp32", autocast="bf16", adapter_dtype="fp32")
    narrow = found("zero2", method, weights_dtype="bf16", autocast="bf16", adapter_dtype="bf16")
    assert wide.phases == narrow.phases


def test_without_mixed_precision_stage_3_needs_no_master() -> None:
    settings: dict[str, Any] = {"weights_dtype": "fp32", "autocast": "none"}
    params = model_params(SMALL)
    assert found("zero3", **settings).phases["forward"].optimizer == pytest.approx(8 * params / 8, rel=1e-3)
    assert found("zero2", **settings).phases["forward"].optimizer == pytest.approx(12 * params / 8, rel=1e-3)


@pytest.mark.parametrize(("storage", "share"), [("bf16", 8), ("uint8", 1)])
def test_packed_weights_are_divided_as_floats_only(storage: str, share: int) -> None:
    packed = sum(
        linear.weight_params * count // 2
        for block, count in zip(SMALL.blocks, SMALL.block_counts, strict=True)
        for linear in block.linears
    )
    tables = 2 * 2 * 32000 * 1024 / 8
    weights = found("zero3", "qlora", quant_storage=storage).phases["forward"].weights
    assert weights == pytest.approx(packed / share + tables, rel=0.08)  # and scales


def test_accumulation() -> None:
    """Stage 1 keeps whole gradients between micro-steps, stage 2 its part, stage 3 the buffer that it always has."""
    params = model_params(SMALL)
    first, second, third = (
        found(name, grad_accumulation=2).phases["forward"].gradients for name in ("zero1", "zero2", "zero3")
    )
    assert first == 2 * params
    assert 2 * params / 8 <= second < params
    assert third == found("zero3").phases["forward"].gradients == pytest.approx(2 * params / 8, rel=1e-3)


def test_bucket_sizes_count() -> None:
    """5e8 elements of 16 bit; transformers' auto is h*h."""
    auto, own = (found("zero3", zero_buckets=kind).phases["optimizer_step"] for kind in ("auto", "deepspeed"))
    assert own.temporaries - auto.temporaries == pytest.approx(2 * (500_000_000 - 1024**2), rel=1e-3)


def test_a_base_that_is_asked_between_forward_and_backward_leaves_no_order_to_keep_to() -> None:
    """DPO of adapters: what is gathered is embedding and head, where likelihoods from a file leave the whole model."""
    deep = llama(num_hidden_layers=12)
    base, known = (found("zero3", "lora", model=deep, objective="dpo", reference=name) for name in ("base", "none"))
    layers = 2 * (model_params(deep) - 2 * 32000 * 1024)
    for phase in ("forward", "backward"):
        assert known.phases[phase].temporaries - base.phases[phase].temporaries >= 0.9 * layers
