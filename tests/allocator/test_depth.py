"""A trace of few layers, extended, is the trace of all layers, event by event."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.allocator.depth import NotPeriodic, extend, recording_depth
from planner.allocator.events import OUTSIDE, Block, Mark, Trace, peaks
from planner.allocator.replay import replay
from tests.allocator.steps import Model, Recorder, train

MODELS = {
    "checkpointed": Model(4),
    "plain": Model(4, checkpointing=False),
    "one loop": Model(4, foreach=False),
    "frozen embedding": Model(4, checkpointing=False, frozen_embedding=True),
    "nothing between layers": Model(4, outside=False),
    "four steps": Model(4, steps=4),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("layers", [4, 5, 12, 40])
def test_four_layers_give_any_number(model: Model, layers: int) -> None:
    assert extend(train(model), layers) == train(replace(model, layers=layers))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_three_layers_do_too(model: Model) -> None:
    assert extend(train(replace(model, layers=3)), 12) == train(replace(model, layers=12))


def test_gemma_3() -> None:
    """34 layers are five periods of 6 and 4 more; recorded are four periods and the 4: 28."""
    model = Model(recording_depth(34, period=6), kinds=(1000, 1000, 1000, 1000, 1000, 1600))

    assert model.layers == 28
    assert extend(train(model), 34, period=6) == train(replace(model, layers=34))


def test_deepseek_v3() -> None:
    """Three dense layers, then 58 of experts."""
    model = Model(recording_depth(61, prefix=3), prefix=3)

    assert extend(train(model), 61, prefix=3) == train(replace(model, layers=61))


@settings(max_examples=80, deadline=None)
@given(
    kinds=st.lists(st.integers(8, 5000), min_size=1, max_size=4),
    prefix=st.integers(0, 3),
    rest=st.integers(0, 3),
    periods=st.integers(3, 5),
    more=st.integers(0, 5),
    flags=st.tuples(*[st.booleans()] * 4),
    steps=st.integers(1, 3),
)
def test_any_pattern(
    kinds: list[int], prefix: int, rest: int, periods: int, more: int, flags: tuple[bool, ...], steps: int
) -> None:
    checkpointing, foreach, frozen_embedding, outside = flags
    period = len(kinds)
    layers = prefix + periods * period + rest % period
    model = Model(layers, tuple(kinds), prefix, 77, checkpointing, steps, foreach, frozen_embedding, outside)

    deep = extend(train(model), layers + more * period, period=period, prefix=prefix)

    assert deep == train(replace(model, layers=layers + more * period))


def test_peaks_grow_by_the_layer() -> None:
    """A checkpointed layer leaves its input of 300 bytes, and its weight of 1000."""
    four, five = (peaks(extend(train(Model(4)), layers)) for layers in (4, 5))

    forward = [instants[1].memory for instants in (four, five)]
    assert forward[1].activations - forward[0].activations == 300
    assert forward[1].weights - forward[0].weights == 1000


# ---------------------------------------------------------------- order without meaning


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("within", [True, False], ids=["within layers", "across layers"])
def test_a_cache_emptied_in_any_order(seed: int, within: bool) -> None:
    """Every layer leaves two blocks, and all go at once after the forward pass, in the order of some hash."""
    deep, whole = extend(_cached(4, seed, within), 12), _cached(12, seed + 1, within)

    assert deep.blocks == whole.blocks
    assert [sorted(deep.events[start:end]) for _, start, end in deep.phase_ranges()] == [
        sorted(whole.events[start:end]) for _, start, end in whole.phase_ranges()
    ]
    one, two = replay(deep), replay(whole)
    assert (one.allocated, one.reserved, one.fragmentation) == (two.allocated, two.reserved, two.fragmentation)


def _cached(layers: int, seed: int, within: bool) -> Trace:
    out, chance = Recorder(), random.Random(seed)
    out.mark("forward", 0)
    kept: list[list[int]] = []
    for layer in range(layers):
        with out.at(layer):
            kept.append([out.new(1000, "temporaries", "cast"), out.new(3_000_000, "temporaries", "cast")])
            out.drop(out.new(5000, "temporaries", "mlp"))
    for pair in kept:
        chance.shuffle(pair)
    casts = [number for pair in kept for number in pair]
    if not within:
        chance.shuffle(casts)
    out.new(700, "logits", "head")
    out.drop(*casts)
    out.mark("loss", 0)
    out.new(4_000_000, "logits", "head")
    return out.trace()


# ---------------------------------------------------------------- refusals


def test_a_layer_of_its_own_kind_is_refused() -> None:
    odd = Model(4, kinds=(1000, 1000, 1001, 1000))

    with pytest.raises(NotPeriodic, match="layers 1 and 2 differ"):
        extend(train(odd), 40)


def test_three_layers_all_different_are_refused() -> None:
    with pytest.raises(NotPeriodic, match="neither"):
        extend(train(Model(3, kinds=(1000, 1001, 1002))), 40)


def test_a_block_that_only_one_layer_releases_is_refused() -> None:
    """Every layer would release the one table again."""
    model = train(Model(4, steps=1))
    table = len(model.blocks)
    place = model.layers.index(1, model.marks[3].index)
    blocks = (*model.blocks, Block(8, "activations", "table"))
    trace = Trace(
        blocks,
        (table, *model.events[:place], ~table, *model.events[place:]),
        (OUTSIDE, *model.layers[:place], 1, *model.layers[place:]),
        tuple(Mark(mark.index + 1 + (mark.index > place), mark.phase, mark.step) for mark in model.marks),
    )

    with pytest.raises(NotPeriodic):
        extend(trace, 40)


def test_an_operator_that_meets_one_layer_only_is_refused() -> None:
    trace = train(Model(4, steps=1))
    more = replace(
        trace,
        blocks=(*trace.blocks, Block(8, "temporaries", "odd", 2)),
        events=(*trace.events, len(trace.blocks)),
        layers=(*trace.layers, 2),
        marks=(*trace.marks, Mark(len(trace.events), "forward", 1)),
    )

    with pytest.raises(NotPeriodic, match="layer 2 takes part where layer 1 does not"):
        extend(more, 40)


@pytest.mark.parametrize(("layers", "period", "why"), [(3, 1, "cannot become"), (9, 2, "cannot"), (8, 2, "record 3")])
def test_depths_that_no_copies_reach(layers: int, period: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        extend(train(Model(4)), layers, period=period)


# ---------------------------------------------------------------- speed


def test_126_layers_of_2000_events() -> None:
    """About a second here, so ten is a regression everywhere."""
    trace = _long(4, 500)

    began = time.process_time()
    deep = extend(trace, 126)

    assert len(deep.events) == 126 * 2000
    assert time.process_time() - began < 10


def _long(layers: int, saved: int) -> Trace:
    """Every layer saves ``saved`` blocks beside as many temporaries, and releases them in the backward pass."""
    blocks: list[Block] = []
    events: list[int] = []
    at: list[int] = []
    for layer in range(layers):
        for _ in range(saved):
            events += [len(blocks), len(blocks) + 1, ~(len(blocks) + 1)]
            blocks += [Block(64, "activations", "mlp", layer), Block(64, "temporaries", "mlp", layer)]
        at += [layer] * 3 * saved
    back = len(events)
    for layer in reversed(range(layers)):
        events += [~(2 * number) for number in range(saved * layer, saved * (layer + 1))]
        at += [layer] * saved
    return Trace(tuple(blocks), tuple(events), tuple(at), (Mark(0, "forward", 0), Mark(back, "backward", 0)))
