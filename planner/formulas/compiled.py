"""A layer as ``torch.compile`` runs it: which tensors of its tape exist, and which backward keeps."""

from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

from planner.formulas.tape import Op, Tape, Tensor


def compiled(tape: Tape) -> Tape:
    """The tape of one layer after AOTAutograd has partitioned it and Inductor has fused what it can.

    Formula:   what matrix products and attention read and write exists whole, and so does a sum that several of them
               go back to; what is elementwise lies between as one operation. Of its own intermediates it keeps the
               fewest bytes of which they can be made again: what is kept anyway, tensors that exist, statistics of
               rows, or an intermediate where that is smaller
    Source:    torch 2.13 _functorch/partitioners.py, min_cut_rematerialization_partition: elementwise operations are
               recomputed in backward (``recomputable_ops``), reductions, products and attention never are
    Valid:     a graph for each layer, as torchtune makes it
    Excludes:  experts, whose routing breaks the graph, and kernels that a compiler cannot look into
    """
    made_by = {_key(op.output): op for op in tape.ops if op.output.storage is None}
    whole = _whole(tape)
    free = {_key(tape.source), *(_key(tensor) for op in tape.ops if op.runs == "apart" for tensor in op.saved)}
    graph = _Graph(made_by, whole, free)
    found = Tape(tape.source)
    for op in tape.ops:
        if op.output.storage is not None:
            continue
        if op.runs == "apart":
            found.add(_apart(op))
        elif _key(op.output) in whole:
            found.add(_between(op, graph))
    return found


class _Graph(NamedTuple):
    """What makes each tensor, which of them exist, and which are kept anyway."""

    made_by: dict[int, Op]
    whole: frozenset[int]
    free: set[int]


def _key(tensor: Tensor) -> int:
    return id(tensor.root)


def _apart(op: Op) -> Op:
    """The operation on the memory that it reads; no variable of a running function points at anything."""
    return Op(
        op.name,
        _once(tensor.root for tensor in op.inputs),
        op.output,
        saved=_once(tensor.root for tensor in op.saved),
        runs="apart",
        scratch_forward=op.scratch_forward,
        scratch_backward=op.scratch_backward,
        weight_grad=op.weight_grad,
    )


def _whole(tape: Tape) -> frozenset[int]:
    """Tensors that exist in a compiled layer: those that products read or write, and sums where paths part."""
    whole = {_key(tape.source), _key(tape.result)}
    for op in tape.ops:
        if op.runs == "apart":
            whole |= {_key(op.output), *map(_key, op.inputs)}
    goals: dict[int, set[int]] = {}
    """Of what does not exist, the tensors that are made of it."""
    for op in reversed(tape.ops):
        own = _key(op.output)
        if op.runs == "apart":
            continue
        if op.output.storage is None and own not in whole and len(goals.get(own, ())) > 1:
            whole.add(own)
        found = {own} if own in whole else goals.get(own, set())
        for tensor in op.inputs:
            if _key(tensor) != own:  # a view of itself
                goals.setdefault(_key(tensor), set()).update(found)
    return frozenset(whole)


def _between(last: Op, graph: _Graph) -> Op:
    """All elementwise operations between ``last``'s output and tensors that exist, as one."""
    group = _group(last, graph)
    inside = {_key(op.output) for op in group}
    inputs = _once(tensor.root for op in group for tensor in op.inputs if _key(tensor) not in inside)
    saved: list[Tensor] = []
    for op in group:
        for tensor in op.saved if op.output.grad else ():
            saved += _made_of(tensor.root, graph)[1] if _key(tensor) in graph.made_by else [tensor.root]
            graph.free.update(map(_key, saved))
    return Op(
        last.name,
        inputs,
        last.output,
        saved=_once(saved),
        passes=tuple(tensor for tensor in inputs if _passes(tensor, last, graph)),
        weight_grad=sum(op.weight_grad for op in group),
    )


def _group(last: Op, graph: _Graph) -> tuple[Op, ...]:
    """``last`` and what it is made by, down to tensors that exist, in the order in which they ran."""
    waiting, found = [last], set[int]()
    while waiting:
        op = waiting.pop()
        if id(op) not in found:
            found.add(id(op))
            waiting += [graph.made_by[_key(tensor)] for tensor in op.inputs if _key(tensor) not in graph.whole]
    return tuple(op for op in graph.made_by.values() if id(op) in found)


def _made_of(tensor: Tensor, graph: _Graph) -> tuple[int, list[Tensor]]:
    """What is kept of which ``tensor`` can be made again, and how many bytes per token more than is kept anyway."""
    if _key(tensor) in graph.free:
        return 0, [tensor]
    own = (tensor.size.token, [tensor])
    op = graph.made_by.get(_key(tensor))
    if _key(tensor) in graph.whole or op is None or op.runs != "pointwise":
        return own
    parts = [_made_of(one, graph) for one in _once(one.root for one in op.inputs)]
    again = (sum(cost for cost, _ in parts), [one for _, kept in parts for one in kept])
    return min(again, own, key=itemgetter(0))


def _passes(tensor: Tensor, op: Op, graph: _Graph) -> bool:
    """Whether the gradient of ``op``'s output is that of ``tensor``, too."""
    below = (graph.made_by[_key(one)] for one in op.passes if one.root is not tensor and _key(one) not in graph.whole)
    return any(one.root is tensor for one in op.passes) or any(_passes(tensor, one, graph) for one in below)


def _once(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple({id(tensor): tensor for tensor in tensors}.values())
