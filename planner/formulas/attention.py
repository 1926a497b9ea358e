"""Self-attention as operations on the tape: projections, rotary embedding, latent attention, three kernels."""

from planner.formulas.between_ranks import refuse_scores, ring, swap
from planner.formulas.norms import norm
from planner.formulas.operations import Recorder
from planner.formulas.tape import ZERO, Op, Size, Tensor
from planner.spec import Attention, Norm

FLASH = "flash attention"
"""The operation of a fused kernel, which keeps its scores on the chip."""


def attention(r: Recorder, spec: Attention, x: Tensor) -> Tensor:
    """Self-attention from the normalised input to the output projection."""
    query, key, value = _latent(r, spec, x) if spec.latent else _projections(r, spec, x)
    copies = max(r.recipe.ranks.ulysses // spec.num_key_value_heads, 1)
    query, key, value = swap(r, query), swap(r, key, copies=copies), swap(r, value, copies=copies)
    if r.recipe.repeats_kv and r.recipe.attention != "eager" and spec.fused_kv != "expanded":
        key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    out = {"flash": _flash, "sdpa": _sdpa, "eager": _eager}[r.recipe.attention](r, spec, query, key, value)
    out = r.linear(swap(r, out), spec.output)
    r.name(x, query, key, value)
    return out


def _projections(r: Recorder, spec: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    widths = [heads * spec.head_dim for heads in (spec.num_attention_heads, *[spec.num_key_value_heads] * 2)]
    if len(spec.inputs) == 1:
        fused = r.linear(x, spec.inputs[0])
        query = r.part(fused, "query", widths[0])
        take = r.part if spec.fused_kv == "view" else r.copied_part
        key, value = take(fused, "key", widths[1]), take(fused, "value", widths[2])
        if spec.fused_kv == "expanded":
            key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
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
    if "rope" in r.recipe.fused and x.root is not x:  # a part of one product: Liger 0.8 ops/rope.py, ``.contiguous()``
        return r.unary(x, f"rotated {name}", saves="nothing")
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
    out.by_heads = True
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
    passing, returning = ring(r, query=width, key_value=r.width(key) + r.width(value), heads=heads)
    made = r.tape.add(
        Op(
            FLASH,
            (query, key, value),
            out,
            saved=(query, key, value, out, lse),
            runs="apart",
            scratch_forward=passing,
            scratch_backward=returning + Size(token=scratch),
        )
    )
    if not query.by_heads:
        return made
    if value_width < width:
        made = r.part(made, "attention output without padding", value_width)
    return r.tape.add(Op("contiguous", (made,), r.tensor("attention output, contiguous", value_width, e)))


def _sdpa(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` without a mask: the flash kernel, else the memory-efficient one.

    Only flash and math take shared key and value heads (torch 2.13 functional.py, ``enable_gqa``): where flash cannot
    run, in fp32 or on a card without it, torch falls back to the math path, with every score. Without ``enable_gqa``
    flash refuses heads that differ too (sdp_utils_cpp.h, check_batch_size_and_num_heads_dense), and math broadcasts.
    """
    fp32 = query.e == 4 and not r.recipe.autocast
    if r.width(key) < r.width(query) and (fp32 or not r.recipe.flash_kernel or not spec.sdpa_shares):
        return _math(r, spec, query, key, value)
    return _flash(r, spec, query, key, value)


def _math(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``_scaled_dot_product_attention_math``, in fp32: saves scaled q, repeated k and v, and the probabilities."""
    refuse_scores(r)
    e = r.recipe.compute_bytes if r.recipe.autocast else query.e
    query, key, value = (
        r.cast(tensor, 4, f"{name} as fp32") for tensor, name in ((query, "query"), (key, "key"), (value, "value"))
    )
    key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    query = r.unary(query, "scaled query", saves="nothing")
    key = r.unary(key, "scaled key", saves="nothing")
    scores = Tensor("scores", Size(score=4 * spec.num_attention_heads), "b n s s", 4, grad=True)
    raw = r.tape.add(Op("q k^T", (query, key), scores, saved=(query, key), runs="apart"))
    masked = r.unary(raw, "scores + mask", saves="nothing")
    weights = r.unary(masked, "softmax", saves="output", scratch=1)
    r.tape.ops[-1].runs = "apart"
    out = r.tensor("attention output", r.width(value), value.e)
    return r.cast(r.tape.add(Op("probabilities v", (weights, value), out, saved=(weights, value), runs="apart")), e)


def _repeat_kv(r: Recorder, spec: Attention, x: Tensor, name: str) -> Tensor:
    repeats = spec.num_attention_heads * spec.head_dim // r.width(x)
    if repeats == 1 or spec.latent is not None:
        return x
    out = r.tensor(f"repeated {name}", r.width(x) * repeats, x.e)
    out.by_heads = True
    return r.tape.add(Op("repeat_kv", (x,), out))


def _scores(name: str, heads: int, e: int) -> Tensor:
    return Tensor(name, Size(score=heads * e), "b n s s", e, grad=True)


def _merged_heads(r: Recorder, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``torch.matmul`` merges batch and heads: a copy of what is laid out by tokens, none of repeated heads."""
    return tuple(
        tensor
        if tensor.by_heads
        else r.tape.add(Op("contiguous", (tensor,), r.tensor(f"{tensor.name}, by heads", r.width(tensor), tensor.e)))
        for tensor in tensors
    )


def _softmax(r: Recorder, spec: Attention, scores: Tensor) -> Tensor:
    """The probabilities of eager attention, which it saves.

    In fp32 where the class or autocast asks for it; 16-bit scores are copied to fp32 for the kernel then. Backward
    makes the product of gradient and output beside its result, which is fp32 before it becomes 16 bit. Source: torch
    2.13 native/SoftMax.cpp, ``softmax``, and native/cuda/SoftMax.cu, ``softmax_backward_cuda_out``;
    ``autocast_mode.h``, fp32 list.
    """
    native = spec.eager_softmax == "native" and not r.recipe.autocast
    e = scores.e if native or spec.eager_softmax == "scores" else 4
    if spec.tables:  # sinks, which are concatenated to the scores and may be wider
        e = max(e, r.recipe.stored_bytes)
    wide = _scores("probabilities", spec.num_attention_heads, e)
    heads = spec.num_attention_heads
    copied = wide.size if scores.e < e else ZERO
    product = Size(score=heads * e + heads * (e - scores.e))
    return r.tape.add(
        Op("softmax", (scores,), wide, saved=(wide,), runs="apart", scratch_forward=copied, scratch_backward=product)
    )


def _eager(r: Recorder, spec: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(q k^T * scale + mask) v`` in separate operations: every (b, n, s, s) tensor exists.

    Saves q, k, the probabilities (in fp32 where the class goes through it, and their 16-bit copy) and v; with dropout
    also its mask and result.
    """
    refuse_scores(r)
    if r.width(key) < r.width(query):
        key, value = _repeat_kv(r, spec, key, "key"), _repeat_kv(r, spec, value, "value")
    own = query.e
    upcast: tuple[Tensor, ...] = ()
    if spec.eager_softmax == "upcast":
        query, key = r.cast(query, 4, "query as fp32"), r.cast(key, 4, "key as fp32")
        upcast = (query, key)
    if r.recipe.autocast:  # a product in 16 bit, whatever was cast before it
        query, key, value = _kernel_inputs(r, query, key, value)
    if r.recipe.several:
        query, key, value = _merged_heads(r, (query, key, value))
    heads, e = spec.num_attention_heads, value.e
    raw = r.tape.add(Op("q k^T", (query, key), _scores("scores", heads, query.e), saved=(query, key), runs="apart"))
    scaled = r.unary(raw, "scores * scale", saves="nothing")
    if spec.softcap:
        scaled = r.unary(r.unary(scaled, "scores / cap", saves="nothing"), "tanh(scores)", saves="output", scratch=1)
        scaled = r.unary(scaled, "scores * cap", saves="nothing")
    masked = r.unary(scaled, "scores + mask", saves="nothing")
    weights = r.cast(_softmax(r, spec, masked), own, "probabilities, as the queries")
    if spec.dropout > 0:
        weights = r.dropout(weights, "dropped probabilities")
    r.tape.aside = weights
    weights = r.cast(weights, e, "probabilities, as the values")
    out = r.tensor("attention output", r.width(value), e)
    out = r.tape.add(Op("probabilities v", (weights, value), out, saved=(weights, value), runs="apart"))
    r.name(*upcast, *((raw,) if spec.holds_scores else ()))
    return r.tape.add(Op("contiguous", (out,), r.tensor("attention output, contiguous", r.width(out), e)))
