"""The tape after the last layer where a trainer of pairs scores whole logits, each by its own code.

TRL 1.15 and newer scores by its fused head (``formulas.loss``) and has no such tape. Every other one makes the logits
of the chosen and the rejected answers together, ``t = 2*b*s`` tokens of ``V`` entries, and differs in their dtype, in
what it copies and keeps of them, and in how long its variables hold them.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from planner.formulas.head import to_logits
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import ZERO, Instant, Op, Size, Tape, Tensor, total
from planner.spec import ModelSpec, Pairs

ENTROPY_ROWS = 128
"""Positions whose entropy is computed at once. trl 0.29 to 1.13 trainer/utils.py, entropy_from_logits."""


class Scored(NamedTuple):
    """How one pass of a model is scored.

    ``held``: what the trainer's variables keep until the reference has passed, too. ``stays``: what they keep until
    the next step's reference has passed.
    """

    tape: Tape
    held: tuple[Tensor, ...] = ()
    stays: tuple[Tensor, ...] = ()

    @property
    def beside_reference(self) -> Instant:
        """What the policy's pass leaves for its backward pass and in variables, each once."""
        kept = {id(tensor.root): tensor.root for tensor in (*self.tape.saved(own_source=True), *self.held)}
        return Instant(
            total(tensor.size for tensor in kept.values() if tensor.owner == "activations"),
            total(tensor.size for tensor in kept.values() if tensor.owner == "logits"),
        )


@lru_cache(maxsize=1024)
def pairs_tape(
    model: ModelSpec,
    recipe: Recipe,
    head_bytes: int,
    head_trained: bool,
    pairs: Pairs,
    wide: bool,
    states: bool,
    metrics: bool,
) -> Scored:
    """Final norm, head, logits and log probabilities of a policy or of its reference.

    ``wide``: the model's wrapper returns fp32 outputs (accelerate's autocast), or the trainer makes them fp32.
    ``states``: the outputs have every layer's hidden state. ``metrics``: what the trainer logs follows this pass.
    """
    recorder, _, logits = to_logits(model, recipe, head_bytes, head_trained)
    given = recorder.cast(logits, 4, "logits as fp32") if wide else logits
    outputs = [given, *([_hidden_states(recorder, model, given)] if states and wide else [])]
    found = _SCORERS[pairs](recorder, given, metrics)
    recorder.name(*outputs)
    return found


def _hidden_states(recorder: Recorder, model: ModelSpec, given: Tensor) -> Tensor:
    """Every layer's input and the last output, which the wrapper makes fp32 with the rest of the outputs."""
    width = (model.num_hidden_layers + 1) * model.hidden_size
    found = recorder.tensor("hidden states as fp32", width, 4, grad=False)
    recorder.tape.add(Op("hidden states as fp32", (given,), found))
    return found


# ---------------------------------------------------------------- TRL before its fused head


def _rows(recorder: Recorder, given: Tensor, _metrics: bool) -> Scored:
    """The model's outputs end with the pass. trl 0.15 to 0.28 trainer/dpo_trainer.py, concatenated_forward."""
    _by_row(recorder, given)
    _logged(recorder, _half(given))
    return Scored(recorder.tape)


def _row_copies(recorder: Recorder, given: Tensor, metrics: bool) -> Scored:
    """The outputs, and a copy of them without the last position, live until the trainer has its metrics.

    trl 0.29 to 1.6 trainer/dpo_trainer.py, _compute_loss.
    """
    shifted = _of_logits(recorder, "shifted logits", given)
    cut = recorder.part(given, "logits but the last", recorder.width(given))
    recorder.tape.add(Op("contiguous", (cut,), shifted, passes=(cut,)))
    _by_row(recorder, shifted)
    if metrics:
        _logged(recorder, _entropy(recorder, given))
        _logged(recorder, _half(given))
    recorder.name(shifted)
    return Scored(recorder.tape, held=(given, shifted))


def _row_views(recorder: Recorder, given: Tensor, metrics: bool) -> Scored:
    """The same by a view, of which the entropy makes a copy. trl 1.7 to 1.13 trainer/dpo_trainer.py, _compute_loss."""
    _by_row(recorder, recorder.part(given, "logits but the last", recorder.width(given)))
    if metrics:
        _logged(recorder, given.size + _entropy(recorder, given))
    return Scored(recorder.tape, held=(given,))


def _kernel(recorder: Recorder, given: Tensor, metrics: bool) -> Scored:
    """One Triton kernel, which keeps the logits. trl 1.14 kernels/logprob_entropy.py."""
    cut = recorder.part(given, "logits but the last", recorder.width(given))
    recorder.tape.add(Op("log probabilities", (cut,), _per_token(recorder), saved=(given,)))
    if metrics:
        _logged(recorder, _half(given))
    return Scored(recorder.tape, held=(given,))


def _by_row(recorder: Recorder, scored: Tensor) -> None:
    """One sequence after the other: from fp32 logits by their log-sum-exp, from 16-bit ones by a log-softmax.

    Source: trl 0.15 to 1.13 trainer/utils.py, selective_log_softmax; torch derivatives.yaml: gather and logsumexp
    keep their input, the latter makes two rows beside the gradient; unbind stacks the rows' gradients.
    """
    row = Size(position=recorder.width(scored) * scored.e)
    rows = Tensor("rows of logits", scored.size, scored.shape, scored.e, scored.grad, "logits", scored.root)
    found = _per_token(recorder)
    if scored.e == 4:
        picked = recorder.tape.add(Op("gather", (scored,), _per_token(recorder), saved=(scored,)))
        recorder.tape.add(Op("unbind", (scored,), rows))
        summed = _per_token(recorder)
        recorder.tape.add(
            Op(
                "logsumexp",
                (rows,),
                summed,
                saved=(scored,),
                scratch_forward=row,
                scratch_backward=row.times(2),
            )
        )
        recorder.tape.add(Op("subtract", (picked, summed), found, passes=(picked, summed)))
        return
    recorder.tape.add(Op("unbind", (scored,), rows))
    soft = _of_logits(recorder, "log_softmax", scored)
    recorder.tape.add(Op("log probabilities", (rows,), found, saved=(soft,), overwrites=True, scratch_backward=row))


def _entropy(recorder: Recorder, given: Tensor) -> Size:
    """Log-softmax, probabilities and their product of some positions."""
    return Size(fixed=3 * ENTROPY_ROWS * recorder.width(given) * given.e)


# ---------------------------------------------------------------- the other trainers


def _log_softmax(recorder: Recorder, given: Tensor, _metrics: bool) -> Scored:
    """All positions but the last at once, which copies them; the logits stay for the metrics.

    LLaMA-Factory 0.9.5 train/trainer_utils.py, get_batch_logps, and train/dpo/trainer.py, get_batch_loss_metrics.
    """
    cut = recorder.part(given, "logits but the last", recorder.width(given))
    _softened(recorder, cut, scratch=given.size)
    return Scored(recorder.tape, held=(given,))


def _divided(recorder: Recorder, given: Tensor, _metrics: bool) -> Scored:
    """Divided by a temperature of one, then at once. The reference's logits keep a name until the next ones come.

    torchtune 0.6 rlhf/utils, logits_to_logprobs, and recipes/lora_dpo_single_device.py and lora_dpo_distributed.py,
    train, whose ``_`` is that name.
    """
    cut = recorder.part(given, "logits but the last", recorder.width(given))
    _softened(recorder, recorder.unary(cut, "logits / temperature", saves="nothing"))
    return Scored(recorder.tape, stays=(_of_logits(recorder, "logits of the reference", given),))


def _halves(recorder: Recorder, given: Tensor, _metrics: bool) -> Scored:
    """The chosen answers, then the rejected ones. torchtune 0.6 recipes/full_dpo_distributed.py."""
    for name in ("chosen", "rejected"):
        half = recorder.part(given, f"{name} logits", recorder.width(given) // 2)
        cut = recorder.part(half, f"{name} logits but the last", recorder.width(half))
        _softened(recorder, recorder.unary(cut, f"{name} logits / temperature", saves="nothing"))
    first, second = (op.output for op in recorder.tape.ops if op.name == "gather")
    recorder.tape.add(Op("compare", (first, second), _per_token(recorder), passes=(first, second)))
    return Scored(recorder.tape)


def _softened(recorder: Recorder, logits: Tensor, *, scratch: Size = ZERO) -> None:
    """A log-softmax, which is kept, and its entries at the labels."""
    soft = _of_logits(recorder, "log_softmax", logits)
    recorder.tape.add(Op("log_softmax", (logits,), soft, saved=(soft,), scratch_forward=scratch))
    recorder.tape.add(Op("gather", (soft,), _per_token(recorder), saved=(soft,)))


_SCORERS: Mapping[Pairs, Callable[[Recorder, Tensor, bool], Scored]] = MappingProxyType(
    {
        "rows": _rows,
        "row_copies": _row_copies,
        "row_views": _row_views,
        "kernel": _kernel,
        "log_softmax": _log_softmax,
        "divided": _divided,
        "halves": _halves,
    }
)

# ---------------------------------------------------------------- tensors


def _of_logits(recorder: Recorder, name: str, like: Tensor) -> Tensor:
    return recorder.tensor(name, recorder.width(like), like.e, grad=like.grad, owner="logits")


def _per_token(recorder: Recorder) -> Tensor:
    return recorder.tensor("log probabilities", 1, 4, owner="logits")


def _half(given: Tensor) -> Size:
    """A copy of the logits that bear loss, of the chosen or of the rejected answers, whose mean is logged."""
    return Size(token=given.size.token // 2)


def _logged(recorder: Recorder, made: Size) -> None:
    """What the trainer logs, which makes ``made`` for a while."""
    last = recorder.tape.result
    out = Tensor("metrics", Size(fixed=4), "1", 4, grad=last.grad, owner="logits")
    recorder.tape.add(Op("metrics", (last,), out, passes=(last,), scratch_forward=made))
