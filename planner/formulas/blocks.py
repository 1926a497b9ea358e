"""The tape of one decoder layer, part by part: norms, attention, feed-forward, experts.

What stands here mirrors the eager modelling code of transformers 5.23 (``models/*/modeling_*.py``);
``fused`` recipes mirror the Triton kernels of Liger 0.6 and Unsloth.
"""

from functools import lru_cache

from planner.errors import UnsupportedScenario
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import ZERO, Op, Size, Tape, Tensor
from planner.spec import Attention, Block, Experts, Mlp, Norm, Table

FLASH_ROUNDING = 128
"""FlashAttention rounds the sequence up to this many rows in its statistics; kept out of the tape as under 1 %."""


@lru_cache(maxsize=4096)
def block_tape(block: Block, hidden_size: int, recipe: Recipe) -> Tape:
    """Operations of one layer from its input (the residual stream) to its output."""
    source = Tensor("layer input", Size(token=hidden_size * recipe.stream_bytes), f"b s {hidden_size}", recipe.stream_bytes, grad=True)
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


# ---------------------------------------------------------------- norms


def norm(r: Recorder, spec: Norm, x: Tensor, *, groups: int = 1) -> Tensor:
    """One normalisation of ``x``; ``groups`` normalised vectors per token (heads, for query and key norms)."""
    if "norm" in r.recipe.fused or spec.kind == "layer":
        return _kernel_norm(r, spec, x, groups)
    if spec.kind == "layer_fp32" and not spec.weight:
        return r.cast(_kernel_norm(r, spec, r.cast(x, 4, f"{spec.name} input"), groups), x.e)
    return _rms_norm(r, spec, x, groups)


def _kernel_norm(r: Recorder, spec: Norm, x: Tensor, groups: int) -> Tensor:
    """One kernel. Saves its input and fp32 row statistics."""
    if r.recipe.autocast and spec.kind == "layer" and "norm" not in r.recipe.fused:
        x = r.cast(x, 4, f"{spec.name} input")
    rows = 1 if spec.kind == "rms" or spec.kind == "rms_fp32" else 2
    statistics = Tensor(f"{spec.name} statistics", Size(token=4 * rows * groups), f"b s {groups}", 4, grad=False)
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
    rsqrt = Tensor(f"{spec.name} rsqrt", Size(token=4 * groups), f"b s {groups}", 4, grad=True)
    r.tape.add(Op(f"{spec.name} mean, rsqrt", (squares,), rsqrt, saved=(rsqrt,)))
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


# ---------------------------------------------------------------- attention


def attention(r: Recorder, spec: Attention, x: Tensor) -> Tensor:
    """Self-attention from the normalised input to the output projection."""
    query, key, value = _latent(r, spec, x) if spec.latent else _projections(r, spec, x)
    if r.recipe.repeats_kv and r.recipe.attention != "eager":
        key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    out = {"flash": _flash, "sdpa": _sdpa, "eager": _eager}[r.recipe.attention](r, spec, query, key, value)
    out = r.linear(out, spec.output)
    r.name(x, query, key, value)
    return out


def _projections(r: Recorder, spec: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    widths = [heads * spec.head_dim for heads in (spec.num_attention_heads, *[spec.num_key_value_heads] * 2)]
    if len(spec.inputs) == 1:
        fused = r.linear(x, spec.inputs[0])
        query, key, value = (
            r.part(fused, name, width) for name, width in zip(("query", "key", "value"), widths, strict=True)
        )
    else:
        query, key, value = (r.linear(x, linear) for linear in spec.inputs)
    if spec.q_norm:
        query = norm(r, spec.q_norm, query, groups=_groups(spec.q_norm, widths[0]))
    if spec.k_norm:
        key = norm(r, spec.k_norm, key, groups=_groups(spec.k_norm, widths[1]))
    return rotate(r, spec, query, "query"), rotate(r, spec, key, "key"), value


def _groups(spec: Norm, width: int) -> int:
    return max(width // spec.size, 1)


def rotate(r: Recorder, spec: Attention, x: Tensor, name: str) -> Tensor:
    """Rotary embedding: ``x * cos + rotate_half(x) * sin``. Saves the tables only, which all layers share."""
    if spec.rope == "none":
        return x
    if "rope" in r.recipe.fused:
        return r.view(x, f"rotated {name}")
    if spec.rope_dim is None:
        return _turn(r, x, name)
    width = r.width(x) * spec.rope_dim // spec.head_dim
    rotated = _turn(r, r.part(x, f"{name} rotary part", width), name)
    rest = r.part(x, f"{name} pass part", r.width(x) - width)
    return _concatenate(r, (rotated, rest), f"joined {name}")


def _turn(r: Recorder, x: Tensor, name: str) -> Tensor:
    cosine = r.unary(x, f"{name} * cos", saves="nothing")
    half = r.unary(x, f"rotate_half({name})", saves="nothing")
    sine = r.unary(half, f"rotate_half({name}) * sin", saves="nothing")
    return r.add(cosine, sine, f"rotated {name}")


def _concatenate(r: Recorder, parts: tuple[Tensor, ...], name: str) -> Tensor:
    e = max(part.e for part in parts)
    out = r.tensor(name, sum(map(r.width, parts)), e)
    return r.tape.add(Op("cat", parts, out, passes=parts))


def _latent(r: Recorder, spec: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-head latent attention: q and kv are compressed, normed, expanded; one rotary key serves all heads."""
    latent = spec.latent
    assert latent is not None
    heads = spec.num_attention_heads
    query = r.linear(x, spec.inputs[0])
    inner = list(spec.inner)
    if latent.q_lora_rank is not None:
        query = norm(r, spec.q_norm, query) if spec.q_norm else query
        query = r.linear(query, inner.pop(0))
    compressed = r.linear(x, spec.inputs[1])
    kv = r.part(compressed, "compressed kv", latent.kv_lora_rank)
    kv = norm(r, spec.k_norm, kv) if spec.k_norm else kv
    expanded = r.linear(kv, inner.pop(0))
    turned = _turn(r, r.part(query, "query rotary part", heads * latent.qk_rope_head_dim), "query")
    query = _concatenate(r, (r.part(query, "query pass part", heads * latent.qk_nope_head_dim), turned), "joined query")
    key_rotary = _turn(r, r.part(compressed, "rotary key", latent.qk_rope_head_dim), "key")
    nope = r.part(expanded, "key, unrotated part", heads * latent.qk_nope_head_dim)
    head_dim = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    key = r.tensor("key", heads * head_dim, nope.e)
    key = r.tape.add(Op("write key parts", (nope, key_rotary), key))
    value = r.part(expanded, "value", heads * latent.v_head_dim)
    return query, key, value


def _kernel_inputs(r: Recorder, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    e = r.recipe.compute_bytes
    return r.cast(query, e, "query"), r.cast(key, e, "key"), r.cast(value, e, "value")


def _flash(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlashAttention-2 (Dao 2023, arXiv:2307.08691): saves q, k, v, out and an fp32 log-sum-exp per row and head.

    The output takes the query's layout: after a concatenation that is by heads, and the output must be copied.

    Backward besides the gradients: an fp32 accumulator of dq, an fp32 row sum, and dk and dv at the number of query
    heads where keys are shared (``flash_api.cpp``, ``mha_bwd``).
    """
    query, key, value = _kernel_inputs(r, query, key, value)
    heads, e = spec.num_attention_heads, query.e
    width = r.width(query)
    shared = r.width(key) < width
    value_width = heads * spec.latent.v_head_dim if spec.latent else width
    if value_width < width:
        value = r.tape.add(Op("pad", (value,), r.tensor("padded value", width, e)))
    out = r.tensor("attention output", width, e)
    lse = Tensor("attention log-sum-exp", Size(token=4 * heads), "b n s", 4, grad=False)
    scratch = 4 * width + 4 * heads + (2 * e * width if shared else 0)
    made = r.tape.add(
        Op(
            "flash attention",
            (query, key, value),
            out,
            saved=(query, key, value, out, lse),
            scratch_backward=Size(token=scratch),
        )
    )
    if not query.name.startswith("joined"):
        return made
    if value_width < width:
        made = r.part(made, "attention output without padding", value_width)
    return r.tape.add(Op("contiguous", (made,), r.tensor("attention output, contiguous", value_width, e)))


def _sdpa(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` without a mask: the flash kernel, or for fp32 the memory-efficient one.

    Neither takes fp32 with shared keys: then torch falls back to the math path, with every score.
    """
    if r.width(key) < r.width(query) and not r.recipe.autocast and query.e == 4:
        return _math(r, spec, query, key, value)
    return _flash(r, spec, query, key, value)


def _math(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``_scaled_dot_product_attention_math``: saves scaled q and repeated k, the probabilities and repeated v."""
    key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    query = r.unary(query, "scaled query", saves="nothing")
    key = r.unary(key, "scaled key", saves="nothing")
    scores = Tensor("scores", Size(score=4 * spec.num_attention_heads), "b n s s", 4, grad=True)
    raw = r.tape.add(Op("q k^T", (query, key), scores, saved=(query, key)))
    masked = r.unary(raw, "scores + mask", saves="nothing")
    weights = r.unary(masked, "softmax", saves="output")
    out = r.tensor("attention output", r.width(value), value.e)
    return r.tape.add(Op("probabilities v", (weights, value), out, saved=(weights, value)))


def _repeat_kv(r: Recorder, spec: Attention, x: Tensor, name: str) -> Tensor:
    repeats = spec.num_attention_heads // spec.num_key_value_heads
    if repeats == 1 or spec.latent is not None:
        return x
    return r.tape.add(Op("repeat_kv", (x,), r.tensor(f"repeated {name}", r.width(x) * repeats, x.e)))


def _eager(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(q k^T * scale + mask) v`` in separate operations: every (b, n, s, s) tensor exists.

    Saves q, k, the fp32 probabilities, their 16-bit copy and v; with dropout also its mask and result.
    """
    key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    if r.recipe.autocast:
        query, key, value = _kernel_inputs(r, query, key, value)
    query = r.tape.add(Op("contiguous", (query,), r.tensor("query copy", r.width(query), query.e)))
    heads, e = spec.num_attention_heads, query.e

    def scores(name: str, element: int) -> Tensor:
        return Tensor(name, Size(score=heads * element), "b n s s", element, grad=True)

    raw = r.tape.add(Op("q k^T", (query, key), scores("scores", e), saved=(query, key)))
    scaled = r.unary(raw, "scores * scale", saves="nothing")
    if spec.softcap:
        scaled = r.unary(r.unary(scaled, "scores / cap", saves="nothing"), "tanh(scores)", saves="output", scratch=1)
        scaled = r.unary(scaled, "scores * cap", saves="nothing")
    masked = r.unary(scaled, "scores + mask", saves="nothing")
    wide = r.tape.add(Op("softmax", (masked,), scores("probabilities as fp32", 4)))
    r.tape.ops[-1].saved = (wide,)
    weights = r.cast(wide, e, "probabilities")
    if spec.dropout > 0:
        weights = r.dropout(weights, "dropped probabilities")
    out = r.tensor("attention output", r.width(value), e)
    out = r.tape.add(Op("probabilities v", (weights, value), out, saved=(weights, value)))
    return r.tape.add(Op("contiguous", (out,), r.tensor("attention output, contiguous", r.width(out), e)))


# ---------------------------------------------------------------- feed-forward


def feed_forward(r: Recorder, block: Block, x: Tensor) -> Tensor:
    """The layer's MLP or experts."""
    if block.experts is not None:
        return experts(r, block.experts, x)
    if block.mlp is None:
        raise UnsupportedScenario("a layer without MLP and experts is not covered")
    return mlp(r, block.mlp, x)


def mlp(r: Recorder, spec: Mlp, x: Tensor) -> Tensor:
    """Gated: ``down(act(gate(x)) * up(x))``; classic: ``down(act(up(x)))``."""
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


def gated(r: Recorder, activation: str, gate: Tensor, up: Tensor) -> Tensor:
    """``act(gate) * up``. Eager saves gate, act(gate) and up; one fused kernel saves gate and up."""
    if "swiglu" in r.recipe.fused:
        out = r.tensor("act(gate) * up", r.width(up), up.e)
        return r.tape.add(Op("swiglu", (gate, up), out, saved=(gate, up)))
    return r.mul(activate(r, activation, gate), up, "act(gate) * up")


def activate(r: Recorder, name: str, x: Tensor) -> Tensor:
    """An activation function by its Hugging Face name; raise ``UnsupportedScenario`` for one we do not know."""
    if name in ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_tanh"):
        return r.unary(x, f"{name}({x.name})")
    if name == "relu":
        return r.unary(x, "relu", saves="output")
    if name in ("relu2", "relu_squared"):
        return r.unary(r.unary(x, "relu", saves="output"), "square", scratch=1)
    if name in ("gelu_new", "gelu_fast", "bloom_gelu"):
        return _composed_gelu(r, x)
    if name == "xielu":
        return _xielu(r, x)
    raise UnsupportedScenario(f"activation function {name!r} is not covered")


def _composed_gelu(r: Recorder, x: Tensor) -> Tensor:
    """``0.5 * x * (1 + tanh(c * (x + 0.044715 * x**3)))`` in separate operations. Saves x, tanh and both factors.

    Autocast runs the power in fp32, and what follows with it.
    """
    cube = r.unary(r.cast(x, 4) if r.recipe.autocast else x, "x ** 3", scratch=1)
    inner = r.add(x, r.unary(cube, "0.044715 * x ** 3", saves="nothing"), "inner")
    curve = r.unary(r.unary(inner, "c * inner", saves="nothing"), "tanh", saves="output")
    half = r.unary(x, "0.5 * x", saves="nothing")
    return r.mul(half, r.unary(curve, "1 + tanh", saves="nothing"), "gelu")


def _xielu(r: Recorder, x: Tensor) -> Tensor:
    """xIELU (arXiv:2411.13010) in separate operations. Saves x, its masks and both branches' factors."""
    square = r.mul(r.unary(x, "alpha_p * x", saves="input"), x, "alpha_p * x * x")
    positive = r.add(square, r.unary(x, "beta * x", saves="nothing"), "positive branch")
    small = r.unary(x, "min(x, eps)")
    grown = r.unary(small, "expm1", saves="output")
    negative = r.unary(r.add(grown, r.unary(x, "-x", saves="nothing"), "expm1 - x"), "alpha_n * (expm1 - x)")
    negative = r.add(negative, r.unary(x, "beta * x", saves="nothing"), "negative branch")
    mask = Tensor("x > 0", Size(token=r.width(x)), x.shape, 1, grad=False)
    out = Tensor("xielu", x.size, x.shape, x.e, grad=True)
    return r.tape.add(Op("where", (positive, negative), out, saved=(mask,)))


# ---------------------------------------------------------------- experts


def experts(r: Recorder, spec: Experts, x: Tensor) -> Tensor:
    """Router, ``top_k`` expert rows per token through grouped matrix products, weighted sum, shared experts."""
    weights = _route(r, spec, x)
    out = _expert_rows(r, spec, x, weights) if r.recipe.fused_experts else _expert_loop(r, spec, x, weights)
    for branch in (spec.shared, spec.parallel_dense):
        if branch is not None:
            made = mlp(r, branch, x)
            if branch is spec.shared and spec.shared_gate is not None:
                gate = r.unary(r.linear(x, spec.shared_gate), "sigmoid(shared gate)", saves="output")
                made = r.mul(gate, made, "gated shared output")
            out = r.add(out, made, "experts + shared")
    return out


def _route(r: Recorder, spec: Experts, x: Tensor) -> Tensor:
    """Router logits, fp32 probabilities (saved), top-k values and indices (saved as int64)."""
    trained = r.recipe.full or spec.router.name in r.recipe.stacked
    source = r.cast(x, 4, "router input") if spec.router_fp32 else x
    logits = r.tensor("router logits", spec.num_experts, source.e)
    gradient = spec.router.params * r.recipe.weight_bytes if r.recipe.full else 0
    logits = r.tape.add(Op("router", (source,), logits, saved=(source,) if trained else (), reloads=True, weight_grad=gradient))
    wide = r.tape.add(Op("softmax", (logits,), r.tensor("router probabilities", spec.num_experts, 4)))
    r.tape.ops[-1].saved = (wide,)
    indices = Tensor("expert indices", Size(token=8 * spec.top_k), f"b s {spec.top_k}", 8, grad=False)
    chosen = r.tape.add(Op("top-k", (wide,), r.tensor("top-k probabilities", spec.top_k, 4), saved=(indices,)))
    return r.cast(chosen, x.e, "routing weights")


def _expert_rows(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """transformers 5 ``grouped_mm_experts_forward``: rows gathered by expert, two grouped products, weighted sum."""
    k, f, h = spec.top_k, spec.intermediate_size, r.width(x)
    matrices = [table for table in spec.tables if len(table.shape) == 3]
    permutation = Tensor("expert permutation", Size(token=8 * k * 3), f"b s {k}", 8, grad=False)
    rows = r.tape.add(Op("gather rows", (x,), r.tensor("expert rows", k * h, x.e), saved=(permutation,)))
    first = _grouped(r, matrices[0], rows, k * f * (2 if spec.gated else 1), rank_factor=2)
    if spec.activation == "swiglu_clamped":
        hidden = _clamped_swiglu(r, first, k * f)
    elif spec.gated:
        hidden = gated(r, spec.activation, r.part(first, "expert gate", k * f), r.part(first, "expert up", k * f))
    else:
        hidden = activate(r, spec.activation, first)
    out = _grouped(r, matrices[1], hidden, k * h, rank_factor=1)
    weighted = r.mul(out, weights, "weighted expert rows")
    ordered = r.tape.add(Op("restore order", (weighted,), r.tensor("expert rows in order", k * h, out.e)))
    result = r.tape.add(Op("sum over experts", (ordered,), r.tensor("experts output", h, out.e)))
    r.name(x, rows)
    return result


def _expert_loop(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """transformers 4: one expert after another on its share of the rows, added into the output in place.

    Rows are taken as evenly routed; the backward holds one expert's temporaries at a time.
    """
    total = r.tensor("experts output", r.width(x), x.e)
    out: Tensor | None = None
    for _ in range(spec.num_experts):
        weighted = _one_expert(r, spec, x, weights)
        inputs = (weighted,) if out is None else (out, weighted)
        joined = total if out is None else Tensor(total.name, total.size, total.shape, total.e, grad=True, storage=total)
        out = r.tape.add(Op("index_add", inputs, joined, passes=() if out is None else (out,)))
    return out or total


def _one_expert(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    share = f"b s {spec.top_k}/{spec.num_experts}"

    def rows(name: str, width: int) -> Tensor:
        size = Size(token=-(-spec.top_k * width * x.e // spec.num_experts))
        return Tensor(name, size, f"{share} {width}", x.e, grad=True)

    def product(name: str, source: Tensor, d_in: int, d_out: int) -> Tensor:
        packed = d_in * d_out * r.recipe.compute_bytes if r.recipe.quant else 0
        scales = d_in * d_out // 16 if r.recipe.quant and r.recipe.double_quant else 0
        gradient = d_in * d_out * r.recipe.weight_bytes if r.recipe.full else 0
        return r.tape.add(
            Op(
                f"expert {name}",
                (source,),
                rows(f"expert {name} output", d_out),
                saved=(source,) if r.recipe.full else (),
                reloads=True,
                scratch_forward=Size(fixed=packed + scales),
                scratch_backward=Size(fixed=packed + scales),
                weight_grad=gradient,
            )
        )

    h, f = r.width(x), spec.intermediate_size
    positions = Tensor("rows of one expert", Size(token=-(-16 * spec.top_k // spec.num_experts)), share, 8, grad=False)
    state = r.tape.add(Op("gather rows", (x,), rows("expert input", h), saved=(positions,)))
    curved = activate(r, spec.activation, product("gate", state, h, f))
    hidden = r.mul(curved, product("up", state, h, f), "expert act(gate) * up") if spec.gated else curved
    out = product("down", hidden, f, h)
    made = rows("weighted expert rows", h)
    return r.tape.add(Op("times routing weight", (out, weights), made, saved=(out,), scratch_backward=out.size))


def _grouped(r: Recorder, table: Table, x: Tensor, width: int, *, rank_factor: int) -> Tensor:
    """A grouped product. Saves its rows when the experts are trained or adapted.

    PEFT adapts a stacked tensor by adding the low-rank product to a copy of the whole tensor, which the product then
    uses and saves (peft 0.21 tuners/lora/layer.py, ParamWrapper).
    """
    name = f"{table.name} output"
    if table.name in r.recipe.stacked:
        merged = _merged_experts(r, table, rank_factor)
        return r.tape.add(Op(table.name, (x, merged), r.tensor(name, width, x.e), saved=(x, merged), reloads=True))
    trained = r.recipe.full
    gradient = table.params * r.recipe.weight_bytes if trained else 0
    return r.tape.add(
        Op(
            table.name,
            (x,),
            r.tensor(name, width, x.e),
            saved=(x,) if trained else (),
            reloads=True,
            weight_grad=gradient,
        )
    )


def _merged_experts(r: Recorder, table: Table, rank_factor: int) -> Tensor:
    experts_count, rows, columns = table.shape
    low = experts_count * (rows + columns) * r.recipe.rank * rank_factor
    e = r.recipe.weight_bytes
    size = Size(fixed=table.params * e)
    merged = Tensor(f"{table.name} with adapter", size, f"{experts_count} {rows} {columns}", e, grad=True)
    copies: tuple[Tensor, ...] = ()
    if r.recipe.adapter_bytes > e:
        copies = (r.constant(f"{table.name} adapter as {8 * e} bit", Size(fixed=low * e), f"{low}", e),)
    return r.tape.add(Op("add adapter to experts", (), merged, saved=copies, weight_grad=low * r.recipe.adapter_bytes))


def _clamped_swiglu(r: Recorder, gate_up: Tensor, width: int) -> Tensor:
    """gpt-oss: ``(clamp(up) + 1) * clamp(gate) * sigmoid(alpha * clamp(gate))`` in separate operations."""
    gate = r.unary(r.part(gate_up, "expert gate", width), "clamped gate")
    up = r.unary(r.part(gate_up, "expert up", width), "clamped up")
    curve = r.unary(r.unary(gate, "alpha * gate", saves="nothing"), "sigmoid", saves="output")
    return r.mul(r.unary(up, "up + 1", saves="nothing"), r.mul(gate, curve, "glu"), "gated rows")
