"""Phases besides the step, after its last: evaluation, generation, saving, resuming, merging.

Until merging ends them, weights, adapters and optimizer states stand through all of them; gradients are gone.
"""

from collections.abc import Callable, Mapping

from planner.closed_form.profile import loss_tape_of, profile_of
from planner.closed_form.recipe import key_of
from planner.closed_form.step import Step
from planner.closed_form.without_graph import (
    GREEDY_LOGIT_BYTES,
    forward_only,
    generated,
    head,
    largest,
    layers,
    past_autocast,
    plus,
)
from planner.formulas.adapters import adapter_sites
from planner.formulas.moments import (
    Gathered,
    gathered_by_loop,
    gathered_by_trainer,
    gathered_bytes,
    merge_bytes,
    unused_after_joining,
)
from planner.formulas.states import nf4_bytes, optimizer_bytes
from planner.result import Memory, Phase
from planner.spec import FLOAT_BYTES, Moment, Scenario


def moment_phases(step: Step) -> dict[Phase, Memory]:
    """The moments that the scenario asks for."""
    return {name: _PHASES[name](step) for name in step.scenario.train.moments}


def after_steps(step: Step) -> Memory:
    """What stands when the last step is done: a caller that keeps the outputs still has the logits."""
    static = step.static(held=True)
    return static._replace(activations=static.activations - step.inputs, logits=step.held_logits)


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
    return largest(layers(only, running), _head(only, running), joining)


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


def _head(only: Step, before: Memory) -> Memory:
    """Head and loss without a graph. TRL's fused head makes no logits; where they are gathered, another pass does."""
    scenario, train, found = only.scenario, only.scenario.train, head(only, before)
    if train.loss == "full" or not train.eval_logits:
        return found
    width = FLOAT_BYTES["bf16"] if train.autocast != "none" else 0
    logits = train.tokens * scenario.model.vocab_size * (width + gathered_element(scenario))
    return largest(found, plus(before, logits=logits, activations=only.bytes(only.profile.stream)))


# ---------------------------------------------------------------- generation


def generation_phase(step: Step) -> Memory:
    """Greedy generation after prompts of ``seq_len`` tokens."""
    train = step.scenario.train
    only = forward_only(step.scenario, micro_batch_size=train.eval_batch_size, **past_autocast(train))
    before = plus(after_steps(step), activations=train.eval_batch_size * train.seq_len * 3 * 8)
    return generated(only, before, prompt=train.seq_len, tokens=train.new_tokens, logit_bytes=GREEDY_LOGIT_BYTES)


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
