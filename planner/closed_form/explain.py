"""The itemised list behind the activations: every tensor that waits for its backward, by name and shape."""

from collections.abc import Iterator
from typing import NamedTuple

from planner.closed_form.loss import head_bytes
from planner.closed_form.profile import loss_tape_of, pairs_tape_of
from planner.closed_form.recipe import key_of
from planner.closed_form.step import Step, prepare
from planner.formulas.blocks import block_tape
from planner.formulas.head import hidden_tape
from planner.formulas.tape import Tape
from planner.spec import Block, ModelSpec, Scenario

RECOMPUTED = "one layer, recomputed"
"""The group that exists for one layer at a time; all others exist together when backward begins."""


class Item(NamedTuple):
    """``copies`` equal tensors: ``bytes`` counts all of them."""

    group: str
    name: str
    shape: str
    dtype: str
    copies: int
    bytes: int


def itemise(scenario: Scenario) -> tuple[Item, ...]:
    """Every saved tensor of one micro-step. All but the group ``RECOMPUTED`` sum to ``saved_bytes``.

    With checkpointing the layers keep their inputs, and what hangs on autograd's nodes, only; the group ``RECOMPUTED``
    exists once, for the layer whose backward runs.
    """
    step = prepare(scenario)
    return (*_inputs(step), *_layers(step), *_ending(step), *_recomputed(step))


def itemised(scenario: Scenario) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """``itemise`` in two parts: what waits for backward together, and what one layer makes again."""
    items = itemise(scenario)
    return (
        tuple(item for item in items if item.group != RECOMPUTED),
        tuple(item for item in items if item.group == RECOMPUTED),
    )


def saved_bytes(scenario: Scenario) -> int:
    """Bytes of activations and logits that exist when backward begins, worked out without the list."""
    step = prepare(scenario)
    profile, model = step.profile, scenario.model
    layers = sum(
        count * (step.bytes(part.lasting.activations) + step.bytes(part.lasting.logits))
        for part, count in zip(profile.layers, model.block_counts, strict=True)
    )
    if scenario.train.gradient_checkpointing:
        layers += model.num_hidden_layers * step.bytes(profile.stream) - step.narrow_first_input
    ending = profile.loss.kept if scenario.train.loss == "full" else profile.hidden.kept
    head = 0 if scenario.train.loss == "full" else head_bytes(step).kept
    return step.inputs + step.front + layers + step.bytes(ending.activations) + step.bytes(ending.logits) + head


def _inputs(step: Step) -> Iterator[Item]:
    yield Item("inputs", "token ids, labels, mask, rotary tables", "b s and s d", "mixed", 1, step.inputs)
    if step.front:
        width = step.scenario.model.hidden_size
        yield Item("embedding", "dropout mask, norm input and statistics", f"b s {width}", "mixed", 1, step.front)


def _layers(step: Step) -> Iterator[Item]:
    model, train = step.scenario.model, step.scenario.train
    if train.gradient_checkpointing:
        layers = model.num_hidden_layers
        yield Item(
            "checkpoints",
            "layer input",
            f"b s {model.hidden_size}",
            _dtype(step.profile.recipe.stream_bytes),
            layers,
            layers * step.bytes(step.profile.stream) - step.narrow_first_input,
        )
        if not step.scenario.stack.reentrant_checkpoint:
            yield from _attached(step)
        return
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        group = "layers" if len(model.blocks) == 1 else f"layers ({_kind(model, block)})"
        yield from _tape_items(step, group, _tape(step, block), count, source=True)


def _attached(step: Step) -> Iterator[Item]:
    """What hangs on nodes, where checkpoints do not reach it."""
    model = step.scenario.model
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        for tensor in _tape(step, block).attached():
            size = count * step.bytes(tensor.size)
            yield Item("kept beyond checkpoints", tensor.name, tensor.shape, _dtype(tensor.e), count, size)


def _recomputed(step: Step) -> Iterator[Item]:
    if step.scenario.train.gradient_checkpointing:
        yield from _tape_items(step, RECOMPUTED, _tape(step, _widest(step)), 1, source=False)


def _kind(model: ModelSpec, block: Block) -> str:
    words = ["experts" if block.experts else "dense"]
    if any(other.attention.window != block.attention.window for other in model.blocks):
        words.append(f"window {block.attention.window}" if block.attention.window else "full attention")
    return ", ".join(words)


def _widest(step: Step) -> Block:
    parts = zip(step.scenario.model.blocks, step.profile.layers, strict=True)
    return max(parts, key=lambda pair: step.bytes(pair[1].kept.activations))[0]


def _tape(step: Step, block: Block) -> Tape:
    return block_tape(block, step.scenario.model.hidden_size, step.profile.recipe)


def _ending(step: Step) -> Iterator[Item]:
    scenario, recipe = step.scenario, step.profile.recipe
    if scenario.train.loss == "full":
        key = key_of(scenario)
        found = pairs_tape_of if key.pairs else loss_tape_of
        tape = found(scenario.model, key, scenario.stack, recipe).tape
        yield from _tape_items(step, "head and loss", tape, 1, source=True)
        return
    yield from _tape_items(step, "final norm", hidden_tape(scenario.model, recipe), 1, source=True)
    name = f"{scenario.train.loss} head: hidden state and statistics"
    head = head_bytes(step)
    yield Item("head and loss", name, f"b s {scenario.model.lm_head.d_in}", "mixed", 1, head.kept)


def _tape_items(step: Step, group: str, tape: Tape, count: int, *, source: bool) -> Iterator[Item]:
    for tensor in tape.saved(own_source=source):
        yield Item(group, tensor.name, tensor.shape, _dtype(tensor.e), count, count * step.bytes(tensor.size))


def _dtype(e: int) -> str:
    return {1: "uint8", 2: "16 bit", 4: "fp32", 8: "int64"}[e]
