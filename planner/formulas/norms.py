"""Normalisations as operations on the tape: eager RMSNorm and LayerNorm, or one kernel."""

from planner.formulas.operations import Recorder
from planner.formulas.tape import ZERO, Op, Size, Tensor
from planner.spec import Norm


def norm(r: Recorder, spec: Norm, x: Tensor, *, groups: int = 1) -> Tensor:
    """One normalisation of ``x``; ``groups`` normalised vectors per token (heads, for query and key norms)."""
    if "norm" in r.recipe.fused or spec.kind == "layer":
        return _kernel_norm(r, spec, x, groups)
    if spec.kind == "layer_fp32" and not spec.weight:
        return r.cast(_kernel_norm(r, spec, r.cast(x, 4, f"{spec.name} input"), groups), x.e)
    return _rms_norm(r, spec, x, groups)


def _parts(r: Recorder, spec: Norm, x: Tensor, groups: int) -> int:
    """Ranks that divide the rows: those of the sequence, where ``x`` is the residual stream and not a projection."""
    return r.recipe.ranks.sequence if groups == 1 and r.width(x) < spec.size else 1


def _kernel_norm(r: Recorder, spec: Norm, x: Tensor, groups: int) -> Tensor:
    """One kernel. Saves its input and fp32 row statistics."""
    if r.recipe.autocast and spec.kind == "layer" and "norm" not in r.recipe.fused:
        x = r.cast(x, 4, f"{spec.name} input")
    rows = 1 if spec.kind == "rms" or spec.kind == "rms_fp32" else 2
    size = Size(token=-(-4 * rows * groups // _parts(r, spec, x, groups)))
    statistics = Tensor(f"{spec.name} statistics", size, f"b s {groups}", 4, grad=False)
    out = r.tensor(f"{spec.name} output", r.width(x), x.e)
    grad = spec.params * r.recipe.norm_bytes if r.recipe.full else 0
    return r.tape.add(Op(spec.name, (x,), out, saved=(x, statistics), weight_grad=grad))


def _rms_norm(r: Recorder, spec: Norm, x: Tensor, groups: int) -> Tensor:
    """Eager RMSNorm: upcast, ``x * rsqrt(mean(x**2))``, downcast, scale (``rms_fp32`` scales before the downcast).

    Cohere's layer norm (``layer_fp32`` with a weight) does the same to ``x - mean``, which it computes twice.
    """
    trained = r.recipe.full and spec.weight
    wide = r.cast(x, 4, f"{spec.name} input as fp32")
    first = r.unary(wide, f"{spec.name} centred", saves="nothing") if spec.kind == "layer_fp32" else wide
    squares = r.unary(first, f"{spec.name} square", scratch=1)
    if spec.kind == "layer_fp32":
        wide = r.unary(wide, f"{spec.name} centred again", saves="nothing")
    size = Size(token=-(-4 * groups // _parts(r, spec, x, groups)))
    rsqrt = Tensor(f"{spec.name} rsqrt", size, f"b s {groups}", 4, grad=True)
    r.tape.add(Op(f"{spec.name} mean, rsqrt", (squares,), rsqrt, saved=(rsqrt,), runs="reduction"))
    normed = r.mul(wide, rsqrt, f"{spec.name} normalised")
    if not spec.weight:
        return r.cast(normed, x.e, f"{spec.name} output")
    if spec.kind == "rms":
        normed = r.cast(normed, x.e, f"{spec.name} normalised, as {8 * x.e} bit")
        return _scale_by_weight(r, spec, normed, max(x.e, r.recipe.norm_bytes), trained)
    return r.cast(_scale_by_weight(r, spec, normed, 4, trained), x.e, f"{spec.name} output")


def _scale_by_weight(r: Recorder, spec: Norm, normed: Tensor, e: int, trained: bool) -> Tensor:
    out = r.tensor(f"{spec.name} output", r.width(normed), e)
    return r.tape.add(
        Op(
            f"{spec.name} scale",
            (normed,),
            out,
            saved=(normed,) if trained else (),
            scratch_backward=out.size if trained else ZERO,
            weight_grad=spec.size * r.recipe.norm_bytes if trained else 0,
        )
    )
