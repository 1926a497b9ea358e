"""A few layers, extended, against every layer run: the same bytes, on every kind of stack that repeats."""

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from planner.allocator.events import peaks
from planner.allocator.replay import replay
from planner.families import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, Scenario, TrainSpec
from planner.stacks import load_stack
from planner.trace.estimator import depth_of, trace
from tests.families.tiny import EXPERTS, GPT, LATENT, QWEN_EXPERTS, SIZES, Config, tiny

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ALLOCATED, RESERVED = 0.001, 0.005
CARD = load_gpu("a100-80gb")

WINDOW: Config = {"sliding_window": 16, "head_dim": 16}
STACKS: list[tuple[str, Config, int, int]] = [
    ("llama", {}, 9, 4),
    ("qwen2", {"tie_word_embeddings": True}, 7, 4),
    ("gemma2", {**WINDOW}, 14, 8),  # two kinds of layer in turn
    ("gemma3_text", {**WINDOW, "sliding_window_pattern": 3}, 17, 14),  # three in turn, and two of them at the end
    ("deepseek_v3", {**LATENT, "first_k_dense_replace": 2}, 9, 6),  # two dense ones first
    ("mixtral", {**EXPERTS}, 7, 4),
    ("qwen3_moe", {**QWEN_EXPERTS, "head_dim": 16, "decoder_sparse_step": 2}, 12, 8),
    ("gpt2", {**GPT}, 8, 4),
    ("falcon", {"hidden_size": 64, "num_attention_heads": 8, "vocab_size": 160}, 7, 4),
    ("phi", {}, 7, 4),
]
"""Model type, changes, depth, and how many layers are enough."""

JOBS: list[dict[str, Any]] = [
    {"method": "full", "optimizer": "adamw_foreach", "loss": "full"},
    {"method": "lora", "lora_rank": 4, "gradient_checkpointing": False, "loss": "fused"},
]


def scenario(model_type: str, changes: Config, layers: int, job: dict[str, Any]) -> Scenario:
    """A tiny model of that depth on TRL's or transformers' trainer."""
    depth = {"n_layer": layers} if "n_embd" in changes else {"num_hidden_layers": layers}
    config = {**tiny(model_type, changes), **depth}
    stack = "trl" if job["loss"] == "fused" else "hf"
    settings = {"seq_len": 32, "micro_batch_size": 2, "attention": "eager", "autocast": "bf16", **job}
    return Scenario(
        model=model_from_config(config, name="tiny"),
        train=TrainSpec(**settings),
        cluster=Cluster(gpu=CARD),
        stack=load_stack(stack).behaviour,
    )


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["method"])
@pytest.mark.parametrize(("model_type", "changes", "layers", "enough"), STACKS, ids=lambda value: str(value)[:12])
def test_a_few_layers_stand_for_all(
    model_type: str, changes: Config, layers: int, enough: int, job: dict[str, Any]
) -> None:
    given = scenario(model_type, changes, layers, job)
    few, every = trace(given), trace(given, all_layers=True)

    assert few.depth.recorded == enough
    assert every.depth.recorded == layers
    assert few.parameters == every.parameters
    for short, whole in zip(peaks(few.trace), peaks(every.trace), strict=True):
        assert (short.phase, short.step) == (whole.phase, whole.step)
        assert short.memory.total == pytest.approx(whole.memory.total, rel=ALLOCATED)
        for own, other in zip(short.memory, whole.memory, strict=True):
            assert own == pytest.approx(other, rel=ALLOCATED, abs=4096)
    assert replay(few.trace).reserved == pytest.approx(replay(every.trace).reserved, rel=RESERVED)


def test_adapters_on_some_layers_only_are_run_on_every_layer() -> None:
    adapter = '{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0, 1]}'
    job = {"method": "lora", "loss": "full", "peft_config": adapter}
    found = trace(scenario("llama", {}, 9, job))

    assert found.depth.recorded == 9
    # Two layers, q_proj 64 x 64, rank 4: 2 * 4 * (64 + 64).
    assert found.parameters.trainable == 2 * 4 * (SIZES["hidden_size"] + SIZES["hidden_size"])


def test_a_shallow_model_is_run_whole() -> None:
    given = scenario("llama", {}, 3, JOBS[0])

    assert depth_of(given).recorded == 3
    assert max(trace(given).trace.layers) == 2
