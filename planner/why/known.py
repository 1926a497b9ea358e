"""Tensors that a scenario is known to make, by size: the request that failed is often one of them, to the byte."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from planner.allocator.constants import Constants, constants
from planner.spec import Linear, ModelSpec, Scenario
from planner.units import MIB
from planner.why.message import Amount

WORDS = {4: "fp32", 2: "16 bit"}
UNTOLD = 20 * MIB
"""Tensors below 10 MiB take a whole segment of 2 or 20 MiB, which the message names: such a request tells nothing."""

TIMES = (2, 4, 8, 16, 32)
"""Batches, in multiples of the one that was planned, in which logits and scores are looked for."""


class Known(NamedTuple):
    """A tensor: what it is, its size as a product, and its bytes; ``times`` the planned batch.

    ``made_with``: the setting that makes it, where the scenario's own does not.
    """

    name: str
    formula: str
    bytes: int
    times: int = 1
    made_with: str = ""


def matches(scenario: Scenario, requested: Amount, *, exact: bool) -> tuple[Known, ...]:
    """Known tensors of the size that was asked for; of larger batches where the planned one makes none.

    ``exact``: the message names the tensor's bytes; else those of the segment that torch wanted for it.
    """
    fits = _fitting(requested, exact=exact)
    found = _distinct(filter(fits, known(scenario)))
    if any(not one.made_with for one in found):
        return found
    larger = (one for times in TIMES for one in batch_tensors(scenario, times) if not one.made_with)
    return (*_distinct(filter(fits, larger)), *found)


def made(scenario: Scenario, requested: Amount, *, exact: bool) -> str:
    """The logits or scores of this very scenario that the request is for; nothing where it is for something else."""
    fits = _fitting(requested, exact=exact)
    own = (one for one in batch_tensors(scenario, 1) if not one.made_with and fits(one))
    return next((f"{one.name} ({one.formula} bytes)" for one in own), "")


def _fitting(requested: Amount, *, exact: bool) -> Callable[[Known], bool]:
    """Whether a tensor is of the size that was asked for; none is where the message tells no size."""
    if not exact and requested.middle <= UNTOLD:
        return lambda _one: False
    sizes = constants()
    return lambda one: requested.distance(one.bytes if exact else segment(one.bytes, sizes)) == 0


def segment(count: int, sizes: Constants) -> int:
    """What the caching allocator asks the device for to serve ``count`` bytes, and names in its message.

    Source: c10/cuda/CUDACachingAllocator.cpp, get_allocation_size.
    """
    if count <= sizes.small_size:
        return sizes.small_segment
    if count < sizes.min_large:
        return sizes.large_segment
    return -(-count // sizes.round_large) * sizes.round_large


def known(scenario: Scenario) -> Iterator[Known]:
    """Every tensor that has a name here, those that fail most often first."""
    yield from batch_tensors(scenario, 1)
    yield from _evaluated(scenario)
    yield from _outputs(scenario)
    yield from _weights(scenario)


def batch_tensors(scenario: Scenario, times: int) -> Iterator[Known]:
    """Logits and attention scores of ``times`` the batch: the two that grow fastest."""
    model, train = scenario.model, scenario.train
    b, s, vocabulary = train.micro_batch_size * times, train.seq_len, model.vocab_size
    whole = "" if train.loss == "full" else "--loss full"
    eager = "" if train.attention == "eager" else "--attention eager"
    for e, word in WORDS.items():
        yield Known(f"{word} logits", _product(b, s, vocabulary, e), b * s * vocabulary * e, times, whole)
    for heads in dict.fromkeys(block.attention.num_attention_heads for block in model.blocks):
        for e, word in WORDS.items():
            name, count = f"{word} attention scores of one layer", b * heads * s * s * e
            yield Known(name, _product(b, heads, s, s, e), count, times, eager)


def _evaluated(scenario: Scenario) -> Iterator[Known]:
    """Logits of evaluation batches, as they are made and as they are joined, batch after batch."""
    train, vocabulary = scenario.train, scenario.model.vocab_size
    b, s = train.eval_batch_size, train.seq_len
    asked = "" if "evaluation" in train.moments else "--moments evaluation"
    for batches in range(1, -(-train.eval_samples // b) + 1):
        for e, word in WORDS.items():
            plural = "an evaluation batch" if batches == 1 else f"{batches} evaluation batches"
            rows = min(batches * b, train.eval_samples)
            yield Known(
                f"{word} logits of {plural}", _product(rows, s, vocabulary, e), rows * s * vocabulary * e, 1, asked
            )


def _outputs(scenario: Scenario) -> Iterator[Known]:
    """What the matrices of a layer make of a batch."""
    tokens, s = scenario.train.micro_batch_size, scenario.train.seq_len
    for linear in _linears(scenario.model):
        for e, word in WORDS.items():
            name = f"{word} output of {linear.name}"
            yield Known(name, _product(tokens, s, linear.d_out, e), tokens * s * linear.d_out * e)


def _weights(scenario: Scenario) -> Iterator[Known]:
    """Matrices and tables, whole or packed to 4 bits; an fp32 one may be a copy, a gradient or an optimizer state."""
    model = scenario.model
    tables = [*model.embeddings, *(table for block in model.blocks for table in block.tables)]
    shapes = {table.name: table.shape for table in tables}
    shapes |= {linear.name: (linear.d_out, linear.d_in) for linear in (*_linears(model), model.lm_head)}
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        yield Known(f"{name}: fp32 weight, gradient or optimizer state", _product(*shape, 4), 4 * count)
        yield Known(f"{name}: 16-bit weight or gradient", _product(*shape, 2), 2 * count)
        yield Known(f"{name}: packed to 4 bits", f"{_product(*shape)} / 2", count // 2)
        yield Known(f"{name}: 8-bit weight or optimizer state", _product(*shape), count)


def _linears(model: ModelSpec) -> tuple[Linear, ...]:
    """One of each shape, as the blocks have them."""
    found: dict[tuple[int, int], Linear] = {}
    for block in model.blocks:
        for linear in block.linears:
            found.setdefault((linear.d_out, linear.d_in), linear)
    return tuple(found.values())


def _product(*sizes: int) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def _distinct(found: Iterable[Known]) -> tuple[Known, ...]:
    """One of each number of bytes and name."""
    return tuple({(one.bytes, one.name): one for one in found}.values())
