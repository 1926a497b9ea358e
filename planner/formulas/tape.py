"""Which tensors of a forward pass are alive when: a tape of operations and its liveness.

The tape is what autograd builds: every operation says which tensors it keeps for its backward and
which gradients it makes. Sizes are linear in the shape of the batch, so a tape is played once per
kind of layer and then evaluated for any batch in a few multiplications.

Symbols: ``b`` micro-batch, ``s`` sequence length. Source of the rules: each operation's formula in
torch's ``tools/autograd/derivatives.yaml`` (what it saves), and ``torch/csrc/autograd/input_buffer.cpp``
(how gradients meet).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
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
        (a, b, c, d), (e, f, g, h) = self, other
        return Size(a + e, b + f, c + g, d + h)

    def times(self, factor: int) -> "Size":
        """Every coefficient multiplied."""
        return Size(*(factor * part for part in self))

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
    by_heads: bool = False
    """Laid out head by head, as concatenation and expansion leave it; projections lie token by token."""
    part: "Tensor | None" = None
    """The rank's own part of a gathered tensor: who needs the tensor later keeps the part and gathers it again."""

    @property
    def root(self) -> "Tensor":
        """The tensor that owns the memory."""
        return self if self.storage is None else self.storage.root


@dataclass(eq=False, slots=True)
class Op:
    """One autograd node: reads ``inputs``, writes ``output``, keeps ``saved`` until its backward has run.

    ``passes`` names the inputs that receive the output's gradient unchanged, without a new tensor. ``named``
    tensors are not read, but Python variables of the running function still point at them. ``attached`` are those of
    ``saved`` that hang on the node itself, where hooks of a checkpoint do not reach them. ``reloads`` says
    that backward needs something saved, a weight at least: in a checkpoint this starts the recomputation.
    ``overwrites``: the inputs' gradients are written over what is saved, which is they themselves. ``runs`` tells a
    compiler what it can fuse: what runs ``apart`` reads and writes whole tensors whoever calls it.
    ``scratch_*`` are temporaries of the kernel itself; ``weight_grad`` the parameter gradients it makes.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    saved: tuple[Tensor, ...] = ()
    passes: tuple[Tensor, ...] = ()
    named: tuple[Tensor, ...] = ()
    attached: tuple[Tensor, ...] = ()
    reloads: bool = False
    overwrites: bool = False
    runs: Literal["pointwise", "reduction", "apart"] = "pointwise"
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
    aside: Tensor | None = None
    """What a part returns beside its result, and nobody reads: it lives while its caller's variable does."""

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

    def attached(self) -> tuple[Tensor, ...]:
        """Every storage that hangs on a node, once: it lives as long as the graph, checkpoint or not."""
        found: dict[int, Tensor] = {}
        for op in self.ops:
            if op.output.grad:
                for tensor in op.attached:
                    found.setdefault(id(tensor.root), tensor.root)
        found.pop(id(self.source), None)
        return tuple(found.values())

    def weight_grad(self) -> int:
        """Bytes of parameter gradients that one backward makes."""
        return sum(op.weight_grad for op in self.ops)


def total(sizes: Iterable[Size]) -> Size:
    """Sum of sizes."""
    result = ZERO
    for size in sizes:
        result = result + size
    return result


Moment = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""An instant before it is known to matter, of which a pass has many: coefficients of all that is alive and of finished
gradients, then those of activations, logits and temporaries."""


class _Ledger:
    """Running totals of what is alive, so that an instant costs a few additions."""

    __slots__ = ("activations", "logits", "temporaries")

    def __init__(self) -> None:
        self.activations = [0, 0, 0, 0]
        self.logits = [0, 0, 0, 0]
        self.temporaries = [0, 0, 0, 0]

    def tensor(self, tensor: Tensor, sign: int) -> None:
        """A forward tensor comes (1) or goes (-1)."""
        self._add(self.logits if tensor.owner == "logits" else self.activations, tensor.size, sign)

    def gradient(self, gradient: "_Gradient", sign: int) -> None:
        """A gradient comes or goes: logits' belong to the logits, others are temporaries."""
        self._add(self.logits if gradient.owner == "logits" else self.temporaries, gradient.size, sign)

    @staticmethod
    def _add(totals: list[int], size: Size, sign: int) -> None:
        for place, part in enumerate(size):
            if part:
                totals[place] += sign * part

    def instant(self, scratch: Size, weight_grad: int = 0) -> Moment:
        """What is alive now, with the scratch memory of the running operation."""
        activations, logits, temporaries = self.activations, self.logits, self.temporaries
        if scratch is not ZERO:
            temporaries = [alive + more for alive, more in zip(temporaries, scratch, strict=True)]
        (a, b, c, d), (e, f, g, h), (i, j, k, m) = activations, logits, temporaries
        return (a + e + i, b + f + j, c + g + k, d + h + m, weight_grad), (a, b, c, d), (e, f, g, h), (i, j, k, m)


def forward_instants(
    tape: Tape, *, keep: bool, held: tuple[Tensor, ...] = (), own_source: bool = False
) -> tuple[Instant, ...]:
    """Moments of the forward pass that can be its peak; the source counts only where nobody else counts it.

    ``keep`` is false where nothing is saved (inside a checkpoint). A tensor lives until its last reader has
    run and no variable points at it, or to the end when it is saved or ``held`` by the caller.
    """
    kept = {tensor.root for tensor in (*held, *(tape.saved(own_source=own_source) if keep else ()))}
    ignored = None if own_source else tape.source
    ending = _last_uses(tape, kept)
    ledger = _Ledger()
    alive: set[Tensor] = set()

    def born(tensor: Tensor) -> None:
        if tensor is not ignored and tensor not in alive:
            alive.add(tensor)
            ledger.tensor(tensor, 1)

    if own_source:
        born(tape.source)
    instants = []
    for index, op in enumerate(tape.ops):
        born(op.output.root)
        for tensor in op.saved if keep and op.output.grad else ():
            born(tensor.root)
        instants.append(ledger.instant(op.scratch_forward))
        for tensor in ending.get(index, ()):
            if tensor in alive:
                alive.remove(tensor)
                ledger.tensor(tensor, -1)
    return pareto(instants)


def _last_uses(tape: Tape, kept: set[Tensor]) -> dict[int, list[Tensor]]:
    """Tensors that go after each operation: not kept, and nobody reads or names them later."""
    last: dict[Tensor, int] = {}
    for index, op in enumerate(tape.ops):
        last.setdefault(op.output.root, index + 1)
        for tensor in (*op.inputs, *op.named):
            last[tensor.root] = index
    ending: dict[int, list[Tensor]] = {}
    final = tape.result.root
    for tensor, index in last.items():
        if tensor not in kept and tensor is not final:
            ending.setdefault(index, []).append(tensor)
    return ending


@dataclass(eq=False, slots=True)
class _Gradient:
    """Gradient of one tensor; ``holders`` counts the readers that wait for the same memory."""

    size: Size
    owner: OwnerTag
    holders: int = 1


def backward_instants(tape: Tape, *, held: tuple[Tensor, ...] = (), own_source: bool = False) -> tuple[Instant, ...]:
    """Moments of the backward pass that can be its peak; the source counts only where nobody else counts it.

    Saved tensors go when the operations that keep them have run. A gradient goes when the operation that
    consumes it has run. Where two gradients meet, the second is added into the first, in place when nobody
    else holds it, else into a new tensor.
    """
    if not tape.result.grad:
        return (Instant(),)
    ledger = _Ledger()
    keepers = _count_keepers(tape, held, own_source=own_source)
    for tensor in keepers:
        ledger.tensor(tensor, 1)
    seed = _Gradient(tape.result.size, tape.result.owner)
    ledger.gradient(seed, 1)
    gradients: dict[Tensor, _Gradient] = {tape.result: seed}
    instants: list[Moment] = []
    finished = 0
    for op in reversed(tape.ops):
        out = gradients.pop(op.output, None)
        if out is None:
            continue
        finished += op.weight_grad
        saved = {tensor.root for tensor in op.saved}
        if op.overwrites:
            for tensor in saved:
                _forget(tensor, keepers, ledger)
        for tensor in op.inputs:
            if tensor.grad:
                _hand_down(op, tensor, out, gradients, ledger, instants, finished)
        instants.append(ledger.instant(op.scratch_backward, finished))
        _release(out, ledger)
        for tensor in set() if op.overwrites else saved:
            _forget(tensor, keepers, ledger)
    return pareto(instants)


def _hand_down(
    op: Op,
    tensor: Tensor,
    out: _Gradient,
    gradients: dict[Tensor, _Gradient],
    ledger: _Ledger,
    instants: list[Moment],
    finished: int,
) -> None:
    """The gradient of one input: the output's own, or a new one; added to what another reader has left there."""
    if tensor in op.passes:
        new = out
        out.holders += 1
    else:
        new = _Gradient(tensor.size, tensor.owner)
        ledger.gradient(new, 1)
    old = gradients.get(tensor)
    if old is None:
        gradients[tensor] = new
        return
    apart = old.holders > 1 and new.holders > 1
    joined = _Gradient(tensor.size, tensor.owner)
    if apart:
        ledger.gradient(joined, 1)
    instants.append(ledger.instant(op.scratch_backward, finished))
    if not apart:
        ledger.gradient(joined, 1)
    _release(old, ledger)
    _release(new, ledger)
    gradients[tensor] = joined


def _release(gradient: _Gradient, ledger: _Ledger) -> None:
    gradient.holders -= 1
    if gradient.holders == 0:
        ledger.gradient(gradient, -1)


def _forget(tensor: Tensor, keepers: dict[Tensor, int], ledger: _Ledger) -> None:
    count = keepers.get(tensor, 0)
    if count == 1:
        ledger.tensor(tensor, -1)
    keepers[tensor] = count - 1


def _count_keepers(tape: Tape, held: tuple[Tensor, ...], *, own_source: bool) -> dict[Tensor, int]:
    keepers: dict[Tensor, int] = {}
    for op in tape.ops:
        if op.output.grad:
            for tensor in {tensor.root for tensor in op.saved}:
                keepers[tensor] = keepers.get(tensor, 0) + 1
    for tensor in held:
        keepers[tensor.root] = keepers.get(tensor.root, 0) + 1
    if not own_source:
        keepers.pop(tape.source, None)
    return keepers


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


def pareto(moments: Iterable[Moment]) -> tuple[Instant, ...]:
    """Moments that no other one covers in every coefficient: only these can be the peak of some batch."""
    kept: list[Moment] = []
    for moment in sorted(moments, key=itemgetter(0), reverse=True):
        a, b, c, d, e = moment[0]
        for (f, g, h, i, j), *_ in kept:
            if f >= a and g >= b and h >= c and i >= d and j >= e:
                break
        else:
            kept.append(moment)
    return tuple(Instant(Size(*one), Size(*two), Size(*three), whole[-1]) for whole, one, two, three in kept)
