"""Language-model head and loss without the full logits: chunked and fused kernels.

The full loss is a tape of its own (``formulas.head``). Symbols: ``t`` scored tokens, ``h`` hidden size,
``V`` vocabulary, ``e`` bytes of the compute dtype.
"""

from typing import NamedTuple

TRL_TOKENS = 4096
"""Tokens per tile. trl 1.16 kernels/chunked_logprob.py, TOKEN_CHUNK_SIZE."""

TRL_VOCABULARY = 32768
"""Vocabulary entries per tile. trl 1.16 trainer/utils.py, _CHUNKED_LOGPROB_CHUNK_SIZE."""

TRL_STATISTICS = 7 + 4
"""fp32 values per token: seven running statistics, then log-probability, log-normaliser, entropy, hit. chunked_logprob.py, forward."""

CHUNK_TOKENS = 256
"""Tokens per checkpointed chunk of the head. trl 1.7 trainer/sft_trainer.py, _CHUNKED_LM_HEAD_CHUNK_SIZE."""


class LossBytes(NamedTuple):
    """What the head and the loss take: kept until backward, at the peak of forward, at the peak of backward.

    ``weight_grad`` is the head's gradient when it is trained, in the dtype in which the kernel leaves it;
    ``weight_scratch`` what it needs besides while it makes it.
    """

    kept: int
    forward: int
    backward: int


def trl_fused(*, t: int, h: int, V: int, e: int, trained: bool, weight_bytes: int) -> LossBytes:  # noqa: N803
    """TRL's fused head: logits exist one tile at a time, gradients accumulate in fp32.

    Shapes:    hidden (t, h) kept; tile (min(t, 4096), 32768); grad_hidden (t, h) fp32; grad_weight (V, h) fp32
    Formula:   kept e*t*h + 12*t; forward + tile + 44*t; backward + tile + 4*t*h (+ 4*V*h) + the cast results
    Source:    trl 1.16 kernels/chunked_logprob.py, ChunkedLogProbFunction (Triton path); trl 1.15 made it the default
    Valid:     every label scored; with completion-only loss t is the number of completion tokens
    Excludes:  the head's weight itself

    >>> trl_fused(t=2048, h=4096, V=128256, e=2, trained=False, weight_bytes=2).forward
    151085056
    """
    hidden = e * t * h
    tile = min(t, TRL_TOKENS) * TRL_VOCABULARY * e
    weight_chunk = TRL_VOCABULARY * h * e if weight_bytes != e else 0
    grad_weight = (4 + weight_bytes) * V * h if trained else 0
    kept = hidden + 12 * t
    during = hidden + tile + 4 * t * h + weight_chunk + (4 * V * h if trained else 0)
    after = hidden + 4 * t * h + e * t * h + grad_weight
    return LossBytes(kept, hidden + tile + weight_chunk + 4 * TRL_STATISTICS * t, max(during + 8 * t, after))


def checkpointed_chunks(*, t: int, h: int, V: int, e: int, trained: bool, weight_bytes: int) -> LossBytes:  # noqa: N803
    """The head and cross entropy on 256 tokens at a time, each chunk recomputed in backward.

    Shapes:    hidden (t, h) kept; logits (256, V) as fp32, their log-softmax and two gradients
    Formula:   kept e*t*h; forward + (e + 8)*256*V; backward + 12*256*V + e*t*h (+ weight_bytes*V*h twice)
    Source:    trl 1.7 trainer/sft_trainer.py, chunked_nll under torch checkpoint
    Valid:     trl 1.7 to 1.14
    Excludes:  the head's weight itself

    >>> checkpointed_chunks(t=2048, h=4096, V=128256, e=2, trained=False, weight_bytes=2).kept
    16777216
    """
    hidden = e * t * h
    rows = min(t, CHUNK_TOKENS)
    weight = e * V * h if weight_bytes != e else 0
    grad_weight = 2 * weight_bytes * V * h if trained else 0
    return LossBytes(
        hidden, hidden + weight + (e + 8) * rows * V, 2 * hidden + weight + (12 + e) * rows * V + grad_weight
    )


def liger_fused(*, t: int, h: int, V: int, e: int, trained: bool, weight_bytes: int) -> LossBytes:  # noqa: N803
    """Liger's fused linear cross entropy: gradients of hidden states and weight are made in forward, in chunks.

    Shapes:    grad_input (t, h); grad_weight (V, h); logits (c, V) with c = next_power_of_2(ceil(t / ceil(V / h)))
    Formula:   kept e*t*h (+ weight_bytes*V*h); forward the same + e*c*V
    Source:    Hsu 2024, arXiv:2410.10989, section 3.2; liger-kernel 0.6 ops/fused_linear_cross_entropy.py
    Valid:     Liger 0.3 and newer; other fused heads keep as little
    Excludes:  the head's weight itself

    >>> liger_fused(t=16384, h=4096, V=32000, e=2, trained=False, weight_bytes=2).kept
    268435456
    """
    hidden = e * t * h
    chunk = next_power_of_2(-(-t // max(-(-V // h), 1)))
    grad_weight = weight_bytes * V * h if trained else 0
    kept = 2 * hidden + grad_weight
    scratch = min(chunk, t) * V * e + (e * V * h if trained else 0)
    return LossBytes(kept - hidden, kept + scratch, kept)


def next_power_of_2(count: int) -> int:
    """The smallest power of two that is at least ``count``.

    >>> next_power_of_2(1), next_power_of_2(5), next_power_of_2(64)
    (1, 8, 64)
    """
    return 1 << max(count - 1, 0).bit_length()
