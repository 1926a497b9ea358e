"""FSDP2's units, and what they hold at every moment of a step.

A unit is gathered and reduced as one: the embedding, every layer, the head with the final norm before it, and whatever
is left at the root. Source: accelerate 1.15 utils/fsdp_utils.py, fsdp2_prepare_model; the order in which buffers come
and go is that of torch 2.13 distributed/fsdp/_fully_shard/_fsdp_param_group.py.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.inventory import Storage
from planner.closed_form.recipe import NO_ADAPTERS
from planner.formulas.adapters import Adapters, adapters, block_parts, expert_sites, parameter_sites
from planner.formulas.adapters import Part as Module
from planner.formulas.params import quantized_matrices
from planner.formulas.sharding import Piece, fsdp_gathered, fsdp_gradients, fsdp_locked, fsdp_reduced, fsdp_shard
from planner.spec import Block, Linear, ModelSpec, Norm


class Unit(NamedTuple):
    """Bytes of one unit on one rank."""

    frozen: int = 0
    """Shards that are not trained."""
    trained: int = 0
    """Shards that are; their gradients, once they are reduced, have as many bytes."""
    gathered: int = 0
    """The all-gather's output, and again the parameters that it is copied into."""
    whole: int = 0
    """Gradients before they are reduced."""
    reduced: int = 0
    """The reduce-scatter's output, in the dtype of compute."""
    reduce_input: int = 0
    converted: bool = False
    """Reduced gradients are copied into the dtype of the shards."""
    frozen_locked: int = 0
    """The frozen shards in page-locked blocks, one for each tensor."""
    trained_locked: int = 0
    last: int = 0
    """The whole gradient that a loop variable of the reduction keeps to its end: of the unit's last tensor."""

    def reduction(self, *, stands: bool) -> int:
        """Most bytes around the unit's reduction: its input beside whole gradients, then beside reduced ones.

        ``stands``: the whole gradients are counted already.
        """
        result = self.trained + (self.reduced if self.converted else 0)
        counted = self.whole if stands else 0
        return self.reduce_input + max(self.whole, self.last + result) - counted


NOTHING = Unit()


class Units(NamedTuple):
    """All units of a model, and how they are used. ``kinds`` has a unit for each kind of layer of ``layout``."""

    root: Unit
    embedding: Unit
    """``NOTHING`` where it is tied to the head: then it is in the tail, which is gathered through the whole step."""
    tail: Unit
    kinds: tuple[Unit, ...]
    layout: tuple[int, ...]
    tied: bool
    """The embedding is in the tail: it is the same matrix, or the engine has no unit for either."""
    called: bool
    """The head runs as a module. A trainer that takes only its weight gathers that outside of the engine."""
    reshard: bool
    """Layers are freed after their forward pass, and gathered again for backward."""
    waiting: int
    """Where the tail is also the embedding: gradients of the head, which wait there for the embedding's."""
    replicated: bool
    """Reduced gradients are summed among copies of the model, too, and what goes into that sum is kept."""

    # ------------------------------------------------------------ sums

    def layer(self, place: int) -> Unit:
        """The unit of a layer."""
        return self.kinds[self.layout[place]]

    def before(self, place: int) -> Unit:
        """What is gathered before a layer in the forward pass."""
        if place:
            return self.layer(place - 1)
        return self.tail if self.tied else self.embedding

    @property
    def last(self) -> Unit:
        """The last layer."""
        return self.layer(len(self.layout) - 1)

    def of_layers(self, field: str, start: int, stop: int) -> int:
        """Sum of a field over the layers from ``start`` up to ``stop``."""
        part = self.layout[start:stop]
        return sum(part.count(kind) * int(getattr(unit, field)) for kind, unit in enumerate(self.kinds))

    def total(self, field: str) -> int:
        """Sum of a field over all units."""
        outer = sum(int(getattr(unit, field)) for unit in (self.root, self.embedding, self.tail))
        return outer + self.of_layers(field, 0, len(self.layout))

    # ------------------------------------------------------------ forward

    def standing(self, place: int) -> int:
        """Parameters that are whole while layer ``place`` is at work, besides its own."""
        found = self.root.gathered + (self.tail.gathered if self.tied else 0)
        return found if self.reshard else found + self.embedding.gathered + self.of_layers("gathered", 0, place)

    def at_embedding(self) -> int:
        """Gathered, and the buffer in which it came."""
        unit = self.tail if self.tied else self.embedding
        return self.root.gathered + 2 * unit.gathered

    def entering(self, place: int) -> int:
        """A layer's parameters are copied out of their buffer, and the buffer of the unit before it goes only then."""
        return self.in_layer(place) + self.before(place).gathered

    def in_layer(self, place: int) -> int:
        """A layer's parameters and the buffer in which they came."""
        return self.standing(place) + 2 * self.layer(place).gathered

    def entering_head(self) -> int:
        """The same for the head, unless it is there already, or only its weight is taken."""
        return self.at_head() + (self.last.gathered if self.called and not self.tied else 0)

    def at_head(self) -> int:
        """Head and loss in the forward direction."""
        beside = self.tail.gathered if self.called and not self.tied else self.last.gathered
        return self.scoring() + beside

    # ------------------------------------------------------------ backward

    def scoring(self) -> int:
        """The loss's own backward, before the head's begins: buffers went when the forward pass ended."""
        return self.standing(len(self.layout)) + (0 if self.tied else self.tail.gathered)

    def heading(self) -> int:
        """The head's backward, at whose beginning the last layer is asked for."""
        return self.scoring() + (self.last.gathered if self.reshard else 0)

    def leaving_head(self, *, stands: bool) -> int:
        """The head is freed and its gradient reduced; the last layer is on its way."""
        prefetched = self.last.gathered if self.reshard else 0
        reduction = 0 if self.tied else self.tail.reduction(stands=stands)
        return self.standing(len(self.layout)) + prefetched + reduction

    def in_backward(self, place: int) -> int:
        """A layer's parameters, the buffer of the one before it, and what went into the last reduction."""
        return self.standing(place) + self.layer(place).gathered + self.prefetched(place) + self.last_input(place)

    def entering_backward(self, place: int) -> int:
        """A layer's parameters are copied out of their buffer."""
        again = self.layer(place).gathered if self.reshard else 0
        return self.standing(place) + self.layer(place).gathered + again + self.last_input(place)

    def leaving_backward(self, place: int, *, stands: bool) -> int:
        """A layer is freed and its gradients are reduced."""
        return self.standing(place) + self.prefetched(place) + self.layer(place).reduction(stands=stands)

    def prefetched(self, place: int) -> int:
        """The buffer of the unit whose backward is next: of none before the first layer where the embedding is tied."""
        if not self.reshard:
            return 0
        return self.before(place).gathered if place or not self.tied else 0

    def last_input(self, place: int) -> int:
        """What went into the reduction of the unit after a layer stays until the layer's own begins."""
        if place + 1 < len(self.layout):
            return self.layer(place + 1).reduce_input
        return 0 if self.tied else self.tail.reduce_input

    # ------------------------------------------------------------ the end of backward

    def ends(self, *, stands: bool) -> tuple[int, ...]:
        """The embedding's backward and reduction. A tied matrix's second gradient meets the head's in a third."""
        first, root = self.layer(0).reduce_input, self.root.gathered
        if self.tied:
            tail = self.tail
            others = tail.whole - self.waiting
            reduction = tail.reduction(stands=True) + (others - tail.whole if stands else others)
            arriving = others or 2 * tail.whole
            return (root + tail.gathered + first + arriving, root + reduction)
        unit = self.embedding
        arriving = 2 * unit.gathered if self.reshard else unit.gathered
        return (
            root + first + arriving,
            root + first + unit.gathered + unit.whole,
            root + unit.reduction(stands=stands),
        )

    def gradients_after(self, place: int) -> int:
        """Reduced gradients when the layers after ``place`` are done, with what hybrid shards keep of their sums."""
        done = self.of_layers("trained", place + 1, len(self.layout)) + (0 if self.tied else self.tail.trained)
        return done + self.summed(place)

    def summed(self, place: int) -> int:
        """Inputs of the sums among copies of the model that are done, which each unit keeps to the end of backward."""
        if not self.replicated or not self.last.converted:
            return 0
        return self.of_layers("reduced", place + 1, len(self.layout)) + (0 if self.tied else self.tail.reduced)


# ---------------------------------------------------------------- from a model


class Sharing(NamedTuple):
    """How parameters are divided: among how many ranks, in which dtype they meet."""

    ranks: int
    compute: int
    """Bytes of an element under the engine's mixed precision; 0 without."""
    quant_storage: int
    """Bytes of an element of packed weights; 0 where they are no floats and stay whole."""
    called: bool
    reshard: bool
    replicated: bool
    outer: bool = True
    """Embedding and head are units of their own."""


@lru_cache(maxsize=4096)
def units_of(model: ModelSpec, storage: Storage, sharing: Sharing) -> Units:
    """The units of a model under one way of storing it."""
    maker = Pieces(model, storage, sharing)
    tied = model.tie_word_embeddings
    words, others = model.embeddings[:1], model.embeddings[1:]  # stages of a pipeline but the first have none
    norm = [model.final_norm] if model.final_norm is not None else []
    outer: list[Module] = [*others, *model.extra_norms, *model.extra_linears]
    wrapped = storage.method != "full"  # PEFT's wrapper hides the final norm
    head = list(maker.head())
    tail = [*head, *maker.modules([] if wrapped else norm)]
    root = [*maker.modules([*outer, *(norm if wrapped else [])])]
    together = [*tail, *maker.modules(words)] if tied or not sharing.outer else tail
    waiting = fsdp_gradients(together if tied else [*tail, *root])
    if not sharing.outer:
        together, root = [*together, *root], []
    return Units(
        root=maker.unit(root),
        embedding=NOTHING if together is not tail else maker.unit(maker.modules(words), ends_large=True),
        tail=maker.unit(together, ends_large=True),
        kinds=tuple(maker.unit(maker.block(block)) for block in model.blocks),
        layout=model.layout,
        tied=tied or not sharing.outer,
        waiting=waiting if tied or not sharing.outer else 0,
        called=sharing.called,
        reshard=sharing.reshard,
        replicated=sharing.replicated,
    )


class Pieces:
    """Tensors of modules as pieces."""

    def __init__(self, model: ModelSpec, storage: Storage, sharing: Sharing) -> None:
        self.model, self.storage, self.sharing = model, storage, sharing
        fused = storage.fused_experts
        self.packed = (
            {site.name for site, _ in quantized_matrices(model, fused_experts=fused)} if storage.quant else set()
        )
        self.placed: Adapters = (
            NO_ADAPTERS
            if storage.method == "full"
            else adapters(model, storage.targets, storage.modules_to_save, fused_experts=fused)
        )

    def unit(self, pieces: Iterable[Piece], *, ends_large: bool = False) -> Unit:
        """What a unit of these pieces holds; ``ends_large``: its largest tensor is its last, no norm."""
        found, ranks = tuple(pieces), self.sharing.ranks
        reduced = fsdp_reduced(found, ranks)
        return Unit(
            frozen=fsdp_shard((piece for piece in found if not piece.trained), ranks),
            trained=fsdp_shard((piece for piece in found if piece.trained), ranks),
            gathered=fsdp_gathered(found, ranks) if ranks > 1 else 0,
            whole=fsdp_gradients(found),
            reduced=reduced,
            reduce_input=reduced * ranks,
            converted=any(piece.trained and piece.stored != piece.computed for piece in found),
            frozen_locked=fsdp_locked((piece for piece in found if not piece.trained), ranks),
            trained_locked=fsdp_locked((piece for piece in found if piece.trained), ranks),
            last=max((fsdp_gradients([piece]) for piece in found), default=0) if ends_large else 0,
        )

    def head(self) -> Iterator[Piece]:
        head = self.model.lm_head
        if not self.model.tie_word_embeddings:
            yield from self.modules([head])
        elif head.bias:
            yield self.plain(head.d_out, 1, self.storage.outer_bytes)

    def modules(self, modules: Iterable[Module]) -> Iterator[Piece]:
        for module in modules:
            yield from self.base(module)
            yield from self.copies(module)
            if module.name in self.placed.modules and not isinstance(module, Norm):
                d_in, d_out = (module.d_in, module.d_out) if isinstance(module, Linear) else module.shape[:2]
                yield from self.pair(d_in, d_out, self.storage.rank)

    def block(self, block: Block) -> Iterator[Piece]:
        yield from self.modules(block_parts(block))
        if block.experts is None:
            return
        rank = self.storage.rank
        for site in parameter_sites(block.experts) if self.placed.parameters else ():
            if site.name in self.placed.parameters:
                tall = site.copies if site.stacked else 1
                yield from self.pair(site.d_in, site.d_out, rank * site.rank_factor * tall, site.copies // tall)
        for site in expert_sites(block.experts, fused_experts=self.storage.fused_experts):
            if site.name in self.placed.modules:
                yield from self.pair(site.d_in, site.d_out, rank, site.copies)

    def base(self, module: Module) -> Iterator[Piece]:
        """The tensors of a module as they are stored."""
        outer = self.storage.outer_bytes
        if isinstance(module, Linear):
            yield from self.matrix(module)
            if module.bias:
                yield self.plain(module.d_out, 1, outer)
        elif isinstance(module, Norm):
            yield self.plain(module.size, 1, self.storage.norm_bytes, int(module.weight) + int(module.bias))
        else:
            yield self.plain(module.shape[0], module.params // module.shape[0], outer)

    def matrix(self, linear: Linear) -> Iterator[Piece]:
        if linear.name not in self.packed:
            yield self.plain(linear.d_out, linear.d_in, self.storage.outer_bytes)
        elif word := self.sharing.quant_storage:
            packed = -(-linear.d_in * linear.d_out // 2)
            yield Piece(-(-packed // word), 1, 1, word, word, trained=False)

    def plain(self, rows: int, columns: int, stored: int, copies: int = 1) -> Piece:
        return self.piece(rows, columns, stored, copies, trained=self.storage.method == "full")

    def copies(self, module: Module) -> Iterator[Piece]:
        """The trained copy of a module beside its frozen original."""
        if module.name not in self.placed.saved:
            return
        stored = self.storage.saved_bytes
        if isinstance(module, Linear):
            yield self.piece(module.d_out, module.d_in, stored, trained=True)
            if module.bias:
                yield self.piece(module.d_out, 1, stored, trained=True)
        elif isinstance(module, Norm):
            yield self.piece(module.size, 1, stored, int(module.weight) + int(module.bias), trained=True)
        else:
            yield self.piece(module.shape[0], module.params // module.shape[0], stored, trained=True)

    def pair(self, d_in: int, d_out: int, rank: int, copies: int = 1) -> Iterator[Piece]:
        """An adapter's two matrices."""
        yield self.piece(rank, d_in, self.storage.adapter_bytes, copies, trained=True)
        yield self.piece(d_out, rank, self.storage.adapter_bytes, copies, trained=True)

    def piece(self, rows: int, columns: int, stored: int, copies: int = 1, *, trained: bool) -> Piece:
        return Piece(rows, columns, copies, stored, self.sharing.compute or stored, trained)
