"""What one optimizer step has to do, counted by phase: FLOPs, bytes and layers; no seconds.

Counts are linear in the tokens of a micro-step, so those of a model and a method are made once and then scaled.
"""

from functools import lru_cache
from typing import NamedTuple

from planner.formulas.adapters import adapter_sites
from planner.formulas.flops import attention_flops, dequant_bytes, linear_flops
from planner.formulas.params import active_params, model_params, outer_params
from planner.result import Estimate, Parameters
from planner.spec import FLOAT_BYTES, ModelSpec, Scenario


class Load(NamedTuple):
    """What one GPU sees in one micro-step: ``tokens``, padding included, and the mean length that attention feels."""

    tokens: float
    attended: float


class Work(NamedTuple):
    """One optimizer step of one GPU, by what it has to do.

    ``products``, ``attention``: FLOPs of one micro-step; ``adapted``: adapted matrices per layer that run unfused.
    ``dequantised``, ``gathered``: bytes of one micro-step; ``reduced``, ``updated``, ``paged``: bytes of one step.
    """

    tokens: float
    micro_steps: int
    ranks: int
    hidden: int
    layers: int
    checkpointed: bool
    products: float
    attention: float
    adapted: float
    dequantised: float
    gathered: float
    reduced: float
    updated: float
    paged: float


class Counts(NamedTuple):
    """What a model brings: active parameters of the layers, of the head, and the width of attention over all layers."""

    blocks: int
    head: int
    width: int
    weights: int


@lru_cache(maxsize=1024)
def counts_of(model: ModelSpec) -> Counts:
    """Counts of one model."""
    blocks = active_params(model) - outer_params(model)
    width = sum(
        count * block.attention.num_attention_heads * block.attention.head_dim
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )
    return Counts(blocks, model.lm_head.weight_params, width, model_params(model))


@lru_cache(maxsize=1024)
def adapted_matrices(
    model: ModelSpec, targets: tuple[str, ...], saved: tuple[str, ...], *, fused_experts: bool
) -> float:
    """Adapted matrices per layer, experts counted once."""
    sites = adapter_sites(model, targets, saved, fused_experts=fused_experts)
    return sum(count for _, count in sites) / model.num_hidden_layers


def work_of(scenario: Scenario, estimate: Estimate, load: Load | None = None) -> Work:
    """The step's work, at the load that data make or at full sequences."""
    model, train, ranks = scenario.model, scenario.train, scenario.cluster.world_size
    tokens, attended = load or Load(train.tokens, train.seq_len)
    counts, parameters = counts_of(model), estimate.parameters
    g, full = int(train.gradient_checkpointing), train.method == "full"
    products = linear_flops(
        blocks=counts.blocks, head=counts.head, adapters=0 if full else parameters.trainable, full=full, g=g
    )
    fused = train.kernels == "fused"
    adapted = (
        0.0
        if full or fused
        else adapted_matrices(
            model, train.lora_targets, train.modules_to_save, fused_experts=scenario.stack.fused_experts
        )
    )
    return Work(
        tokens=tokens,
        micro_steps=train.grad_accumulation,
        ranks=ranks,
        hidden=model.hidden_size,
        layers=model.num_hidden_layers,
        checkpointed=train.gradient_checkpointing,
        products=tokens * products,
        attention=tokens * attention_flops(s=1, width=counts.width, g=g) * attended,
        adapted=adapted,
        dequantised=dequant_bytes(quantized=parameters.quantized, g=g) if train.quantized else 0.0,
        gathered=_gathered(scenario, parameters),
        reduced=_reduced(scenario, parameters),
        updated=_updated(scenario, parameters),
        paged=2.0 * estimate.peak.managed_bytes,
    )


def _gathered(scenario: Scenario, parameters: Parameters) -> float:
    """Bytes that weights and gradients travel in one micro-step where weights are sharded."""
    train, ranks = scenario.train, scenario.cluster.world_size
    if ranks == 1 or train.sharding not in ("zero3", "fsdp"):
        return 0.0
    stored = 2 * (parameters.total - parameters.quantized)
    if train.quantized and train.quant_storage != "uint8":
        stored += parameters.quantized // 2
    scattered = 2 * parameters.trainable
    return (2 * stored + scattered) * (ranks - 1) / ranks


def _reduced(scenario: Scenario, parameters: Parameters) -> float:
    """Bytes of one all-reduce of the gradients in a step; ZeRO 1 and 2 split it in two halves of the same sum."""
    train, ranks = scenario.train, scenario.cluster.world_size
    if ranks == 1 or train.sharding in ("none", "zero3", "fsdp"):
        return 0.0
    width = FLOAT_BYTES[train.adapter_dtype if train.uses_adapters else train.weights_dtype]
    return 2 * width * parameters.trainable * (ranks - 1) / ranks


def _updated(scenario: Scenario, parameters: Parameters) -> float:
    """Trained parameters that one rank updates."""
    shards = scenario.cluster.world_size if scenario.train.sharding in ("zero1", "zero2", "zero3", "fsdp") else 1
    return parameters.trainable / shards
