"""What one rank sends in one optimizer step for the sake of data parallelism, by the engine that shares the work.

Sizes are those of whole tensors; a ring lets each of R ranks send (R - 1) / R of them.
"""

from collections.abc import Iterator

from planner.closed_form.profile import profile_of
from planner.closed_form.rank import divisible
from planner.closed_form.zero import limits_of
from planner.formulas.collectives import Axis, Exchange, Kind, ring_share
from planner.result import Parameters
from planner.spec import SHARDS_WEIGHTS, Scenario, TrainSpec

PACKED_BYTES = 0.5
"""Of a 4-bit parameter as it travels; its scales are not sharded."""

DDP_BUCKET = 25 * 2**20
"""Bytes. torch nn/parallel/distributed.py, bucket_cap_mb."""

GATHER_BUCKET = 500_000_000
"""Elements. DeepSpeed runtime/zero/config.py, allgather_bucket_size, which has no ``auto``."""


def data_exchanges(scenario: Scenario, parameters: Parameters) -> tuple[Exchange, ...]:
    """Gathers of weights and sums of gradients of one step; ``parameters``: those of the rank's part of the model.

    Shapes:    W bytes of weights that are divided, T bytes of gradients, m micro-steps of which s sum gradients
    Formula:   FSDP, ZeRO-3: 2m gathers of W (m where gathered weights stay), s reduce-scatters of T; hybrid: the same
               inside a machine, and s all-reduces of the rank's part of T among machines; DDP: s all-reduces of T;
               ZeRO-1 and 2: the same, and one gather of what is trained after the update
    Source:    Rajbhandari 2020, arXiv:1910.02054, section 7; Zhao 2023, arXiv:2304.11277, sections 3.2 and 4.3;
               DeepSpeed 0.19 runtime/zero/stage_1_and_2.py: buckets are all-reduced, in stage 2 after every micro-step
    Valid:     frozen weights have no gradient; packed weights travel only where they are divided
    Excludes:  the norm of the gradients, buffers, small parameters that ZeRO-3 keeps on every rank
    """
    if scenario.layout.shard * scenario.layout.replicate == 1:
        return ()
    sharding = scenario.train.sharding
    found = _sharded if sharding in SHARDS_WEIGHTS else _replicated
    return tuple(one for one in found(scenario, parameters) if one.ranks > 1)


def _sharded(scenario: Scenario, parameters: Parameters) -> Iterator[Exchange]:
    train, layout, layers = scenario.train, scenario.layout, scenario.model.num_hidden_layers
    passes, sums = passes_of(train), sums_of(scenario)
    yield _ring("shard", "all_gather", layout.shard, passes * stored_bytes(train, parameters), passes * layers)
    gradients = gradient_bytes(scenario) * parameters.trainable
    yield _ring("shard", "reduce_scatter", layout.shard, sums * gradients, sums * layers)
    if layout.replicate > 1:
        yield _ring("replicate", "all_reduce", layout.replicate, 2 * sums * gradients / layout.shard, sums * layers)


def _replicated(scenario: Scenario, parameters: Parameters) -> Iterator[Exchange]:
    train, layout = scenario.train, scenario.layout
    sums, width = sums_of(scenario), gradient_bytes(scenario)
    gradients = width * parameters.trainable
    bucket = float(DDP_BUCKET)
    if train.sharding != "ddp":
        bucket = width * limits_of(scenario).reduce
    calls = sums * max(int(-(-gradients // bucket)), 1)
    yield _ring("shard", "all_reduce", layout.shard, 2 * sums * gradients, calls)
    if train.sharding != "ddp":
        gathers = -(-parameters.trainable // GATHER_BUCKET)
        yield _ring("shard", "all_gather", layout.shard, gradients, gathers)._replace(hidden=False)


def _ring(axis: Axis, kind: Kind, ranks: int, size: float, calls: int) -> Exchange:
    return Exchange(axis, kind, ranks, sent=size * ring_share(ranks), calls=calls, hidden=True)


def passes_of(train: TrainSpec) -> int:
    """How often weights are gathered in one optimizer step: for forward and backward, once where they stay."""
    return train.grad_accumulation * (2 if train.reshard_after_forward else 1)


def stored_bytes(train: TrainSpec, parameters: Parameters) -> float:
    """Bytes of the weights that an engine divides, as they travel."""
    stored = float(_wire(train) * (parameters.total - parameters.quantized))
    return stored + PACKED_BYTES * parameters.quantized if train.quantized and divisible(train) else stored


def sums_of(scenario: Scenario) -> int:
    """How often gradients are summed among ranks in one optimizer step.

    Trainers put all micro-batches but the last under ``no_sync``: transformers 5.23 trainer.py, _run_epoch; under
    DeepSpeed they leave it to the engine.
    """
    train = scenario.train
    if train.sharding == "zero1":
        return 1
    each = train.sharding in ("zero2", "zero3") or scenario.reduces_each
    return train.grad_accumulation if each else 1


def _wire(train: TrainSpec) -> int:
    """Bytes of a gathered parameter: mixed precision casts before it gathers."""
    return 4 if train.weights_dtype == "fp32" and train.autocast == "none" else 2


def gradient_bytes(scenario: Scenario) -> int:
    """Bytes of a gradient as it travels: FSDP and ZeRO sum in the dtype of the gathered weights, DDP in its own."""
    train = scenario.train
    casts = train.sharding.startswith("zero") or (train.shards_by_fsdp and train.autocast != "none")
    return _wire(train) if casts else profile_of(scenario).inventory.trained_bytes
