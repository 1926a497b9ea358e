"""transformers' own tensor parallelism on two gloo ranks: what a rank holds, saves and sends is what we say."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from planner.closed_form.exchange import model_exchanges
from planner.closed_form.explain import saved_bytes
from planner.closed_form.parallel import kinds_of_rank
from planner.closed_form.step import INPUT_BYTES, prepare
from planner.families import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, Scenario
from planner.stacks import resolve

pytest.importorskip("transformers", minversion="5.20")
pytestmark = pytest.mark.torch

SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 1001, "max_position_embeddings": 256,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
SCRIPT = Path(__file__).with_name("two_ranks.py")
TOKENS = 128
BESIDE = 8 * TOKENS + 8 * (TOKENS + 1) + 4
"""Saved by the embedding and by the loss: token ids, padded labels, and the loss's weight."""


@lru_cache(maxsize=1)
def real() -> dict[str, dict[str, Any]]:
    """Every model's step on two ranks."""
    configs = json.dumps([SIZES | config for config in CONFIGS.values()])
    done = subprocess.run([sys.executable, SCRIPT, configs], capture_output=True, text=True, check=True)
    return dict(zip(CONFIGS, json.loads(done.stdout.splitlines()[-1]), strict=True))


def ours(name: str) -> Scenario:
    """The same step."""
    settings = {
        "seq_len": TOKENS, "tensor_parallel": 2, "attention": "sdpa", "gradient_checkpointing": False,
        "autocast": "none",
    }  # fmt: skip
    model = model_from_config(SIZES | CONFIGS[name], name=name)
    return resolve(model, Cluster(gpu=load_gpu("h100"), gpus=2), "full", settings, "plain")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_holds_these_parameters_and_gradients(name: str) -> None:
    (rank,) = kinds_of_rank(ours(name))
    shards = prepare(rank.scenario).shards

    assert (shards.weights // 2, shards.gradients // 2) == (real()[name]["parameters"], real()[name]["gradients"])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_saves_these_bytes(name: str) -> None:
    (rank,) = kinds_of_rank(ours(name))

    # the processor's grouped product keeps where each expert's rows end, and the order of 2 rows a token once more
    orders = {"mixtral": 2 * (8 * 2 * TOKENS + 4 * 4)}.get(name, 0)

    assert saved_bytes(rank.scenario) - INPUT_BYTES * TOKENS == real()[name]["saved"] - BESIDE - orders


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_takes_part_in_these_collectives(name: str) -> None:
    calls = {exchange.kind: exchange.calls for exchange in model_exchanges(ours(name))}
    counts = [found for way in ("forward", "backward") for found in real()[name][way].items()]
    sums = sum(count for kind, count in counts if "reduce" in kind)
    # of vectors only, which we leave out: gradients of a head's norm weights, and of routing weights
    small = {"qwen3": 2 * 2, "mixtral": 2 * 1}.get(name, 0)

    assert calls["all_reduce"] == sums - small
    assert calls["all_gather"] == sum(count for kind, count in counts if "gather" in kind)
