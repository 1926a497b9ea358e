"""Liveness on tapes drawn by hand: which tensors exist together, in forward and in backward; sizes per token."""

from typing import Any

import pytest

from planner.formulas.tape import (
    ZERO,
    Instant,
    Moment,
    Op,
    Size,
    Tape,
    Tensor,
    backward_instants,
    forward_instants,
    gradients_before_recompute,
    pareto,
    total,
)


def tensor(name: str, width: int, **other: Any) -> Tensor:
    """One that needs a gradient unless told otherwise."""
    return Tensor(name, Size(token=width), f"b s {width}", 1, **{"grad": True, **other})


def widest(instants: tuple[Instant, ...]) -> int:
    """Bytes per token at the largest instant."""
    return max(instant.total.token for instant in instants)


class Chain:
    """``x (8) -> a (10) -> b (20) -> c (5)``."""

    def __init__(self, **saved: str) -> None:
        self.x, self.a, self.b, self.c = (tensor(n, w) for n, w in (("x", 8), ("a", 10), ("b", 20), ("c", 5)))
        named = {"x": self.x, "a": self.a, "b": self.b, "c": self.c}
        self.tape = Tape(self.x)
        for source, made in ((self.x, self.a), (self.a, self.b), (self.b, self.c)):
            kept = tuple(named[letter] for letter in saved.get(made.name, ""))
            self.tape.add(Op(f"make {made.name}", (source,), made, saved=kept))


# ---------------------------------------------------------------- sizes


def test_size_is_a_polynomial_of_the_batch() -> None:
    # 2*b*s + 3*b*s*s + 5*s + 7 at b=4, s=10: 80 + 1200 + 50 + 7
    assert Size(token=2, score=3, position=5, fixed=7).bytes(b=4, s=10) == 1337


def test_sizes_add_by_part() -> None:
    assert total([Size(1, 2, 3, 4), Size(10, 20, 30, 40), Size()]) == Size(11, 22, 33, 44)
    assert Size(1, 2, 3, 4).times(3) == Size(3, 6, 9, 12)


def test_a_size_does_not_add_to_a_number() -> None:
    with pytest.raises(TypeError):
        Size(1) + 1


# ---------------------------------------------------------------- what is saved


def test_each_storage_is_saved_once() -> None:
    # b is kept by two operations and a view of it by a third.
    x, b = tensor("x", 8), tensor("b", 20)
    view = tensor("view of b", 20, storage=b)
    tape = Tape(x)
    tape.add(Op("make b", (x,), b, saved=(b,)))
    tape.add(Op("read b", (b,), tensor("c", 5), saved=(b,)))
    tape.add(Op("read view", (view,), tensor("d", 5), saved=(view,)))

    assert tape.saved() == (b,)


def test_the_source_counts_where_it_is_asked_for() -> None:
    chain = Chain(a="x", b="a")

    assert total(kept.size for kept in chain.tape.saved()) == Size(token=10)
    assert total(kept.size for kept in chain.tape.saved(own_source=True)) == Size(token=18)


def test_an_operation_without_gradient_saves_nothing() -> None:
    x, frozen = tensor("x", 8, grad=False), tensor("frozen", 8, grad=False)
    tape = Tape(x)
    tape.add(Op("frozen", (x,), frozen, saved=(x,)))

    assert tape.saved(own_source=True) == ()
    assert backward_instants(tape) == (Instant(),)


def test_logits_are_counted_apart() -> None:
    x, logits = tensor("x", 8), tensor("logits", 100, owner="logits")
    tape = Tape(x)
    tape.add(Op("head", (x,), logits, saved=(x,)))
    tape.add(Op("log_softmax", (logits,), tensor("out", 100, owner="logits"), saved=(logits,)))

    kept = tape.saved_by_owner(own_source=True)
    assert (kept.activations.token, kept.logits.token) == (8, 100)


# ---------------------------------------------------------------- forward


def test_without_keeping_a_tensor_dies_after_its_last_reader() -> None:
    # a; a + b; b + c: the widest is the second, 30
    assert widest(forward_instants(Chain(b="a", c="b").tape, keep=False)) == 30


def test_kept_tensors_stay_to_the_end() -> None:
    # a; a + b; a + b + c, since both are saved
    assert widest(forward_instants(Chain(b="a", c="b").tape, keep=True)) == 35


def test_keeping_only_what_is_saved() -> None:
    # a; a + b; a + b + c with a saved; b alone is read by c and not kept afterwards, so at c all three exist
    chain = Chain(b="a")
    chain.tape.add(Op("make d", (chain.c,), tensor("d", 21)))

    # at d: a (kept) + c + d = 10 + 5 + 21 = 36, against 35 at c
    assert widest(forward_instants(chain.tape, keep=True)) == 36


def test_a_tensor_that_the_caller_holds_lives_on() -> None:
    chain = Chain()
    chain.tape.add(Op("make d", (chain.c,), tensor("d", 30)))

    # c + d = 35 without, b + c + d = 55 with b held
    assert widest(forward_instants(chain.tape, keep=False)) == 35
    assert widest(forward_instants(chain.tape, keep=False, held=(chain.b,))) == 55


def test_a_variable_keeps_its_tensor_to_the_end_of_the_function() -> None:
    chain = Chain()
    chain.tape.ops[-1].named = (chain.a,)

    # the function that returns c still has the name a: a + b + c
    assert widest(forward_instants(chain.tape, keep=False)) == 35


def test_the_source_is_alive_until_its_last_reader_where_it_counts_here() -> None:
    # x + a = 18; a + b = 30: x is gone by then, and stays when a saves it: x + a + b = 38, x + b + c = 33
    assert widest(forward_instants(Chain().tape, keep=True, own_source=True)) == 30
    assert widest(forward_instants(Chain(a="x").tape, keep=True, own_source=True)) == 38
    assert widest(forward_instants(Chain(a="x").tape, keep=True, own_source=False)) == 30


def test_scratch_memory_exists_while_its_operation_runs() -> None:
    chain = Chain()
    chain.tape.ops[0].scratch_forward = Size(token=25)

    # a + 25 = 35 against a + b = 30
    found = forward_instants(chain.tape, keep=False)
    assert widest(found) == 35
    assert found[0].temporaries.token == 25


def test_a_view_needs_no_memory_and_keeps_its_storage() -> None:
    x, a = tensor("x", 8), tensor("a", 10)
    view = tensor("view", 10, storage=a)
    tape = Tape(x)
    tape.add(Op("make a", (x,), a))
    tape.add(Op("view", (a,), view, passes=(a,)))
    tape.add(Op("make b", (view,), tensor("b", 20)))

    # a; a; a + b
    assert widest(forward_instants(tape, keep=False)) == 30


def test_an_output_that_nobody_reads_again_dies_after_the_next_operation() -> None:
    # dropout's mask-like side output: x -> a, x -> b, b -> c: a is not read; it lives while the next one runs
    x, a, b, c = (tensor(n, w) for n, w in (("x", 0), ("a", 7), ("b", 20), ("c", 5)))
    tape = Tape(x, [Op("a", (x,), a), Op("b", (x,), b), Op("c", (b,), c)])

    assert widest(forward_instants(tape, keep=False)) == 27


# ---------------------------------------------------------------- backward


def test_backward_frees_what_it_has_used() -> None:
    # saved a, b. c's backward: a + b + dc + db = 10 + 20 + 5 + 20 = 55
    # b's backward: a + db + da = 10 + 20 + 10 = 40; a's backward: da + dx = 10 + 8
    assert widest(backward_instants(Chain(b="a", c="b").tape)) == 55


def test_backward_without_saved_tensors_is_gradients_only() -> None:
    # dc + db = 25; db + da = 30; da + dx = 18
    assert widest(backward_instants(Chain().tape)) == 30


def test_a_tensor_saved_twice_goes_with_the_last_operation_that_needs_it() -> None:
    # a is saved by its maker and by b: b's backward is not the end of it.
    # At c's turn a + dc + db = 35, at b's a + db + da = 40, at a's a + da + dx = 28.
    assert widest(backward_instants(Chain(a="a", b="a").tape)) == 40


def test_held_logits_stay_through_backward() -> None:
    # as in the first case, with c (5) held: 55 + 5
    chain = Chain(b="a", c="b")

    assert widest(backward_instants(chain.tape, held=(chain.c,))) == 60


def test_the_source_counts_in_backward_where_it_counts_here() -> None:
    # x saved by a: + 8 through all of it
    chain = Chain(a="x", b="a", c="b")

    assert widest(backward_instants(chain.tape)) == 55
    assert widest(backward_instants(chain.tape, own_source=True)) == 63


def test_scratch_and_weight_gradients_of_an_operation() -> None:
    chain = Chain()
    for op, made, scratch in zip(chain.tape.ops, (100, 10, 1), (0, 0, 40), strict=True):
        op.weight_grad, op.scratch_backward = made, Size(token=scratch)

    found = backward_instants(chain.tape)

    # first op to run backward: c, dc + db + 40 = 65, one byte of gradients made; the last has all 111
    assert max(instant.total.token for instant in found) == 65
    assert next(i for i in found if i.total.token == 65).weight_grad == 1
    assert max(instant.weight_grad for instant in found) == 111
    assert chain.tape.weight_grad() == 111


def residual(width: int = 8) -> tuple[Tape, Tensor]:
    """``y = x + f(x)``: the sum passes its gradient to both, without a copy."""
    x, branch, y = tensor("x", width), tensor("f(x)", width), tensor("y", width)
    tape = Tape(x)
    tape.add(Op("f", (x,), branch, reloads=True))
    tape.add(Op("add", (x, branch), y, passes=(x, branch)))
    return tape, y


def test_a_gradient_that_passes_through_a_sum_is_one_tensor() -> None:
    # dy serves x and f(x). f's backward makes dx' beside it and adds into dx' itself: 8 + 8, never 24
    tape, _ = residual()

    assert widest(backward_instants(tape)) == 16


def test_gradients_meet_in_place_when_nobody_else_holds_one() -> None:
    # two branches without pass: y = add(f(x), g(x)). dy 8; g: dy + dg = 16; f: df beside dg, added in place: 8 + 8 + 8
    x, f, g, y = (tensor(n, 8) for n in ("x", "f", "g", "y"))
    tape = Tape(x, [Op("f", (x,), f), Op("g", (x,), g), Op("add", (f, g), y, passes=(f, g))])

    # at f's backward: dy (for f), dx from g, dx from f = 24
    assert widest(backward_instants(tape)) == 24


def test_gradients_meet_in_a_new_tensor_when_both_are_held() -> None:
    # w = f(x); y = x + w; z = y + x. dz is dy and a part of dx; y's sum hands it to x again: dx = dz + dz needs a new
    # tensor, since w still waits for dz. Then f makes dx'': dz + (dz + dz) + dx'' = 24.
    x, w, y, z = (tensor(n, 8) for n in ("x", "w", "y", "z"))
    tape = Tape(
        x,
        [
            Op("f", (x,), w),
            Op("add x w", (x, w), y, passes=(x, w)),
            Op("add y x", (y, x), z, passes=(y, x)),
        ],
    )

    assert widest(backward_instants(tape)) == 24


def test_an_operation_off_the_gradient_path_is_skipped() -> None:
    # a side output that the loss does not use has no gradient
    chain = Chain(c="b")
    side = tensor("side", 1000)
    chain.tape.ops.insert(1, Op("side", (chain.a,), side, saved=(side,), weight_grad=999))

    found = backward_instants(chain.tape)
    assert max(instant.weight_grad for instant in found) == 0
    # its saved tensor waits all the same: 1000 + b + dc + db = 1045
    assert widest(found) == 1045


# ---------------------------------------------------------------- checkpoints


def test_one_gradient_waits_while_a_residual_layer_is_recomputed() -> None:
    # dy passes to x and to the branch; the branch needs its weight, so the recomputation starts there: 8
    tape, _ = residual()

    assert gradients_before_recompute(tape) == Size(token=8)


def test_a_final_operation_that_needs_nothing_runs_before_the_recomputation() -> None:
    # a last cast from 4 to 2 bytes: its gradient is widened before anything is recomputed
    tape, y = residual()
    tape.add(Op("cast", (y,), tensor("narrow y", 4)))

    assert gradients_before_recompute(tape) == Size(token=8)


def test_a_final_operation_that_saved_something_waits_with_its_own_gradient() -> None:
    tape, y = residual()
    tape.add(Op("dropout", (y,), tensor("dropped y", 8), saved=(tensor("mask", 1, grad=False),)))

    assert gradients_before_recompute(tape) == Size(token=8)
    assert widest(backward_instants(tape)) == 17  # mask + dropped y's gradient + y's gradient


# ---------------------------------------------------------------- pareto


def moment(token: int = 0, fixed: int = 0, made: int = 0) -> Moment:
    size = Size(token=token, fixed=fixed)
    return (*size, made), size, ZERO, ZERO


def instant(token: int = 0, fixed: int = 0, made: int = 0) -> Instant:
    return Instant(activations=Size(token=token, fixed=fixed), weight_grad=made)


def test_an_instant_that_another_covers_can_never_be_the_peak() -> None:
    big, small = moment(token=10, fixed=5), moment(token=9, fixed=5)

    assert pareto([small, big]) == (instant(token=10, fixed=5),)


def test_instants_that_cross_are_both_kept() -> None:
    # 10 per token, or 100 in all: which is larger depends on the batch
    slope, level = moment(token=10), moment(fixed=100)

    assert set(pareto([slope, level])) == {instant(token=10), instant(fixed=100)}


def test_more_gradients_made_is_more() -> None:
    early, late = moment(token=10), moment(token=10, made=1)

    assert pareto([early, late]) == (instant(token=10, made=1),)


def test_owners_do_not_matter_to_the_peak() -> None:
    size = Size(token=10)
    as_logits = (*size, 0), ZERO, size, ZERO

    assert len(pareto([moment(token=10), as_logits])) == 1
