"""What ranks that share a sequence do inside a layer: operations on the tape between one rank's own ones.

Widths are elements per token of the rank's batch. Under Megatron's sequence parallelism the batch is whole and the
residual stream, divided along the sequence, has ``h/t`` elements per token of it.
"""

from planner.errors import UnsupportedScenario
from planner.formulas.operations import Recorder
from planner.formulas.tape import ZERO, Op, Size, Tensor


def gather(r: Recorder, x: Tensor) -> Tensor:
    """All-gather along the sequence before a matrix that is divided by columns.

    Who reads the result keeps the rank's own part and gathers it again for its backward pass: Korthikanti 2022,
    arXiv:2205.05198, section 4.2.2. The gradient is reduced and scattered.
    """
    ranks = r.recipe.ranks.sequence
    if ranks == 1:
        return x
    part = r.cast(x, r.recipe.compute_bytes) if r.recipe.autocast else x
    out = r.tensor(f"gathered {x.name}", r.width(part) * ranks, part.e, grad=part.grad)
    out.part = part
    return r.tape.add(Op("all-gather", (part,), out))


def scatter(r: Recorder, x: Tensor) -> Tensor:
    """Reduce-scatter along the sequence after a matrix that is divided by rows. Saves nothing."""
    ranks = r.recipe.ranks.sequence
    if ranks == 1:
        return x
    return r.tape.add(Op("reduce-scatter", (x,), r.tensor(f"scattered {x.name}", r.width(x) // ranks, x.e)))


def swap(r: Recorder, x: Tensor, *, copies: int = 1) -> Tensor:
    """Ulysses' all-to-all: every head of a part of the sequence for some heads of all of it, or back.

    The bytes stay the same, in a new tensor, beside the copy that is sent; ``copies`` of key and value heads where
    there are fewer than ranks. Source: deepspeed 0.19 runtime/sequence_parallel/ulysses_sp.py, UlyssesSPAttentionHF.
    """
    if r.recipe.ranks.ulysses == 1:
        return x
    out = r.tensor(f"exchanged {x.name}", r.width(x) * copies, x.e, grad=x.grad)
    return r.tape.add(Op("all-to-all", (x,), out, scratch_forward=out.size, scratch_backward=out.size))


def dispatch(r: Recorder, rows: Tensor) -> Tensor:
    """All-to-all of expert rows to the ranks of their experts, or back. Routing is taken as even. Saves nothing."""
    if r.recipe.ranks.expert == 1:
        return rows
    return r.tape.add(Op("all-to-all", (rows,), r.tensor(f"exchanged {rows.name}", r.width(rows), rows.e)))


def gather_logits(r: Recorder, logits: Tensor) -> Tensor:
    """All-gather of the parts of the logits that ranks computed from their rows of the head. Saves nothing."""
    width = r.recipe.ranks.vocabulary
    if not width or r.width(logits) == width:
        return logits
    out = r.tensor("gathered logits", width, logits.e, grad=logits.grad, owner="logits")
    return r.tape.add(Op("all-gather", (logits,), out))


def ring(r: Recorder, *, query: int, key_value: int, heads: int) -> tuple[Size, Size]:
    """Scratch memory of torch's ring attention in 16 bit, forward and backward, besides the kernel's own.

    Widths are elements per token of queries, and of keys and values together. Forward gathers keys and values of all
    ranks, and joins outputs in fp32: the one so far, the new one, their difference and its product with a weight.
    Backward gathers again and sums gradients in fp32; its largest moment is the update of those of keys and values, or
    the kernel after it where they are few. Source: torch 2.13
    distributed/tensor/experimental/_context_parallel/_attention.py, ``_templated_ring_attention`` and its backward.
    """
    ranks, e = r.recipe.ranks.context, 2
    if ranks == 1:
        return ZERO, ZERO
    gathered = ranks * key_value * e
    forward = gathered + 4 * 4 * query + 2 * 4 * heads
    backward = gathered + max(4 * query + 18 * key_value, 6 * query + 15 * key_value)
    return Size(token=forward), Size(token=backward)


def refuse_scores(r: Recorder) -> None:
    """Raise ``UnsupportedScenario`` where every score would exist and ranks share the sequence."""
    if r.recipe.ranks.context > 1 or r.recipe.ranks.ulysses > 1:
        raise UnsupportedScenario(
            "ranks that share a sequence need a fused attention kernel, and this card has none for the model: "
            "use --context-parallel 1 --ulysses-parallel 1"
        )
