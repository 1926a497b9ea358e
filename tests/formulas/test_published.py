"""Figures that papers and libraries print, reproduced exactly by the formulas."""

import pytest

from planner.catalog import load_model
from planner.formulas.counts import lora_linear_params
from planner.formulas.params import lora_params, model_params
from planner.formulas.states import adam_mixed_precision, nf4_bytes

# ---------------------------------------------------------------- ZeRO, arXiv:1910.02054, figure 1

ZERO_FIGURE_1 = [
    # 7.5B parameters, 64 ranks, Adam in mixed precision: (2 + 2 + 12) bytes per parameter
    (0, 120.0),  # 16 * 7.5 GB
    (1, 31.4),  # (2 + 2 + 12/64) * 7.5 = 31.41
    (2, 16.6),  # (2 + (2 + 12)/64) * 7.5 = 16.64
    (3, 1.9),  # 16/64 * 7.5 = 1.875
]


@pytest.mark.parametrize(("stage", "printed_gb"), ZERO_FIGURE_1)
def test_zero_paper_figure_1(stage: int, printed_gb: float) -> None:
    count = adam_mixed_precision(7_500_000_000, zero_stage=stage, world_size=64)

    assert round(count / 1e9 + 1e-9, 1) == printed_gb


# ---------------------------------------------------------------- QLoRA, arXiv:2305.14314, section 3

QLORA_BITS = [
    # 4 bits, and per 64 of them one fp32 scale: 4 + 32/64
    (False, 4.5),
    # the scales in 8 bits, and per 256 of those one fp32 scale: 4 + 8/64 + 32/(64*256)
    (True, 4.127),
]


@pytest.mark.parametrize(("double_quant", "printed_bits"), QLORA_BITS)
@pytest.mark.parametrize("numel", [4096 * 4096, 14336 * 4096, 8192 * 28672])
def test_qlora_paper_bits_per_parameter(double_quant: bool, printed_bits: float, numel: int) -> None:
    count = nf4_bytes(numel, double_quant=double_quant)

    assert round(count * 8 / numel, 3) == printed_bits


def test_qlora_paper_saving_of_double_quantisation() -> None:
    # section 3: "from 32/64 = 0.5 bits, to 8/64 + 32/(64*256) = 0.127 bits, a reduction of 0.373 bits per parameter"
    numel = 65_536 * 4096
    saved = nf4_bytes(numel, double_quant=False) - nf4_bytes(numel, double_quant=True)

    assert round(saved * 8 / numel, 3) == 0.373


# ---------------------------------------------------------------- trainable parameters

ADAPTERS = [
    # PEFT, method_comparison/MetaMathQA/results at 51c2ff666: 28 layers, h 3072, 8 key heads of 128
    #   per layer q: 32 * (3072 + 3072), v: 32 * (3072 + 1024)
    ("meta-llama/Llama-3.2-3B", ("q_proj", "v_proj"), 32, 9_175_040),
    # LitGPT, tutorials/resource-tables.md at 8641822; rank 8 on query and value, h x h both
    #   per layer q and v: 8 * (2048 + 2048) each, 24 layers
    ("microsoft/phi-1_5", ("q_proj", "v_proj"), 8, 1_572_864),
    #   per layer q and v: 8 * (4096 + 4096) each, 32 layers
    ("meta-llama/Llama-2-7b-hf", ("q_proj", "v_proj"), 8, 4_194_304),
    #   per layer q and v: 8 * (5120 + 5120) each, 40 layers
    ("meta-llama/Llama-2-13b-hf", ("q_proj", "v_proj"), 8, 6_553_600),
]


@pytest.mark.parametrize(("model", "targets", "rank", "printed"), ADAPTERS)
def test_published_adapter_parameters(model: str, targets: tuple[str, ...], rank: int, printed: int) -> None:
    assert lora_params(load_model(model).model, targets, rank) == printed


def test_published_parameters_of_full_fine_tuning() -> None:
    # PEFT, full-finetuning--llama-3.2-3B-lr_0.00001.json: "num_trainable_params"
    assert model_params(load_model("meta-llama/Llama-3.2-3B").model) == 3_212_749_824


MATRICES = [
    # LitGPT splits fused projections, so its counts are those of separate matrices
    # stablelm-base-alpha-3b: query and value 4096 -> 4096 in 16 layers
    (8, ((4096, 4096), (4096, 4096)), 16, 2_097_152),
    # falcon-40b: query 8192 -> 8192, value 8192 -> 8 heads of 64, in 60 layers
    (8, ((8192, 8192), (8192, 512)), 60, 12_042_240),
]


@pytest.mark.parametrize(("rank", "matrices", "layers", "printed"), MATRICES)
def test_published_adapter_parameters_of_single_matrices(
    rank: int, matrices: tuple[tuple[int, int], ...], layers: int, printed: int
) -> None:
    assert layers * _adapter(rank, matrices) == printed


C_ATTN, C_PROJ = (4096, 12288), (4096, 4096)
W1, W2, MLP_C_PROJ = (4096, 11008), (4096, 11008), (11008, 4096)

QWEN_7B = [
    # ms-swift, docs/source_en/LLM/Benchmark.md: Qwen-7B, 32 layers, printed in millions
    (2, (C_ATTN,), 1.05, 2),
    (64, (C_ATTN,), 33.55, 2),
    (8, (C_ATTN, C_PROJ, W1, W2, MLP_C_PROJ), 17.8913, 4),
]


@pytest.mark.parametrize(("rank", "matrices", "printed_millions", "digits"), QWEN_7B)
def test_published_adapter_parameters_in_millions(
    rank: int, matrices: tuple[tuple[int, int], ...], printed_millions: float, digits: int
) -> None:
    assert round(32 * _adapter(rank, matrices) / 1e6, digits) == printed_millions


def _adapter(rank: int, matrices: tuple[tuple[int, int], ...]) -> int:
    return sum(lora_linear_params(d_in=d_in, d_out=d_out, r=rank) for d_in, d_out in matrices)
