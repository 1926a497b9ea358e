"""Mixtures of experts as operations on the tape: stacked tensors (transformers 5) or a loop (transformers 4)."""

from planner.formulas.between_ranks import dispatch
from planner.formulas.feed_forward import activate, gated, mlp
from planner.formulas.operations import Recorder
from planner.formulas.states import dequantized_bytes
from planner.formulas.tape import Op, Size, Tensor
from planner.spec import Experts, Table

OTHERS = "other experts"
"""The operation that stands for all experts of a loop but the last, whose own operations follow it."""

JOINED = "index_add"
"""The operation that ends them."""

UNPACKED = "dequantise experts"
"""The operation that makes a whole stack anew from its packed form."""

MERGED = "add adapter to experts"
"""The operation that makes a copy of a stacked tensor with its adapter added."""


def experts(r: Recorder, spec: Experts, x: Tensor) -> Tensor:
    """Router, ``top_k`` expert rows per token through grouped matrix products, weighted sum, shared experts."""
    weights = _route(r, spec, x)
    if spec.computes_all:
        out = _all_experts(r, spec, x, weights)
    elif spec.linear_names and not r.recipe.fused_experts:
        out = _expert_loop(r, spec, x, weights)
    elif _indexes(r, spec):
        out = _expert_loop(r, spec, x, weights, indexed=True)
    else:
        out = _expert_rows(r, spec, x, weights)
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
    logits = r.tape.add(
        Op("router", (source,), logits, saved=(source,) if trained else (), reloads=True, weight_grad=gradient)
    )
    wide = r.tape.add(Op("softmax", (logits,), r.tensor("router probabilities", spec.num_experts, 4)))
    r.tape.ops[-1].saved = (wide,)
    indices = Tensor("expert indices", Size(token=8 * spec.top_k), f"b s {spec.top_k}", 8, grad=False)
    chosen = r.tape.add(Op("top-k", (wide,), r.tensor("top-k probabilities", spec.top_k, 4), saved=(indices,)))
    return r.cast(chosen, x.e, "routing weights")


def _expert_rows(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """Transformers 5 ``grouped_mm_experts_forward``: rows gathered by expert, two grouped products, weighted sum."""
    k, f, h = spec.top_k, spec.intermediate_size, r.width(x)
    matrices = [table for table in spec.tables if len(table.shape) == 3]
    permutation = Tensor("expert permutation", Size(token=8 * k * 3), f"b s {k}", 8, grad=False)
    rows = r.tape.add(Op("gather rows", (x,), r.tensor("expert rows", k * h, x.e), saved=(permutation,)))
    rows = dispatch(r, rows)
    first = _grouped(r, matrices[0], rows, k * f * (2 if spec.gated else 1), rank_factor=2)
    if spec.activation == "swiglu_clamped":
        hidden = _clamped_swiglu(r, first, k * f)
    elif spec.gated:
        hidden = gated(r, spec.activation, r.part(first, "expert gate", k * f), r.part(first, "expert up", k * f))
    else:
        hidden = activate(r, spec.activation, first)
    out = dispatch(r, _grouped(r, matrices[1], hidden, k * h, rank_factor=1))
    weighted = r.mul(out, weights, "weighted expert rows")
    ordered = r.tape.add(Op("restore order", (weighted,), r.tensor("expert rows in order", k * h, out.e)))
    summed = r.tape.add(Op("sum over experts", (ordered,), r.tensor("experts output", h, out.e)))
    result = r.cast(summed, x.e, "experts output") if r.recipe.packed_experts else summed
    r.name(x, rows, out, *_cached(r))
    return result


def _cached(r: Recorder) -> list[Tensor]:
    """Stacks that PEFT or a parametrization made, which torch's cache keeps until the experts return."""
    return [op.output for op in r.tape.ops if op.name in (MERGED, UNPACKED)]


def _all_experts(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """Llama 4: the input repeated for every expert and scaled by its score, then one batched product for all."""
    n, f, h = spec.num_experts, spec.intermediate_size, r.width(x)
    matrices = [table for table in spec.tables if len(table.shape) == 3]
    repeated = r.tape.add(Op("repeat", (x,), r.tensor("input of all experts", n * h, x.e)))
    scores = r.tape.add(Op("scatter", (weights,), r.tensor("scores of all experts", n, x.e)))
    rows = r.mul(repeated, scores, "scaled input of all experts")
    first = _batched(r, matrices[0], rows, n * f * 2, rank_factor=2)
    hidden = gated(r, spec.activation, r.part(first, "expert gate", n * f), r.part(first, "expert up", n * f))
    out = _batched(r, matrices[1], hidden, n * h, rank_factor=1)
    if r.recipe.packed_experts:
        r.name(*_cached(r))
    return r.tape.add(Op("sum over experts", (out,), r.tensor("experts output", h, out.e)))


def _indexes(r: Recorder, spec: Experts) -> bool:
    """Whether stacked experts are trained one after another, each taken out of the stack by a tensor (gpt-oss)."""
    stacked = any(table.name in r.recipe.stacked for table in spec.tables)
    return not r.recipe.fused_experts and spec.activation == "swiglu_clamped" and not stacked


def _expert_loop(r: Recorder, spec: Experts, x: Tensor, weights: Tensor, *, indexed: bool = False) -> Tensor:
    """Experts as transformers 4 runs them: one after another on its share of the rows, added into the output in place.

    Rows are taken as evenly routed. The last expert is recorded in full: its operations run while all the others'
    saved tensors exist, which are one bundle before it. ``indexed``: the gradient of each begins as zeros of the whole
    stack, beside the sum of those before it (torch's ``IndexBackward0``).
    """
    before = len(r.tape.ops)
    last = (_one_indexed if indexed else _one_expert)(r, spec, x, weights)
    recorded = r.tape.ops[before:]
    del r.tape.ops[before:]
    others = spec.num_experts - 1
    kept = {id(tensor.root): tensor.root for op in recorded for tensor in op.saved if tensor.root is not x.root}
    bundle = [_multiplied(tensor, others) for tensor in kept.values()]
    weight_grad = others * sum(op.weight_grad for op in recorded)
    total = r.tensor("experts output", r.width(x), x.e)
    zeros = Size(fixed=max(table.params for table in spec.tables) * r.recipe.stored_bytes)
    scratch = zeros if indexed and r.recipe.full else Size()
    r.tape.add(
        Op(
            OTHERS,
            (x,),
            total,
            saved=tuple(bundle),
            reloads=True,
            scratch_backward=scratch,
            weight_grad=weight_grad,
        )
    )
    r.tape.ops.extend(recorded)
    joined = Tensor(total.name, total.size, total.shape, total.e, grad=True, storage=total)
    return r.tape.add(Op(JOINED, (total, last), joined, passes=(total,)))


def _multiplied(tensor: Tensor, times: int) -> Tensor:
    name = f"{tensor.name}, other experts"
    return Tensor(name, tensor.size.times(times), tensor.shape, tensor.e, grad=False)


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
    return r.tape.add(Op("times routing weight", (out, weights), made, saved=(out, made), scratch_backward=out.size))


def _one_indexed(r: Recorder, spec: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """One expert of gpt-oss. Its matrices are copies, and the products save them: ``gate_up_proj[expert_idx]``.

    Source: transformers 4.55 to 4.57 models/gpt_oss/modeling_gpt_oss.py, GptOssExperts.forward in training.
    """
    n, share = spec.num_experts, f"b s {spec.top_k}/{spec.num_experts}"
    e = r.recipe.compute_bytes if r.recipe.autocast else r.recipe.stored_bytes

    def rows(name: str, width: int) -> Tensor:
        return Tensor(name, Size(token=-(-spec.top_k * width * e // n)), f"{share} {width}", e, grad=True)

    def product(table: Table, source: Tensor, d_out: int) -> Tensor:
        params = table.params // n
        copy = r.constant(f"{table.name} of one expert", Size(fixed=params * e), f"{d_out}", e)
        wide = Size(fixed=params * r.recipe.stored_bytes) if r.recipe.stored_bytes > e else Size()
        made = Op(
            f"expert {table.name}",
            (source,),
            rows(f"expert {table.name} output", d_out),
            saved=(copy, source) if r.recipe.full else (copy,),
            reloads=True,
            scratch_forward=wide,
            scratch_backward=Size(fixed=table.params * r.recipe.stored_bytes) if r.recipe.full else Size(),
            weight_grad=params * r.recipe.stored_bytes if r.recipe.full else 0,
        )
        return r.unary(r.tape.add(made), f"expert {table.name} output + bias", saves="nothing")

    h, f = r.width(x), spec.intermediate_size
    matrices = [table for table in spec.tables if len(table.shape) == 3]
    positions = Tensor("rows of one expert", Size(token=-(-16 * spec.top_k // n)), share, 8, grad=False)
    state = r.tape.add(Op("gather rows", (x,), rows("expert input", h), saved=(positions,)))
    first = product(matrices[0], state, 2 * f)
    out = product(matrices[1], _clamped_swiglu(r, first, r.width(first) // 2), h)
    made = rows("weighted expert rows", h)
    return r.tape.add(Op("times routing weight", (out, weights), made, saved=(out, made), scratch_backward=out.size))


def _grouped(r: Recorder, table: Table, x: Tensor, width: int, *, rank_factor: int) -> Tensor:
    """A grouped product, in the dtype of the stored experts. Saves its rows when the experts are trained or adapted.

    Autocast does not know the operator: rows are cast to the weight's dtype (transformers 5.23 integrations/moe.py,
    ``_grouped_mm``), which PEFT's k-bit preparation makes fp32.

    PEFT adapts a stacked tensor by adding the low-rank product to a copy of the whole tensor, which the product then
    uses and saves, and which is cached until the experts return (peft 0.21 tuners/lora/layer.py, ParamWrapper).
    """
    name = f"{table.name} output"
    x = r.cast(x, r.recipe.expert_bytes, f"{table.name} rows")
    if table.name in r.recipe.stacked:
        merged = _merged_experts(r, table, rank_factor)
        return r.tape.add(Op(table.name, (x, merged), r.tensor(name, width, x.e), saved=(x, merged), reloads=True))
    trained, unpacked = r.recipe.full, _unpacked(r, table)
    gradient = table.params * r.recipe.stored_bytes if trained else 0
    return r.tape.add(
        Op(
            table.name,
            (x, *unpacked),
            r.tensor(name, width, x.e),
            saved=(*unpacked, *((x,) if trained else ())),
            reloads=True,
            weight_grad=gradient,
        )
    )


def _unpacked(r: Recorder, table: Table) -> tuple[Tensor, ...]:
    """The whole stack as a product takes it, of quantised experts; the product saves it for its backward.

    All experts are dequantised, whichever the tokens chose. Beside the result lie, of 4-bit stacks, scales that were
    quantised, too; of 8-bit ones a second fp32 stack, the product with the scales.

    Source: axolotl 0.19 monkeypatch/moe_quant.py, Bnb8bitParametrization; bitsandbytes 0.50 nn/parametrize.py,
    Bnb4bitParametrization; functional.py, dequantize_4bit; _ops.py, int8_vectorwise_dequant.
    """
    if not r.recipe.packed_experts:
        return ()
    e = r.recipe.expert_bytes
    stack = table.params * e
    if r.recipe.quant == "int8":
        scratch = stack
    else:
        scratch = dequantized_bytes(table.params, e, nested=r.recipe.double_quant) - stack
    weight = r.constant(f"{table.name} dequantised", Size(fixed=stack), " ".join(map(str, table.shape)), e)
    return (r.tape.add(Op(UNPACKED, (), weight, scratch_forward=Size(fixed=scratch))),)


def _batched(r: Recorder, table: Table, x: Tensor, width: int, *, rank_factor: int) -> Tensor:
    """``torch.bmm``, which autocast knows: in 16 bit, on a copy of wider weights, which it saves.

    Source: torch 2.13 ``autocast_mode.h``, lower precision list; transformers 5.23 modeling_llama4.py,
    ``Llama4TextExperts``.
    """
    name, e = f"{table.name} output", r.recipe.compute_bytes if r.recipe.autocast else r.recipe.expert_bytes
    x = r.cast(x, e, f"{table.name} rows")
    trained, adapted = r.recipe.full, table.name in r.recipe.stacked
    if adapted:
        weight: tuple[Tensor, ...] = (r.cast(_merged_experts(r, table, rank_factor), e, f"{table.name} as 16-bit"),)
    elif r.recipe.packed_experts:
        weight = tuple(r.cast(stack, e, f"{table.name} as 16-bit") for stack in _unpacked(r, table))
    elif r.recipe.stored_bytes > e:
        weight = (r.constant(f"{table.name} as 16-bit", Size(fixed=table.params * e), f"{table.shape}", e),)
    else:
        weight = ()
    return r.tape.add(
        Op(
            table.name,
            (x, *weight) if adapted or r.recipe.packed_experts else (x,),
            r.tensor(name, width, e),
            saved=(*weight, *((x,) if trained or adapted else ())),
            reloads=True,
            weight_grad=table.params * r.recipe.stored_bytes if trained else 0,
        )
    )


def _merged_experts(r: Recorder, table: Table, rank_factor: int) -> Tensor:
    experts_count, rows, columns = table.shape
    low = experts_count * (rows + columns) * r.recipe.rank * rank_factor
    e = r.recipe.stored_bytes
    size = Size(fixed=table.params * e)
    merged = Tensor(f"{table.name} with adapter", size, f"{experts_count} {rows} {columns}", e, grad=True)
    copies: tuple[Tensor, ...] = ()
    if r.recipe.adapter_bytes > e:
        copies = (r.constant(f"{table.name} adapter as {8 * e} bit", Size(fixed=low * e), f"{low}", e),)
    return r.tape.add(Op(MERGED, (), merged, saved=copies, weight_grad=low * r.recipe.adapter_bytes))


def _clamped_swiglu(r: Recorder, gate_up: Tensor, width: int) -> Tensor:
    """gpt-oss: ``(clamp(up) + 1) * clamp(gate) * sigmoid(alpha * clamp(gate))`` in separate operations."""
    gate = r.unary(r.part(gate_up, "expert gate", width), "clamped gate")
    up = r.unary(r.part(gate_up, "expert up", width), "clamped up")
    curve = r.unary(r.unary(gate, "alpha * gate", saves="nothing"), "sigmoid", saves="output")
    return r.mul(r.unary(up, "up + 1", saves="nothing"), r.mul(gate, curve, "glu"), "gated rows")
