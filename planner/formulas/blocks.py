"""The tape of one decoder layer: norms, attention and feed-forward in the order of its family.

What stands here and in the parts it calls mirrors the eager modelling code of transformers 5.23
(``models/*/modeling_*.py``); fused recipes mirror the Triton kernels of Liger 0.6 and Unsloth.
"""

from functools import lru_cache

from planner.errors import UnsupportedScenario
from planner.formulas.attention import attention
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
        Size(token=hidden_size * recipe.stream_bytes),
        f"b s {hidden_size}",
        recipe.stream_bytes,
        grad=True,
    )
    recorder = Recorder(recipe, Tape(source))
    {"pre": _pre, "post": _post, "sandwich": _sandwich, "parallel": _parallel, "parallel_two": _parallel}[
        block.placement
    ](recorder, block, source)
    return recorder.tape


# ---------------------------------------------------------------- placement


def _pre(r: Recorder, block: Block, x: Tensor) -> None:
    x = _join(r, block, x, attention(r, block.attention, norm(r, block.norms[0], x)), "attention residual")
    _join(r, block, x, feed_forward(r, block, norm(r, block.norms[1], x)), "layer output")


def _post(r: Recorder, block: Block, x: Tensor) -> None:
    x = _join(r, block, x, norm(r, block.norms[0], attention(r, block.attention, x)), "attention residual")
    _join(r, block, x, norm(r, block.norms[1], feed_forward(r, block, x)), "layer output")


def _sandwich(r: Recorder, block: Block, x: Tensor) -> None:
    branch = attention(r, block.attention, norm(r, block.norms[0], x))
    x = _join(r, block, x, norm(r, block.norms[1], branch), "attention residual")
    branch = feed_forward(r, block, norm(r, block.norms[2], x))
    _join(r, block, x, norm(r, block.norms[3], branch), "layer output")


def _parallel(r: Recorder, block: Block, x: Tensor) -> None:
    first = norm(r, block.norms[0], x)
    second = norm(r, block.norms[1], x) if block.placement == "parallel_two" else first
    branches = r.add(attention(r, block.attention, first), feed_forward(r, block, second), "branches")
    _join(r, block, x, branches, "layer output")


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
