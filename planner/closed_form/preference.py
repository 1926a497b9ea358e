"""Phases that DPO and GRPO add to a step: the reference's forward pass, GRPO's completions, and their scores.

DPO: the policy's forward pass and log probabilities, the reference's beside its graph, then backward. GRPO: completions
of all micro-batches of a step are sampled first, the reference scores them, then micro-steps follow as in fine-tuning.
Source: trl 1.16 trainer/dpo_trainer.py, _compute_loss; trainer/grpo_trainer.py, _generate_and_score_completions.
"""

from dataclasses import replace
from typing import NamedTuple

from planner.closed_form.flattening import gradients_before_backward
from planner.closed_form.loss import end_of_layers, head_bytes
from planner.closed_form.profile import profile_of, scored_reference
from planner.closed_form.recipe import key_of
from planner.closed_form.reference import as_reference, reference_of, undropped
from planner.closed_form.step import Step, kept_of_rollout, tables_of, with_buffers
from planner.closed_form.units import Units
from planner.closed_form.without_graph import (
    SAMPLED_LOGIT_BYTES,
    cache_bytes,
    forward_only,
    generated,
    head,
    largest,
    layers,
    past_autocast,
    plus,
)
from planner.formulas.coordinator import AFTER
from planner.formulas.preference import ID_BYTES
from planner.result import Memory, Phase
from planner.spec import Scenario


class Gathered(NamedTuple):
    """What an engine makes whole in a forward pass, beyond what the policy leaves whole: before a layer and in it, at
    the head, for the embedding, and after the pass.
    """

    entering: int = 0
    in_layers: int = 0
    at_head: int = 0
    embedding: int = 0
    outside: int = 0


def as_asked(scenario: Scenario) -> Scenario:
    """The scenario with what the trainer changes of the model: DPO turns its dropout off (``disable_dropout``)."""
    if scenario.train.objective != "dpo":
        return scenario
    return replace(scenario, model=undropped(scenario.model))


def before_steps(step: Step) -> dict[Phase, Memory]:
    """GRPO's phases before the micro-steps."""
    train = step.scenario.train
    if train.objective != "grpo":
        return {}
    found: dict[Phase, Memory] = {"rollout": rollout_phase(step)}
    if train.reference != "none":
        found["scoring"] = scoring_phase(step)
    return found


def inside_step(step: Step) -> dict[Phase, Memory]:
    """DPO's phase between the loss and backward."""
    train = step.scenario.train
    return {"reference": reference_phase(step)} if train.objective == "dpo" and train.reference != "none" else {}


# ---------------------------------------------------------------- DPO


def reference_phase(step: Step) -> Memory:
    """The reference's layers or its head, beside the graph of the policy."""
    return _reference_pass(step, with_graph(step))


def with_graph(step: Step) -> Memory:
    """The policy's forward pass is done: what waits for its backward pass, and what an engine leaves whole."""
    end, shards = end_of_layers(step), step.shards
    if step.scenario.train.loss == "full":
        graph = step.plus(end, step.profile.beside_reference)
    else:
        graph = plus(step.plus(end, step.profile.hidden.kept), activations=head_bytes(step).kept)
    if shards.units is not None:
        return with_buffers(graph, shards.units.scoring())
    if shards.flat is not None:
        return graph._replace(gradients=gradients_before_backward(step, shards.flat))
    return with_buffers(graph, shards.loss)


# ---------------------------------------------------------------- GRPO


def rollout_phase(step: Step) -> Memory:
    """Completions of all micro-batches until the next rollout, sampled at once with a cache of keys and values."""
    train = step.scenario.train
    rows = train.rollout_sequences
    only = forward_only(step.scenario, micro_batch_size=rows, seq_len=train.prompt_len, **past_autocast(train))
    ids = 2 * ID_BYTES * rows * train.seq_len
    before = plus(between_steps(step), activations=2 * ids)  # lengthened by one token, they are there twice
    gathered, cache = _to_sample(step), cache_bytes(only, train.seq_len - 1, sliding=True)
    sampled = generated(
        only,
        with_buffers(before, gathered.in_layers),
        prompt=train.prompt_len,
        tokens=train.completion_len,
        logit_bytes=SAMPLED_LOGIT_BYTES,
    )
    cached = before if step.shards.units is not None and step.shards.units.tied else plus(before, activations=cache)
    return largest(with_buffers(cached, max(gathered.embedding, gathered.entering)), sampled)


def scoring_phase(step: Step) -> Memory:
    """The reference's log probabilities of the completions, one micro-batch after the other."""
    return _reference_pass(step, between_steps(step))


def between_steps(step: Step) -> Memory:
    """States without gradients, and the completions of the last rollout."""
    static = step.static()
    return static._replace(activations=kept_of_rollout(step.scenario.train))


def _to_sample(step: Step) -> Gathered:
    """ZeRO-3 gathers the whole model while it samples; FSDP2 layer by layer.

    trl 1.16 models/utils.py, _unwrap_model_for_generation, with ``ds3_gather_for_generation``.
    """
    shards, inventory = step.shards, step.profile.inventory
    if shards.flat is not None:
        whole = inventory.weights + inventory.adapters - shards.flat.persistent
        return Gathered(in_layers=whole if shards.flat.stage == 3 else 0)
    if shards.units is not None:
        return _to_sample_by_units(shards.units)
    return Gathered(in_layers=shards.forward)


def _to_sample_by_units(units: Units) -> Gathered:
    """The head that the prompt's pass made whole stays so in those of all tokens after it."""
    tail = 0 if units.tied else units.tail.gathered
    places = range(len(units.layout))
    return Gathered(
        entering=units.entering(0) if units.tied else max(units.entering(place) for place in places) + tail,
        in_layers=max(units.in_layer(place) for place in places) + tail,
        embedding=units.at_embedding() + tail,
    )


# ---------------------------------------------------------------- a reference's pass


def _reference_pass(step: Step, before: Memory) -> Memory:
    """The reference's forward pass beside ``before``, which has the policy's own buffers."""
    only = _referring(step)
    before = plus(before, activations=tables_of(step.scenario, only.profile))
    gathered = _of_copy(step) if step.scenario.train.reference == "copy" else _of_policy(step)
    entered = plus(before, activations=only.bytes(only.profile.stream))
    states = plus(before, activations=_states(only))
    return largest(
        with_buffers(before, gathered.embedding),
        with_buffers(entered, gathered.entering),
        layers(only, with_buffers(states, gathered.in_layers)),
        _scored(only, states, gathered),
    )


def _states(only: Step) -> int:
    """Every layer's input and the last output, where the trainer asks for them; its metrics have no use for them."""
    if not only.scenario.stack.pairs_with_states:
        return 0
    return only.scenario.model.num_hidden_layers * only.bytes(only.profile.stream)


def _scored(only: Step, before: Memory, gathered: Gathered) -> Memory:
    """Head and scores of a reference: whole logits of pairs are scored when its forward pass is done."""
    scenario, key = only.scenario, key_of(only.scenario)
    inside = with_buffers(before, gathered.at_head)
    if not key.pairs:
        return head(only, inside)
    to_logits, scores = scored_reference(scenario.model, key, scenario.stack)
    return largest(
        only.plus(inside, only.largest(to_logits), extra=only.profile.autocast_cache),
        only.plus(with_buffers(before, gathered.outside), only.largest(scores)),
    )


def _referring(step: Step) -> Step:
    """The step as the reference computes it, which keeps nothing."""
    base = as_reference(step.scenario)
    scenario = replace(base, train=replace(base.train, gradient_checkpointing=True, lora_dropout=0.0))
    return step._replace(scenario=scenario, profile=profile_of(scenario))


def _of_copy(step: Step) -> Gathered:
    found = reference_of(step.scenario)
    return Gathered(found.in_layers, found.in_layers, found.at_head, outside=found.outside)


def _of_policy(step: Step) -> Gathered:
    """A further pass of the policy's own modules: what its first one left whole is there."""
    shards = step.shards
    if shards.units is not None:
        return _of_units(shards.units)
    if shards.flat is not None:
        flat = shards.flat
        most = flat.most("forward")
        left = max(flat.live("forward", AFTER), flat.copying("forward", AFTER))
        return Gathered(most, most, left, outside=left)
    return Gathered(in_layers=shards.forward - shards.loss)


def _of_units(units: Units) -> Gathered:
    """FSDP2 leaves the root and the tail whole after the policy's pass; the first unit finds no buffer before it."""
    places = range(len(units.layout))
    left = units.standing(len(units.layout))
    tail = 0 if units.tied else units.tail.gathered
    found = units.in_layer(0) if units.tied else units.entering(0)
    entering = max(found, *(units.entering(place) for place in places[1:]), 0)
    return Gathered(
        entering=entering - left,
        in_layers=max(units.in_layer(place) for place in places) - left,
        at_head=units.at_head() - left - tail,
        embedding=2 * units.embedding.gathered,
        outside=units.scoring() - left - tail,
    )
