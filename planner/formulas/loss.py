"""Language-model head and loss without the full logits: chunked and fused kernels.

The full loss is a tape of its own (``formulas.head``). Symbols: ``t`` scored tokens, ``h`` hidden size,
``V`` vocabulary, ``e`` bytes of the compute dtype.
"""

from typing import NamedTuple

TRL_TOKENS = 4096
"""Tokens per tile. trl 1.16 kernels/chunked_logprob.py, TOKEN_CHUNK_SIZE."""

TRL_VOCABULARY = 32768
"""Vocabulary entries per tile. trl 1.16 trainer/utils.py, _CHUNKED_LOGPROB_CHUNK_SIZE."""

TRL_KEPT = 8 * 4
"""Bytes per token that TRL's kernel keeps besides the hidden state: targets, log-normaliser, results. Same file."""

TRL_RUNNING = 10 * 4
"""Bytes per token of its running statistics. Same file, forward."""

CHUNK_TOKENS = 256
"""Tokens per checkpointed chunk of the head. trl 1.7 trainer/sft_trainer.py, _CHUNKED_LM_HEAD_CHUNK_SIZE."""


class LossBytes(NamedTuple):
    """What the head and the loss take: kept until backward, at the peak of forward, at the peak of backward.

    ``forward_logits`` and ``backward_logits`` are the parts of both that hold logits; ``kept`` has none.
    ``gradients`` is the part of all three that becomes the weight's gradient.
    """

    kept: int
    forward: int
    backward: int
    forward_logits: int = 0
    backward_logits: int = 0
    gradients: int = 0


class Head(NamedTuple):
    """Sizes of a head: ``t`` scored tokens, ``h`` hidden size, ``V`` vocabulary; element bytes of compute, hidden state
    and weight.
    """

    t: int
    h: int
    V: int
    e: int
    hidden_bytes: int
    weight_bytes: int
    trained: bool


def trl_fused(head: Head) -> LossBytes:
    """TRL's fused head: logits exist one tile at a time, gradients accumulate in fp32.

    Shapes:    hidden (t, h) kept; tile (min(t, 4096), 32768); grad_hidden (t, h) fp32; grad_weight (V, h) fp32
    Formula:   kept t*h*eh + 32*t; forward + t*h*eh + tile + 40*t; backward + tile + 4*t*h (+ 4*V*h) + the results'
               casts; a 32768-row copy of a weight whose dtype is not the compute dtype, two in backward
    Source:    trl 1.16 kernels/chunked_logprob.py, ChunkedLogProbFunction (Triton path); trl 1.15 made it the default;
               trainer/utils.py, _fused_forward: scored rows are a copy, beside the hidden states under their name
    Valid:     every label scored; with completion-only loss t is the number of completion tokens
    Excludes:  the head's weight itself

    >>> trl_fused(Head(t=2048, h=4096, V=128256, e=2, hidden_bytes=2, weight_bytes=2, trained=False)).forward
    167919616
    """
    t, h, e = head.t, head.h, head.e
    tile = min(t, TRL_TOKENS) * TRL_VOCABULARY * e
    copy = min(TRL_VOCABULARY, head.V) * h * e if head.weight_bytes != e else 0
    copies = 2 if head.V > TRL_VOCABULARY else 1
    chunks = 2 if t > TRL_TOKENS else 1  # the next chunk is cast while its name still holds the last
    rows = chunks * min(t, TRL_TOKENS) * h * e if head.hidden_bytes != e else 0
    kept = t * h * head.hidden_bytes + TRL_KEPT * t
    gradients = 4 * t * h + (4 * head.V * h if head.trained else 0)
    result = t * h * head.hidden_bytes if head.hidden_bytes < 4 else 0
    weight_result = head.V * h * head.weight_bytes if head.trained and head.weight_bytes < 4 else 0
    return LossBytes(
        kept=kept,
        forward=kept + t * h * head.hidden_bytes + tile + TRL_RUNNING * t + copy + rows,
        backward=kept + gradients + tile + max(copies * copy + rows, result + weight_result),
        forward_logits=tile,
        backward_logits=tile,
    )


def checkpointed_chunks(head: Head, *, upcasts_weight: bool) -> LossBytes:
    """The head and cross entropy on 256 tokens at a time, each chunk recomputed in backward.

    Shapes:    hidden (t, h) kept; logits (256, V) as 16 bit, fp32, log-softmax and a gradient; before trl 1.13 an fp32
               copy of the weight (V, h), under autocast a 16-bit one besides
    Formula:   kept t*h*eh; forward + 16*256*V (+ 6*V*h); backward + t*h*eh + 16*256*V (+ 6*V*h, trained 8*V*h)
    Source:    trl 1.4 to 1.14 trainer/sft_trainer.py, _chunk under torch checkpoint
    Valid:     ``loss_type="chunked_nll"``
    Excludes:  the head's weight itself

    >>> checkpointed_chunks(Head(2048, 4096, 128256, 2, 2, 2, False), upcasts_weight=False).kept
    16777216
    """
    hidden = head.t * head.h * head.hidden_bytes
    chunk = 16 * min(head.t, CHUNK_TOKENS) * head.V
    weight = 6 * head.V * head.h if upcasts_weight else 0
    gradient = (8 if upcasts_weight else 6) * head.V * head.h if head.trained else weight
    return LossBytes(hidden, hidden + chunk + weight, 2 * hidden + chunk + gradient, chunk, chunk)


def liger_fused(head: Head) -> LossBytes:
    """Liger's fused linear cross entropy: gradients of hidden states and weight are made in forward, in chunks.

    Shapes:    grad_input (t, h); grad_weight (V, h); logits (c, V) with c = next_power_of_2(ceil(t / ceil(V / h)))
    Formula:   kept t*h*eh (+ V*h*ew); forward + t*h*eh + c*V*e (+ V*h*e, trained 2*V*h*e, if ew is not e)
    Source:    Hsu 2024, arXiv:2410.10989, section 3.2; liger-kernel 0.8 ops/fused_linear_cross_entropy.py: one buffer
               of logits, in which their gradient is written; autocast keeps its copy of a trained weight, and makes one
               of the transposed weight for each chunk
    Valid:     Liger 0.8 on compute capability 8.0 and newer; up to 0.7 two buffers, and for a trained weight a chunk's
               gradient as 16 bit and as fp32 besides (6*V*h)
    Excludes:  the head's weight itself

    >>> liger_fused(Head(16384, 4096, 32000, 2, 2, 2, False)).kept
    134217728
    """
    hidden, weight = head.t * head.h * head.hidden_bytes, head.V * head.h
    chunk = min(next_power_of_2(-(-head.t // max(-(-head.V // head.h), 1))), head.t)
    gradient = weight * head.weight_bytes if head.trained else 0
    copies = 0 if head.weight_bytes == head.e else 2 if head.trained and chunk < head.t else 1
    tile = chunk * head.V * head.e
    kept = hidden + gradient
    forward = kept + hidden + tile + copies * weight * head.e
    return LossBytes(kept, forward, kept, forward_logits=tile, gradients=gradient)


def next_power_of_2(count: int) -> int:
    """The smallest power of two that is at least ``count``.

    >>> next_power_of_2(1), next_power_of_2(5), next_power_of_2(64)
    (1, 8, 64)
    """
    return 1 << max(count - 1, 0).bit_length()
