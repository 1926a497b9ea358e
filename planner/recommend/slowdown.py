"""How much longer one method's micro-step takes than another's, as a range: FLOPs, dequantisation, launch floor.

Only ratios leave this module. Seconds, with optimizer, communication and measured constants, are the
time model's business.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.formulas.flops import attention_flops, dequant_bytes, linear_flops
from planner.formulas.params import active_params, outer_params
from planner.result import Candidate
from planner.spec import Gpu, ModelSpec

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
    """FLOPs that one token of a micro-step costs, recomputation included."""
    model, train = one.scenario.model, one.scenario.train
    g = int(train.gradient_checkpointing)
    products = linear_flops(
        blocks=active_params(model) - outer_params(model),
        head=model.lm_head.weight_params,
        adapters=one.estimate.parameters.trainable if train.uses_adapters else 0,
        full=train.method == "full",
        g=g,
    )
    return products + attention_flops(s=train.seq_len, width=_attention_width(model), g=g)


def traffic(one: Candidate) -> float:
    """Bytes that dequantising all weights moves in one micro-step."""
    return dequant_bytes(quantized=one.estimate.parameters.quantized, g=int(one.scenario.train.gradient_checkpointing))


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
    moving = traffic(one) / (gpu.bandwidth_bytes_per_s * bandwidth)
    launching = one.scenario.model.num_hidden_layers * LAUNCH_S[int(train.gradient_checkpointing)]
    return float(((computing + moving) ** 3 + launching**3) ** (1 / 3))


def _peak(one: Candidate) -> float | None:
    rates = one.scenario.cluster.gpu.peak_flops_per_s
    return rates.get("bf16") or rates.get("fp16")


def _attention_width(model: ModelSpec) -> int:
    return sum(
        count * block.attention.num_attention_heads * block.attention.head_dim
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )
