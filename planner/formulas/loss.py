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

OUTPUT_CHUNKS = 8
"""torchtune 0.6 modules/loss/ce_chunked_output_loss.py, num_output_chunks."""

UNSLOTH_TARGET = 4 * 2**30
"""Most bytes that Unsloth lets a chunk's logits take. unsloth_zoo 2026.10 fused_losses/cross_entropy_loss.py,
_CE_TARGET_GB_CAP."""

UNSLOTH_PER_LOGIT = 16
"""What it reckons with per logit when it chooses the number of chunks. Same file, _CE_BYTES_PER_LOGIT."""

CUT_KEPT = 8 + 4 + 8 + 8
"""Bytes per token that cut cross entropy keeps: targets, the log-normaliser, valid rows; and its inputs' labels."""


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


def cut_fused(head: Head) -> LossBytes:
    """Cut cross entropy: logits exist in tiles on the chip alone; backward makes them again.

    Shapes:    hidden (t, h) and a flat copy of it kept; backward grad_hidden (t, h), grad_weight (V, h), in 16 bits
    Formula:   kept t*h*eh + 28*t; forward the same and t*h*e; backward + t*h*e (+ V*h*e, and V*h*ew if ew is not e)
    Source:    Wijmans 2024, arXiv:2411.09009, section 4; cut-cross-entropy 25.1 cce.py, cce_backward.py (de, dc):
               neither is accumulated in fp32 by default
    Valid:     16-bit hidden states, as Axolotl's plugin and Unsloth of 2024.11 to 2025.8 use it
    Excludes:  locks and the order of the vocabulary, a few bytes per entry of it

    >>> cut_fused(Head(2048, 4096, 128256, 2, 2, 2, False)).backward // 2**20
    32
    """
    hidden, copy = head.t * head.h * head.hidden_bytes, head.t * head.h * head.e
    kept = hidden + CUT_KEPT * head.t
    weight = head.V * head.h
    gradient = weight * head.e + (weight * head.weight_bytes if head.weight_bytes != head.e else 0)
    cast = weight * head.e if head.weight_bytes != head.e else 0
    rows = copy if head.hidden_bytes != head.e else 0
    backward = kept + rows + copy + cast + (gradient if head.trained else 0)
    return LossBytes(kept, kept + rows + cast, backward)


def chunked_outputs(head: Head, *, compiled: bool = False) -> LossBytes:
    """A head in 8 chunks along the sequence, whose losses are taken in fp32 one after the other.

    Shapes:    logits (t, V) in 16 bits until the loss returns; log-softmax (t, V) fp32 kept; a chunk (t/8, V) in fp32;
               in backward two chunks of fp32 gradients, later gradients of all logits in 16 bits
    Formula:   forward t*h*eh + V*t*(e + 4 + 4/8); backward t*h*eh + V*t*(4 + 8/8), or with the weight's gradients of
               two chunks and their sum t*h*eh + 6/8*V*t*e + 3*V*h*ew; a compiled loss takes each chunk in one kernel,
               in its own dtype: forward t*h*eh + V*t*e, and V*t*e*9/8 in place of the fp32 gradients
    Source:    torchtune 0.6 modules/loss/ce_chunked_output_loss.py, modules/transformer.py chunked_output, recipes'
               _loss_step (``del logits``); torch engine.cpp: nodes made later run first, so all losses before any head
    Valid:     8 chunks; compiled as torchtune's compile_loss does, the fp32 copy and the cross entropy alone
    Excludes:  the head's weight itself; two numbers per token that a compiled loss keeps

    >>> chunked_outputs(Head(4096, 4096, 128256, 2, 2, 2, False)).forward // 2**20
    3288
    """
    t, logits = head.t, head.t * head.V
    hidden = t * head.h * head.hidden_bytes
    chunk = -(-t // OUTPUT_CHUNKS) * head.V
    forward_logits = head.e * logits if compiled else (head.e + 4) * logits + 4 * chunk
    losses = head.e * (logits + chunk) if compiled else 4 * logits + 8 * chunk
    grads = head.e * logits
    heads = grads * 6 // OUTPUT_CHUNKS + 3 * head.V * head.h * head.weight_bytes if head.trained else grads
    return LossBytes(
        hidden,
        hidden + forward_logits,
        hidden + max(losses, heads),
        forward_logits=forward_logits,
        backward_logits=losses if losses >= heads else grads,
    )


def unsloth_fused(head: Head, *, free: int) -> LossBytes:
    """Unsloth's fused loss: gradients of hidden states and weight are made in forward, in chunks that fit what is free.

    Shapes:    grad_hidden (t, h); logits (t/n, V) and their gradient in 16 bits, one chunk at a time; grad_weight
               (V, h), and a chunk's own
    Formula:   n = 4*ceil(16*t*V / min(free/2, 4 GiB) / 4), 1 where all fits; kept t*h*eh; forward
               2*t*h*eh + 2*e*V*t/n (+ 2*V*h*ew)
    Source:    unsloth_zoo 2026.10 fused_losses/cross_entropy_loss.py, UnslothFusedLoss, get_chunk_size
    Valid:     unsloth 2025.9 and newer, whose chunks are compiled: no fp32 copy of the logits
    Excludes:  what fits no chunk of one token

    >>> unsloth_fused(Head(8192, 4096, 128256, 2, 2, 2, False), free=40 * 2**30).forward_logits // 2**20
    1002
    """
    hidden, weight = head.t * head.h * head.hidden_bytes, head.V * head.h * head.weight_bytes
    rows = -(-head.t // unsloth_chunks(head.t, head.V, free))
    logits = 2 * head.e * rows * head.V
    kept = hidden + (weight if head.trained else 0)
    forward = kept + hidden + logits + (weight if head.trained else 0)
    return LossBytes(kept, forward, kept, forward_logits=logits, gradients=weight if head.trained else 0)


def unsloth_chunks(t: int, vocabulary: int, free: int) -> int:
    """Into how many chunks Unsloth cuts ``t`` tokens with ``free`` bytes left on the card.

    Shapes:    logits (t, V), 16 bytes for each of them, held against half of what is free and at most 4 GiB
    Formula:   n = 4*ceil(16*t*V / min(free/2, 4 GiB) / 4), at most t; 1 where all fits
    Source:    unsloth_zoo 2026.10 fused_losses/cross_entropy_loss.py, get_chunk_size
    Valid:     unsloth 2025.9 and newer
    Excludes:  a target that the environment sets

    >>> unsloth_chunks(8192, 128256, 40 * 2**30), unsloth_chunks(512, 32000, 40 * 2**30)
    (4, 1)
    """
    target = max(min(free // 2, UNSLOTH_TARGET), 1)
    wanted = UNSLOTH_PER_LOGIT * t * vocabulary
    return 1 if wanted <= target else min(4 * -(-wanted // (4 * target)), t)


def next_power_of_2(count: int) -> int:
    """The smallest power of two that is at least ``count``.

    >>> next_power_of_2(1), next_power_of_2(5), next_power_of_2(64)
    (1, 8, 64)
    """
    return 1 << max(count - 1, 0).bit_length()
