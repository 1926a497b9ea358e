"""Every single change of a question: one setting, the method, the number of cards, or the card, and nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from planner.hardware import list_gpus
from planner.recommend.cards import is_let
from planner.recommend.offers import as_sold, servable, sharded
from planner.recommend.request import Ask
from planner.spec import (
    METHODS,
    OPTIMIZERS,
    SHARDS_WEIGHTS,
    Attend,
    Autocast,
    Cluster,
    Float,
    Gpu,
    Kernels,
    Loss,
    Method,
    Quant,
    TrainSpec,
)

PEFT_TARGETS = ("q_proj", "v_proj")
"""PEFT's own targets for Llama-like models where none are named. peft utils/constants.py."""

EVERY_MATRIX = ("all-linear",)

Scalars = Mapping[str, str | int | float | bool]

LARGER = 1.10
"""A card with less memory more than this is no larger one (ours): error correction takes 7 % of some."""

DIVISIONS = ("ddp", "zero1", "zero2", "zero3", "fsdp")
AMONG_MACHINES = (*DIVISIONS, "hsdp")
"""Kinds of sharding: one replicates among machines, and is FSDP in a single one."""


@dataclass(frozen=True, kw_only=True)
class Single:
    """One change: ``settings`` or the ``method``, or the hardware, with the question that it leads to."""

    ask: Ask
    settings: Scalars
    method: Method
    moves: bool = False
    """Whether it needs other hardware."""


def singles(ask: Ask, train: TrainSpec) -> Iterator[Single]:
    """Every single change from ``train``, whether the stack and the card can do it or not."""
    method = train.method
    for settings in settings_of(train, ask.cluster):
        yield Single(ask=ask.using(method, settings), settings=settings, method=method)
    for other in () if "peft_config" in ask.request.settings else METHODS:
        if other != method:
            yield Single(ask=ask.using(other, {}), settings={"method": other}, method=other)
    yield from _hardware(ask, train)


def settings_of(train: TrainSpec, cluster: Cluster) -> Iterator[Scalars]:
    """Every other value of every setting that acts, numbers doubled and halved."""
    yield {"gradient_checkpointing": not train.gradient_checkpointing}
    yield from _others(train, "loss", get_args(Loss))
    yield from _others(train, "kernels", get_args(Kernels))
    yield from _others(train, "optimizer", OPTIMIZERS)
    yield from _others(train, "attention", get_args(Attend))
    yield from _batches(train)
    yield from _scaled(train, "seq_len")
    if train.uses_adapters and not train.peft_config:
        yield from _adapters(train)
    if train.quantized:
        yield from _quantised(train)
    yield from _others(train, "weights_dtype", get_args(Float))
    yield from _others(train, "autocast", get_args(Autocast))
    if cluster.world_size > 1:
        several = min(cluster.nodes, cluster.gpus) > 1
        yield from _others(train, "sharding", AMONG_MACHINES if several else DIVISIONS)


def _others(train: TrainSpec, name: str, values: tuple[str, ...]) -> Iterator[Scalars]:
    return ({name: value} for value in values if value != getattr(train, name))


def _scaled(train: TrainSpec, name: str) -> Iterator[Scalars]:
    now = getattr(train, name)
    yield {name: 2 * now}
    if now > 1:
        yield {name: now // 2}


def _batches(train: TrainSpec) -> Iterator[Scalars]:
    """Twice and half the micro-batch, by themselves, and with the sequences of a step kept by accumulation."""
    batch, accumulated = train.micro_batch_size, train.grad_accumulation
    yield from _scaled(train, "micro_batch_size")
    if accumulated % 2 == 0:
        yield {"micro_batch_size": 2 * batch, "grad_accumulation": accumulated // 2}
    if batch % 2 == 0:
        yield {"micro_batch_size": batch // 2, "grad_accumulation": 2 * accumulated}


def _adapters(train: TrainSpec) -> Iterator[Scalars]:
    yield from _scaled(train, "lora_rank")
    for targets in (PEFT_TARGETS, EVERY_MATRIX):
        if train.lora_targets != targets:
            yield {"lora_targets": ",".join(targets)}
    yield from _others(train, "adapter_dtype", ("fp32", "bf16"))


def _quantised(train: TrainSpec) -> Iterator[Scalars]:
    yield from _others(train, "quant", get_args(Quant))
    if train.quant != "int8":
        yield {"double_quant": not train.double_quant}
    if train.sharding in SHARDS_WEIGHTS:
        yield from _others(train, "quant_storage", ("uint8", "bf16"))


# ---------------------------------------------------------------- hardware


def _hardware(ask: Ask, train: TrainSpec) -> Iterator[Single]:
    """One card more, by each kind of sharding where there was none; and as many of the next larger card."""
    gpu, count = as_sold(ask), ask.cluster.world_size
    if gpu is None:
        return
    kinds = (train.sharding,) if count > 1 else ("ddp", "fsdp")
    known = ask.request.network_gbps
    for kind in kinds if is_let(gpu, _one_more(gpu, count), known) else ():
        yield _moved(ask, gpu, _one_more(gpu, count), kind, train.method)
    larger = next_larger(ask)
    if larger is not None and is_let(larger, count, known):
        yield _moved(ask, larger, count, train.sharding, train.method)


def _moved(ask: Ask, gpu: Gpu, count: int, sharding: str, method: Method) -> Single:
    variant = sharded(ask, gpu, count, sharding, method)
    new = "sharding" in variant.request.settings and ask.cluster.world_size == 1
    return Single(ask=variant, settings={"sharding": sharding} if new else {}, method=method, moves=True)


def _one_more(gpu: Gpu, count: int) -> int:
    """One card in a machine; one machine where machines are full."""
    return count + 1 if count < gpu.gpus_per_node else count + gpu.gpus_per_node


def next_larger(ask: Ask) -> Gpu | None:
    """Of the cards with more memory those with least, and of these the cheapest; ``None`` for the largest of all."""
    least = LARGER * ask.cluster.gpu.memory_bytes
    larger = [gpu for gpu in list_gpus(ask.request.profiles_dir) if gpu.memory_bytes > least and servable(ask, gpu)]
    return min(larger, key=lambda gpu: (gpu.memory_bytes // 2**30, _usd(gpu), gpu.id), default=None)


def _usd(gpu: Gpu) -> float:
    usd = None if gpu.price is None else gpu.price.usd
    return float("inf") if usd is None else usd
