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


class Module(NamedTuple):
    """A module: the numbers of its own parameters in rising order, its place, and the modules inside it.

    ``place``: the layer, or ``BEFORE`` the layers or ``AFTER`` them.
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


BEFORE, AFTER = -1, -2


class Visit(NamedTuple):
    """One entry of a step's trace."""

    module: Module
    which: Pass


class Live(NamedTuple):
    """Gathered parameters while a module works: its own, those that are kept, and those on their way.

    ``working``: bytes, with the buffers in which several came together. ``arriving``: the most while they are copied
    out of such a buffer. ``numel``: elements of all that is gathered, as DeepSpeed counts them.
    """

    visit: Visit
    working: int
    arriving: int
    numel: int


def visits(modules: Sequence[Module], *, checkpointing: bool, embedding_again: bool) -> tuple[Visit, ...]:
    """A step's modules in the order in which they are entered; one without parameters fetches ahead, too.

    Formula:   forward in order; backward in reverse, the outer module first; a checkpointed layer's forward runs again
               when the first of its modules asks for what it saved
    Source:    parameter_offload.py, _register_deepspeed_module (hooks of every module, in both directions)
    Valid:     modules that run in the order given; every layer checkpointed without re-entry, or none;
               ``embedding_again`` where its output has a gradient, as checkpointed adapters ask for
    Excludes:  modules that return no tensor with a gradient

    >>> layer = Module((), 0, (Module((1,), 0), Module((2,), 0)))
    >>> found = visits([Module((0,), BEFORE), layer, Module((3,), AFTER)], checkpointing=True, embedding_again=True)
    >>> [(visit.module.tensors, visit.which[0]) for visit in found]  # doctest: +NORMALIZE_WHITESPACE
    [((0,), 'f'), ((), 'f'), ((1,), 'f'), ((2,), 'f'), ((3,), 'f'), ((3,), 'b'),
     ((), 'b'), ((2,), 'b'), ((), 'r'), ((1,), 'r'), ((2,), 'r'), ((1,), 'b'), ((0,), 'b')]
    """
    found = [Visit(module, "forward") for outer in modules for module in _forward(outer)]
    for outer in reversed(modules):
        if outer.place == BEFORE and not (embedding_again and outer.tensors):
            continue
        back = [Visit(module, "backward") for module in _backward(outer)]
        first = next((place for place, visit in enumerate(back) if visit.module.tensors), len(back) - 1) + 1
        found += back[:first]
        if checkpointing and outer.place >= 0:
            found += [Visit(module, "recompute") for module in _forward(outer)]
        found += back[first:]
    return tuple(found)


def _forward(module: Module) -> Iterator[Module]:
    yield module
    for inner in module.inside:
        yield from _forward(inner)


def _backward(module: Module) -> Iterator[Module]:
    yield module
    for inner in reversed(module.inside):
        yield from _backward(inner)


def live(tensors: tuple[Tensor, ...], trace: tuple[Visit, ...], limits: Buckets) -> tuple[Live, ...]:
    """Gathered bytes at every visit of a step whose order is known from a step before.

    Shapes:    a tensor that comes alone is its buffer; several are copied out of one buffer, which stays until the last
               of them is asked for
    Formula:   fetched ahead: until 0.9 h**2 elements or what is left of max_live_parameters are reached; kept: what is
               used again before max_reuse_distance elements have passed
    Source:    this module's docstring
    Valid:     from the second step on; the first releases everything at once and fetches nothing ahead
    Excludes:  persistent parameters; what the CUDA allocator holds back for other streams

    >>> ten = tuple(Tensor(10, 20) for _ in range(3))
    >>> step = visits([Module((number,), number) for number in range(3)], checkpointing=False, embedding_again=True)
    >>> [found.working for found in live(ten, step, Buckets(reduce=1, prefetch=10, persistence=0, reuse=25))]
    [40, 40, 60, 60, 40, 20]
    """
    walk = _Walk(tensors, trace, limits)
    return tuple(walk.enter(step) for step in range(len(trace)))


class _Group:
    """Tensors that were asked for together."""

    def __init__(self, tensors: list[int], size: int) -> None:
        self.waiting, self.size, self.arrived = set(tensors), size, False


class _Walk:
    """The coordinator's bookkeeping."""

    def __init__(self, tensors: tuple[Tensor, ...], trace: tuple[Visit, ...], limits: Buckets) -> None:
        self.tensors, self.trace, self.limits = tensors, trace, limits
        self.divided = [tensor.numel > limits.persistence for tensor in tensors]
        self.fetched_for = [-1] * len(tensors)
        self.there: set[int] = set()
        """Gathered tensors that have arrived."""
        self.coming: dict[int, _Group] = {}
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

    def enter(self, step: int) -> Live:
        """Fetch a module's parameters and those ahead; say what is there; then leave it."""
        visit = self.trace[step]
        if not visit.module.tensors:
            self.ahead()
            return Live(visit, self.bytes, self.bytes, self.available)
        wanted = [number for number in visit.module.tensors if self.divided[number]]
        self.gather([number for number in wanted if not self.has(number)])
        arriving = max((self.wait(number) for number in wanted), default=self.bytes)
        self.forget(step, visit.module.tensors)
        self.ahead()
        found = Live(visit, self.bytes, max(arriving, self.bytes), self.available)
        self.leave(step, wanted)
        return found

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

    def leave(self, step: int, numbers: list[int]) -> None:
        for number in numbers:
            if number in self.there and not self.stays(number, step + 1):
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
