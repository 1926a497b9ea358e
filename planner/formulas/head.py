"""The tape after the last layer: final norm, language-model head, full logits and cross entropy."""

from functools import lru_cache
from typing import NamedTuple

from planner.formulas.between_ranks import gather, gather_logits
from planner.formulas.norms import norm
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import Op, Size, Tape, Tensor
from planner.spec import ModelSpec


@lru_cache(maxsize=1024)
def hidden_tape(model: ModelSpec, recipe: Recipe) -> Tape:
    """Final norm alone: what chunked and fused heads leave on the tape."""
    width = model.hidden_size // recipe.ranks.sequence
    source = Tensor(
        "last layer output",
        Size(token=width * recipe.stream_bytes),
        f"b s {width}",
        recipe.stream_bytes,
        grad=True,
    )
    recorder = Recorder(recipe, Tape(source))
    if model.final_norm is None:
        recorder.view(source, "last hidden state")
    else:
        norm(recorder, model.final_norm, source)
    return recorder.tape


class LossTape(NamedTuple):
    """Head and full loss, with the logits that the model's outputs keep: the fp32 ones where they took the name."""

    tape: Tape
    logits: Tensor


@lru_cache(maxsize=1024)
def loss_tape(
    model: ModelSpec, recipe: Recipe, head_bytes: int, head_trained: bool, upcast: str, shift_copy: bool
) -> LossTape:
    """Final norm, head, logits, cross entropy.

    Copies of the logits: the head's output (16 bit), ``.float()``, before transformers 4.49 a shifted copy, the
    log-softmax; in backward the gradients of the last two meet the saved log-softmax. A fused cross entropy writes its
    gradient over the fp32 logits (liger-kernel 0.8 ops/cross_entropy.py). Until the loss returns, variables hold the
    fp32 logits and the last hidden state.
    """
    recorder, hidden, logits = to_logits(model, recipe, head_bytes, head_trained)
    wide = logits if upcast == "none" else recorder.cast(logits, 4, "logits as fp32")
    scored = recorder.unary(wide, "shifted logits", saves="nothing") if shift_copy else wide
    loss = Tensor("loss", Size(fixed=4), "1", 4, grad=True, owner="logits")
    if "loss" in recipe.fused:
        if recipe.autocast and upcast != "in_place" and not shift_copy:
            _converted(recorder, logits)
        recorder.tape.add(Op("fused cross entropy", (scored,), loss))
    else:
        recorder.tape.add(Op("nll_loss", (recorder.unary(scored, "log_softmax", saves="output"),), loss))
    recorder.name(hidden, *(() if wide is logits else (wide,)))
    return LossTape(recorder.tape, wide if upcast == "in_place" else logits)


def to_logits(model: ModelSpec, recipe: Recipe, head_bytes: int, head_trained: bool) -> tuple[Recorder, Tensor, Tensor]:
    """A tape up to the logits, with the last hidden state and the logits."""
    base = hidden_tape(model, recipe)
    outside = recipe._replace(quant="", weight_bytes=head_bytes, full=head_trained)
    recorder = Recorder(outside, Tape(base.source, [*base.ops]))
    hidden = base.result
    for linear in model.extra_linears:
        if linear.d_out == model.lm_head.d_in and linear.d_in == model.hidden_size:
            hidden = recorder.linear(hidden, linear, lora=False)
    return recorder, hidden, _logits(recorder, model, hidden)


def _converted(recorder: Recorder, logits: Tensor) -> None:
    """The fp32 outputs that autocast's wrapper returns, beside what a fused loss keeps.

    Without a wrapper's copy, where logits are fp32 already, and where the loss had more copies, this is not the peak.
    Source: accelerate 1.15 utils/operations.py, convert_outputs_to_fp32.
    """
    out = recorder.tensor("outputs as fp32", recorder.width(logits), 4, grad=False, owner="logits")
    recorder.tape.add(Op("outputs as fp32", (logits,), out))


def _logits(recorder: Recorder, model: ModelSpec, hidden: Tensor) -> Tensor:
    """The head's product, scaled and capped as the model does."""
    logits = recorder.linear(gather(recorder, hidden), model.lm_head, lora=False)
    logits.owner, logits.name = "logits", "logits"
    logits = gather_logits(recorder, logits)
    if model.logits_scaled:
        logits = recorder.unary(logits, "scaled logits", saves="nothing")
    if not model.logits_softcap:
        return logits
    divided = recorder.unary(logits, "logits / cap", saves="nothing")
    curved = recorder.unary(divided, "tanh(logits)", saves="output", scratch=1)
    return recorder.unary(curved, "capped logits", saves="nothing")
