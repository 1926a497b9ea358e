"""A GPT layer as Megatron-LM builds it, and scenarios of divided models."""

from typing import Any

from planner.catalog import load_model
from planner.formulas.operations import Ranks, Recipe
from planner.hardware import load_gpu
from planner.spec import Attend, Attention, Block, Cluster, Linear, Method, Mlp, Norm, Scenario
from planner.stacks import resolve


def gpt_layer(h: int, heads: int) -> Block:
    """Layer norms, one matrix for q, k and v, an MLP of 4h with GELU, dropout on scores and on both branches."""
    return Block(
        attention=Attention(
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=h // heads,
            inputs=(Linear("attention.query_key_value", h, 3 * h, bias=True),),
            output=Linear("attention.dense", h, h, bias=True),
            rope="none",
            eager_softmax="native",
            dropout=0.1,
        ),
        norms=(Norm("input_norm", h, "layer", bias=True), Norm("mlp_norm", h, "layer", bias=True)),
        mlp=Mlp(
            intermediate_size=4 * h,
            activation="gelu",
            gated=False,
            inputs=(Linear("mlp.dense_h_to_4h", h, 4 * h, bias=True),),
            output=Linear("mlp.dense_4h_to_h", 4 * h, h, bias=True),
        ),
        residual_dropout=0.1,
    )


def half_precision(attention: Attend, *, sequence: int = 1) -> Recipe:
    """Full training in 16 bit without autocast, by ranks that hold the stream in ``sequence`` parts."""
    return Recipe(
        full=True,
        stream_bytes=2,
        weight_bytes=2,
        norm_bytes=2,
        compute_bytes=2,
        autocast=False,
        adapter_bytes=0,
        rank=0,
        modules=frozenset(),
        stacked=frozenset(),
        dropout=False,
        quant="",
        double_quant=False,
        attention=attention,
        flash_kernel=True,
        fused=frozenset(),
        several=False,
        repeats_kv=False,
        fused_experts=True,
        stored_bytes=2,
        ranks=Ranks(sequence=sequence),
    )


def scenario(model: str, method: Method = "full", *, gpus: int = 8, nodes: int = 1, **settings: Any) -> Scenario:
    """A scenario on H100s, ``gpus`` in each of ``nodes`` machines, in a bare loop that widens nothing by itself."""
    cluster = Cluster(gpu=load_gpu("h100"), gpus=gpus, nodes=nodes)
    return resolve(load_model(model).model, cluster, method, settings, "plain")
