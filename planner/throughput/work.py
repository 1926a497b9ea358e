"""What one optimizer step has to do, counted by what limits it: FLOPs, bytes and kernels; no seconds.

Counts are linear in the tokens of a micro-step, so those of a model and a method are made once and then scaled.
"""

from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.profile import ProfileKey, key_of, loss_tape_of, profile_of, recipe_of
from planner.formulas.adapters import adapters
from planner.formulas.blocks import block_tape
from planner.formulas.flops import (
    attention_flops,
    dequant_bytes,
    effective_length,
    eight_bit_bytes,
    experts_touched,
    linear_flops,
)
from planner.formulas.operations import Recipe
from planner.formulas.params import active_params, computed_in_vain, expert_params, model_params, outer_params
from planner.formulas.sharding import divisors
from planner.formulas.states import Trainable
from planner.formulas.tape import Size
from planner.formulas.traffic import moved
from planner.formulas.updates import Update, update_of
from planner.result import Estimate
from planner.spec import Attention, Behaviour, ModelSpec, Scenario, TrainSpec

PACKED_BYTES = 0.5
"""Of a 4-bit parameter as it travels; its scales are not sharded."""


class Load(NamedTuple):
    """What one GPU sees in one micro-step: ``tokens``, padding included, and the mean length that attention feels."""

    tokens: float
    attended: float


class Work(NamedTuple):
    """One optimizer step of one GPU.

    Of one micro-step: FLOPs of 16-bit ``products``, of ``wide_products`` in fp32 and of ``attention``; bytes that the
    products read of weights (``weights``), that other operations ``moved``, that ``dequantised`` and ``gathered``;
    ``kernels`` and ``collectives`` started. Of the whole step:
    bytes ``reduced`` among ranks, ``updated`` in memory and ``paged`` over the bus, FLOPs of the optimizer's own
    ``update_products``, and its ``update_kernels``.
    """

    tokens: float
    micro_steps: int
    ranks: int
    products: float
    wide_products: float
    attention: float
    weights: float
    moved: float
    dequantised: float
    kernels: float
    gathered: float
    collectives: int
    reduced: float
    updated: float
    update_products: float
    update_kernels: float
    paged: float


class Kind(NamedTuple):
    """Layers of one kind: how many, the width of their attention, its window, whether masked scores are computed."""

    layers: int
    width: int
    window: int | None
    dense: bool


class Counts(NamedTuple):
    """Per micro-step of a model and method: ``products``, ``wide_products`` and ``moved`` of each token; ``weights``:
    bytes that products read of what acts on every token, ``routed``: of all experts, of whom ``chosen`` of ``experts``
    act on one.
    """

    products: int
    wide_products: int
    kinds: tuple[Kind, ...]
    weights: float
    routed: float
    chosen: int
    experts: int
    moved: Size
    kernels: int


def work_of(scenario: Scenario, estimate: Estimate, load: Load | None = None) -> Work:
    """The step's work, at the load that data make or at full sequences."""
    train, ranks = scenario.train, scenario.cluster.world_size
    tokens, attended = load or Load(train.tokens, train.seq_len)
    counts = _counts(scenario.model, key_of(scenario), train.loss, scenario.stack)
    parameters, g = estimate.parameters, int(train.gradient_checkpointing)
    update = _update(scenario, estimate)
    moved_bytes = counts.moved.token * tokens + counts.moved.score * tokens * attended + counts.moved.fixed
    return Work(
        tokens=tokens,
        micro_steps=train.grad_accumulation,
        ranks=ranks,
        products=tokens * counts.products,
        wide_products=tokens * counts.wide_products,
        attention=tokens * sum(_attention(kind, attended, g) for kind in counts.kinds),
        weights=counts.weights + counts.routed * _touched(counts, tokens),
        moved=moved_bytes,
        dequantised=_dequantised(train, parameters.quantized, g),
        kernels=counts.kernels,
        gathered=_gathered(scenario, estimate),
        collectives=_collectives(scenario),
        reduced=_reduced(scenario, estimate),
        updated=update.moved,
        update_products=update.products,
        update_kernels=update.kernels,
        paged=_paged(scenario, estimate),
    )


def _attention(kind: Kind, attended: float, g: int) -> float:
    """FLOPs of one token in the layers of a kind; twice that where masked scores are computed all the same."""
    if kind.dense:
        return 2 * kind.layers * attention_flops(s=1, width=kind.width, g=g) * attended
    return kind.layers * attention_flops(s=1, width=kind.width, g=g) * effective_length(attended, kind.window)


def _touched(counts: Counts, tokens: float) -> float:
    return experts_touched(tokens=tokens, top_k=counts.chosen, experts=counts.experts) if counts.routed else 0.0


def _dequantised(train: TrainSpec, quantized: int, g: int) -> float:
    if not train.quantized:
        return 0.0
    return eight_bit_bytes(quantized=quantized) if train.quant == "int8" else dequant_bytes(quantized=quantized, g=g)


@lru_cache(maxsize=4096)
def _counts(model: ModelSpec, key: ProfileKey, loss: str, stack: Behaviour) -> Counts:
    recipe = recipe_of(model, key, stack)
    base, branches = _products(model, key, stack)
    size, kernels = _traffic(model, key, loss, stack, recipe)
    read = recipe.compute_bytes * (2 + int(key.checkpointing))
    routed = expert_params(model)
    wide_base = recipe.compute_bytes == 4
    wide_branches = (
        recipe.adapter_bytes == 4 and not recipe.autocast and not recipe.quant and "lora" not in recipe.fused
    )
    blocks = list(zip(model.blocks, model.block_counts, strict=True))
    experts = next((block.experts for block in model.blocks if block.experts), None)
    return Counts(
        products=(0 if wide_base else base) + (0 if wide_branches else branches),
        wide_products=(base if wide_base else 0) + (branches if wide_branches else 0),
        kinds=tuple(_kind(block.attention, count, key) for block, count in blocks),
        weights=float(
            read * (model_params(model) - routed - outer_params(model))
            + 2 * recipe.compute_bytes * model.lm_head.weight_params
        ),
        routed=float(read * routed),
        chosen=experts.top_k if experts else 1,
        experts=experts.num_experts if experts else 1,
        moved=size,
        kernels=kernels,
    )


def _products(model: ModelSpec, key: ProfileKey, stack: Behaviour) -> tuple[int, int]:
    """FLOPs of one token: of the model's own matrices, and of adapters' branches."""
    g, full = int(key.checkpointing), key.method == "full"
    blocks = active_params(model) - outer_params(model) + computed_in_vain(model)
    head = model.lm_head.weight_params
    base = linear_flops(blocks=blocks, head=head, adapters=0, full=full, g=g)
    if full:
        return base, 0
    placed = adapters(model, key.lora_targets, key.modules_to_save, fused_experts=stack.fused_experts)
    if model.lm_head.name in key.modules_to_save:
        base += 2 * head
    return base, (6 + 2 * g) * placed.per_rank * key.lora_rank


def _traffic(model: ModelSpec, key: ProfileKey, loss: str, stack: Behaviour, recipe: Recipe) -> tuple[Size, int]:
    """Bytes that operations besides products move, and all kernels, of layers and loss."""
    g, last = int(key.checkpointing), moved(loss_tape_of(model, key, stack, recipe, fused=loss == "fused").tape)
    size, kernels = last.forward + last.backward, last.forward_kernels + last.backward_kernels
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        experts = block.experts.num_experts if block.experts else 1
        one = moved(block_tape(block, model.hidden_size, recipe), experts=experts)
        size += one.forward.times((1 + g) * count) + one.backward.times(count)
        kernels += count * ((1 + g) * one.forward_kernels + one.backward_kernels)
    return size, kernels


def _kind(attention: Attention, count: int, key: ProfileKey) -> Kind:
    dense = key.attention == "eager" or (key.attention == "sdpa" and attention.window is not None)
    return Kind(count, attention.num_attention_heads * attention.head_dim, attention.window, dense)


def _shards_weights(scenario: Scenario) -> bool:
    return divisors(scenario.train.sharding, scenario.cluster.world_size).weights > 1


def _collectives(scenario: Scenario) -> int:
    """Gathers of each layer for forward and backward, and a sum of its gradients."""
    return 3 * scenario.model.num_hidden_layers if _shards_weights(scenario) else 0


def _gathered(scenario: Scenario, estimate: Estimate) -> float:
    """Bytes that one rank receives and sends in a micro-step: weights twice, gradients of what is trained once."""
    if not _shards_weights(scenario):
        return 0.0
    train, parameters, ranks = scenario.train, estimate.parameters, scenario.cluster.world_size
    stored = 2.0 * (parameters.total - parameters.quantized)
    if train.quantized and train.quant_storage != "uint8":
        stored += PACKED_BYTES * parameters.quantized
    return (2 * stored + 2.0 * parameters.trainable) * (ranks - 1) / ranks


def _reduced(scenario: Scenario, estimate: Estimate) -> float:
    """Bytes of one all-reduce of the gradients; ZeRO 1 and 2 split it into two halves of the same sum."""
    ranks = scenario.cluster.world_size
    if ranks == 1 or _shards_weights(scenario):
        return 0.0
    width = profile_of(scenario).inventory.trained_bytes
    return 2.0 * width * estimate.parameters.trainable * (ranks - 1) / ranks


def _update(scenario: Scenario, estimate: Estimate) -> Update:
    """What the optimizer does on one rank, the sums of accumulated gradients included."""
    train, ranks = scenario.train, scenario.cluster.world_size
    inventory = profile_of(scenario).inventory
    e = 4 if train.sharding.startswith("zero") else inventory.trained_bytes
    return update_of(
        train.optimizer,
        params=estimate.parameters.trainable / divisors(train.sharding, ranks).optimizer,
        tensors=_tensors(inventory.trained),
        e=e,
        hidden=scenario.model.hidden_size,
        accumulated=train.grad_accumulation - 1,
    )


def _tensors(trained: tuple[Trainable, ...]) -> int:
    return sum(tensor.copies for tensor in trained)


def _paged(scenario: Scenario, estimate: Estimate) -> float:
    """Bytes of managed states that do not fit beside the rest: each step brings them in and out again."""
    peak = estimate.peak
    if not peak.managed_bytes or scenario.cluster.gpu.unified_memory:
        return 0.0
    beyond = peak.required_bytes + peak.managed_bytes - scenario.cluster.usable_bytes
    return 2.0 * min(max(beyond, 0), peak.managed_bytes)
