"""Gated and classic MLPs and their activation functions as operations on the tape."""

from planner.errors import UnsupportedScenario
from planner.formulas.operations import Recorder
from planner.formulas.tape import Op, Size, Tensor
from planner.spec import Mlp


def mlp(r: Recorder, spec: Mlp, x: Tensor) -> Tensor:
    """Gated: ``down(act(gate(x)) * up(x))``; classic: ``down(act(up(x)))``."""
    if _taken_in_one(r, spec):
        return _fused_mlp(r, spec, x)
    first = r.linear(x, spec.inputs[0])
    if not spec.gated:
        hidden = activate(r, spec.activation, first)
    elif len(spec.inputs) == 1:
        gate = r.part(first, "gate", spec.intermediate_size)
        hidden = gated(r, spec.activation, gate, r.part(first, "up", spec.intermediate_size))
    elif "swiglu" in r.recipe.fused:
        hidden = gated(r, spec.activation, first, r.linear(x, spec.inputs[1]))
    else:
        curved = activate(r, spec.activation, first)
        hidden = r.mul(curved, r.linear(x, spec.inputs[1]), "act(gate) * up")
    out = r.linear(hidden, spec.output)
    r.name(x)
    return r.dropout(out, "mlp dropout") if spec.dropout > 0 else out


def _taken_in_one(r: Recorder, spec: Mlp) -> bool:
    """Whether adapters and activation are one function: all three matrices are adapted."""
    linears = (*spec.inputs, spec.output)
    return "lora_mlp" in r.recipe.fused and spec.gated and len(linears) == 3 and all(map(r.recipe.adapts, linears))


def _fused_mlp(r: Recorder, spec: Mlp, x: Tensor) -> Tensor:
    """The MLP with its adapters as one function. Saves x, gate and up; the product is made again in backward.

    Its backward writes the gradients of gate and up over both, and the product over its own gradient. What arrives,
    what it returns and a dequantised matrix lie beside these, since every one of them has a name to the end.
    Source: unsloth 2026.10 kernels/fast_lora.py LoRA_MLP; axolotl 0.19 kernels/lora.py LoRA_MLP.
    """
    gate, up = (r.linear(x, linear) for linear in spec.inputs)
    hidden = r.tensor("act(gate) * up", r.width(up), up.e)
    beside = x.size.times(2) + r.dequantized(spec.inputs[1])
    r.tape.add(
        Op("lora_mlp", (gate, up), hidden, saved=(gate, up), overwrites=True, scratch_backward=beside),
    )
    out = r.linear_of_made(hidden, spec.output)
    return r.dropout(out, "mlp dropout") if spec.dropout > 0 else out


def gated(r: Recorder, activation: str, gate: Tensor, up: Tensor) -> Tensor:
    """``act(gate) * up``. Eager saves gate, act(gate) and up; one fused kernel saves gate and up."""
    if "swiglu" in r.recipe.fused:
        out = r.tensor("act(gate) * up", r.width(up), up.e)
        return r.tape.add(Op("swiglu", (gate, up), out, saved=(gate, up)))
    return r.mul(activate(r, activation, gate), up, "act(gate) * up")


def activate(r: Recorder, name: str, x: Tensor) -> Tensor:
    """An activation function by its Hugging Face name; raise ``UnsupportedScenario`` for one we do not know."""
    if name in ("silu", "swish", "gelu", "gelu_bloom", "gelu_pytorch_tanh", "gelu_tanh"):
        return r.unary(x, f"{name}({x.name})")
    if name == "relu":
        return r.unary(x, "relu", saves="output")
    if name in ("relu2", "relu_squared"):
        return r.unary(r.unary(x, "relu", saves="output"), "square", scratch=1)
    if name in ("gelu_new", "gelu_fast"):
        return _composed_gelu(r, x)
    if name == "xielu":
        return r.unary(x, "xielu") if "xielu" in r.recipe.fused else _xielu(r, x)
    raise UnsupportedScenario(f"activation function {name!r} is not covered")


def _composed_gelu(r: Recorder, x: Tensor) -> Tensor:
    """``0.5 * x * (1 + tanh(c * (x + 0.044715 * x**3)))`` in separate operations. Saves x, tanh and both factors.

    Autocast runs the power in fp32, and what follows with it.
    """
    half = r.unary(x, "0.5 * x", saves="nothing")
    cube = r.unary(r.cast(x, 4) if r.recipe.autocast else x, "x ** 3", scratch=1)
    inner = r.add(x, r.unary(cube, "0.044715 * x ** 3", saves="nothing"), "inner")
    curve = r.unary(r.unary(inner, "c * inner", saves="nothing"), "tanh", saves="output")
    return r.mul(half, r.unary(curve, "1 + tanh", saves="nothing"), "gelu")


def _xielu(r: Recorder, x: Tensor) -> Tensor:
    """XIELU (arXiv:2411.13010) in separate operations. Saves x, its mask, ``alpha_p * x`` and ``expm1``.

    Autocast runs softplus and expm1 in fp32, and what they meet with them. A trained ``alpha_n`` saves its factor too.
    Source: transformers 5.23 activations.py, ``_xielu_python``; torch ``autocast_mode.h``, fp32 list.
    """
    e = 4 if r.recipe.autocast else x.e
    trained = "input" if r.recipe.full else "nothing"
    scaled = _promoted(r, x, e, "alpha_p * x")
    square = r.mul(scaled, x, "alpha_p * x * x")
    positive = r.add(square, r.unary(x, "beta * x", saves="nothing"), "positive branch")
    grown = r.unary(r.cast(r.unary(x, "min(x, eps)"), e), "expm1", saves="output")
    falling = r.unary(
        r.add(grown, r.unary(x, "-x", saves="nothing"), "expm1 - x"), "alpha_n * (expm1 - x)", saves=trained
    )
    negative = r.add(falling, r.unary(x, "beta * x", saves="nothing"), "negative branch")
    mask = Tensor("x > 0", Size(token=r.width(x)), x.shape, 1, grad=False)
    out = Tensor("xielu", x.size.times(e // x.e), x.shape, e, grad=True)
    return r.tape.add(Op("where", (positive, negative), out, saved=(mask,)))


def _promoted(r: Recorder, x: Tensor, e: int, name: str) -> Tensor:
    """The product of ``x`` and one number of a wider dtype, without a copy of ``x``."""
    return r.tape.add(Op(name, (x,), Tensor(name, x.size.times(e // x.e), x.shape, e, x.grad)))
