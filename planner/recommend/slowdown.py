"""How much longer one method's micro-step takes than another's, as a range: FLOPs, dequantisation, launch floor.

Only ratios leave this module. Seconds, with optimizer, communication and measured constants, are the
time model's business.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.formulas.params import active_params, outer_params
from planner.result import Candidate
from planner.spec import Gpu, ModelSpec, TrainSpec

EFFICIENCY: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Ampere GA100": (0.51, 0.64),
        "Ampere GA102": (0.39, 0.73),
        "Ada": (0.37, 0.63),
        "Hopper": (0.33, 0.40),
    }
)
"""Achieved share of the dense 16-bit peak at 8,000 and more tokens per micro-step, lowest and highest published: A100
(fms, torchtune); 3090 and A5000 (fsdp_qlora); 4090 (fsdp_qlora) and L40S (PEFT benchmark, fitted); H100 (llm-foundry,
torchtitan, fsdp_qlora)."""

EFFICIENCY_ELSEWHERE = (0.33, 0.73)
"""Where nobody published one: the whole range above."""

DEQUANT_BANDWIDTH = (0.20, 0.25)
"""Share of the memory bandwidth that bitsandbytes' 4-bit dequantisation reaches: litgpt A100 0.21 to 0.26, fms A100
0.21, 4090 fsdp_qlora 0.24 (versions up to 0.43)."""

DEQUANT_BYTES = 2.53
"""Bytes moved per quantised parameter and pass: 0.53 read, 2 written."""

LAUNCH_S = (2.8e-3, 5.2e-3)
"""Seconds per layer and micro-step to launch kernels, without and with checkpointing (Qwen and PEFT tables)."""

SOURCE = (
    "FLOPs and dequantisation traffic, at efficiencies from fms-acceleration, fsdp_qlora, litgpt and torchtune tables"
)


class Range(NamedTuple):
    """Lowest and highest value that the evidence allows."""

    low: float
    high: float


def flops_per_token(one: Candidate) -> float:
    """FLOPs that one token of a micro-step costs, recomputation included.

    Shapes:    N_blk active block weights    N_head (V, h)    N_lo adapters    S seq_len    n, d heads    L layers
    Formula:   full 6(N_blk + N_head) + 2g*N_blk    adapters 4(N_blk + N_head) + 2g*N_blk + (6 + 2g)N_lo
               attention 2*S*n*d*L(1 + 2.5 + g), causal; g = 1 under checkpointing, else 0
    Source:    Korthikanti et al. 2022, arXiv:2205.05198, appendix A, for the recompute; Dao 2023,
               arXiv:2307.08691, section 4.1, for the backward of 2.5 forwards; frozen weights have no gradient
    Valid:     whole-layer checkpointing; attention kernels that skip what causality masks
    Excludes:  sliding windows, dequantisation, the optimizer
    """
    model, train = one.scenario.model, one.scenario.train
    g = 1 if train.gradient_checkpointing else 0
    blocks = active_params(model) - outer_params(model)
    head = model.lm_head.weight_params
    dense = (6 if train.method == "full" else 4) * (blocks + head) + 2 * g * blocks
    adapted = (6 + 2 * g) * one.estimate.parameters.trainable if train.uses_adapters else 0
    return float(dense + adapted + _attention(model, train, g))


def dequant_bytes(one: Candidate) -> float:
    """Memory traffic of dequantising all weights in one micro-step.

    Shapes:    N_q quantised parameters
    Formula:   passes*N_q*2.53; passes: forward, backward, and the recomputed forward
    Source:    bitsandbytes 0.50 backends/cuda/ops.py: the backward always dequantises, the forward above a few rows
    Valid:     4-bit weights
    Excludes:  the matrix products themselves
    """
    passes = 3 if one.scenario.train.gradient_checkpointing else 2
    return passes * one.estimate.parameters.quantized * DEQUANT_BYTES


def ratio(of: Candidate, to: Candidate) -> Range | None:
    """How many times longer a micro-step of ``of`` takes than one of ``to``; ``None`` without a 16-bit peak."""
    if _peak(of) is None or _peak(to) is None:
        return None
    slow, fast = efficiency(of.scenario.cluster.gpu)
    low, high = DEQUANT_BANDWIDTH
    paces = ((slow, high), (fast, low))
    bounds = [_seconds(of, share, band) / _seconds(to, share, band) for share, band in paces]
    return Range(min(bounds), max(bounds))


def efficiency(gpu: Gpu) -> tuple[float, float]:
    """Published range for the card's chip, else the range over all chips."""
    chip = gpu.architecture.lower()
    found = (shares for name, shares in EFFICIENCY.items() if chip.startswith(name.lower()))
    return next(found, EFFICIENCY_ELSEWHERE)


def span(low: float, high: float, show: Callable[[float], str]) -> str:
    """Both ends of a range, or one where they read the same.

    >>> span(1.311, 1.313, "{:.2f}".format), span(1.1, 1.3, "{:.2f}".format)
    ('1.31', '1.10 to 1.30')
    """
    first, last = show(low), show(high)
    return first if first == last else f"{first} to {last}"


def _seconds(one: Candidate, share: float, bandwidth: float) -> float:
    """One micro-step: computing and dequantising, not faster than its kernels can be launched (a smooth maximum)."""
    train, gpu = one.scenario.train, one.scenario.cluster.gpu
    computing = train.tokens * flops_per_token(one) / ((_peak(one) or 1.0) * share)
    moving = dequant_bytes(one) / (gpu.bandwidth_bytes_per_s * bandwidth)
    launching = one.scenario.model.num_hidden_layers * LAUNCH_S[int(train.gradient_checkpointing)]
    return float(((computing + moving) ** 3 + launching**3) ** (1 / 3))


def _peak(one: Candidate) -> float | None:
    rates = one.scenario.cluster.gpu.peak_flops_per_s
    return rates.get("bf16") or rates.get("fp16")


def _attention(model: ModelSpec, train: TrainSpec, g: int) -> float:
    width = sum(
        count * block.attention.num_attention_heads * block.attention.head_dim
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )
    return 2 * train.seq_len * width * (1 + 2.5 + g)
