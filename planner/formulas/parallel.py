"""Model parallelism as its papers print it: activations, micro-batches in flight, bubbles and volumes.

Symbols are those of Korthikanti 2022: ``s`` sequence, ``b`` micro-batch, ``h`` hidden size, ``a`` heads, ``L`` layers,
``V`` vocabulary, ``t`` tensor-parallel ranks, ``p`` pipeline stages, ``v`` chunks of the model on each stage,
``m`` micro-batches of an optimizer step. The plan itself plays the tape of what one rank holds
(``closed_form/parallel.py``); these formulas are what it is held against, and what the schedules and volumes are.
"""

from fractions import Fraction
from typing import Literal, NamedTuple

Recompute = Literal["none", "selective", "full"]


def layer_activations(
    *, s: int, b: int, h: int, a: int, t: int = 1, sequence: bool = False, recompute: Recompute = "none"
) -> int:
    """Bytes that one GPT layer keeps for its backward pass on one of ``t`` ranks.

    Shapes:    residual stream (s, b, h) in 16 bit, dropout masks in 8, scores (a, s, s)
    Formula:   sbh*(10 + 24/t + 5as/(ht)); with sequence parallelism sbh/t*(34 + 5as/h); ``selective`` recomputes the
               scores and drops the term 5as/h; ``full`` keeps the layer's input, 2sbh
    Source:    Korthikanti 2022, arXiv:2205.05198, equations 1 to 4, table 2 and section 5
    Valid:     a GPT layer in 16 bit with dropout, an MLP of 4h and multi-head attention; full recomputation under
               sequence parallelism keeps the rank's part of the input
    Excludes:  statistics of the layer norms and of fused attention (8bs each, 4abs), which the paper calls small

    >>> layer_activations(s=2048, b=1, h=12288, a=96) // (2048 * 12288)
    114
    >>> layer_activations(s=2048, b=1, h=12288, a=96, t=8, sequence=True, recompute="selective")
    106954752
    """
    stream = s * b * h
    if recompute == "full":
        return 2 * stream // (t if sequence else 1)
    scores = 5 * a * s * s * b if recompute == "none" else 0
    whole = 34 * stream if sequence else 24 * stream
    return (whole + scores) // t + (0 if sequence else 10 * stream)


class Megatron(NamedTuple):
    """Arguments of Megatron-LM's report: the model, and how it is divided."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    s: int
    b: int = 1
    kv_heads: int = 0
    """0: one for every head."""
    kv_channels: int = 0
    """0: hidden / heads."""
    experts: int = 1
    swiglu: bool = False
    untied: bool = False
    t: int = 1
    p: int = 1
    v: int = 1
    m: int = 0
    """Micro-batches of a step; 0: at least p."""
    data: int = 1
    distributed_optimizer: bool = False


def megatron_parameters(of: Megatron) -> Fraction:
    """Parameters on the fullest rank, by Megatron-LM's report.

    Shapes:    layers 2Lh^2*((1 + kv/a)*qd/h + f/h*E*g + 2/h + 1/(Lh)), tables Vh; g is 3/2 with SwiGLU
    Formula:   (layers/p + Vh)/t, and a second table where it is untied and p is 1
    Source:    Megatron-LM megatron/training/theoretical_memory_usage.py, compute_weight_and_optimizer_memory
    Valid:     its models: without biases, with norms of one vector counted twice
    Excludes:  what the report leaves out: biases, position embeddings, routers; norms are divided with the rest

    >>> round(megatron_parameters(Megatron(layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200, s=2048)) / 10**9)
    175
    """
    h = of.hidden
    query = (of.kv_channels or h // of.heads) * of.heads
    attention = (1 + Fraction(of.kv_heads or of.heads, of.heads)) * Fraction(query, h)
    feed = Fraction(of.ffn, h) * of.experts * (Fraction(3, 2) if of.swiglu else 1)
    norms = Fraction(2, h) + Fraction(1, of.layers * h)
    layers = 2 * of.layers * h * h * (attention + feed + norms)
    tables = of.vocab * h * (2 if of.untied and of.p == 1 else 1)
    return (layers / of.p + tables) / of.t


def megatron_states(of: Megatron) -> Fraction:
    """Bytes of weights, gradients and optimizer on the fullest rank, by Megatron-LM's report.

    Shapes:    16-bit weights, fp32 gradients, fp32 master weights and two moments
    Formula:   18 bytes a parameter; with the distributed optimizer 6 + 12/data
    Source:    Megatron-LM megatron/training/theoretical_memory_usage.py, compute_weight_and_optimizer_memory
    Valid:     its mixed precision with Adam
    Excludes:  buffers of the reduction

    >>> one = Megatron(layers=48, hidden=6144, heads=64, ffn=24576, vocab=51200, s=2048, t=8)
    >>> round(float(megatron_states(one)) / 2**30, 1)
    46.2
    """
    each = 6 + Fraction(12, of.data) if of.distributed_optimizer else Fraction(18)
    return megatron_parameters(of) * each


def megatron_activations(of: Megatron) -> Fraction:
    """Bytes of activations on the first stage, by Megatron-LM's report.

    Shapes:    layers sbh*(18 + 4f/h), token ids 8sb and dropout masks sbh of the embedding of p micro-batches
    Formula:   all of it times 1 + (p-1)/(pv) when interleaved, or min(1, m/p); with p = 1 also 4sbh*(1 + V/h) for head
               and loss; divided by t
    Source:    Megatron-LM megatron/training/theoretical_memory_usage.py, compute_activation_memory
    Valid:     sequence parallelism and selective recomputation
    Excludes:  gathered buffers, workspaces

    >>> one = Megatron(layers=48, hidden=6144, heads=64, ffn=24576, vocab=51200, s=2048, b=4, t=8)
    >>> round(float(megatron_activations(one)) / 2**30, 1)
    9.8
    """
    tokens = of.s * of.b
    layer = tokens * of.hidden * (18 + 4 * Fraction(of.ffn, of.hidden))
    held = of.layers * layer + (8 + of.hidden) * tokens * of.p
    if of.v > 1:
        held *= interleaving_penalty(of.p, of.v)
    elif of.m:
        held *= min(Fraction(1), Fraction(of.m, of.p))
    if of.p == 1:
        held += 4 * tokens * of.hidden * (1 + Fraction(of.vocab, of.hidden))
    return held / of.t


def interleaving_penalty(p: int, v: int) -> Fraction:
    """How many times the activations of 1F1B the first stage of an interleaved schedule holds.

    Shapes:    chunks of L/(pv) layers
    Formula:   1 + (p-1)/(pv)
    Source:    Korthikanti 2022, arXiv:2205.05198, section 4.2.3
    Valid:     at least p micro-batches, v > 1; the plan counts chunks (``chunks_in_flight``), which is the same there
    Excludes:  the last stages, which hold less

    >>> float(interleaving_penalty(8, 3))
    1.2916666666666667
    """
    return 1 + Fraction(p - 1, p * v)


def chunks_in_flight(*, stage: int, p: int, m: int, v: int = 1) -> int:
    """Chunks whose forward pass has run on a stage and whose backward pass has not, at most.

    Shapes:    v chunks of the model on each of p stages, m micro-batches a step
    Formula:   1F1B: min(m, p - stage); interleaved: min(mv, 2*(p - stage - 1) + (v-1)*p + 1)
    Source:    Narayanan 2021, arXiv:2104.04473, section 2.2; Megatron-LM megatron/core/pipeline_parallel/schedules.py,
               get_pp_rank_microbatches
    Valid:     1F1B, and interleaved with m a multiple of p; with m = p Megatron warms up with all of them
    Excludes:  schedules that split backward (zero bubble)

    >>> [chunks_in_flight(stage=stage, p=4, m=8) for stage in range(4)]
    [4, 3, 2, 1]
    >>> chunks_in_flight(stage=0, p=8, m=64, v=3) / (3 * 8) == float(interleaving_penalty(8, 3))
    True
    """
    if v == 1:
        return min(m, p - stage)
    if m == p:
        return m * v
    return min(m * v, 2 * (p - stage - 1) + (v - 1) * p + 1)


def bubble(*, p: int, m: int, v: int = 1) -> Fraction:
    """Time in which a stage waits, as a share of the time in which it works.

    Shapes:    p stages, m micro-batches a step, v chunks on each stage
    Formula:   (p-1)/(vm)
    Source:    Narayanan 2021, arXiv:2104.04473, sections 2.2.1 and 2.2.2
    Valid:     stages that take equally long
    Excludes:  the time of sending

    >>> float(bubble(p=4, m=8)), float(bubble(p=4, m=8, v=2))
    (0.375, 0.1875)
    """
    return Fraction(p - 1, v * m)


def stage_layers(layers: int, parts: int) -> tuple[int, ...]:
    """Layers of each part of a model that is cut into ``parts``, in order.

    Shapes:    L layers, with the embedding before the first and the head after the last
    Formula:   L/parts where that is whole; else embedding and head take the place of a layer, and what remains of
               (L + 2)/parts goes to the first parts
    Source:    Megatron-LM, equal stages; Grattafiori 2024, arXiv:2407.21783, section 3.3.2 (405B: one layer less on the
               first and the last stage); torchtitan distributed/pipeline_parallel.py for what remains
    Valid:     parts <= L
    Excludes:  stages that are cut by hand

    >>> stage_layers(80, 4), stage_layers(126, 4)
    ((20, 20, 20, 20), (31, 32, 32, 31))
    """
    if layers % parts == 0:
        return (layers // parts,) * parts
    each, more = divmod(layers + 2, parts)
    counts = [each + (1 if part < more else 0) for part in range(parts)]
    counts[0] -= 1
    counts[-1] -= 1
    return tuple(counts)


def padded_vocabulary(vocab: int, t: int) -> int:
    """Rows of a vocabulary table that ``t`` ranks divide equally.

    Shapes:    (V, h), of which each rank holds a multiple of 128 rows
    Formula:   V rounded up to a multiple of 128t
    Source:    Megatron-LM megatron/training/tokenizer, --make-vocab-size-divisible-by 128
    Valid:     Megatron-LM's default
    Excludes:  transformers, which divides rows without padding

    >>> padded_vocabulary(50257, 8)
    51200
    """
    step = 128 * t
    return -(-vocab // step) * step


# ---------------------------------------------------------------- volumes


def ulysses_volume(*, s: int, b: int, h: int, kv: float, u: int, e: int = 2) -> float:
    """Bytes that a rank sends for one layer's forward pass under Ulysses sequence parallelism.

    Shapes:    of s/u tokens: query and output (s/u, b, h), key and value (s/u, b, kv)
    Formula:   all-to-alls of query, key, value and output: (2h + 2kv)*b*s/u*e*(u-1)/u
    Source:    Jacobs 2023, arXiv:2309.14509, section 3.2: 4Nh/P for kv = h
    Valid:     backward sends as much, recomputation once more
    Excludes:  the parameters, which are sharded over the same ranks

    >>> ulysses_volume(s=65536, b=1, h=4096, kv=4096, u=8) / (4 * 65536 * 4096 / 8 * 2)
    0.875
    """
    return (2 * h + 2 * kv) * b * s / u * e * (u - 1) / u


def ring_volume(*, s: int, b: int, kv: int, c: int, e: int = 2) -> float:
    """Bytes that a rank sends for one layer's forward pass of ring attention.

    Shapes:    key and value (s/c, b, kv) of every other rank pass by
    Formula:   (c-1)*2*b*s/c*kv*e
    Source:    Liu 2023, arXiv:2310.01889, section 3
    Valid:     a ring, or one all-gather of all keys and values, which is torch's default and sends as much
    Excludes:  backward, which passes keys and values again, and their gradients in fp32 (torch 2.13
               _context_parallel/_attention.py, convert_to_f32) once around

    >>> ring_volume(s=131072, b=1, kv=1024, c=4)
    402653184.0
    """
    return (c - 1) * 2 * b * s / c * kv * e


def expert_volume(*, tokens: int, h: int, top_k: int, ranks: int, e: int = 2) -> float:
    """Bytes that a rank sends for one layer's forward pass under expert parallelism.

    Shapes:    (tokens*top_k, h) rows out to the experts and back
    Formula:   two all-to-alls, each tokens*top_k*h*e*(ranks-1)/ranks
    Source:    Lepikhin 2020, arXiv:2006.16668, section 3.2; Rajbhandari 2022, arXiv:2201.05596, section 5
    Valid:     evenly routed tokens, none dropped
    Excludes:  the counts that are exchanged first

    >>> expert_volume(tokens=4096, h=4096, top_k=2, ranks=8)
    117440512.0
    """
    return 2 * tokens * top_k * h * e * (ranks - 1) / ranks


def stage_volume(*, s: int, b: int, h: int, t: int = 1, e: int = 2) -> float:
    """Bytes that a rank sends to the next stage for one micro-batch and chunk.

    Shapes:    the residual stream (s, b, h)
    Formula:   sbh*e, or its t-th part where tensor-parallel ranks hold one each (sequence parallelism)
    Source:    Narayanan 2021, arXiv:2104.04473, section 4.1 (scatter and gather)
    Valid:     backward sends as much in the other direction
    Excludes:  nothing

    >>> stage_volume(s=2048, b=1, h=12288, t=8)
    6291456.0
    """
    return s * b * h * e / t
