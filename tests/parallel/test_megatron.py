"""Megatron-LM's published formulas against the tape of one rank: to the byte, with every difference named."""

from pathlib import Path
from typing import get_args

import pytest

from planner.closed_form.divided import tensor_part
from planner.formulas.blocks import block_tape
from planner.formulas.parallel import (
    Megatron,
    Recompute,
    bubble,
    chunks_in_flight,
    interleaving_penalty,
    layer_activations,
    megatron_activations,
    megatron_parameters,
    megatron_states,
    stage_layers,
)
from tests.parallel.samples import gpt_layer, half_precision

# ---------------------------------------------------------------- the tape of a GPT layer

MODELS = [
    # Korthikanti 2022, arXiv:2205.05198, table 3: heads, hidden size
    pytest.param(64, 6144, id="22B"),
    pytest.param(96, 12288, id="175B"),
    pytest.param(128, 20480, id="530B"),
    pytest.param(160, 25600, id="1T"),
]
S, B = 2048, 1


def kept(h: int, a: int, t: int, *, sequence: bool, fused: bool) -> int:
    """Bytes that the tape of one rank's layer keeps."""
    recipe = half_precision("flash" if fused else "eager", sequence=t if sequence else 1)
    tape = block_tape(tensor_part(gpt_layer(h, a), t), h, recipe)
    return tape.saved_by_owner(own_source=True).total.bytes(b=B, s=S)


def statistics(t: int, *, sequence: bool) -> int:
    """Mean and deviation of two layer norms in fp32, of the rank's part of the sequence."""
    return 2 * 2 * 4 * S * B // (t if sequence else 1)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("t", [1, 2, 4, 8])
@pytest.mark.parametrize(("a", "h"), MODELS)
def test_separate_operations_keep_what_the_paper_counts(a: int, h: int, t: int, sequence: bool) -> None:
    printed = layer_activations(s=S, b=B, h=h, a=a, t=t, sequence=sequence)

    assert kept(h, a, t, sequence=sequence, fused=False) == printed + statistics(t, sequence=sequence)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("t", [1, 2, 4, 8])
@pytest.mark.parametrize(("a", "h"), MODELS)
def test_fused_attention_keeps_what_selective_recomputation_does(a: int, h: int, t: int, sequence: bool) -> None:
    printed = layer_activations(s=S, b=B, h=h, a=a, t=t, sequence=sequence, recompute="selective")
    logsumexp = 4 * a * S * B // t  # one fp32 number a row and head

    expected = printed + statistics(t, sequence=sequence) + logsumexp
    assert kept(h, a, t, sequence=sequence, fused=True) == expected


def test_the_pages_table_shows_the_papers_formula_and_our_tape() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-it-works" / "parallel.md").read_text(encoding="utf-8")
    shown = [row.split(" | ")[1:] for row in page.splitlines() if row.startswith(("| 22B", "| 175B", "| 530B", "| 1T"))]

    mib = [[float(cell.rstrip(" |")) for cell in row] for row in shown]
    for row, (a, h) in zip(mib, ((64, 6144), (96, 12288), (128, 20480), (160, 25600)), strict=True):
        printed = [
            layer_activations(s=S, b=B, h=h, a=a, t=8),
            layer_activations(s=S, b=B, h=h, a=a, t=8, sequence=True),
            layer_activations(s=S, b=B, h=h, a=a, t=8, sequence=True, recompute="selective"),
        ]
        ours = [
            kept(h, a, 8, sequence=False, fused=False),
            kept(h, a, 8, sequence=True, fused=False),
            kept(h, a, 8, sequence=True, fused=True),
        ]
        assert row[::2] == [round(count / 2**20, 1) for count in printed]
        assert row[1::2] == [round(count / 2**20, 2) for count in ours]


@pytest.mark.parametrize("sequence", [False, True])
def test_full_recomputation_keeps_the_layers_input(sequence: bool) -> None:
    tape = block_tape(gpt_layer(6144, 64), 6144, half_precision("flash", sequence=8 if sequence else 1))

    printed = layer_activations(s=S, b=B, h=6144, a=64, t=8, sequence=sequence, recompute="full")
    assert tape.source.size.bytes(b=B, s=S) == printed


@pytest.mark.parametrize(("a", "h", "printed"), [(96, 12288, 70), (128, 20480, 65)])
def test_selective_recomputation_saves_what_the_paper_prints(a: int, h: int, printed: int) -> None:
    # section 5: "saves 70 % ... for GPT-3 and 65 % for MT-NLG": 5as/h = 80 and 64, of 34 + 5as/h
    whole = layer_activations(s=S, b=1, h=h, a=a, t=8, sequence=True)
    selective = layer_activations(s=S, b=1, h=h, a=a, t=8, sequence=True, recompute="selective")

    assert round(100 * (1 - selective / whole)) == printed


@pytest.mark.parametrize(("a", "h"), MODELS)
def test_both_techniques_bring_activations_under_a_fifth(a: int, h: int) -> None:
    # abstract: activation memory is reduced five times
    baseline = layer_activations(s=S, b=1, h=h, a=a, t=8)
    both = layer_activations(s=S, b=1, h=h, a=a, t=8, sequence=True, recompute="selective")

    assert both / baseline < 0.21


@pytest.mark.parametrize("recompute", get_args(Recompute))
def test_sequence_parallelism_divides_everything(recompute: Recompute) -> None:
    alone = layer_activations(s=S, b=2, h=6144, a=64, recompute=recompute)

    assert layer_activations(s=S, b=2, h=6144, a=64, t=8, sequence=True, recompute=recompute) * 8 == alone


# ---------------------------------------------------------------- Megatron-LM's report

SIZES = [
    # Narayanan 2021, arXiv:2104.04473, table 1: layers, heads, hidden size, billions of parameters; s 2048, V 51200
    (24, 24, 2304, 1.7),
    (30, 32, 3072, 3.6),
    (36, 32, 4096, 7.5),
    (40, 48, 6144, 18.4),
    (48, 64, 8192, 39.1),
    (60, 80, 10240, 76.1),
    (80, 96, 12288, 145.6),
    (96, 128, 16384, 310.1),
    (105, 128, 20480, 529.6),
    (128, 160, 25600, 1008.0),
]


@pytest.mark.parametrize(("layers", "heads", "hidden", "printed"), SIZES)
def test_parameters_of_narayanan_table_1(layers: int, heads: int, hidden: int, printed: float) -> None:
    of = Megatron(layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden, vocab=51200, s=2048)
    # the paper's 12lh^2(1 + 13/(12h) + (V + s)/(12lh)) has biases and positions, which the report leaves out:
    biases_and_positions = (13 - 4) * layers * hidden + (2048 - 2) * hidden
    found = float(megatron_parameters(of)) + biases_and_positions

    assert found / 1e9 == pytest.approx(printed, abs=0.05)


def test_the_reports_activations_are_the_tapes_where_attention_is_fused() -> None:
    h, a, layers, t = 6144, 64, 48, 8
    of = Megatron(layers=layers, hidden=h, heads=a, ffn=4 * h, vocab=51200, s=S, t=t)
    head = 4 * S * (h + 51200) // t
    embedding = (8 + h) * S // t  # token ids and the dropout mask

    ours = layers * kept(h, a, t, sequence=True, fused=True)
    named = layers * (statistics(t, sequence=True) + 4 * a * S // t)
    assert megatron_activations(of) == ours - named + head + embedding


@pytest.mark.parametrize(("data", "printed"), [(1, 18), (4, 9), (64, 6.1875)])
def test_bytes_a_parameter_under_the_distributed_optimizer(data: int, printed: float) -> None:
    # megatron/core/optimizer/distrib_optimizer: 6 + 12/d bytes, for bf16 weights and fp32 gradients
    of = Megatron(layers=2, hidden=64, heads=4, ffn=256, vocab=128, s=8, data=data, distributed_optimizer=True)

    assert float(megatron_states(of) / megatron_parameters(of)) == printed


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 16), (8, 64), (64, 512)])
def test_interleaving_costs_memory_and_saves_time_as_printed(p: int, m: int) -> None:
    for v in (2, 3, 4):
        chunks = chunks_in_flight(stage=0, p=p, m=m, v=v)

        assert chunks == interleaving_penalty(p, v) * p * v
        assert bubble(p=p, m=m, v=v) * v == bubble(p=p, m=m)


def test_the_first_stage_holds_as_much_as_the_whole_model_of_one_micro_batch() -> None:
    # Korthikanti 2022, section 4.2.3: "p micro-batches ... L/p layers", which is L layers whatever p
    for p in (2, 4, 8):
        assert chunks_in_flight(stage=0, p=p, m=2 * p) * stage_layers(96, p)[0] == 96


@pytest.mark.parametrize("layers", [7, 8, 61, 80, 126])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_stages_hold_every_layer_once(layers: int, parts: int) -> None:
    counts = stage_layers(layers, parts)

    assert sum(counts) == layers
    assert len(counts) == parts
    assert min(counts) >= (1 if layers >= 2 * parts else 0)
