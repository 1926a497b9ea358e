"""FLOPs per token and the traffic of dequantisation: counts, no seconds.

Symbols: ``g`` 1 under whole-layer checkpointing, else 0; ``s`` sequence length.
"""

DEQUANT_READ = 0.53
"""Bytes read per 4-bit parameter: 4.127 to 4.5 bits with their scales. QLoRA (arXiv:2305.14314) section 3."""

DEQUANT_WRITTEN = 2
"""Bytes written per parameter: a 16-bit copy. bitsandbytes 0.50 backends/cuda/ops.py, dequantize_4bit."""


def linear_flops(*, blocks: int, head: int, adapters: int, full: bool, g: int) -> int:
    """FLOPs of the matrix products for one token, recomputation included.

    Shapes:    blocks: active weights of the layers; head: V * h; adapters: trained low-rank entries
    Formula:   full 6*(blocks + head) + 2*g*blocks; frozen base 4*(blocks + head) + 2*g*blocks + (6 + 2*g)*adapters
    Source:    Korthikanti 2022, arXiv:2205.05198, appendix A; a frozen weight has no gradient of its own
    Valid:     whole-layer checkpointing, which leaves the head out
    Excludes:  attention scores, norms, the optimizer

    >>> linear_flops(blocks=7_000_000_000, head=500_000_000, adapters=0, full=True, g=0)
    45000000000
    """
    recomputed = 2 * g * blocks
    if full:
        return 6 * (blocks + head) + recomputed
    return 4 * (blocks + head) + recomputed + (6 + 2 * g) * adapters


def attention_flops(*, s: int, width: int, g: int) -> int:
    """FLOPs of causal attention for one token over all layers.

    Shapes:    width: query heads * head_dim, summed over the layers
    Formula:   2 * s * width * (1 + 2.5 + g)
    Source:    Dao 2023, arXiv:2307.08691, section 4.1: the backward costs 2.5 forwards; causality halves 4*s*width
    Valid:     kernels that skip what causality masks
    Excludes:  sliding windows, which cost less

    >>> attention_flops(s=2048, width=32 * 4096, g=1)
    2415919104
    """
    return s * width * (7 + 2 * g)


def dequant_bytes(*, quantized: int, g: int) -> float:
    """Memory traffic of dequantising all 4-bit weights in one micro-step.

    Shapes:    quantized: 4-bit parameters
    Formula:   (2 + g) * 2.53 * quantized
    Source:    bitsandbytes 0.50 autograd/_functions.py: forward and backward each dequantise; so does a recomputation
    Valid:     micro-batches above the few hundred rows that the fused forward kernel takes
    Excludes:  the products themselves

    >>> round(dequant_bytes(quantized=1_000_000_000, g=1))
    7590000000
    """
    return (2 + g) * (DEQUANT_READ + DEQUANT_WRITTEN) * quantized


def eight_bit_bytes(*, quantized: int) -> float:
    """Memory traffic of dequantising all LLM.int8() weights in one micro-step.

    Shapes:    quantized: 8-bit parameters
    Formula:   (1 + 2) * quantized
    Source:    bitsandbytes 0.50 autograd/_functions.py, MatMul8bitLt: forward multiplies in 8 bits, backward by a
               16-bit copy
    Valid:     a recomputed forward included, which dequantises nothing either
    Excludes:  quantising the inputs, which the tape has

    >>> eight_bit_bytes(quantized=1_000_000_000)
    3000000000.0
    """
    return 3.0 * quantized


def stack_bytes(*, quantized: int, in_8_bits: bool, g: int) -> float:
    """Memory traffic of dequantising all quantised stacks of experts in one micro-step.

    Shapes:    quantized: parameters in stacks
    Formula:   (1 + g) * 2.53 * quantized; of 8-bit ones (1 + g) * (1 + 4 + 4 + 4) * quantized, by way of fp32
    Source:    axolotl 0.19 monkeypatch/moe_quant.py: whole for every pass forward; backward has it saved
    Valid:     what bitsandbytes' nn/parametrize.py wraps
    Excludes:  the products themselves

    >>> round(stack_bytes(quantized=1_000_000_000, in_8_bits=False, g=1))
    5060000000
    """
    return (1 + g) * (13 if in_8_bits else DEQUANT_READ + DEQUANT_WRITTEN) * quantized


def experts_touched(*, tokens: float, top_k: int, experts: int) -> float:
    """Share of the experts that at least one of ``tokens`` chooses, whose weights have to be read.

    Shapes:    top_k of experts for each token
    Formula:   1 - (1 - top_k / experts)**tokens
    Source:    independent draws; a balanced router is not far from them
    Valid:     balanced routers
    Excludes:  capacity limits

    >>> experts_touched(tokens=1, top_k=2, experts=8), round(experts_touched(tokens=8, top_k=2, experts=8), 2)
    (0.25, 0.9)
    """
    return float(1 - (1 - top_k / experts) ** tokens)


def effective_length(s: float, window: int | None) -> float:
    """The length at which plain causal attention would look at as many keys as a sliding window does.

    Shapes:    s sequence length, window w
    Formula:   s where s <= w, else 2*w - w**2/s: twice the mean number of keys
    Source:    Beltagy 2020, arXiv:2004.05150, section 3; position p of a causal window sees min(p, w) keys
    Valid:     kernels that skip what lies outside the window
    Excludes:  dense masks, under which every score is computed

    >>> effective_length(2048, 4096), effective_length(8192, 4096), effective_length(8192, None)
    (2048, 6144.0, 8192)
    """
    if window is None or s <= window:
        return s
    return 2 * window - window**2 / s
