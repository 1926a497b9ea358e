"""What DeepSpeed's walk over a model finds: modules with their tensors, gradients in their order, gathered bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from planner.closed_form.inventory import Storage
from planner.closed_form.units import Pieces, Sharing
from planner.formulas.adapters import Part, block_parts
from planner.formulas.coordinator import AFTER, AROUND, BEFORE, Module, Tensor, Visit, live, renumbered, visits
from planner.formulas.sharding import Piece
from planner.formulas.zero import (
    Arrival,
    Buckets,
    flat_partition,
    fullest_partition,
    own_partitions,
    persistent,
    reductions,
)
from planner.spec import Block, Mlp, ModelSpec

ENDS = 2
"""Layers at each end of a model that are walked beside those in reach of what is kept and fetched ahead."""


class Passes(NamedTuple):
    """What a step does with the model: a reference has no backward pass."""

    checkpointing: bool
    backward: bool = True


class Flat(NamedTuple):
    """One rank under one stage. Bytes, unless it says elements.

    ``gathered``: most by pass and place. ``reduced``: whole gradients and copies beside the bucket, most by place.
    """

    stage: int
    e: int
    """Bytes of an element of what is trained."""
    trained: int
    """Elements that are trained."""
    own: int
    """Elements of this rank's part of them."""
    touched: int
    """Elements of the gradients that this rank keeps."""
    largest: int
    """Elements of the largest part of a tensor."""
    frozen: int
    """Parts of frozen tensors."""
    persistent: int
    bucket: int
    gathered: Mapping[tuple[str, int], int]
    arriving: Mapping[tuple[str, int], int]
    """The same while parameters are copied out of the buffer in which several came: before a module works."""
    reduced: Mapping[int, int]

    def live(self, which: str, place: int) -> int:
        """Gathered bytes while the modules of a place work."""
        return self.gathered.get((which, place), 0)

    def copying(self, which: str, place: int) -> int:
        """Gathered bytes while they arrive."""
        return self.arriving.get((which, place), 0)

    def most(self, which: str) -> int:
        """Most gathered bytes in a pass."""
        found = (*self.gathered.items(), *self.arriving.items())
        return max((size for (name, _), size in found if name == which), default=0)

    @property
    def fullest(self) -> set[int]:
        """The layers at which most is gathered, one for each pass."""
        layers = [(size, which, place) for (which, place), size in self.arriving.items() if place >= 0]
        passes = {which for _, which, _ in layers}
        return {max(found for found in layers if found[1] == which)[2] for which in passes}

    @property
    def gradients(self) -> int:
        """What this rank keeps of reduced gradients."""
        return self.e * self.touched


@lru_cache(maxsize=1024)
def flat_of(model: ModelSpec, storage: Storage, sharing: Sharing, limits: Buckets, stage: int, passes: Passes) -> Flat:
    """A model under one stage among ``sharing.ranks``."""
    ranks, walked = sharing.ranks, _walked(model, storage, sharing._replace(ranks=1), limits, stage, passes)
    sizes = [tensor.numel for tensor in walked.trained]
    e = storage.weight_bytes if storage.method == "full" else storage.adapter_bytes
    part = fullest_partition(sizes, ranks)
    own = own_partitions(sizes, ranks) if stage == 3 else flat_partition(sum(sizes), ranks)
    waiting = reductions(_arrivals(walked.trained), bucket=limits.reduce, ranks=ranks, stage=stage)
    return Flat(
        stage=stage,
        e=e,
        trained=sum(sizes),
        own=own,
        touched=own if stage == 3 else part.numel,
        largest=-(-part.largest // ranks) if stage == 3 else min(part.largest, own),
        frozen=sum(
            count * (-(-tensor.numel // ranks) * tensor.bytes // tensor.numel)
            for tensor, count in walked.frozen
            if tensor.numel  # a stage may have a table without rows
        ),
        persistent=e * walked.persistent,
        bucket=e * limits.reduce * limits.turns,
        gathered=walked.gathered,
        arriving=walked.arriving,
        reduced=MappingProxyType({place: e * count for place, count in waiting.items()}),
    )


class _Trained(NamedTuple):
    place: int
    numel: int


class _Walked(NamedTuple):
    """What does not depend on the number of ranks. ``frozen``: tensors of a size and how many there are."""

    trained: tuple[_Trained, ...]
    frozen: tuple[tuple[Tensor, int], ...]
    persistent: int
    gathered: Mapping[tuple[str, int], int]
    arriving: Mapping[tuple[str, int], int]


@lru_cache(maxsize=256)
def _walked(
    model: ModelSpec, storage: Storage, sharing: Sharing, limits: Buckets, stage: int, passes: Passes
) -> _Walked:
    numbered = _Numbered(Pieces(model, storage, sharing), walked=False)
    numbered.model(model)
    none = _Gathered({}, {})
    found = _gathered(model, storage, sharing, limits, passes) if stage == 3 else none
    return _Walked(
        trained=tuple(numbered.trained),
        frozen=tuple(Counter(numbered.frozen).items()),
        persistent=persistent((tensor.numel for tensor in numbered.tensors), limits.persistence),
        gathered=MappingProxyType(found.working),
        arriving=MappingProxyType(found.arriving),
    )


class _Gathered(NamedTuple):
    """Most gathered bytes by pass and place: while modules work, and while their parameters arrive."""

    working: dict[tuple[str, int], int]
    arriving: dict[tuple[str, int], int]


def _gathered(model: ModelSpec, storage: Storage, sharing: Sharing, limits: Buckets, passes: Passes) -> _Gathered:
    """Of equal layers only those at both ends are walked: between them every one finds what its neighbour found."""
    walked, layers = _in_reach(model, Pieces(model, storage, sharing), limits), model.num_hidden_layers
    if walked >= layers:
        return _walk(model, storage, sharing, limits, passes)
    few = _walk(replace(model, layout=model.layout[:walked]), storage, sharing, limits, passes)
    return _Gathered(*(_at_every_layer(found, layers, walked) for found in few))


def _in_reach(model: ModelSpec, pieces: Pieces, limits: Buckets) -> int:
    """Layers that a walk needs: what is gathered at one depends on those that are kept, or fetched ahead."""
    if len(set(model.layout)) > 1:
        return model.num_hidden_layers
    reach = limits.live + limits.reuse + limits.prefetch
    elements = sum(piece.rows * piece.columns * piece.copies for piece in pieces.block(model.blocks[0]))
    return 2 * (ENDS + -(-reach // elements))


def _at_every_layer(found: dict[tuple[str, int], int], layers: int, walked: int) -> dict[tuple[str, int], int]:
    """What ``walked`` layers found, for ``layers``: both ends as they are, and what the middle found between them."""
    half = walked // 2
    images = [*range(half), *[half] * (layers - walked), *range(half, walked)]
    passes = dict.fromkeys(which for which, _ in found)
    inner = {(which, place): found[which, image] for which in passes for place, image in enumerate(images)}
    return {key: size for key, size in found.items() if key[1] < 0} | inner


def _walk(model: ModelSpec, storage: Storage, sharing: Sharing, limits: Buckets, passes: Passes) -> _Gathered:
    numbered = _Numbered(Pieces(model, storage, sharing))
    modules = numbered.model(model)
    found = _Gathered({}, {})
    again = storage.method == "full" or passes.checkpointing
    trace = visits(modules, **passes._asdict(), embedding_again=again)
    working, arriving = found
    for visit, now, coming, _ in live(tuple(numbered.tensors), trace, limits):
        key = (visit.which, _place(visit))
        # of what follows the layers, the head works last and longest
        if now > working.get(key, -1) or key == ("forward", AFTER):
            working[key] = now
        if coming > arriving.get(key, -1):
            arriving[key] = coming
    return found


def _place(visit: Visit) -> int:
    """Modules around the layers are entered before them, and in backward after them."""
    if visit.module.place != AROUND:
        return visit.module.place
    return AFTER if visit.which == "backward" else BEFORE


def _arrivals(trained: Iterable[_Trained]) -> list[Arrival]:
    start, found = 0, []
    for tensor in trained:
        found.append(Arrival(tensor.place, tensor.numel, start))
        start += tensor.numel
    return found[::-1]


class _Numbered:
    """Modules of a model, with numbers for their tensors in the order of the model.

    Without being ``walked``, layers of a kind stay one module: who counts tensors needs no more.
    """

    def __init__(self, pieces: Pieces, *, walked: bool = True) -> None:
        self.pieces, self.walked = pieces, walked
        self.tensors: list[Tensor] = []
        self.trained: list[_Trained] = []
        self.frozen: list[Tensor] = []

    def model(self, model: ModelSpec) -> list[Module]:
        """Everything, in the model's own containers: they fetch ahead, too.

        A head whose weight alone is taken is a parameter of the container that takes it.
        """
        words, others = model.embeddings[:1], model.embeddings[1:]  # stages of a pipeline but the first have none
        embedding = self.leaf([*words], BEFORE)
        parts: list[Part] = [*others, *model.extra_norms, *model.extra_linears]
        front = [self.leaf([part], BEFORE) for part in parts]
        layers = [*self.layers(model)]
        norm = [self.leaf([model.final_norm], AFTER)] if model.final_norm is not None else []
        head = self.of(self.pieces.head(), AFTER)
        if model.tie_word_embeddings:
            head = head._replace(tensors=(*embedding.tensors, *head.tensors))
        layered = Module((), AROUND, (embedding, *front, Module((), BEFORE), *layers, *norm))
        called = self.pieces.sharing.called
        outer = Module((), AROUND, (layered, head)) if called else Module(head.tensors, AROUND, (layered,))
        if self.pieces.storage.method != "full":  # PEFT's two
            outer = Module((), AROUND, (Module((), AROUND, (outer,)),))
        return [outer]

    def layers(self, model: ModelSpec) -> Iterator[Module]:
        """Every layer; of a kind that came before, the same tensors under new numbers."""
        known: dict[int, tuple[Module, _Numbered]] = {}
        for place, kind in enumerate(model.layout):
            if kind not in known:
                own = _Numbered(self.pieces)
                known[kind] = own.layer(model.blocks[kind], place), own
            layer, made = known[kind]
            yield renumbered(layer, len(self.tensors), place) if self.walked else layer
            self.tensors += made.tensors
            self.trained += [_Trained(place, tensor.numel) for tensor in made.trained]
            self.frozen += made.frozen

    def layer(self, block: Block, place: int) -> Module:
        """A layer: a norm, attention, the other norms and what comes after attention."""
        first, *others = [self.leaf([norm], place) for norm in block.norms] or [Module((), place)]
        attention = block.attention
        inner = [self.linear(part, place) for part in attention.linears]
        inner += [self.leaf([part], place) for part in (*attention.norms, *attention.tables)]
        parts = [first, Module((), place, tuple(inner)), *others]
        if block.mlp is not None:
            parts.append(self.mlp(block.mlp, place))
        if block.experts is not None:
            parts.append(self.experts(block, place))
        return Module((), place, tuple(parts))

    def mlp(self, mlp: Mlp, place: int) -> Module:
        first, *others = [self.linear(part, place) for part in mlp.inputs]
        inputs, output = (first, Module((), place), *others), self.linear(mlp.output, place)
        tables = [self.leaf([part], place) for part in mlp.tables]
        return Module((), place, (*inputs, output, *tables))

    def experts(self, block: Block, place: int) -> Module:
        """Experts are fetched as one module: DeepSpeed takes sparse blocks as leaves."""
        everything, parts = list(self.pieces.block(block)), block_parts(block)
        adapted = everything[len(list(self.pieces.modules(parts))) :]
        attention, mlp = block.attention, block.mlp
        dense: list[Part] = [*attention.linears, *block.all_norms, *attention.tables, *(mlp.linears if mlp else ())]
        known = {part.name for part in dense}
        rest = [part for part in parts if part.name not in known]
        return self.of([*self.pieces.modules(rest), *adapted], place)

    def linear(self, part: Part, place: int) -> Module:
        """A matrix; with an adapter, the wrapper of three modules and a dropout.

        The wrapper takes the first adapter matrix too, for its dtype. peft 0.21 tuners/lora/layer.py, Linear.forward.
        """
        base, everything = list(self.pieces.base(part)), list(self.pieces.modules([part]))
        if len(base) == len(everything):
            return self.of(base, place)
        own = self.of(base, place)
        adapters = tuple(self.of([piece], place) for piece in everything[len(base) :])
        return Module(adapters[0].tensors, place, (own, Module((), place), *adapters))

    def leaf(self, parts: list[Part], place: int) -> Module:
        return self.of(self.pieces.modules(parts), place)

    def of(self, pieces: Iterable[Piece], place: int) -> Module:
        """A module that owns these tensors."""
        numbers = []
        for piece in pieces:
            size = piece.rows * piece.columns
            for _ in range(piece.copies):
                numbers.append(len(self.tensors))
                self.tensors.append(Tensor(size, size * piece.computed, frozen=not piece.trained))
                if piece.trained:
                    self.trained.append(_Trained(place, size))
                else:
                    self.frozen.append(self.tensors[-1])
        return Module(tuple(numbers), place)
