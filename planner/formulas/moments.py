"""What a job takes besides its steps: gathered logits, caches of keys and values, merged matrices.

Counts in, bytes out. Symbols: ``b`` sequences, ``s`` tokens, ``k`` key and value heads, ``d`` head dimension, ``e``
bytes per element.
"""

from typing import NamedTuple

NF4_WORK = 16
"""Weights per byte of fp32 scales (four for each block of 64) that packing makes before it compresses them.
bitsandbytes 0.50 functional.py, quantize_4bit."""


class Gathered(NamedTuple):
    """Sequences whose logits are alive: during the last forward pass, and while they are joined."""

    during: int
    joining: int


def gathered_by_trainer(*, samples: int, batch: int, every: int = 0) -> Gathered:
    """Sequences whose logits the Trainer's evaluation loop holds at its worst.

    Shapes:    logits (b, s, V) of every batch, joined with all before them as they come
    Formula:   S sequences before they move to the host, B of them in the last batch: during S - B + B', where B' is
               the batch before, still in a variable (the same tensor when there is no other); joining 2 S, or S when it
               is one batch
    Source:    transformers 5.23 trainer.py, evaluation_loop; trainer_pt_utils.py, EvalLoopContainer.add, nested_concat
    Valid:     metrics are computed and sequences are of one length; ``every``: eval_accumulation_steps, 0 for never
    Excludes:  labels, 8 bytes a token

    >>> gathered_by_trainer(samples=32, batch=8), gathered_by_trainer(samples=32, batch=8, every=1)
    (Gathered(during=32, joining=64), Gathered(during=0, joining=8))
    """
    _, window, held = _windows(samples, batch, every)
    last = held - (window - 1) * batch
    before = batch if window > 2 else 0
    return Gathered(held - last + before, held if window == 1 else 2 * held)


def gathered_by_loop(*, samples: int, batch: int, every: int = 0) -> Gathered:
    """The same for a bare loop, which keeps a list and joins it once.

    Shapes:    logits (b, s, V) of every batch in a list; all of them (S, s, V) at the end
    Formula:   during S - B; joining 2 S of what has not moved to the host
    Source:    derived here: ``gathered.append(outputs.logits)``, ``torch.cat(gathered)``
    Valid:     sequences are of one length
    Excludes:  labels

    >>> gathered_by_loop(samples=32, batch=8), gathered_by_loop(samples=36, batch=8, every=2)
    (Gathered(during=24, joining=64), Gathered(during=8, joining=16))
    """
    batches, window, held = _windows(samples, batch, every)
    rest = samples - batches // window * window * batch if every else samples
    return Gathered((window - 1) * batch, max(held, 2 * rest))


class Unused(NamedTuple):
    """Batches of logits' worth of memory that an allocator holds and does not use at the peak of an evaluation:
    with memory to spare, and at the least that it can do with.
    """

    spare: int
    squeezed: int


def unused_after_joining(*, samples: int, batch: int, every: int = 0) -> Unused:
    """What joining ever larger tensors leaves behind in a caching allocator, in batches of logits.

    Shapes:    joined logits of 2, 3, ..., n batches, none of which fits where an earlier one was
    Formula:   all of them are cached, with four for the pass itself: n (n + 1) / 2 + 3, less the 2 n in use; squeezed,
               pieces of a freed one that newer logits lie in: 0 up to n = 4, then n - 2 up to 8; n with several windows
    Source:    derived here from replays of traced evaluations (planner/allocator), 1 to 20 batches, two models
    Valid:     the Trainer's loop; over by up to 10 % of the requirement
    Excludes:  what other phases leave

    >>> unused_after_joining(samples=160, batch=8), unused_after_joining(samples=32, batch=8)
    (Unused(spare=173, squeezed=8), Unused(spare=5, squeezed=0))
    """
    batches, window, _ = _windows(samples, batch, every)
    if window == 1:
        return Unused(0, 0)
    squeezed = 0 if window <= 4 else min(window - 2, MOST_SQUEEZED)
    return Unused(window * (window + 1) // 2 + 3 - 2 * window, squeezed if window == batches else window)


def _windows(samples: int, batch: int, every: int) -> tuple[int, int, int]:
    """Batches in all, those that gather before they move to the host (``every``; 0: all), and their samples."""
    batches = -(-samples // batch)
    window = min(every or batches, batches)
    return batches, window, min(samples, window * batch)


MOST_SQUEEZED = 8
"""Batches of logits beyond which replays of evaluations show no more memory that cannot be used."""


def gathered_bytes(*, sequences: int, s: int, vocabulary: int, e: int) -> int:
    """Bytes of logits (sequences, s, V).

    Shapes:    (sequences, s, V)
    Formula:   sequences * s * V * e
    Source:    derived here; e is 4 where accelerate returns outputs as fp32 (utils/operations.py,
               convert_outputs_to_fp32), else that of the head
    Valid:     every position has logits
    Excludes:  nothing

    >>> gathered_bytes(sequences=32, s=2048, vocabulary=128256, e=4) / 2**30
    31.3125
    """
    return sequences * s * vocabulary * e


def key_value_bytes(*, b: int, tokens: int, heads: int, key_dim: int, value_dim: int, e: int) -> int:
    """Bytes of one layer's cached keys and values.

    Shapes:    keys (b, k, tokens, d_k), values (b, k, tokens, d_v)
    Formula:   b * tokens * k * (d_k + d_v) * e
    Source:    transformers 5.23 cache_utils.py, DynamicLayer
    Valid:     attention that caches keys and values; latent attention of transformers 5.23 caches compressed vectors,
               one head of kv_lora_rank and qk_rope_head_dim (older releases: expanded keys and values)
    Excludes:  the copy while one more token is joined

    >>> 32 * key_value_bytes(b=1, tokens=8192, heads=8, key_dim=128, value_dim=128, e=2) / 2**30
    1.0
    """
    return b * tokens * heads * (key_dim + value_dim) * e


def cached_tokens(*, tokens: int, window: int | None) -> int:
    """Positions whose memory a cache holds while it grows by one token at a time.

    Shapes:    a sliding layer joins its last window - 1 positions with the new one, and keeps a view of the result
    Formula:   min(tokens, window)
    Source:    transformers 5.23 cache_utils.py, DynamicSlidingWindowLayer.update
    Valid:     after the prompt, which is held in whole until the next token
    Excludes:  nothing

    >>> cached_tokens(tokens=9000, window=4096), cached_tokens(tokens=100, window=None)
    (4096, 100)
    """
    return tokens if window is None else min(tokens, window)


def merge_bytes(*, numel: int, e: int, adapter_e: int, packed: int = 0) -> int:
    """Temporaries while an adapter is merged into one matrix.

    Shapes:    B A, and the same scaled, (d_out, d_in) each; over a 4-bit base also the unpacked matrix, their sum, and
               its copy that comes back from the host to be packed
    Formula:   2 * numel * ea; packed: numel * (e + ea + 2 * max(e, ea)), 4 / 64 for scales, and the packed matrix
    Source:    peft 0.21 tuners/lora/layer.py, Linear.merge and get_delta_weight; tuners/lora/bnb.py, Linear4bit.merge;
               bitsandbytes 0.50 nn/modules.py, Params4bit._quantize
    Valid:     plain LoRA; ``packed``: bytes of the new 4-bit matrix, 0 for a plain base
    Excludes:  the base and the adapters

    >>> merge_bytes(numel=10, e=2, adapter_e=4), merge_bytes(numel=64, e=2, adapter_e=4, packed=36)
    (80, 936)
    """
    if not packed:
        return 2 * numel * adapter_e
    return numel * (e + adapter_e + 2 * max(e, adapter_e)) + numel // NF4_WORK + packed
