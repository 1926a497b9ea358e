"""What ZeRO-3 keeps gathered: DeepSpeed's own walk over the modules of a step, on sizes instead of tensors.

A module's parameters are gathered when it is entered, those of the next modules ahead of time, and all are released
when it is left, unless they are used again soon. Source: DeepSpeed 0.19.8 runtime/zero/partitioned_param_coordinator.py
(fetch_sub_module, release_sub_module) and partition_parameters.py (all_gather_coalesced).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.formulas.zero import Buckets

Pass = str
"""``forward``, ``recompute`` or ``backward``."""


class Tensor(NamedTuple):
    """A divided parameter: its elements, and its bytes when it is gathered."""

    numel: int
    bytes: int
    frozen: bool = False


class Module(NamedTuple):
    """A module: the numbers of its parameters in rising order, its place, and the modules inside it.

    A parameter that it takes from a module inside, without calling that, is its own too (DeepSpeed's "external" ones).
    ``place``: the layer, or ``BEFORE`` the layers, ``AFTER`` them or ``AROUND`` them.
    """

    tensors: tuple[int, ...]
    place: int
    inside: tuple["Module", ...] = ()


def renumbered(module: Module, first: int, place: int) -> Module:
    """The module at another place, its tensors numbered from ``first`` on.

    >>> renumbered(Module((0,), 0, (Module((1, 2), 0),)), 10, 3)
    Module(tensors=(10,), place=3, inside=(Module(tensors=(11, 12), place=3, inside=()),))
    """
    inside = tuple(renumbered(inner, first, place) for inner in module.inside)
    return Module(tuple(number + first for number in module.tensors), place, inside)


BEFORE, AFTER, AROUND = -1, -2, -3


class Visit(NamedTuple):
    """One entry of a step's trace: a module is entered, or left."""

    module: Module
    which: Pass
    entered: bool = True


class Live(NamedTuple):
    """Gathered parameters while a module works: its own, those that are kept, and those on their way.

    ``working``: bytes, with the buffers in which several came together. ``arriving``: the most while they are copied
    out of such a buffer. ``numel``: elements of all that is gathered, as DeepSpeed counts them.
    """

    visit: Visit
    working: int
    arriving: int
    numel: int


def visits(
    modules: Sequence[Module], *, checkpointing: bool, embedding_again: bool, backward: bool = True
) -> tuple[Visit, ...]:
    """A step's modules in the order in which they are entered and left; one without parameters fetches ahead, too.

    Formula:   forward in order; backward in reverse, the outer module first; a checkpointed layer's forward runs again
               when the first of its modules asks for what it saved, without hooks of the layer itself, and ends within
               the last module, which is not left
    Source:    parameter_offload.py, _register_deepspeed_module (hooks of every module, in both directions; those around
               the layers are never left in backward, as no gradient of their inputs is made); transformers 5.23
               modeling_layers.py, GradientCheckpointingLayer; torch 2.13 utils/checkpoint.py, _StopRecomputationError
    Valid:     modules that run in the order given; every layer checkpointed without re-entry, or none;
               ``embedding_again`` where its output has a gradient, as checkpointed adapters ask for; no ``backward``
               of a model that is only asked
    Excludes:  modules that return no tensor with a gradient

    >>> layer = Module((), 0, (Module((1,), 0), Module((2,), 0)))
    >>> found = visits([Module((0,), BEFORE), layer, Module((3,), AFTER)], checkpointing=True, embedding_again=True)
    >>> [(visit.module.tensors, visit.which[0]) for visit in found if visit.entered]  # doctest: +NORMALIZE_WHITESPACE
    [((0,), 'f'), ((), 'f'), ((1,), 'f'), ((2,), 'f'), ((3,), 'f'), ((3,), 'b'),
     ((), 'b'), ((2,), 'b'), ((1,), 'r'), ((2,), 'r'), ((1,), 'b'), ((0,), 'b')]
    """
    found = [visit for module in modules for visit in _forward(module, "forward")]
    for module in reversed(modules) if backward else ():
        found += _back(module, checkpointing=checkpointing, embedding_again=embedding_again)
    return tuple(found)


def _forward(module: Module, which: Pass) -> Iterator[Visit]:
    yield Visit(module, which)
    for inner in module.inside:
        yield from _forward(inner, which)
    if module.tensors:
        yield Visit(module, which, entered=False)


def _back(module: Module, *, checkpointing: bool, embedding_again: bool) -> Iterator[Visit]:
    """The backward pass of a module outside the layers, or of a layer."""
    if module.place == BEFORE and not (embedding_again and module.tensors):
        return
    if module.place == AROUND:
        yield Visit(module, "backward")
        for inner in reversed(module.inside):
            yield from _back(inner, checkpointing=checkpointing, embedding_again=embedding_again)
        return
    back = [*_backward(module)]
    asking = (place for place, (inner, _, entered) in enumerate(back) if entered and inner.tensors and not inner.inside)
    first = next(asking, len(back) - 1) + 1
    yield from back[:first]
    if checkpointing and module.place >= 0:
        again = [visit for inner in module.inside for visit in _forward(inner, "recompute")]
        while again and not again[-1].entered:
            again.pop()
        yield from again
    yield from back[first:]


def _backward(module: Module) -> Iterator[Visit]:
    yield Visit(module, "backward")
    for inner in reversed(module.inside):
        yield from _backward(inner)
    if module.tensors:
        yield Visit(module, "backward", entered=False)


def live(tensors: tuple[Tensor, ...], trace: tuple[Visit, ...], limits: Buckets) -> tuple[Live, ...]:
    """Gathered bytes at every module that is entered in a step whose order is known from a step before.

    Shapes:    a tensor that comes alone is its buffer; several are copied out of one buffer, which stays until the last
               of them is asked for
    Formula:   fetched ahead: until 0.9 h**2 elements or what is left of max_live_parameters are reached; kept: what is
               used again before max_reuse_distance elements have passed, but for frozen ones that came for a layer's
               second run: they go with the module that asked for it
    Source:    this module's docstring
    Valid:     from the second step on; the first releases everything at once and fetches nothing ahead
    Excludes:  persistent parameters; what the CUDA allocator holds back for other streams

    >>> ten = tuple(Tensor(10, 20) for _ in range(3))
    >>> step = visits([Module((number,), number) for number in range(3)], checkpointing=False, embedding_again=True)
    >>> [found.working for found in live(ten, step, Buckets(reduce=1, prefetch=10, persistence=0, reuse=25))]
    [40, 40, 60, 60, 40, 20]
    """
    walk = _Walk(tensors, tuple(visit for visit in trace if visit.entered), limits)
    return tuple(found for visit in trace if (found := walk.visit(visit)) is not None)


class _Group:
    """Tensors that were asked for together."""

    def __init__(self, tensors: list[int], size: int) -> None:
        self.waiting, self.size, self.arrived = set(tensors), size, False


class _Walk:
    """The coordinator's bookkeeping. ``step`` counts the modules that have been entered."""

    def __init__(self, tensors: tuple[Tensor, ...], trace: tuple[Visit, ...], limits: Buckets) -> None:
        self.tensors, self.trace, self.limits = tensors, trace, limits
        self.divided = [tensor.numel > limits.persistence for tensor in tensors]
        self.fetched_for = [-1] * len(tensors)
        self.there: set[int] = set()
        """Gathered tensors that have arrived."""
        self.coming: dict[int, _Group] = {}
        self.step = 0
        self.working: list[set[int]] = [set() for _ in tensors]
        """Modules that have been entered with a tensor, and not left: by identity."""
        self.asking = 0
        """The module that was entered last in backward."""
        self.computed_again: dict[int, set[int]] = {}
        """Frozen tensors that came for a layer that was computed again, by the module that asked for it."""
        self.available = 0
        """Elements gathered or on their way."""
        self.bytes = 0
        passed, order = 0, []
        self.passed = [0]
        self.uses: list[list[int]] = [[] for _ in tensors]
        for step, visit in enumerate(trace):
            for number in visit.module.tensors:
                order.append((number, step))
                self.uses[number].append(step)
                passed += tensors[number].numel
            self.passed.append(passed)
        self.queue = deque(order)
        for found in self.uses:
            found.reverse()

    def visit(self, visit: Visit) -> Live | None:
        """What is there when a module is entered."""
        if not visit.entered:
            self.leave(visit)
            return None
        step, self.step = self.step, self.step + 1
        if not visit.module.tensors:
            self.ahead()
            return Live(visit, self.bytes, self.bytes, self.available)
        return self.enter(step, visit)

    def enter(self, step: int, visit: Visit) -> Live:
        """Fetch a module's parameters and those ahead."""
        wanted = [number for number in visit.module.tensors if self.divided[number]]
        self.gather([number for number in wanted if not self.has(number)])
        self.take(visit, wanted)
        arriving = max((self.wait(number) for number in wanted), default=self.bytes)
        self.forget(step, visit.module.tensors)
        self.ahead()
        return Live(visit, self.bytes, max(arriving, self.bytes), self.available)

    def take(self, visit: Visit, numbers: list[int]) -> None:
        """Note which module works with the tensors."""
        module = id(visit.module)
        if visit.which == "backward":
            self.asking = module
        for number in numbers:
            self.working[number].add(module)
            if visit.which == "recompute" and self.tensors[number].frozen:
                self.working[number].add(self.asking)
                self.computed_again.setdefault(self.asking, set()).add(number)

    def has(self, number: int) -> bool:
        return number in self.there or number in self.coming

    def gather(self, numbers: list[int]) -> None:
        if not numbers:
            return
        size = sum(self.tensors[number].bytes for number in numbers)
        group = _Group(numbers, size)
        for number in numbers:
            self.coming[number] = group
        self.available += sum(self.tensors[number].numel for number in numbers)
        self.bytes += size

    def wait(self, number: int) -> int:
        """Take a tensor out of its group: the first to be taken copies all of them out."""
        group = self.coming.pop(number, None)
        if group is None:
            return self.bytes
        alone = len(group.waiting) == 1 and not group.arrived
        if not group.arrived and not alone:
            self.bytes += group.size
        group.arrived = True
        most = self.bytes
        group.waiting.discard(number)
        self.there.add(number)
        if not group.waiting and not alone:
            self.bytes -= group.size
        return most

    def forget(self, step: int, numbers: tuple[int, ...]) -> None:
        """Take what is here off the queue of what is to be fetched."""
        left = {number for number in numbers if self.fetched_for[number] < step}
        while self.queue and left:
            number, used = self.queue.popleft()
            self.fetched_for[number] = used
            left.discard(number)

    def ahead(self) -> None:
        most = min(self.limits.live - self.available, self.limits.prefetch)
        chosen: list[int] = []
        count = 0
        while self.queue and count < most:
            number, used = self.queue.popleft()
            self.fetched_for[number] = max(self.fetched_for[number], used)
            if self.divided[number] and not self.has(number) and number not in chosen:
                chosen.append(number)
                count += self.tensors[number].numel
        self.gather(chosen)

    def leave(self, visit: Visit) -> None:
        """Release a module's tensors, unless they are used again soon, and those that came for a layer's second run."""
        module = id(visit.module)
        going = {number for number in visit.module.tensors if not self.stays(number, self.step)}
        again = self.computed_again.pop(module, set()) if visit.which == "backward" else set()
        for number in {*visit.module.tensors, *again}:
            self.working[number].discard(module)
            if number in going | again and number in self.there and not self.working[number]:
                self.there.discard(number)
                self.available -= self.tensors[number].numel
                self.bytes -= self.tensors[number].bytes

    def stays(self, number: int, step: int) -> bool:
        """Used again soon, or passed over by what fetches ahead because it is here."""
        uses = self.uses[number]
        while uses and uses[-1] < step:
            uses.pop()
        soon = bool(uses) and self.passed[uses[-1]] - self.passed[step] < self.limits.reuse
        return soon or self.fetched_for[number] > step
