"""Training steps of a made-up model with any number of layers, written the way a tracer records them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.result import Phase


@dataclass
class Recorder:
    """Collects events; ``layer`` is the one at work."""

    blocks: list[Block] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    layer: int = OUTSIDE

    def new(self, size: int, owner: str, site: str, layer: int | None = None) -> int:
        self.events.append(len(self.blocks))
        self.layers.append(self.layer)
        self.blocks.append(Block(size, owner, site, self.layer if layer is None else layer))
        return len(self.blocks) - 1

    def drop(self, *numbers: int) -> None:
        self.events += [~number for number in numbers]
        self.layers += [self.layer] * len(numbers)

    def mark(self, phase: Phase, step: int) -> None:
        self.marks.append(Mark(len(self.events), phase, step))

    @contextmanager
    def at(self, layer: int) -> Iterator[None]:
        self.layer = layer
        yield
        self.layer = OUTSIDE

    def trace(self) -> Trace:
        return Trace(tuple(self.blocks), tuple(self.events), tuple(self.layers), tuple(self.marks))


@dataclass(frozen=True)
class Model:
    """``kinds``: size of a layer by its position in the period; leading layers have ``first``."""

    layers: int
    kinds: tuple[int, ...] = (1000,)
    prefix: int = 0
    first: int = 700
    checkpointing: bool = True
    steps: int = 2
    foreach: bool = True
    frozen_embedding: bool = False
    outside: bool = True
    """Whether something happens between layers, outside any."""

    def size(self, layer: int) -> int:
        return self.first if layer < self.prefix else self.kinds[(layer - self.prefix) % len(self.kinds)]


def train(model: Model) -> Trace:
    """Load, then ``steps`` steps; the optimizer makes its states in the first."""
    out = Recorder()
    out.mark("load", 0)
    weights = _load(out, model)
    states: list[int] = []
    for step in range(model.steps):
        out.mark("forward", step)
        stream, saved = _forward(out, model)
        out.mark("loss", step)
        logits = out.new(9000, "logits", "head")
        out.drop(stream)
        grad = out.new(300, "temporaries", "head")
        out.drop(logits)
        out.mark("backward", step)
        gradients = _backward(out, model, saved, grad)
        out.mark("optimizer_step", step)
        states = states or [_of(out, model, at, 2 * model.size(at), "optimizer") for at in weights]
        _optimizer(out, model, list(weights))
        out.drop(*gradients)
    return out.trace()


def _of(out: Recorder, model: Model, layer: int, size: int, owner: str) -> int:
    with out.at(layer):
        return out.new(size, owner, f"model.layers.{layer}.weight" if layer >= 0 else "embedding")


def _load(out: Recorder, model: Model) -> dict[int, int]:
    return {at: _of(out, model, at, model.size(at), "weights") for at in (OUTSIDE, *range(model.layers))}


def _inside(out: Recorder, size: int) -> list[int]:
    """What a layer keeps for its backward, with a temporary on the way."""
    norm = out.new(size // 4, "activations", "input_layernorm")
    scratch = out.new(3 * size, "temporaries", f"model.layers.{out.layer}.mlp")
    kept = [norm, out.new(size // 2, "activations", "mlp")]
    out.drop(scratch)
    return kept


def _forward(out: Recorder, model: Model) -> tuple[int, list[list[int]]]:
    """The last hidden state, and what every layer has saved: its input first."""
    stream = out.new(300, "activations", "embedding")
    saved = []
    for layer in range(model.layers):
        with out.at(layer):
            kept = _inside(out, model.size(layer))
            result = out.new(300, "activations", "residual")
            if model.checkpointing or (layer == 0 and model.frozen_embedding):
                out.drop(*kept)
                kept = []
        saved.append([stream, *kept])
        stream = result
        if model.outside:
            out.drop(out.new(50, "temporaries", "hook"))
    return stream, saved


def _backward(out: Recorder, model: Model, saved: list[list[int]], grad: int) -> list[int]:
    gradients = []
    for layer in reversed(range(model.layers)):
        with out.at(layer):
            source, *kept = saved[layer]
            kept = kept or _inside(out, model.size(layer))
            if not (layer == 0 and model.frozen_embedding):
                below = out.new(300, "temporaries", "residual")
            gradients.append(out.new(model.size(layer), "gradients", "weight"))
            out.drop(*kept)
            out.drop(grad)
        if model.outside:
            out.drop(source)
        else:
            with out.at(layer):
                out.drop(source)
        grad = below
    gradients.append(out.new(model.size(OUTSIDE), "gradients", "embedding"))
    if not model.frozen_embedding:
        out.drop(grad)
    return gradients[::-1]


def _optimizer(out: Recorder, model: Model, layers: list[int]) -> None:
    if model.foreach:
        squares = [_of(out, model, at, model.size(at), "temporaries") for at in layers]
        roots = [_of(out, model, at, model.size(at), "temporaries") for at in layers]
        for at, number in zip(layers, squares, strict=True):
            with out.at(at):
                out.drop(number)
        out.drop(*roots)
        return
    for at in layers:
        with out.at(at):
            out.drop(out.new(model.size(at), "temporaries", "addcdiv"))
