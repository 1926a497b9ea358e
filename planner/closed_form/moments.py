"""Phases besides the step, after its last: evaluation, generation, saving, resuming, merging.

Until merging ends them, weights, adapters and optimizer states stand through all of them; gradients are gone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from planner.closed_form.loss import head_bytes
from planner.closed_form.profile import key_of, loss_tape_of, profile_of
from planner.closed_form.step import Step, prepare
from planner.formulas.adapters import adapter_sites
from planner.formulas.moments import (
    Gathered,
    cached_tokens,
    gathered_by_loop,
    gathered_by_trainer,
    gathered_bytes,
    key_value_bytes,
    merge_bytes,
    unused_after_joining,
)
from planner.formulas.states import nf4_bytes, optimizer_bytes
from planner.result import Memory, Phase
from planner.spec import FLOAT_BYTES, Attention, Latent, Moment, Scenario, TrainSpec


def moment_phases(step: Step) -> dict[Phase, Memory]:
    """The moments that the scenario asks for."""
    return {name: _PHASES[name](step) for name in step.scenario.train.moments}


def after_steps(step: Step) -> Memory:
    """What stands when the last step is done: a caller that keeps the outputs still has the logits."""
    static = step.static(held=True)
    return static._replace(activations=static.activations - step.inputs, logits=step.held_logits)


def forward_only(scenario: Scenario, **changed: object) -> Step:
    """The scenario's forward pass alone, on another batch: layers save nothing, and nothing is dropped out."""
    train: TrainSpec = replace(scenario.train, gradient_checkpointing=True, lora_dropout=0.0, **changed)  # type: ignore[arg-type]
    return prepare(replace(scenario, train=train))


def largest(*candidates: Memory) -> Memory:
    """The one with the most bytes."""
    return max(candidates, key=lambda memory: memory.total)


def plus(memory: Memory, **extra: int) -> Memory:
    """``memory`` with more bytes of some owners."""
    return memory._replace(**{name: getattr(memory, name) + count for name, count in extra.items()})


# ---------------------------------------------------------------- evaluation


def evaluation_phase(step: Step) -> Memory:
    """The last batch's layers or head beside what has been gathered, or all of it while it is joined."""
    train = step.scenario.train
    batch = min(train.eval_batch_size, train.eval_samples)
    only = forward_only(step.scenario, micro_batch_size=batch)
    gathered = gathered_sequences(step.scenario)
    unit = logits_of_a_sequence(step.scenario)
    before = plus(after_steps(step), activations=only.inputs)
    running = plus(before, logits=gathered.during * unit)
    joining = plus(before, logits=gathered.joining * unit)
    return largest(_layers(only, running), _head(only, running), joining)


def gathered_sequences(scenario: Scenario) -> Gathered:
    """How many sequences have logits at the worst moment."""
    train = scenario.train
    if not train.eval_logits:
        return Gathered(0, 0)
    rule = gathered_by_loop if scenario.stack.name == "plain" else gathered_by_trainer
    return rule(samples=train.eval_samples, batch=train.eval_batch_size, every=train.eval_accumulation_steps)


def unused(step: Step, phase: Phase) -> tuple[int, int]:
    """Bytes that the allocator holds without use at the peak of a phase: with memory to spare, and squeezed."""
    scenario, train = step.scenario, step.scenario.train
    if phase != "evaluation" or not train.eval_logits or scenario.stack.name == "plain":
        return 0, 0
    found = unused_after_joining(
        samples=train.eval_samples, batch=train.eval_batch_size, every=train.eval_accumulation_steps
    )
    batch = logits_of_a_sequence(scenario) * min(train.eval_batch_size, train.eval_samples)
    return found.spare * batch, found.squeezed * batch


def logits_of_a_sequence(scenario: Scenario) -> int:
    """Bytes of one sequence's logits as a loop gathers them."""
    return gathered_bytes(
        sequences=1, s=scenario.train.seq_len, vocabulary=scenario.model.vocab_size, e=gathered_element(scenario)
    )


def gathered_element(scenario: Scenario) -> int:
    """Bytes of one logit that a loop gathers: trainers make 16-bit outputs of autocast fp32."""
    if scenario.stack.name != "plain" and scenario.train.autocast != "none":
        return 4
    recipe = profile_of(scenario).recipe
    return loss_tape_of(scenario.model, key_of(scenario), scenario.stack, recipe).logits.e


def _layers(only: Step, before: Memory) -> Memory:
    """The largest instant in a layer: its input and the embeddings are in variables beside it."""
    profile = only.profile
    around = plus(before, activations=2 * only.bytes(profile.stream) - only.narrow_first_input)
    instants = [only.largest(part.forward) for part in profile.layers]
    return largest(*(only.plus(around, instant, extra=profile.autocast_cache) for instant in instants))


def _head(only: Step, before: Memory) -> Memory:
    """Head and loss without a graph. TRL's fused head makes no logits; where they are gathered, another pass does."""
    scenario, profile = only.scenario, only.profile
    train = scenario.train
    if train.loss == "full":
        return only.plus(before, only.largest(profile.loss.forward), extra=profile.autocast_cache)
    head = head_bytes(only)
    fused = plus(
        before,
        activations=only.bytes(profile.stream) + head.forward - head.forward_logits - head.gradients,
        logits=head.forward_logits,
    )
    if not train.eval_logits:
        return fused
    width = FLOAT_BYTES["bf16"] if train.autocast != "none" else 0
    logits = train.tokens * scenario.model.vocab_size * (width + gathered_element(scenario))
    return largest(fused, plus(before, logits=logits, activations=only.bytes(profile.stream)))


# ---------------------------------------------------------------- generation


def generation_phase(step: Step) -> Memory:
    """The prompt's pass, at whose end the cache holds it in every layer; or the last token's."""
    scenario, train = step.scenario, step.scenario.train
    # generate calls the model inside PEFT's, past the forward that accelerate wraps in autocast
    changed = {"autocast": "none"} if train.uses_adapters else {}
    only = forward_only(scenario, micro_batch_size=train.eval_batch_size, **changed)
    before = plus(after_steps(step), activations=train.eval_batch_size * train.seq_len * 3 * 8)
    prompt = plus(before, activations=_cache(only, train.seq_len))
    last = train.seq_len + train.new_tokens - 1
    held = [cached_tokens(tokens=last, window=block.attention.window) for block in scenario.model.blocks]
    growing = max(
        _beside_cache(only, block.attention, tokens) for block, tokens in zip(scenario.model.blocks, held, strict=True)
    )
    decoding = plus(
        before,
        activations=_cache(only, last, sliding=True) + growing,
        logits=train.eval_batch_size * scenario.model.vocab_size * 8,
    )
    return largest(_layers(only, prompt), decoding)


def _cache(only: Step, tokens: int, *, sliding: bool = False) -> int:
    """Keys and values of all layers; ``sliding``: windows have been applied."""
    model = only.scenario.model
    return sum(
        count
        * _key_values(
            only,
            block.attention,
            cached_tokens(tokens=tokens, window=block.attention.window if sliding else None),
        )
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )


def _beside_cache(only: Step, spec: Attention, tokens: int) -> int:
    """What one token needs of a layer's cache besides it: the old keys or values while they are joined with the new
    ones; or both repeated for every query head; or expanded from latent vectors.
    """
    if spec.latent is not None:
        return only.b * tokens * _expanded_bytes(only, spec, spec.latent)
    cached = _key_values(only, spec, tokens)
    repeats = only.scenario.train.attention == "eager" or only.profile.recipe.repeats_kv
    groups = spec.num_attention_heads // spec.num_key_value_heads
    return cached * groups if repeats and groups > 1 else cached // 2


def _expanded_bytes(only: Step, spec: Attention, latent: Latent) -> int:
    """One position's keys and values from its latent vector, expanded for all positions whenever one more token comes.

    The product, the keys joined from two parts, the values padded to their width for FlashAttention; or, with an
    adapter on the product, its branch twice beside it (peft 0.21 tuners/lora/layer.py, Linear.forward).
    """
    recipe, element = only.profile.recipe, _cache_element(only)
    key, product = latent.qk_nope_head_dim + latent.qk_rope_head_dim, latent.qk_nope_head_dim + latent.v_head_dim
    padded = only.scenario.train.attention == "flash" and latent.v_head_dim != key
    expanded = (product + (2 if padded else 1) * key) * element
    adapted = spec.inner[-1].name in recipe.modules
    branch = product * (element + 2 * recipe.adapter_bytes) if adapted else 0
    return spec.num_attention_heads * max(expanded, branch)


def _key_values(only: Step, spec: Attention, tokens: int) -> int:
    """One layer's cache; latent attention keeps its compressed vectors, as one head.

    transformers 5.23 models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention.forward.
    """
    latent = spec.latent
    return key_value_bytes(
        b=only.b,
        tokens=tokens,
        heads=spec.num_key_value_heads if latent is None else 1,
        key_dim=spec.head_dim if latent is None else latent.kv_lora_rank,
        value_dim=spec.head_dim if latent is None else latent.qk_rope_head_dim,
        e=_cache_element(only),
    )


def _cache_element(only: Step) -> int:
    recipe = only.profile.recipe
    return recipe.compute_bytes if recipe.autocast else recipe.stream_bytes


# ---------------------------------------------------------------- checkpoints and merging


def save_phase(step: Step) -> Memory:
    """What stands, since tensors go to the host one after the other; and the parts of stacked experts.

    Experts that were separate modules before transformers 5 are saved as such: gates and rows of their stacked matrices
    are copied apart, all at once (transformers 5.23 core_model_loading.py, revert_weight_conversion).
    """
    scenario, memory = step.scenario, after_steps(step)
    if scenario.train.uses_adapters or not scenario.stack.fused_experts:
        return memory
    apart = sum(
        count * table.params
        for block, count in zip(scenario.model.blocks, scenario.model.block_counts, strict=True)
        if block.experts is not None and block.experts.linear_names
        for table in block.experts.tables
        if table.name.endswith("gate_up_proj")
    )
    return plus(memory, temporaries=apart * FLOAT_BYTES[scenario.train.weights_dtype])


def resume_phase(step: Step) -> Memory:
    """No states yet while adapters are read a second time; then the states, as wide as what they belong to."""
    before = after_steps(step)._replace(logits=0, activations=0, optimizer=0)
    states = resumed_states(step)
    wide = _resumed(step, before)
    reading = plus(wide, temporaries=before.adapters)
    return largest(reading, plus(wide, optimizer=states))


def _resumed(step: Step, memory: Memory) -> Memory:
    """PEFT makes 16-bit adapters fp32 when it loads them: peft 0.21 peft_model.py, load_adapter."""
    train = step.scenario.train
    narrow = train.uses_adapters and FLOAT_BYTES[train.adapter_dtype] < FLOAT_BYTES["fp32"]
    return memory._replace(adapters=2 * memory.adapters) if narrow else memory


def resumed_states(step: Step) -> int:
    """Optimizer states after ``load_state_dict``: cast to their parameters' dtype; pages become plain device memory."""
    train, inventory = step.scenario.train, step.profile.inventory
    element = FLOAT_BYTES["fp32"] if train.uses_adapters else inventory.trained_bytes
    found = optimizer_bytes(train.optimizer, inventory.trained, e=element)
    return found.states + found.managed


def merge_phase(step: Step) -> Memory:
    """Merging the largest matrix; the optimizer still holds adapters and states."""
    scenario, train = step.scenario, step.scenario.train
    memory = after_steps(step)
    if "resume" in train.moments:  # which came before it
        memory = _resumed(step, memory)._replace(optimizer=resumed_states(step), logits=0, activations=0)
    adapter = FLOAT_BYTES["fp32"] if "resume" in train.moments else FLOAT_BYTES[train.adapter_dtype]
    sites = adapter_sites(
        scenario.model, train.lora_targets, train.modules_to_save, fused_experts=scenario.stack.fused_experts
    )
    numel = max((site.d_in * site.d_out * (site.copies if site.stacked else 1) for site, _ in sites), default=0)
    packed = nf4_bytes(numel, double_quant=train.double_quant) if train.quantized else 0
    return plus(
        memory,
        temporaries=merge_bytes(numel=numel, e=FLOAT_BYTES[train.weights_dtype], adapter_e=adapter, packed=packed),
    )


_PHASES: Mapping[Moment, Callable[[Step], Memory]] = {
    "evaluation": evaluation_phase,
    "generation": generation_phase,
    "save": save_phase,
    "resume": resume_phase,
    "merge": merge_phase,
}
