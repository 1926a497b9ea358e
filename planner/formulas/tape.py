"""Which tensors of a forward pass are alive when: a tape of operations and its liveness.

The tape is what autograd builds: every operation says which tensors it keeps for its backward and
which gradients it makes. Sizes are linear in the shape of the batch, so a tape is played once per
kind of layer and then evaluated for any batch in a few multiplications.

Symbols: ``b`` micro-batch, ``s`` sequence length. Source of the rules: each operation's formula in
torch's ``tools/autograd/derivatives.yaml`` (what it saves), and ``torch/csrc/autograd/input_buffer.cpp``
(how gradients meet).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

OwnerTag = Literal["activations", "logits"]


class Size(NamedTuple):
    """Bytes as a polynomial of the batch: ``token*b*s + score*b*s*s + position*s + fixed``."""

    token: int = 0
    score: int = 0
    position: int = 0
    fixed: int = 0

    def __add__(self, other: object) -> "Size":
        if not isinstance(other, Size):
            return NotImplemented
        return Size(
            self.token + other.token,
            self.score + other.score,
            self.position + other.position,
            self.fixed + other.fixed,
        )

    def times(self, factor: int) -> "Size":
        """Every coefficient multiplied."""
        return Size(*(factor * part for part in self))

    def minus(self, other: "Size") -> "Size":
        """The difference; a coefficient may be negative."""
        return self + other.times(-1)

    def bytes(self, *, b: int, s: int) -> int:
        """Bytes at one batch shape.

        >>> Size(token=2, score=1, fixed=100).bytes(b=2, s=10)
        340
        """
        return self.token * b * s + self.score * b * s * s + self.position * s + self.fixed


ZERO = Size()


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor of the forward pass: ``width`` elements of ``e`` bytes per token, or of ``shape`` otherwise.

    Two tensors with one ``storage`` are views of the same memory.
    """

    name: str
    size: Size
    shape: str
    e: int
    grad: bool
    owner: OwnerTag = "activations"
    storage: "Tensor | None" = None

    @property
    def root(self) -> "Tensor":
        """The tensor that owns the memory."""
        return self if self.storage is None else self.storage.root


@dataclass(eq=False, slots=True)
class Op:
    """One autograd node: reads ``inputs``, writes ``output``, keeps ``saved`` until its backward has run.

    ``passes`` names the inputs that receive the output's gradient unchanged, without a new tensor. ``named``
    tensors are not read, but Python variables of the running function still point at them. ``reloads`` says
    that backward needs something saved, a weight at least: in a checkpoint this starts the recomputation.
    ``scratch_*`` are temporaries of the kernel itself; ``weight_grad`` the parameter gradients it makes.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    saved: tuple[Tensor, ...] = ()
    passes: tuple[Tensor, ...] = ()
    named: tuple[Tensor, ...] = ()
    reloads: bool = False
    scratch_forward: Size = ZERO
    scratch_backward: Size = ZERO
    weight_grad: int = 0


@dataclass(frozen=True)
class Instant:
    """Live bytes at one moment, by what they are. ``weight_grad`` counts gradients finished so far."""

    activations: Size = ZERO
    logits: Size = ZERO
    temporaries: Size = ZERO
    weight_grad: int = 0

    @cached_property
    def total(self) -> Size:
        """Everything but the parameter gradients."""
        return self.activations + self.logits + self.temporaries


@dataclass(eq=False, slots=True)
class Tape:
    """Operations in the order in which they ran, from ``source`` to the last operation's output."""

    source: Tensor
    ops: list[Op] = field(default_factory=list)

    @property
    def result(self) -> Tensor:
        """Output of the last operation."""
        return self.ops[-1].output

    def add(self, op: Op) -> Tensor:
        """Append ``op`` and return its output."""
        self.ops.append(op)
        return op.output

    def saved(self, *, own_source: bool = False) -> tuple[Tensor, ...]:
        """Every storage that some operation keeps, once, in order of first use; the source only if it counts here."""
        found: dict[int, Tensor] = {}
        for op in self.ops:
            if op.output.grad:
                for tensor in op.saved:
                    found.setdefault(id(tensor.root), tensor.root)
        if not own_source:
            found.pop(id(self.source), None)
        return tuple(found.values())

    def saved_by_owner(self, *, own_source: bool = False) -> Instant:
        """Bytes kept between forward and backward, as activations and logits."""
        kept = self.saved(own_source=own_source)
        return Instant(
            total(tensor.size for tensor in kept if tensor.owner == "activations"),
            total(tensor.size for tensor in kept if tensor.owner == "logits"),
        )

    def weight_grad(self) -> int:
        """Bytes of parameter gradients that one backward makes."""
        return sum(op.weight_grad for op in self.ops)


def total(sizes: Iterable[Size]) -> Size:
    """Sum of sizes."""
    result = ZERO
    for size in sizes:
        result = result + size
    return result


def forward_instants(
    tape: Tape, *, keep: bool, held: tuple[Tensor, ...] = (), own_source: bool = False
) -> tuple[Instant, ...]:
    """Moments of the forward pass that can be its peak; the source counts only where nobody else counts it.

    ``keep`` is false where nothing is saved (inside a checkpoint). A tensor lives until its last reader has
    run and no variable points at it, or to the end when it is saved or ``held`` by the caller.
    """
    last_use = {
        id(tensor.root): index for index, op in enumerate(tape.ops) for tensor in (*op.inputs, *op.named)
    }
    kept = {id(tensor.root) for tensor in held}
    if keep:
        kept |= {id(tensor) for tensor in tape.saved(own_source=own_source)}
    live: dict[int, Tensor] = {id(tape.source): tape.source} if own_source else {}
    instants = []
    for index, op in enumerate(tape.ops):
        live[id(op.output.root)] = op.output.root
        for tensor in op.saved if keep and op.output.grad else ():
            live[id(tensor.root)] = tensor.root
        if not own_source:
            live.pop(id(tape.source), None)
        instants.append(_instant(live.values(), (), op.scratch_forward))
        for key in [key for key in live if last_use.get(key, index) <= index and key not in kept]:
            if key != id(op.output.root):
                del live[key]
    return pareto(instants)


@dataclass(eq=False, slots=True)
class _Gradient:
    """Gradient of one tensor; ``shared`` while two readers wait for the same memory."""

    size: Size
    owner: OwnerTag
    holders: int = 1


def backward_instants(
    tape: Tape, *, held: tuple[Tensor, ...] = (), own_source: bool = False
) -> tuple[Instant, ...]:
    """Moments of the backward pass that can be its peak; the source counts only where nobody else counts it.

    Saved tensors go when the operations that keep them have run. A gradient goes when the operation that
    consumes it has run. Where two gradients meet, the second is added into the first, in place when nobody
    else holds it, else into a new tensor.
    """
    if not tape.result.grad:
        return (Instant(),)
    keepers = _count_keepers(tape, held, own_source=own_source)
    by_key = {id(tensor.root): tensor.root for op in tape.ops for tensor in (*op.saved, op.output)}
    by_key |= {id(tensor.root): tensor.root for tensor in held}
    gradients: dict[int, _Gradient] = {id(tape.result): _Gradient(tape.result.size, tape.result.owner)}
    instants: list[Instant] = []
    finished = 0

    def note(scratch: Size) -> None:
        alive = [by_key[key] for key, count in keepers.items() if count > 0]
        instants.append(_instant(alive, set(map(_Identity, gradients.values())), scratch, finished))

    for op in reversed(tape.ops):
        out = gradients.pop(id(op.output), None)
        if out is None:
            continue
        anchor = object()
        gradients[id(anchor)] = out
        finished += op.weight_grad
        _spread(op, out, gradients, note)
        note(op.scratch_backward)
        del gradients[id(anchor)]
        out.holders -= 1
        for tensor in _roots(op.saved):
            keepers[tensor] = keepers.get(tensor, 1) - 1
    return pareto(instants)


def gradients_before_recompute(tape: Tape) -> Size:
    """Gradients that wait while a checkpointed layer is recomputed: those of the operations that need nothing saved."""
    waiting: dict[int, Size] = {id(tape.result): tape.result.size}
    for op in reversed(tape.ops):
        if id(op.output) not in waiting:
            continue
        if op.saved or op.reloads:
            break
        mine = waiting.pop(id(op.output))
        for tensor in op.inputs:
            if tensor.grad:
                waiting[id(tensor)] = tensor.size if tensor not in op.passes else mine
                mine = ZERO if tensor in op.passes else mine
    return total(waiting.values())


class _Identity:
    """Makes gradients that are one object count once."""

    __slots__ = ("gradient",)

    def __init__(self, gradient: _Gradient) -> None:
        self.gradient = gradient

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.gradient is self.gradient

    def __hash__(self) -> int:
        return id(self.gradient)


def _spread(op: Op, out: _Gradient, gradients: dict[int, _Gradient], note: Callable[[Size], None]) -> None:
    for tensor in op.inputs:
        if not tensor.grad:
            continue
        if tensor in op.passes:
            new = out
            out.holders += 1
        else:
            new = _Gradient(tensor.size, tensor.owner)
        old = gradients.get(id(tensor))
        if old is None:
            gradients[id(tensor)] = new
            continue
        extra = tensor.size if old.holders > 1 and new.holders > 1 else ZERO
        waiting = object()
        gradients[id(waiting)] = new
        note(op.scratch_backward + extra)
        del gradients[id(waiting)]
        old.holders -= 1
        new.holders -= 1
        gradients[id(tensor)] = _Gradient(tensor.size, tensor.owner)


def _count_keepers(tape: Tape, held: tuple[Tensor, ...], *, own_source: bool) -> dict[int, int]:
    keepers: dict[int, int] = {}
    for op in tape.ops:
        if op.output.grad:
            for key in _roots(op.saved):
                keepers[key] = keepers.get(key, 0) + 1
    for tensor in held:
        keepers[id(tensor.root)] = keepers.get(id(tensor.root), 0) + 1
    if not own_source:
        keepers.pop(id(tape.source), None)
    return keepers


def _roots(tensors: Iterable[Tensor]) -> set[int]:
    return {id(tensor.root) for tensor in tensors}


def _instant(
    alive: Iterable[Tensor], gradients: Iterable[_Identity], scratch: Size, weight_grad: int = 0
) -> Instant:
    activations = logits = ZERO
    for tensor in alive:
        if tensor.owner == "logits":
            logits = logits + tensor.size
        else:
            activations = activations + tensor.size
    temporaries = scratch
    for identity in gradients:
        if identity.gradient.owner == "logits":
            logits = logits + identity.gradient.size
        else:
            temporaries = temporaries + identity.gradient.size
    return Instant(activations, logits, temporaries, weight_grad)


def pareto(instants: Iterable[Instant]) -> tuple[Instant, ...]:
    """Instants that no other one covers in every coefficient: only these can be the peak of some batch."""
    kept: list[Instant] = []
    for instant in instants:
        mine = (*instant.total, instant.weight_grad)
        if any(_covers((*other.total, other.weight_grad), mine) for other in kept):
            continue
        kept = [other for other in kept if not _covers(mine, (*other.total, other.weight_grad))]
        kept.append(instant)
    return tuple(kept)


def _covers(big: tuple[int, ...], small: tuple[int, ...]) -> bool:
    return all(left >= right for left, right in zip(big, small, strict=True))
