"""Model parallelism: what each rank of one model holds, as a scenario that the closed forms take like any other.

A rank's scenario has the rank's part of the model, and the rank's part of each sequence; its settings, and with them
its layout, stay those of the whole. Each kind of rank is estimated, and the fullest counts.
"""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.divided import expert_part, tensor_part
from planner.formulas.operations import Ranks
from planner.formulas.parallel import chunks_in_flight, padded_vocabulary, stage_layers
from planner.spec import FLOAT_BYTES, ModelSpec, Scenario, Table, TrainSpec
from planner.spec.layout import divides_as_megatron
from planner.spec.layout import is_divided as is_divided


class Rank(NamedTuple):
    """One kind of rank: its scenario, its stage, and the micro-batches in flight beside the one that it works on."""

    scenario: Scenario
    stage: int = 0
    beside: Fraction = Fraction(0)


def ranks_on_tape(scenario: Scenario) -> Ranks:
    """The sizes of a scenario's layout that show on the tape of its layers."""
    train = scenario.train
    gathers = train.tensor_parallel > 1 and not divides_as_megatron(train)
    return Ranks(
        sequence=train.tensor_parallel if train.sequence_parallel else 1,
        context=train.context_parallel,
        ulysses=train.ulysses_parallel,
        expert=train.expert_parallel,
        vocabulary=scenario.model.vocab_size if gathers else 0,
    )


def kinds_of_rank(scenario: Scenario) -> tuple[Rank, ...]:
    """The ranks that can be the fullest: of stages with equal layers in the middle, the first, which holds most."""
    train = scenario.train
    if not is_divided(train):
        return (Rank(scenario),)
    part = model_part(scenario.model, train)
    shorter = replace(train, seq_len=train.seq_len // (train.context_parallel * train.ulysses_parallel))
    if train.pipeline_parallel == 1:
        return (Rank(replace(scenario, model=part, train=shorter)),)
    found: dict[ModelSpec, Rank] = {}
    for stage in range(train.pipeline_parallel):
        model = stage_of(part, stage, train.pipeline_parallel, train.virtual_stages)
        rank = Rank(replace(scenario, model=model, train=shorter), stage, beside(train, stage))
        found.setdefault(model, rank)
    return tuple(found.values())


def beside(train: TrainSpec, stage: int) -> Fraction:
    """Micro-batches that a stage keeps beside the one whose layers it runs, in shares of all its layers."""
    v = train.virtual_stages
    chunks = chunks_in_flight(stage=stage, p=train.pipeline_parallel, m=train.grad_accumulation, v=v)
    return Fraction(max(chunks - v, 0), v)


def undivided_gradient(scenario: Scenario) -> int:
    """Bytes of a table's gradient beyond the rank's rows: transformers makes that of the words whole on every rank.

    The gradient is a replicated DTensor beside a divided parameter, unless head and words are one table: transformers
    5.23 distributed/tensor_parallel.py, EmbeddingParallel. FSDP2 divides it when the layer's backward ends.
    """
    train, model = scenario.train, scenario.model
    divided = train.tensor_parallel > 1 and not divides_as_megatron(train)
    if not divided or train.method != "full" or model.tie_word_embeddings:
        return 0
    rows, width = model.embeddings[0].shape
    return (model.vocab_size - rows) * width * FLOAT_BYTES[train.weights_dtype]


@lru_cache(maxsize=1024)
def model_part(model: ModelSpec, train: TrainSpec) -> ModelSpec:
    """The model as one of its tensor-parallel and expert-parallel ranks holds it, every layer of it.

    The rows of embedding and head are divided, by Megatron after padding. Megatron's loss takes the logits in parts,
    transformers gathers them (5.23 distributed/tensor_parallel.py, colwise_gather_output).
    """
    t, blocks = train.tensor_parallel, model.blocks
    if train.expert_parallel > 1:
        blocks = tuple(expert_part(block, train.expert_parallel) for block in blocks)
    if t == 1:
        return replace(model, blocks=blocks)
    blocks = tuple(tensor_part(block, t) for block in blocks)
    megatron = divides_as_megatron(train)
    rows = padded_vocabulary(model.vocab_size, t) // t if megatron else -(-model.vocab_size // t)
    words, *others = model.embeddings
    return replace(
        model,
        blocks=blocks,
        vocab_size=rows if megatron else model.vocab_size,
        embeddings=(Table(words.name, (rows, *words.shape[1:])), *others),
        lm_head=replace(model.lm_head, d_out=rows),
    )


def stage_of(model: ModelSpec, stage: int, stages: int, chunks: int = 1) -> ModelSpec:
    """The layers of one stage, with the embedding on the first and the head on the last.

    Stages take turns in holding ``chunks`` parts each. Where embedding and head are one table, both ends have a copy
    (Megatron-LM megatron/core/models/common/language_module/language_module.py, setup_embeddings_and_output_layer).
    """
    counts = stage_layers(model.num_hidden_layers, stages * chunks)
    layout = tuple(
        kind
        for part in range(stage, stages * chunks, stages)
        for kind in model.layout[sum(counts[:part]) : sum(counts[: part + 1])]
    )
    kept = sorted(set(layout))
    model = replace(
        model,
        blocks=tuple(model.blocks[kind] for kind in kept),
        layout=tuple(kept.index(kind) for kind in layout),
        tie_word_embeddings=False,
    )
    if stage > 0:
        after = tuple(linear for linear in model.extra_linears if linear.d_in == model.hidden_size)
        model = replace(model, embeddings=(), extra_norms=(), extra_linears=after, embedding_dropout=0.0)
    if stage < stages - 1:
        before = tuple(linear for linear in model.extra_linears if linear.d_out == model.hidden_size)
        head = replace(model.lm_head, d_out=0, bias=False)
        model = replace(model, vocab_size=0, lm_head=head, final_norm=None, logits_softcap=False, extra_linears=before)
    return model
