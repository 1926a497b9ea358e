"""The tape after the last layer: final norm, language-model head, full logits and cross entropy."""

from functools import lru_cache

from planner.formulas.norms import norm
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import Op, Size, Tape, Tensor
from planner.spec import Linear, ModelSpec


@lru_cache(maxsize=1024)
def hidden_tape(model: ModelSpec, recipe: Recipe) -> Tape:
    """Final norm alone: what chunked and fused heads leave on the tape."""
    source = Tensor(
        "last layer output",
        Size(token=model.hidden_size * recipe.stream_bytes),
        f"b s {model.hidden_size}",
        recipe.stream_bytes,
        grad=True,
    )
    recorder = Recorder(recipe, Tape(source))
    if model.final_norm is None:
        recorder.view(source, "last hidden state")
    else:
        norm(recorder, model.final_norm, source)
    return recorder.tape


@lru_cache(maxsize=1024)
def loss_tape(
    model: ModelSpec, recipe: Recipe, head_bytes: int, head_trained: bool, upcast: str, shift_copy: bool
) -> Tape:
    """Final norm, head, logits, cross entropy.

    Copies of the logits: the head's output (16 bit), ``.float()``, before transformers 4.49 a shifted copy, the
    log-softmax; in backward the gradients of the last two meet the saved log-softmax. A fused cross entropy writes its
    gradient over the fp32 logits. Until the loss returns, variables hold the fp32 logits and the last hidden state.
    """
    base = hidden_tape(model, recipe)
    recorder = Recorder(
        recipe._replace(quant="", weight_bytes=head_bytes, full=head_trained), Tape(base.source, [*base.ops])
    )
    hidden = base.result
    for linear in model.extra_linears:
        if linear.d_out == model.lm_head.d_in and linear.d_in == model.hidden_size:
            hidden = recorder.linear(hidden, linear, lora=False)
    logits = head(recorder, model.lm_head, hidden)
    if model.logits_scaled:
        logits = recorder.unary(logits, "scaled logits", saves="nothing")
    if model.logits_softcap:
        capped = recorder.unary(
            recorder.unary(logits, "logits / cap", saves="nothing"), "tanh(logits)", saves="output", scratch=1
        )
        logits = recorder.unary(capped, "capped logits", saves="nothing")
    wide = logits if upcast == "none" else recorder.cast(logits, 4, "logits as fp32")
    if shift_copy:
        wide = recorder.unary(wide, "shifted logits", saves="nothing")
    loss = Tensor("loss", Size(fixed=4), "1", 4, grad=True, owner="logits")
    if "loss" in recipe.fused:
        recorder.tape.add(Op("fused cross entropy", (wide,), loss))
    else:
        recorder.tape.add(Op("nll_loss", (recorder.unary(wide, "log_softmax", saves="output"),), loss))
    recorder.name(hidden, *(op.output for op in recorder.tape.ops if op.output.name == "logits as fp32"))
    return recorder.tape


def head(recorder: Recorder, linear: Linear, hidden: Tensor) -> Tensor:
    """The head's product, owned by the logits."""
    logits = recorder.linear(hidden, linear, lora=False)
    logits.owner, logits.name = "logits", "logits"
    return logits


def logits_tensor(tape: Tape) -> Tensor:
    """The logits that the model's outputs keep: the last tensor before the loss upcasts it."""
    names = ("capped logits", "scaled logits", "logits")
    found = {op.output.name: op.output for op in tape.ops}
    return next(found[name] for name in names if name in found)
