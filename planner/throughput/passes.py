"""Passes that preferences and rewards add to a step, in seconds: a reference's, and those that sample completions.

One pass runs its kernels behind one another, as a step does: a smooth maximum of device and processor.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.closed_form.profile import loss_tape_of, profile_of
from planner.closed_form.recipe import ProfileKey, key_of, recipe_of
from planner.closed_form.reference import without_adapters
from planner.closed_form.without_graph import layer_cache_bytes
from planner.formulas.adapters import adapters
from planner.formulas.blocks import block_tape
from planner.formulas.flops import attention_flops, dequant_bytes
from planner.formulas.moments import cached_tokens
from planner.formulas.params import active_params, computed_in_vain, model_params, outer_params
from planner.formulas.preference import cached_reads
from planner.formulas.traffic import moved
from planner.result import TimePart
from planner.spec import FLOAT_BYTES, Scenario
from planner.throughput.rates import Rates
from planner.throughput.roofline import SHARPNESS
from planner.throughput.work import Load, Work

ADDED = "references and completions beside a step"
"""The kind of run, in words; no published run of it was compared."""

FORWARD_SHARE = 2
"""Of the FLOPs of causal attention that ``attention_flops`` counts, 7 + 2g for each, those of a forward pass."""


class Pass(NamedTuple):
    """A forward pass of the whole model without a graph: FLOPs, bytes and kernels.

    ``products`` and ``moved`` of each token, ``attention`` of each token and position that it attends to, ``head`` of
    each token that is scored; ``weights``: bytes that are read whatever the tokens; ``dequantised``: bytes.
    """

    products: int
    head: int
    attention: float
    moved: float
    weights: int
    dequantised: float
    kernels: int


def added_parts(scenario: Scenario, work: Work, rates: Rates, load: Load | None) -> Mapping[TimePart, float]:
    """Seconds of one optimizer step that its own passes do not have; none in supervised fine-tuning."""
    train = scenario.train
    if train.objective == "sft":
        return MappingProxyType({})
    tokens, attended = load or Load(train.tokens, train.seq_len)
    gather = _gather_seconds(work, rates)
    found: dict[TimePart, float] = {}
    if train.reference != "none":
        one = forward_pass(without_adapters(scenario))
        scored = tokens * train.scored_tokens / train.tokens
        found["reference"] = work.micro_steps * pass_seconds(one, rates, tokens, attended, scored, gather)
    if train.objective == "grpo":
        found["generate"] = generation_seconds(scenario, rates, prompt=_prompt(scenario, load), gather=gather)
    return MappingProxyType(found)


def _prompt(scenario: Scenario, load: Load | None) -> float:
    """Mean tokens of a prompt: what is left of a sequence without its completion."""
    train = scenario.train
    if load is None:
        return float(train.prompt_len)
    return max(load.tokens / train.micro_batch_size - train.completion_len, 1.0)


def _gather_seconds(work: Work, rates: Rates) -> float:
    """Seconds in which divided weights are gathered once: their share of all the step's gathers."""
    gathers = [one for one in work.exchanges if one.axis == "shard" and one.kind == "all_gather" and one.hidden]
    return rates.exchanging(gathers) / (2 * work.micro_steps)


def forward_pass(scenario: Scenario) -> Pass:
    """Counts of one forward pass of a scenario's model with its adapters.

    Formula:   products 2 * (blocks + adapters); head 2 * V * h; weights e * (blocks + head); as ``work`` counts a step
    Source:    ``formulas.flops.linear_flops``, whose forward part this is; ``formulas.traffic.moved``
    Valid:     decoders whose layers all run
    Excludes:  experts that no token of a short batch chooses
    """
    model, train = scenario.model, scenario.train
    key = key_of(scenario)._replace(checkpointing=True)
    recipe = recipe_of(model, key, scenario.stack)
    blocks = active_params(model) - outer_params(model) + computed_in_vain(model)
    per_token, kernels = _traffic(scenario, key)
    quantized = profile_of(scenario).inventory.parameters.quantized
    return Pass(
        products=2 * (blocks + _adapter_entries(scenario)),
        head=2 * model.lm_head.weight_params,
        attention=float(sum(FORWARD_SHARE * attention_flops(s=1, width=width, g=0) / 7 for width in _widths(scenario))),
        moved=per_token,
        weights=recipe.compute_bytes * (model_params(model) - outer_params(model) + model.lm_head.weight_params),
        dequantised=dequant_bytes(quantized=quantized, g=0) / 2 if train.quantized else 0.0,
        kernels=kernels,
    )


def _adapter_entries(scenario: Scenario) -> int:
    train = scenario.train
    if not train.uses_adapters:
        return 0
    fused = scenario.stack.fused_experts
    return (
        adapters(scenario.model, train.lora_targets, train.modules_to_save, fused_experts=fused).per_rank
        * train.lora_rank
    )


def _widths(scenario: Scenario) -> list[int]:
    model = scenario.model
    return [
        count * block.attention.num_attention_heads * block.attention.head_dim
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    ]


def _traffic(scenario: Scenario, key: ProfileKey) -> tuple[float, int]:
    """Bytes that operations besides products move for each token, and kernels of a pass."""
    model, stack = scenario.model, scenario.stack
    recipe = recipe_of(model, key, stack)
    last = moved(loss_tape_of(model, key, stack, recipe, fused=True).tape)
    size, kernels = last.forward.token, last.forward_kernels
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        one = moved(
            block_tape(block, model.hidden_size, recipe), experts=block.experts.num_experts if block.experts else 1
        )
        size += count * one.forward.token
        kernels += count * one.forward_kernels
    return float(size), kernels


def pass_seconds(
    one: Pass, rates: Rates, tokens: float, attended: float, scored: float, gather: float = 0.0, cached: float = 0.0
) -> float:
    """A forward pass of ``tokens`` tokens, ``scored`` of which go through the head.

    Shapes:    attended: positions that a token attends to, as ``Load`` has it; cached: bytes of keys and values that
               are read besides; gather: seconds in which divided weights arrive beside computing
    Formula:   device = max(products / F, (weights + cached) / B) + attention / F_a + moved / B + dequantised / B_d;
               (device^3 + launch^3)^(1/3), or the gather where that takes longer
    Source:    Williams 2009, doi:10.1145/1498765.1498785; Pope 2022, arXiv:2211.05102, section 2: a pass over few
               tokens takes as long as weights and cache take to be read
    Valid:     eager kernels of one stream
    Excludes:  CUDA graphs, compiled decoding
    """
    products = (tokens * one.products + scored * one.head) / rates.flops_per_s
    device = max(products, (one.weights + cached) / rates.bytes_per_s)
    device += tokens * attended * one.attention / rates.attention_flops_per_s + tokens * one.moved / rates.bytes_per_s
    device += one.dequantised / rates.dequant_bytes_per_s
    launch = one.kernels * rates.kernel_s
    return float(max((device**SHARPNESS + launch**SHARPNESS) ** (1 / SHARPNESS), gather))


def generation_seconds(scenario: Scenario, rates: Rates, *, prompt: float, gather: float = 0.0) -> float:
    """Completions of one optimizer step: the prompts' pass, then one for each token after the first.

    Formula:   pass(rows * p) + (c - 1) * pass(rows), whose cache holds p + c/2 positions on average
    Source:    transformers 5.23 generation/utils.py, _sample; trl 1.16 trainer/grpo_trainer.py: all completions of a
               step at once, each to its full length unless it ends itself
    Valid:     ``generate`` of transformers with its dynamic cache; FSDP2 gathers in every pass, ZeRO-3 once
    Excludes:  completions that all end early, rewards, tokenising, vLLM
    """
    train = scenario.train
    rows, later = train.rollout_sequences, train.completion_len - 1
    one = forward_pass(scenario)
    whole = gather if train.sharding == "zero3" else 0.0
    each = 0.0 if train.sharding == "zero3" else gather
    first = pass_seconds(one, rates, rows * prompt, prompt, rows, each)
    if not later:
        return first + whole
    reads = cached_reads(prompt=round(prompt), tokens=train.completion_len) / later
    cached = rows * _cache_of_sequence(scenario, round(reads))
    return whole + first + later * pass_seconds(one, rates, rows, 0.0, rows, each, cached)


def _cache_of_sequence(scenario: Scenario, positions: int) -> int:
    """Bytes of keys and values of one sequence in all layers."""
    model, e = scenario.model, FLOAT_BYTES["bf16"] if scenario.train.weights_dtype != "fp32" else FLOAT_BYTES["fp32"]
    return sum(
        count
        * layer_cache_bytes(
            block.attention, b=1, tokens=cached_tokens(tokens=positions, window=block.attention.window), e=e
        )
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )
