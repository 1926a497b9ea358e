"""Records every storage that appears and dies while the libraries' own code runs, as a torch-free ``Trace``.

One dispatch mode sees the outputs of every operator; a weak reference on each storage tells when it is gone.
Who owns a storage is often known only later (a temporary becomes a ``.grad``), so labels belong to blocks.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.result import Phase
from planner.trace.private import DispatchMode, tree_leaves

Hidden = Callable[[Any, Sequence[Any], dict[str, Any], Any], Iterable[int]]
"""Blocks that an operator's kernel takes, all at once, and gives back within the call (bytes)."""

Kept = Callable[..., int]
"""Bytes that the process keeps from this operator on (``func``, ``backward=``): a handle's workspace, or nothing."""

Answer = Callable[[Any, Sequence[Any], dict[str, Any]], Any]
"""A stand-in for an operator whose result depends on values, or ``NotImplemented``."""


WITH_HEAD: tuple[Phase, ...] = (
    "rollout",
    "scoring",
    "loss",
    "reference",
    "backward",
    "evaluation",
    "generation",
)
"""Phases in which the language-model head works."""

BY_TENSOR: tuple[Phase, ...] = ("optimizer_step", "save", "resume", "merge")
"""Phases in which no layer runs, and code goes through the tensors of all of them."""


class Ledger:
    """Blocks and events so far; the mutable half of a ``Trace``."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.owners: list[str] = []
        self._last: Any = None
        self.sites: list[str] = []
        self.block_layers: list[int] = []
        self.births: list[int] = []
        self.events: list[int] = []
        self.layers: list[int] = []
        self.marks: list[Mark] = []

    def allocate(self, size: int, owner: str, site: str, layer: int) -> int:
        """A new block; its number."""
        block = len(self.bytes)
        self.bytes.append(size)
        self.owners.append(owner)
        self.sites.append(site)
        self.block_layers.append(layer)
        self.births.append(len(self.events))
        self.events.append(block)
        self.layers.append(layer)
        return block

    def release(self, block: int, layer: int) -> None:
        """The end of a block."""
        self.events.append(~block)
        self.layers.append(layer)

    def mark(self, phase: Phase, step: int) -> None:
        """A new phase; one in which nothing happened makes way."""
        if self.marks and self.marks[-1].index == len(self.events):
            self.marks.pop()
        self.marks.append(Mark(len(self.events), phase, step))

    def move(self, block: int, layer: int) -> None:
        """Say which layer a block belongs to, from its first moment on."""
        self.block_layers[block] = self.layers[self.births[block]] = layer

    def trace(self) -> Trace:
        """Everything as a frozen value; what has no bytes takes no memory, and is left out."""
        number: dict[int, int] = {}
        kept: list[Block] = []
        for block, size in enumerate(self.bytes):
            if size:
                number[block] = len(kept)
                kept.append(Block(size, self.owners[block], self.sites[block], self.block_layers[block]))
        events: list[int] = []
        layers: list[int] = []
        places = [0]
        for event, layer in zip(self.events, self.layers, strict=True):
            found = number.get(max(event, ~event))
            if found is not None:
                events.append(found if event >= 0 else ~found)
                layers.append(layer)
            places.append(len(events))
        marks = tuple(mark._replace(index=places[mark.index]) for mark in self.marks)
        return Trace(tuple(kept), tuple(events), tuple(layers), marks)


class Recorder(DispatchMode):
    """Watches storages while it is entered. ``phase``, ``layer`` and ``sites`` say what is at work."""

    def __init__(self, *, hidden: Hidden, kept: Kept, answer: Answer, logit_widths: frozenset[int]) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.phase: Phase = "load"
        self.step = 0
        self.layer = OUTSIDE
        self.tell: Callable[[], None] = lambda: None
        """Called when another phase or layer is at work."""
        self.sites: list[str] = []
        """Modules whose forward pass is running, the innermost last."""
        self._hidden = hidden
        self._kept = kept
        self._answer = answer
        self._logit_widths = logit_widths
        self._blocks: dict[int, int] = {}
        """Number of the block behind each live storage, by the identity of its Python object, which torch preserves."""
        self._references: dict[int, Any] = {}
        self._emptied: set[int] = set()
        """Live storages that were resized to nothing: their blocks have ended."""
        self._owner: str | None = None
        self._silent = False

    # ------------------------------------------------------------ what is at work

    def begin(self, phase: Phase) -> None:
        """A phase of the current step begins."""
        self.phase = phase
        if phase != "loss":
            self.layer = OUTSIDE
        self.ledger.mark(phase, self.step)
        self.tell()

    def enter_layer(self, number: int) -> None:
        """A decoder layer, or none, is at work from now on."""
        self.layer = number
        self.tell()

    @contextmanager
    def inside(self, number: int) -> Iterator[None]:
        """A decoder layer is at work meanwhile, and none after it."""
        self.enter_layer(number)
        try:
            yield
        finally:
            self.enter_layer(OUTSIDE)

    @contextmanager
    def owned(self, owner: str) -> Iterator[None]:
        """Whatever appears meanwhile belongs to ``owner`` until it is relabelled."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing that appears meanwhile exists on the device."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    # ------------------------------------------------------------ operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":
            return func(*args, **(kwargs or {}))  # where a tensor is, asked all the time: no memory, no values
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper such as DTensor comes back with the tensors inside it
        kwargs = kwargs or {}
        self._last = func
        result = self._answer(func, args, kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        if self._silent:
            return result
        self._watch_result(func, args, result)
        if standing := self._kept(func, backward=self.phase == "backward"):
            self.ledger.allocate(standing, "temporaries", "cuBLAS workspace", OUTSIDE)
        hidden = [
            self.ledger.allocate(size, "temporaries", self.site_of(func), self.layer)
            for size in self._hidden(func, args, kwargs, result)
        ]
        for block in hidden:
            self.ledger.release(block, self.layer)
        return result

    def _watch_result(self, func: Any, args: Any, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self._watch(result, func, self._layer_of(args[0] if args else None))
        elif isinstance(result, list | tuple):
            firsts = args[0] if args and isinstance(args[0], list | tuple) and len(args[0]) == len(result) else None
            for number, leaf in enumerate(tree_leaves(result)):
                if isinstance(leaf, torch.Tensor):
                    self._watch(leaf, func, self._layer_of(firsts[number] if firsts else None))

    def _layer_of(self, source: Any) -> int:
        """The layer at work; where code goes through all tensors in turn, as optimizers do, that of the tensor."""
        if self.phase not in BY_TENSOR or not isinstance(source, torch.Tensor):
            return self.layer
        block = self._blocks.get(id(storage_of(source)))
        return OUTSIDE if block is None else self.ledger.block_layers[block]

    def _watch(self, tensor: torch.Tensor, func: Any, layer: int) -> None:
        storage = tensor.untyped_storage()
        if self.phase == "resume" and tensor.device.type == "meta":
            return  # it is on the host
        if id(storage) not in self._blocks:
            self.add(storage, self._owner_of(tensor, func), self.site_of(func), layer)

    def _owner_of(self, tensor: torch.Tensor, func: Any) -> str:
        """A first label; gradients and optimizer states are relabelled when they are seen to be such."""
        if self._owner is not None:
            return self._owner
        outside = self.layer == OUTSIDE and self.phase in WITH_HEAD
        if outside and tensor.ndim >= 2 and tensor.shape[-1] in self._logit_widths:
            return "logits"
        if self.phase == "backward" and not torch.is_grad_enabled():
            return "temporaries"
        return "activations" if self.phase in ("forward", *WITH_HEAD) else "temporaries"

    @property
    def operator(self) -> str:
        """The operator that ran last."""
        return str(self._last)

    def site_of(self, func: Any) -> str:
        """The module at work and the operator, as in ``model.layers.0.mlp.up_proj: aten.mm``."""
        operator = f"{func.namespace}.{func.overloadpacket.__name__}"
        return f"{self.sites[-1]}: {operator}" if self.sites else operator

    # ------------------------------------------------------------ storages

    def add(self, storage: Any, owner: str, site: str, layer: int) -> int:
        """Watch a storage from now on."""
        block = self.ledger.allocate(storage.nbytes(), owner, site, layer)
        key = id(storage)
        self._blocks[key] = block
        self._references[key] = weakref.ref(storage, lambda _reference: self._gone(key))
        return block

    def _gone(self, key: int) -> None:
        self._references.pop(key)
        block = self._blocks.pop(key)
        if key in self._emptied:
            self._emptied.remove(key)
            return
        layer = self.ledger.block_layers[block] if self.phase in BY_TENSOR else self.layer
        self.ledger.release(block, layer)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's storage is watched already."""
        return self.watches(storage_of(tensor))

    def watches(self, storage: Any) -> bool:
        """Whether a storage is watched already."""
        return id(storage) in self._blocks

    @contextmanager
    def following_resizes(self) -> Iterator[None]:
        """A storage that is resized ends as one block and begins as another; no operator tells."""
        resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            self._resized(storage)
            return result

        with patch.object(torch.UntypedStorage, "resize_", resized):
            yield

    def _resized(self, storage: Any) -> None:
        key = id(storage)
        block = self._blocks.get(key)
        if block is None:
            return
        if key not in self._emptied:
            self.ledger.release(block, self.layer)
        self._emptied.add(key)
        if storage.nbytes():
            self._emptied.remove(key)
            owner, site = self.ledger.owners[block], self.ledger.sites[block]
            self._blocks[key] = self.ledger.allocate(storage.nbytes(), owner, site, self.layer)

    def relabel(self, tensors: Iterable[torch.Tensor], owner: str, *, like: torch.Tensor | None = None) -> None:
        """Say whose the storages of ``tensors`` are from their first moment on; they stand where ``like`` does."""
        home = None if like is None else self._blocks.get(id(storage_of(like)))
        for tensor in tensors:
            block = self._blocks.get(id(storage_of(tensor)))
            if block is not None:
                self.ledger.owners[block] = owner
                if home is not None:
                    self.ledger.move(block, self.ledger.block_layers[home])
                    self.ledger.sites[block] = self.ledger.sites[home]

    def elsewhere(self, tensors: Iterable[torch.Tensor]) -> dict[int, int]:
        """Say that the storages of ``tensors`` never were on the device; their bytes by layer."""
        found: dict[int, int] = {}
        for tensor in tensors:
            block = self._blocks[id(storage_of(tensor))]
            layer = self.ledger.block_layers[block]
            found[layer] = found.get(layer, 0) + storage_of(tensor).nbytes()
            self.ledger.bytes[block] = 0
        return found


def storage_of(tensor: Any) -> Any:
    """The storage behind a tensor; that of the local part for a wrapper such as DTensor."""
    while hasattr(type(tensor), "__tensor_flatten__"):
        tensor = getattr(tensor, tensor.__tensor_flatten__()[0][0])
    return tensor.untyped_storage()
