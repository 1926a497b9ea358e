"""What one rank sends in one optimizer step because the model or its sequences are divided: axis by axis.

Each kind of rank sends for its own layers; that of the rank with the most layers is told. Data parallelism has its own
exchanges (``throughput/exchanges.py``).
"""

from collections.abc import Iterator
from typing import NamedTuple

from planner.closed_form.parallel import kinds_of_rank
from planner.formulas.collectives import Axis, Exchange, Kind, ring_share
from planner.formulas.parallel import expert_volume, ring_volume, stage_volume, ulysses_volume
from planner.spec import FLOAT_BYTES, Attention, Block, ModelSpec, Scenario, TrainSpec
from planner.spec.layout import divides_as_megatron


class _Share(NamedTuple):
    """One rank's part: its layers, and the bytes of the residual stream of one micro-batch that its group shares."""

    model: ModelSpec
    train: TrainSpec
    """Of the whole."""
    tokens: int
    """That the rank sees in one micro-batch."""
    e: int
    stream: int

    @property
    def layers(self) -> Iterator[tuple[Block, int]]:
        """Kinds of layer with how many there are."""
        return zip(self.model.blocks, self.model.block_counts, strict=True)

    @property
    def forwards(self) -> int:
        """Forward passes of one micro-batch, the recomputed one among them."""
        return 2 if self.train.gradient_checkpointing else 1


def model_exchanges(scenario: Scenario) -> tuple[Exchange, ...]:
    """Collectives of the axes tensor, context, ulysses, expert and pipeline, of one rank in one optimizer step.

    Shapes:    the residual stream (b, s, h) in 16 bit, and what ``formulas/parallel.py`` names
    Formula:   those of ``formulas/parallel.py``, for each layer, micro-batch, forward, recomputed and backward pass
    Source:    see there; what transformers' hooks and torch's ring do beyond the papers stands at each axis
    Valid:     layouts that ``stacks/layouts.py`` lets through
    Excludes:  what is exchanged once or is small: positions, expert counts, norms of gradients
    """
    train = scenario.train
    part = max((rank.scenario for rank in kinds_of_rank(scenario)), key=lambda one: one.model.num_hidden_layers)
    e = 2 if train.autocast != "none" or train.quantized else FLOAT_BYTES[train.weights_dtype]
    tokens = part.train.tokens
    share = _Share(part.model, train, tokens, e, tokens * scenario.model.hidden_size * e)
    found: list[Exchange] = []
    for size, axis in ((train.tensor_parallel, _tensor), (train.context_parallel, _context)):
        found.extend(axis(share) if size > 1 else ())
    for size, axis in ((train.ulysses_parallel, _ulysses), (train.expert_parallel, _expert)):
        found.extend(axis(share) if size > 1 else ())
    if train.pipeline_parallel > 1:
        found.extend(_pipeline(share))
    times = train.grad_accumulation
    every = (one._replace(sent=times * one.sent, calls=times * one.calls) for one in found if one.calls)
    return (*every, *_tied(scenario))


def _exchange(axis: Axis, kind: Kind, ranks: int, sent: float, calls: int, *, hidden: bool = False) -> Exchange:
    return Exchange(axis, kind, ranks, sent=float(sent), calls=calls, hidden=hidden)


# ---------------------------------------------------------------- tensor


def _tensor(share: _Share) -> Iterator[Exchange]:
    ranks = share.train.tensor_parallel
    part = ring_share(ranks) * share.stream
    if share.train.sequence_parallel:
        gathers, scatters = _sequence_calls(share)
        yield _exchange("tensor", "all_gather", ranks, gathers * part, gathers)
        yield _exchange("tensor", "reduce_scatter", ranks, scatters * part, scatters)
    else:
        sums = _sums(share)
        yield _exchange("tensor", "all_reduce", ranks, 2 * sums * part, sums)
    if not divides_as_megatron(share.train):
        logits = share.tokens * share.model.vocab_size * share.e
        yield _exchange("tensor", "all_gather", ranks, ring_share(ranks) * logits, 1)


def _sequence_calls(share: _Share) -> tuple[int, int]:
    """All-gathers and reduce-scatters: two of each in every pass over a layer, and in backward the inputs again.

    The embedding scatters, the head gathers, each once forward and once backward. Frozen matrices need no input again.
    """
    layers, ends = share.model.num_hidden_layers, sum(_ends(share))
    again = 2 if share.train.method == "full" else 0
    gathers = layers * (2 * share.forwards + 2 + again) + ends
    scatters = layers * (2 * share.forwards + 2) + ends
    return gathers, scatters


def _sums(share: _Share) -> int:
    """All-reduces of the residual stream.

    Forward after attention and MLP; a checkpoint of torch recomputes up to the last tensor that is needed, which stands
    before the last sum. Backward: Megatron sums a part's gradient once, transformers' hooks that of each matrix that is
    divided by columns (5.23 distributed/tensor_parallel.py, ColwiseParallel). Embedding forward, head backward.
    """
    megatron = divides_as_megatron(share.train)
    again = (2 if megatron else 1) * (share.forwards - 1)
    layers = sum(count * (2 + again + (2 if megatron else _columns(block))) for block, count in share.layers)
    return layers + sum(_ends(share))


def _columns(block: Block) -> int:
    """Matrices, or stacked experts, that read the whole stream and are divided by columns."""
    attention, experts = block.attention, block.experts
    queries = len(attention.inputs) if attention.latent is None else len(attention.inner) + len(attention.inputs) - 1
    if experts is None:
        return queries + (0 if block.mlp is None else len(block.mlp.inputs))
    beside = (experts.shared, experts.parallel_dense)
    return queries + 1 + sum(len(mlp.inputs) for mlp in beside if mlp is not None)


def _ends(share: _Share) -> tuple[int, int]:
    """Whether the rank has the embedding, and the head."""
    return int(bool(share.model.embeddings)), int(share.model.lm_head.d_out > 0)


# ---------------------------------------------------------------- sequences


def _context(share: _Share) -> Iterator[Exchange]:
    """Keys and values forward and backward; their fp32 gradients go all the way around, home again.

    Source: torch 2.13 _context_parallel/_attention.py: rotate_method ALL_GATHER, and dkv_rotater in backward.
    """
    ranks, b = share.train.context_parallel, share.train.micro_batch_size
    s, layers = share.tokens // b * ranks, share.model.num_hidden_layers
    once = sum(
        count * ring_volume(s=s, b=b, kv=_key_value(block.attention) // 2, c=ranks, e=share.e)
        for block, count in share.layers
    )
    returned = sum(count * share.tokens * _key_value(block.attention) * 4 * ranks for block, count in share.layers)
    passes = share.forwards + 1
    yield _exchange("context", "all_gather", ranks, passes * once, passes * layers)
    yield _exchange("context", "send", ranks, returned, ranks * layers, hidden=True)


def _ulysses(share: _Share) -> Iterator[Exchange]:
    """Query, key, value and output in every pass, each its own all-to-all, with copies of heads that do not suffice."""
    ranks, b = share.train.ulysses_parallel, share.train.micro_batch_size
    s, passes = share.tokens // b * ranks, share.forwards + 1
    sent = 0.0
    for block, count in share.layers:
        heads = block.attention.num_attention_heads * block.attention.head_dim
        copies = max(ranks // block.attention.num_key_value_heads, 1)
        keys = copies * _key_value(block.attention) / 2
        sent += count * ulysses_volume(s=s, b=b, h=heads, kv=keys, u=ranks, e=share.e)
    yield _exchange("ulysses", "all_to_all", ranks, passes * sent, passes * 4 * share.model.num_hidden_layers)


def _key_value(attention: Attention) -> int:
    """Elements per token of keys and values together."""
    if attention.latent is None:
        return 2 * attention.num_key_value_heads * attention.head_dim
    latent, heads = attention.latent, attention.num_attention_heads
    return heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim + latent.v_head_dim)


# ---------------------------------------------------------------- experts and stages


def _expert(share: _Share) -> Iterator[Exchange]:
    """Rows to their experts and back in every pass; with sequence parallelism each rank sends its own tokens' rows."""
    ranks, passes = share.train.expert_parallel, share.forwards + 1
    tokens = share.tokens // (share.train.tensor_parallel if share.train.sequence_parallel else 1)
    hidden = share.stream // (share.tokens * share.e)
    holding = [(block.experts, count) for block, count in share.layers if block.experts is not None]
    sent = sum(
        count * expert_volume(tokens=tokens, h=hidden, top_k=experts.top_k, ranks=ranks, e=share.e)
        for experts, count in holding
    )
    yield _exchange("expert", "all_to_all", ranks, passes * sent, passes * 2 * sum(count for _, count in holding))


def _pipeline(share: _Share) -> Iterator[Exchange]:
    """The stream forward and its gradient backward for each chunk, beside the next one's work where they interleave."""
    train = share.train
    t = train.tensor_parallel if train.sequence_parallel else 1
    each = stage_volume(s=share.tokens, b=1, h=share.stream // (share.tokens * share.e), t=t, e=share.e)
    calls = 2 * train.virtual_stages
    yield _exchange("pipeline", "send", train.pipeline_parallel, calls * each, calls, hidden=train.virtual_stages > 1)


def _tied(scenario: Scenario) -> Iterator[Exchange]:
    """Both ends of a pipeline have a copy of a tied table, and sum its gradients once a step.

    Source: Megatron-LM megatron/core/distributed/finalize_model_grads.py, _allreduce_word_embedding_grads.
    """
    train, model = scenario.train, scenario.model
    if train.pipeline_parallel > 1 and model.tie_word_embeddings and train.method == "full":
        size = model.embeddings[0].params // train.tensor_parallel * FLOAT_BYTES[train.weights_dtype]
        yield _exchange("pipeline", "all_reduce", 2, 2 * ring_share(2) * size, 1)
