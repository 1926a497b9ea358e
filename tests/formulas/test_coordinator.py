"""What stage 3 keeps gathered, by hand and against counts of DeepSpeed's own coordinator."""

import pytest

from planner.formulas.coordinator import AFTER, BEFORE, Module, Tensor, Visit, live, visits
from planner.formulas.zero import DEEPSPEED_BUCKETS, Buckets, buckets

H, F, V, KV, LAYERS = 256, 768, 4001, 64, 4
"""A Llama: hidden and feed-forward size, vocabulary, width of keys, depth."""

NORM, TABLE, MATRIX, KEYS, WIDE = H, V * H, H * H, KV * H, H * F

LAST_LAYER = WIDE * 3 + 2 * MATRIX + 2 * KEYS


def llama() -> tuple[tuple[Tensor, ...], list[Module]]:
    tensors: list[Tensor] = []

    def of(size: int, place: int) -> Module:
        tensors.append(Tensor(size, 2 * size))
        return Module((len(tensors) - 1,), place)

    def layer(place: int) -> Module:
        before = of(NORM, place)
        attention = Module((), place, tuple(of(size, place) for size in (MATRIX, KEYS, KEYS, MATRIX)))
        after = of(NORM, place)
        gate, up, down = (of(WIDE, place) for _ in range(3))
        mlp = Module((), place, (gate, Module((), place), up, down))
        return Module((), place, (before, attention, after, mlp))

    containers = [Module((), BEFORE), Module((), BEFORE)]
    front = [*containers, of(TABLE, BEFORE), Module((), BEFORE)]
    layers = [layer(place) for place in range(LAYERS)]
    modules = [*front, *layers, of(NORM, AFTER), of(TABLE, AFTER)]
    return tuple(tensors), modules


SEEN = {
    # counts of parameters that are there or on their way, as the engine has them when a module with parameters begins:
    # DeepSpeed 0.19.8 in its third step on 8 ranks, persistence 10 h; the first twelve, and eight around the turn
    "auto": (
        Buckets(reduce=65536, prefetch=58982, persistence=2560),
        (1188096, 1777920, 1941760, 2138368, 2334976, 2531584, 2597120, 2892032, 3285248, 3350784, 3645696, 4038912),
        (5063168, 5063168, 4038912, 4038912, 4038912, 4038912, 4038912, 4038912),
    ),
}


def entered(limits: Buckets) -> list[int]:
    tensors, modules = llama()
    step = visits(modules, checkpointing=True, embedding_again=True)
    return [found.numel for found in live(tensors, step, limits) if found.visit.module.tensors]


@pytest.mark.parametrize(("limits", "first", "turn"), SEEN.values(), ids=SEEN)
def test_counts_are_the_engines(limits: Buckets, first: tuple[int, ...], turn: tuple[int, ...]) -> None:
    found = entered(limits)
    head = 1 + LAYERS * 9 + 1
    assert tuple(found[: len(first)]) == first
    assert tuple(found[head : head + len(turn)]) == turn


def test_what_is_used_again_soon_stays() -> None:
    near, far = entered(Buckets(65536, 58982, 2560, reuse=10**9)), entered(Buckets(65536, 0, 2560, reuse=1))
    assert max(near) == sum(size for size in (TABLE, TABLE, LAYERS * LAST_LAYER))
    assert max(far) == TABLE


@pytest.mark.parametrize("limit", [1_100_000, 1_500_000, 3_000_000])
def test_fetching_ahead_stops_at_the_limit(limit: int) -> None:
    found = entered(Buckets(65536, 58982, 2560, live=limit, reuse=1))
    assert max(found) <= max(limit, TABLE) + max(TABLE, WIDE)


def test_small_tensors_are_never_fetched() -> None:
    tensors, modules = llama()
    step = visits(modules, checkpointing=False, embedding_again=True)
    # matrices of 65,536 elements are below DeepSpeed's own threshold
    assert max(found.numel for found in live(tensors, step, DEEPSPEED_BUCKETS)) == 2 * TABLE + LAYERS * 3 * WIDE


def test_tensors_that_come_together_are_copied_out_of_their_buffer() -> None:
    pair = Module((0, 1), 0)
    found = live(
        (Tensor(10, 20), Tensor(10, 20)), (Visit(pair, "forward"),), buckets("auto", h=1)._replace(persistence=0)
    )
    assert (found[0].working, found[0].arriving) == (40, 80)


def test_a_pass_without_backward_keeps_nothing_for_later() -> None:
    tensors, modules = llama()
    at_head: dict[bool, int] = {}
    for backward in (True, False):
        step = visits(modules, checkpointing=False, embedding_again=True, backward=backward)
        found = live(tensors, step, Buckets(reduce=65536, prefetch=58982, persistence=2560))
        at_head[backward] = [one for one in found if one.visit.which == "forward"][-1].numel
    assert at_head == {True: 2 * TABLE + LAYERS * LAST_LAYER, False: TABLE}


def test_frozen_weights_of_a_second_run_go_with_the_module_that_asked_for_it() -> None:
    """Of three matrices the last asks first: when it is left, those before it have to come again."""
    layer = Module((), 0, tuple(Module((number,), 0) for number in range(3)))
    most: dict[bool, list[int]] = {}
    for frozen in (False, True):
        tensors = tuple(Tensor(10, 20, frozen=frozen) for _ in range(3))
        step = visits([layer], checkpointing=True, embedding_again=True)
        found = live(tensors, step, Buckets(reduce=1, prefetch=0, persistence=0, reuse=10**9))
        most[frozen] = [one.numel for one in found if one.visit.which == "backward" and one.visit.module.tensors]
    assert most == {False: [30, 20, 10], True: [30, 10, 10]}
