"""What one optimizer step has to do, counted by what limits it: FLOPs, bytes and kernels; no seconds.

Counts are linear in the tokens of a micro-step, so those of a model and a method are made once and then scaled.
"""

from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.exchange import model_exchanges
from planner.closed_form.parallel import is_divided, kinds_of_rank
from planner.closed_form.profile import loss_tape_of, profile_of
from planner.closed_form.recipe import ProfileKey, key_of, recipe_of
from planner.closed_form.shared import question_of
from planner.closed_form.zero import as_deepspeed
from planner.formulas.adapters import adapters
from planner.formulas.blocks import block_tape
from planner.formulas.collectives import Exchange
from planner.formulas.flops import (
    attention_flops,
    dequant_bytes,
    effective_length,
    eight_bit_bytes,
    experts_touched,
    linear_flops,
    stack_bytes,
)
from planner.formulas.operations import Recipe
from planner.formulas.parallel import bubble
from planner.formulas.params import (
    active_params,
    computed_in_vain,
    expert_params,
    expert_stacks,
    model_params,
    outer_params,
)
from planner.formulas.sharding import divisors
from planner.formulas.states import Trainable
from planner.formulas.tape import Size
from planner.formulas.traffic import moved
from planner.formulas.updates import Update, update_of
from planner.result import Estimate, Parameters
from planner.spec import Attention, Behaviour, ModelSpec, Scenario
from planner.throughput.exchanges import data_exchanges
from planner.throughput.offloading import NOTHING, Offloading, offloading

ELSEWHERE = Update(moved=0.0, products=0.0, kernels=0.0)
"""Of an optimizer that runs on the host's processor."""


class Load(NamedTuple):
    """What one GPU sees in one micro-step: ``tokens``, padding included, and the mean length that attention feels."""

    tokens: float
    attended: float


class Work(NamedTuple):
    """One optimizer step of one GPU.

    Of one micro-step: FLOPs of 16-bit ``products``, of ``wide_products`` in fp32 and of ``attention``; bytes that the
    products read of weights (``weights``), that other operations ``moved`` and that ``dequantised``; ``kernels`` and
    ``collectives`` started. Of the whole step: ``exchanges`` among ranks, bytes ``updated`` in memory and ``paged``
    over the bus, FLOPs of the optimizer's own ``update_products``, and its ``update_kernels``. ``sequences``: groups of
    ranks that see different tokens; ``offloading``: bytes between card and host; ``bubble``: seconds in which a
    pipeline waits for each in which it works.
    """

    tokens: float
    micro_steps: int
    sequences: int
    products: float
    wide_products: float
    attention: float
    weights: float
    moved: float
    dequantised: float
    kernels: float
    collectives: int
    exchanges: tuple[Exchange, ...]
    updated: float
    update_products: float
    update_kernels: float
    paged: float = 0.0
    offloading: Offloading = NOTHING
    bubble: float = 0.0

    @property
    def gathers(self) -> bool:
        """Whether weights travel in every micro-step."""
        return any(one.axis == "shard" and one.kind == "all_gather" and one.hidden for one in self.exchanges)


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
    """The step's work, at the load that data make or at full sequences; of a divided model that of the busiest rank.

    In the dtypes that the engine makes of it, as its bytes are counted.
    """
    scenario = as_deepspeed(scenario)
    train = scenario.train
    tokens, attended = load or Load(train.tokens, train.seq_len)
    paged = _paged(scenario, estimate)
    if not is_divided(train):
        found = _shared_work(_Alike(scenario), estimate.parameters, Load(tokens, attended))
        return found._replace(paged=paged) if paged else found
    part = Load(tokens / (train.context_parallel * train.ulysses_parallel), attended)
    ranks = (one.scenario for one in kinds_of_rank(scenario))
    works = (_work(one, profile_of(one).inventory.parameters, part) for one in ranks)
    busiest = max(works, key=lambda work: work.products)
    waits = bubble(p=train.pipeline_parallel, m=train.grad_accumulation, v=train.virtual_stages)
    exchanges = (*busiest.exchanges, *model_exchanges(scenario))
    return busiest._replace(tokens=tokens, bubble=float(waits), exchanges=exchanges, paged=paged)


class _Alike:
    """A scenario in place of all that ask the same of a step, on whatever card."""

    __slots__ = ("question", "scenario")

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.question = scenario, question_of(scenario)

    def __hash__(self) -> int:
        return hash(self.question)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and other.question == self.question


@lru_cache(maxsize=1024)
def _shared_work(alike: _Alike, parameters: Parameters, load: Load) -> Work:
    return _work(alike.scenario, parameters, load)


def _work(scenario: Scenario, parameters: Parameters, load: Load) -> Work:
    """Of one rank that holds ``parameters``; what is paged depends on the card."""
    train = scenario.train
    tokens, attended = load
    counts = _counts(scenario.model, key_of(scenario), train.loss, scenario.stack)
    g = int(train.gradient_checkpointing)
    update = _update(scenario, parameters)
    moved_bytes = counts.moved.token * tokens + counts.moved.score * tokens * attended + counts.moved.fixed
    return Work(
        tokens=tokens,
        micro_steps=train.grad_accumulation,
        sequences=scenario.layout.sequences,
        products=tokens * counts.products,
        wide_products=tokens * counts.wide_products,
        attention=tokens * sum(_attention(kind, attended, g) for kind in counts.kinds),
        weights=counts.weights + counts.routed * _touched(counts, tokens),
        moved=moved_bytes,
        dequantised=_dequantised(scenario, parameters.quantized, g),
        kernels=counts.kernels,
        collectives=_collectives(scenario),
        exchanges=data_exchanges(scenario, parameters),
        updated=update.moved,
        update_products=update.products,
        update_kernels=update.kernels,
        offloading=offloading(scenario, parameters, tokens),
    )


def _attention(kind: Kind, attended: float, g: int) -> float:
    """FLOPs of one token in the layers of a kind; twice that where masked scores are computed all the same."""
    if kind.dense:
        return 2 * kind.layers * attention_flops(s=1, width=kind.width, g=g) * attended
    return kind.layers * attention_flops(s=1, width=kind.width, g=g) * effective_length(attended, kind.window)


def _touched(counts: Counts, tokens: float) -> float:
    return experts_touched(tokens=tokens, top_k=counts.chosen, experts=counts.experts) if counts.routed else 0.0


def _dequantised(scenario: Scenario, quantized: int, g: int) -> float:
    if not scenario.train.quantized:
        return 0.0
    in_8_bits = scenario.train.quant == "int8"
    packed = profile_of(scenario).recipe.packed_experts
    stacks = sum(count * site.d_in * site.d_out for site, count in expert_stacks(scenario.model)) if packed else 0
    matrices = quantized - stacks
    found = eight_bit_bytes(quantized=matrices) if in_8_bits else dequant_bytes(quantized=matrices, g=g)
    return found + stack_bytes(quantized=stacks, in_8_bits=in_8_bits, g=g)


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


def _collectives(scenario: Scenario) -> int:
    """Gathers of each layer for forward and backward, and a sum of its gradients."""
    divided = divisors(scenario.train.sharding, scenario.layout.shard).weights > 1
    return 3 * scenario.model.num_hidden_layers if divided else 0


def _update(scenario: Scenario, parameters: Parameters) -> Update:
    """What the optimizer does on one rank, the sums of accumulated gradients included."""
    train, ranks = scenario.train, scenario.layout.shard
    if "optimizer" in train.offload:
        return ELSEWHERE
    inventory = profile_of(scenario).inventory
    e = 4 if train.sharding.startswith("zero") else inventory.trained_bytes
    return update_of(
        train.optimizer,
        params=parameters.trainable / divisors(train.sharding, ranks).optimizer,
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
