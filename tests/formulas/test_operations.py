"""What single operations save, per token: LoRA variants as PEFT 0.21.2 was seen to behave, norms, MLP.

Expected bytes of the LoRA table were read off runs of ``peft.tuners.lora`` layers (dense and bitsandbytes' 4-bit)
under ``torch.autograd.graph.saved_tensors_hooks``; ``d_in``, ``d_out`` and ``r`` cannot be confused.
"""

from typing import Any, NamedTuple

import pytest

from planner.catalog import load_model
from planner.closed_form.recipe import key_of, recipe_of
from planner.formulas.feed_forward import activate, mlp
from planner.formulas.norms import norm
from planner.formulas.operations import Recipe, Recorder
from planner.formulas.tape import Size, Tape, Tensor, backward_instants, forward_instants, total
from planner.hardware import load_gpu
from planner.spec import Cluster, Linear, Mlp, Norm, Scenario, TrainSpec
from planner.stacks import load_stack

D_IN, D_OUT, R = 1000, 600, 7
LINEAR = Linear("proj", D_IN, D_OUT)


def base_recipe() -> Recipe:
    """A real recipe, of which each test changes what it is about."""
    model, stack = load_model("llama-3.1-8b").model, load_stack("plain").behaviour
    train = TrainSpec(method="full", autocast="none")
    scenario = Scenario(model=model, train=train, cluster=Cluster(gpu=load_gpu("a100-80gb")), stack=stack)
    return recipe_of(model, key_of(scenario), stack)


BASE = base_recipe()


def recorder(e: int, width: int = D_IN, **changes: Any) -> tuple[Recorder, Tensor]:
    """An empty tape with a source of ``width`` elements of ``e`` bytes."""
    x = Tensor("x", Size(token=width * e), f"b s {width}", e, grad=True)
    return Recorder(BASE._replace(**changes), Tape(x)), x


def saved(r: Recorder) -> Size:
    """Everything kept but the source."""
    return total(tensor.size for tensor in r.tape.saved())


def saves_source(r: Recorder) -> bool:
    """Whether some operation keeps the source itself."""
    return r.tape.source in r.tape.saved(own_source=True)


# ---------------------------------------------------------------- LoRA


class Row(NamedTuple):
    """One layer: 4-bit or dense, weight, input and adapter bytes, autocast; what is saved without and with dropout."""

    quant: str
    weight: int
    x: int
    adapter: int
    autocast: bool
    keeps_x: bool
    plain: int
    dropped: int
    out: int


ADAPTER_COPIES = 2 * R * (D_IN + D_OUT)
"""Autocast's 16-bit copies of A and B, kept by the graph."""

LORA = [
    # dense. x bf16, adapters fp32, no autocast: an fp32 copy of x, A's output in fp32
    Row("", 2, 2, 4, False, False, 4 * D_IN + 4 * R, 4 * D_IN + D_IN + 4 * R, 2),
    # under autocast the fp32 copy is cast back: the 16-bit one is kept
    Row("", 2, 2, 4, True, False, 2 * D_IN + 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    Row("", 2, 4, 4, True, False, 2 * D_IN + 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    # 16-bit adapters: x itself, shared with the neighbours
    Row("", 2, 2, 2, False, True, 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    Row("", 2, 2, 2, True, True, 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    # 4 bit. As dense without autocast
    Row("nf4", 2, 2, 4, False, False, 4 * D_IN + 4 * R, 4 * D_IN + D_IN + 4 * R, 2),
    # autocast: the 4-bit layer does not cast its input, so x itself
    Row("nf4", 2, 2, 4, True, True, 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    # after k-bit preparation x is fp32
    Row("nf4", 2, 4, 4, False, True, 4 * R, 4 * D_IN + D_IN + 4 * R, 4),
    Row("nf4", 2, 4, 4, True, False, 2 * D_IN + 2 * R, 2 * D_IN + D_IN + 2 * R, 4),
    # TRL from 0.26 on: bf16 adapters
    Row("nf4", 2, 2, 2, False, True, 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    Row("nf4", 2, 2, 2, True, True, 2 * R, 2 * D_IN + D_IN + 2 * R, 2),
    Row("nf4", 2, 4, 2, False, False, 2 * D_IN + 2 * R, 2 * D_IN + D_IN + 2 * R, 4),
]


def record_lora(row: Row, *, dropout: bool) -> tuple[Recorder, Tensor]:
    r, x = recorder(
        row.x,
        full=False,
        quant=row.quant,
        weight_bytes=row.weight,
        adapter_bytes=row.adapter,
        rank=R,
        modules=frozenset({"proj"}),
        dropout=dropout,
        autocast=row.autocast,
        compute_bytes=2,
        fused=frozenset(),
    )
    return r, r.linear(x, LINEAR)


@pytest.mark.parametrize("row", LORA, ids=str)
def test_a_lora_layer_saves_what_peft_was_seen_to_save(row: Row) -> None:
    r, _ = record_lora(row, dropout=False)

    assert saved(r).token == row.plain
    assert saves_source(r) == row.keeps_x
    assert saved(r).fixed == (ADAPTER_COPIES if row.autocast and row.adapter == 4 else 0)


@pytest.mark.parametrize("row", LORA, ids=str)
def test_with_dropout_the_dropped_input_and_a_mask_are_saved(row: Row) -> None:
    r, _ = record_lora(row, dropout=True)

    assert saved(r).token == row.dropped
    assert not saves_source(r)


@pytest.mark.parametrize("row", LORA, ids=str)
def test_the_output_has_the_dtype_of_the_layer_without_adapter(row: Row) -> None:
    _, out = record_lora(row, dropout=False)

    assert out.e == row.out
    assert out.size.token == D_OUT * row.out


def test_three_adapted_matrices_share_a_16_bit_input_but_not_its_fp32_copies() -> None:
    # q, k, v of one input: with bf16 adapters x once and 3 * 2r; with fp32 ones three copies 4*d_in and 3 * 4r
    for adapter, expected in ((2, 3 * 2 * R), (4, 3 * (4 * D_IN + 4 * R))):
        r, x = recorder(2, full=False, adapter_bytes=adapter, rank=R, modules=frozenset({"proj"}), weight_bytes=2)
        for _ in range(3):
            r.linear(x, LINEAR)

        assert saved(r).token == expected


def test_frozen_fp32_weights_under_autocast_leave_a_16_bit_copy_in_the_graph() -> None:
    # TRL with a model named by a string: weights in fp32, frozen, so not cached but saved: 2 * d_in * d_out
    r, x = recorder(
        4,
        full=False,
        weight_bytes=4,
        adapter_bytes=4,
        rank=R,
        modules=frozenset({"proj"}),
        autocast=True,
        compute_bytes=2,
    )
    r.linear(x, LINEAR)

    assert saved(r).token == 2 * D_IN + 2 * R
    assert saved(r).fixed == 2 * D_IN * D_OUT + ADAPTER_COPIES


def test_gradients_of_an_adapter_are_those_of_a_and_b() -> None:
    for adapter in (2, 4):
        r, x = recorder(2, full=False, adapter_bytes=adapter, rank=R, modules=frozenset({"proj"}), weight_bytes=2)
        r.linear(x, LINEAR)

        assert r.tape.weight_grad() == adapter * R * (D_IN + D_OUT)


# ---------------------------------------------------------------- matrices


def test_a_trained_matrix_saves_its_input_and_makes_its_gradient() -> None:
    r, x = recorder(2, weight_bytes=2)
    r.linear(x, Linear("proj", D_IN, D_OUT, bias=True))

    assert saves_source(r)
    assert saved(r) == Size()
    assert r.tape.weight_grad() == 2 * (D_IN * D_OUT + D_OUT)


def test_a_frozen_matrix_saves_nothing() -> None:
    r, x = recorder(2, full=False, adapter_bytes=2, modules=frozenset(), weight_bytes=2)
    r.linear(x, LINEAR)

    assert not saves_source(r)
    assert saved(r) == Size()


def test_mixed_precision_keeps_16_bit_copies_of_input_and_weight() -> None:
    # fp32 weights under autocast: x as bf16 2*d_in, the weight as bf16 2*d_in*d_out; its gradient is fp32
    r, x = recorder(4, weight_bytes=4, compute_bytes=2, autocast=True)
    r.linear(x, LINEAR)

    assert saved(r) == Size(token=2 * D_IN, fixed=2 * D_IN * D_OUT)
    assert r.tape.weight_grad() == 4 * D_IN * D_OUT


def test_a_4_bit_matrix_is_dequantised_in_both_directions_and_saves_nothing_of_the_batch() -> None:
    # the weight in 16 bits, and with double quantisation its 64-blocks' scales in fp32: 2*n + 4*n/64
    for double_quant, expected in ((False, 2 * D_IN * D_OUT), (True, 2 * D_IN * D_OUT + 4 * (D_IN * D_OUT // 64))):
        r, x = recorder(
            2, full=False, adapter_bytes=2, quant="nf4", double_quant=double_quant, compute_bytes=2, modules=frozenset()
        )
        r.linear(x, LINEAR)

        assert saved(r) == Size()
        assert max(i.temporaries.fixed for i in forward_instants(r.tape, keep=True)) == expected
        assert max(i.temporaries.fixed for i in backward_instants(r.tape)) == expected


# ---------------------------------------------------------------- norms

H = 512


def record_norm(kind: Any, e: int, *, full: bool, weight: bool = True, **changes: Any) -> Recorder:
    r, x = recorder(e, H, full=full, norm_bytes=e, weight_bytes=e, **changes)
    norm(r, Norm("norm", H, kind, weight=weight, bias=kind == "layer"), x)
    return r


NORMS = [
    # Llama's, bf16: input as fp32 4h (for the square and the product), rsqrt 4; trained: the normalised 16-bit tensor
    ("rms", 2, False, 4 * H + 4, False),
    ("rms", 2, True, 4 * H + 4 + 2 * H, False),
    # in fp32 nothing is cast: x itself, rsqrt, and the normalised tensor where the weight is trained
    ("rms", 4, False, 4, True),
    ("rms", 4, True, 4 + 4 * H, True),
    # Gemma's scales in fp32, before the cast: the normalised tensor is fp32
    ("rms_fp32", 2, False, 4 * H + 4, False),
    ("rms_fp32", 2, True, 4 * H + 4 + 4 * H, False),
    # nn.LayerNorm, one kernel: x itself, mean and 1/deviation in fp32
    ("layer", 2, False, 8, True),
    ("layer", 2, True, 8, True),
]


@pytest.mark.parametrize(("kind", "e", "full", "expected", "keeps_x"), NORMS)
def test_what_a_norm_saves(kind: Any, e: int, full: bool, expected: int, keeps_x: bool) -> None:
    r = record_norm(kind, e, full=full, adapter_bytes=0 if full else 2)

    assert saved(r).token == expected
    assert saves_source(r) == keeps_x


def test_one_fused_rms_kernel_saves_its_input_and_one_statistic() -> None:
    r = record_norm("rms", 2, full=True, fused=frozenset({"norm"}))

    assert saved(r).token == 4
    assert saves_source(r)


def test_gradients_of_a_norm_are_its_parameters() -> None:
    assert record_norm("rms", 2, full=True).tape.weight_grad() == 2 * H
    assert record_norm("layer", 4, full=True).tape.weight_grad() == 4 * 2 * H
    assert record_norm("rms", 2, full=False, adapter_bytes=2).tape.weight_grad() == 0


# ---------------------------------------------------------------- MLP

F = 1376
GATED = Mlp(
    intermediate_size=F,
    activation="silu",
    gated=True,
    inputs=(Linear("gate", H, F), Linear("up", H, F)),
    output=Linear("down", F, H),
)
CLASSIC = Mlp(
    intermediate_size=F, activation="gelu", gated=False, inputs=(Linear("up", H, F),), output=Linear("down", F, H)
)


def record_mlp(spec: Mlp, **changes: Any) -> Recorder:
    r, x = recorder(2, H, weight_bytes=2, **changes)
    mlp(r, spec, x)
    return r


MLPS = [
    # trained: x, gate, silu(gate), up, their product (down's input): 4 * 2f
    (GATED, {}, 8 * F, True),
    # frozen without adapters: gate, silu(gate) and up are still needed for the gradient of x
    (GATED, {"full": False, "adapter_bytes": 2, "modules": frozenset()}, 6 * F, False),
    # one SwiGLU kernel: gate and up, and the product for down
    (GATED, {"fused": frozenset({"swiglu"})}, 6 * F, True),
    (GATED, {"fused": frozenset({"swiglu"}), "full": False, "adapter_bytes": 2, "modules": frozenset()}, 4 * F, False),
    # classic: gelu's input, and its output for down
    (CLASSIC, {}, 4 * F, True),
    (CLASSIC, {"full": False, "adapter_bytes": 2, "modules": frozenset()}, 2 * F, False),
]


@pytest.mark.parametrize(("spec", "changes", "expected", "keeps_x"), MLPS)
def test_what_an_mlp_saves(spec: Mlp, changes: dict[str, Any], expected: int, keeps_x: bool) -> None:
    r = record_mlp(spec, **changes)

    assert saved(r).token == expected
    assert saves_source(r) == keeps_x


ACTIVATIONS = [
    # (name, bytes per element beside the input in 16 bits, whether the input is saved)
    ("silu", 0, True),
    ("gelu", 0, True),
    ("gelu_pytorch_tanh", 0, True),
    ("relu", 2, False),  # saves its result
    ("relu2", 2, False),  # relu's result, which the square saves too
    # gelu_new: x (power), tanh's result, and both factors of 0.5x * (1 + tanh)
    ("gelu_new", 6, True),
]


@pytest.mark.parametrize(("name", "expected", "keeps_x"), ACTIVATIONS)
def test_what_an_activation_saves(name: str, expected: int, keeps_x: bool) -> None:
    r, x = recorder(2, F)
    activate(r, name, x)

    assert saved(r).token == expected * F
    assert saves_source(r) == keeps_x


# ---------------------------------------------------------------- elementwise


def test_a_product_saves_each_factor_whose_partner_needs_a_gradient() -> None:
    r, x = recorder(2)
    frozen = r.constant("table", Size(token=2 * D_IN), "b s", 2)
    r.mul(x, frozen, "x * table")

    assert r.tape.saved(own_source=True) == (frozen,)


def test_a_sum_saves_nothing_and_widens() -> None:
    r, x = recorder(2)
    wide = r.cast(x, 4)
    out = r.add(x, wide, "sum")

    assert r.tape.saved(own_source=True) == ()
    assert out.e == 4


def test_dropout_saves_one_byte_per_element() -> None:
    r, x = recorder(2)
    r.dropout(x, "dropped")

    assert saved(r) == Size(token=D_IN)


def test_a_cast_to_the_same_dtype_is_no_copy() -> None:
    r, x = recorder(2)

    assert r.cast(x, 2) is x
    assert r.tape.ops == []


def test_a_view_shares_its_storage() -> None:
    r, x = recorder(2)
    view = r.view(x, "view")

    assert view.root is x
    assert max((i.total.token for i in forward_instants(r.tape, keep=True)), default=0) == 0
