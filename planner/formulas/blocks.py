"""The tape of one decoder layer: norms, attention and feed-forward in the order of its family.

What stands here and in the parts it calls mirrors the eager modelling code of transformers 5.23
(``models/*/modeling_*.py``); fused recipes mirror the Triton kernels of Liger 0.6 and Unsloth.
"""

from functools import lru_cache

from planner.errors import UnsupportedScenario
from planner.formulas.attention import attention
from planner.formulas.between_ranks import gather, scatter
from planner.formulas.compiled import compiled
from planner.formulas.experts import experts
from planner.formulas.feed_forward import mlp
from planner.formulas.norms import norm
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import Size, Tape, Tensor
from planner.spec import Block


@lru_cache(maxsize=4096)
def block_tape(block: Block, hidden_size: int, recipe: Recipe) -> Tape:
    """Operations of one layer from its input (the residual stream) to its output."""
    source = Tensor(
        "layer input",
        Size(token=hidden_size // recipe.ranks.sequence * recipe.stream_bytes),
        f"b s {hidden_size // recipe.ranks.sequence}",
        recipe.stream_bytes,
        grad=True,
    )
    recorder = Recorder(recipe, Tape(source))
    {"pre": _pre, "post": _post, "sandwich": _sandwich, "parallel": _parallel, "parallel_two": _parallel}[
        block.placement
    ](recorder, block, source)
    return compiled(recorder.tape) if recipe.compiled else recorder.tape


# ---------------------------------------------------------------- placement


def _pre(r: Recorder, block: Block, x: Tensor) -> None:
    x = _join(r, block, x, _attend(r, block, norm(r, block.norms[0], x)), "attention residual")
    _join(r, block, x, _feed(r, block, norm(r, block.norms[1], x)), "layer output")


def _post(r: Recorder, block: Block, x: Tensor) -> None:
    x = _join(r, block, x, norm(r, block.norms[0], _attend(r, block, x)), "attention residual")
    _join(r, block, x, norm(r, block.norms[1], _feed(r, block, x)), "layer output")


def _sandwich(r: Recorder, block: Block, x: Tensor) -> None:
    branch = _attend(r, block, norm(r, block.norms[0], x))
    x = _join(r, block, x, norm(r, block.norms[1], branch), "attention residual")
    branch = _feed(r, block, norm(r, block.norms[2], x))
    _join(r, block, x, norm(r, block.norms[3], branch), "layer output")


def _parallel(r: Recorder, block: Block, x: Tensor) -> None:
    first = norm(r, block.norms[0], x)
    second = norm(r, block.norms[1], x) if block.placement == "parallel_two" else first
    whole = gather(r, first)
    other = whole if second is first else gather(r, second)
    branches = r.add(attention(r, block.attention, whole), feed_forward(r, block, other), "branches")
    _join(r, block, x, scatter(r, branches), "layer output")


def _attend(r: Recorder, block: Block, x: Tensor) -> Tensor:
    return scatter(r, attention(r, block.attention, gather(r, x)))


def _feed(r: Recorder, block: Block, x: Tensor) -> Tensor:
    return scatter(r, feed_forward(r, block, gather(r, x)))


def _join(r: Recorder, block: Block, x: Tensor, branch: Tensor, name: str) -> Tensor:
    if block.residual_dropout > 0:
        branch = r.dropout(branch, f"{name} dropout")
    if block.residual_scaled:
        branch = r.unary(branch, f"{name} scaled", saves="nothing")
    return r.add(x, branch, name)


def feed_forward(r: Recorder, block: Block, x: Tensor) -> Tensor:
    """The layer's MLP or experts."""
    if block.experts is not None:
        return experts(r, block.experts, x)
    if block.mlp is None:
        raise UnsupportedScenario("a layer without MLP and experts is not covered")
    return mlp(r, block.mlp, x)
