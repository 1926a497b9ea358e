"""What stays on the device through the whole step: weights, adapters, and which tensors are trained."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from planner.formulas.adapters import Site, adapter_sites, block_parts, saved_modules
from planner.formulas.params import expert_params, expert_stacks, model_params, quantized_matrices
from planner.formulas.states import (
    NESTED_TABLES,
    QUANT_TABLES,
    Trainable,
    int8_bytes,
    nf4_bytes,
    torchao_nf4_bytes,
)
from planner.result import Parameters
from planner.spec import Linear, ModelSpec, Norm, Table


class Storage(NamedTuple):
    """How parameters are stored. Element sizes in bytes; ``quant`` is empty without quantisation."""

    method: str
    weight_bytes: int
    norm_bytes: int
    outer_bytes: int
    """Of every parameter that is neither quantised nor a norm, a stacked expert, an embedding or the head."""
    tables_bytes: int
    """Of embeddings and head."""
    experts_bytes: int
    quant: str
    double_quant: bool
    fused_experts: bool
    adapter_bytes: int
    saved_bytes: int
    """Of modules that are trained as copies."""
    rank: int
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    torchao: bool = False
    """4-bit weights are torchao's, not bitsandbytes'."""
    packed_experts: bool = False
    """Stacked experts are quantised as the matrices are, each stack as one."""


class Inventory(NamedTuple):
    """Bytes on one device before any sharding, and what is trained."""

    parameters: Parameters
    weights: int
    """All base weights in their stored form."""
    quantized_weights: int
    """The part of ``weights`` that is packed, with its scales."""
    scales: int
    """The scales and codebooks of the packed part, which are no parameters and are never sharded."""
    adapters: int
    trained: tuple[Trainable, ...]
    trained_bytes: int
    """Element size of the trained tensors."""
    gradients: int
    """Bytes of all gradients, which have the dtype of what they train."""
    largest_matrix: int
    """Elements of the largest quantised matrix."""
    largest_stack: int
    """Elements of the largest quantised stack of experts."""

    @property
    def trainable(self) -> int:
        """Parameters that the optimizer sees."""
        return self.parameters.trainable


def _bytes(tensors: tuple[Trainable, ...], element: int) -> int:
    return sum(tensor.numel * tensor.copies * (tensor.e or element) for tensor in tensors)


@lru_cache(maxsize=2048)
def take_inventory(model: ModelSpec, storage: Storage) -> Inventory:
    """Count every tensor of the model under one way of storing it."""
    total = model_params(model)
    norms = sum(count * item.params for item, count in _items(model) if isinstance(item, Norm))
    matrices = quantized_matrices(model, fused_experts=storage.fused_experts) if storage.quant else ()
    stacks = expert_stacks(model) if storage.packed_experts else ()
    quantized = sum(count * site.copies * site.d_in * site.d_out for site, count in (*matrices, *stacks))
    packed = sum(count * site.copies * _packed_bytes(site, storage) for site, count in (*matrices, *stacks))
    stacked = expert_params(model) if storage.experts_bytes != storage.outer_bytes and storage.fused_experts else 0
    if stacked:
        stacked -= sum(count * site.d_in * site.d_out for site, count in stacks)
    plain = norms * storage.norm_bytes + (total - norms - quantized - stacked) * storage.outer_bytes
    plain += stacked * storage.experts_bytes
    if storage.tables_bytes != storage.outer_bytes:
        plain += (storage.tables_bytes - storage.outer_bytes) * _outside(model)
    trained = tuple(_trained(model, storage))
    trainable = sum(tensor.numel * tensor.copies for tensor in trained)
    element = storage.weight_bytes if storage.method == "full" else storage.adapter_bytes
    return Inventory(
        parameters=Parameters(total, trainable, quantized),
        weights=plain + packed,
        quantized_weights=packed,
        scales=packed - (quantized if storage.quant == "int8" else quantized // 2),
        adapters=0 if storage.method == "full" else _bytes(trained, element),
        trained=trained,
        trained_bytes=element,
        gradients=_bytes(trained, element),
        largest_matrix=max((site.d_in * site.d_out for site, _ in matrices), default=0),
        largest_stack=max((site.d_in * site.d_out for site, _ in stacks), default=0),
    )


def _outside(model: ModelSpec) -> int:
    """Entries of embeddings and head, a tied head's once."""
    head = 0 if model.tie_word_embeddings else model.lm_head.params
    return sum(table.params for table in model.embeddings) + head


def _items(model: ModelSpec) -> Iterator[tuple[Linear | Norm | Table, int]]:
    """Every parameter-holding module with the number of times it occurs; a tied head is left out."""
    for table in model.embeddings:
        yield table, 1
    outer: list[Linear | Norm] = [*model.extra_norms, *model.extra_linears]
    for module in outer:
        yield module, 1
    if model.final_norm is not None:
        yield model.final_norm, 1
    if not model.tie_word_embeddings and model.lm_head.d_out:  # stages of a pipeline have none but the last
        yield model.lm_head, 1
    elif model.lm_head.bias:
        yield Table("lm_head.bias", (model.lm_head.d_out,)), 1
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        for item in block_parts(block):
            yield item, count


def _packed_bytes(site: Site, storage: Storage) -> int:
    if storage.quant == "int8":
        return int8_bytes(site.d_out, site.d_in)
    if storage.torchao:
        return torchao_nf4_bytes(site.d_in * site.d_out)
    tables = QUANT_TABLES + (NESTED_TABLES if storage.double_quant else 0)
    return nf4_bytes(site.d_in * site.d_out, double_quant=storage.double_quant) + tables


# ---------------------------------------------------------------- trained tensors


def _trained(model: ModelSpec, storage: Storage) -> Iterator[Trainable]:
    if storage.method == "full":
        yield from _all_tensors(model, storage)
    else:
        yield from _adapter_tensors(model, storage)
        yield from _saved_modules(model, storage.modules_to_save, storage.saved_bytes)


def _all_tensors(model: ModelSpec, storage: Storage) -> Iterator[Trainable]:
    outer = {*model.embeddings, model.lm_head}
    wide, norm = (size if size != storage.weight_bytes else 0 for size in (storage.tables_bytes, storage.norm_bytes))
    for item, count in _items(model):
        e = wide if item in outer else 0
        if isinstance(item, Linear):
            yield Trainable(item.d_out, item.d_in, count, embedding=item in outer, e=e)
            if item.bias:
                yield Trainable(item.d_out, 1, count, e=e)
        elif isinstance(item, Norm):
            yield Trainable(item.size, 1, count * (int(item.weight) + int(item.bias)), e=norm)
        else:
            yield Trainable(item.shape[0], item.params // item.shape[0], count, embedding=item in outer, e=e)


def _adapter_tensors(model: ModelSpec, storage: Storage) -> Iterator[Trainable]:
    """A (r, d_in) and B (d_out, r) of every adapted matrix; stacked experts have one tall pair for all of them."""
    for site, copies in adapter_sites(
        model, storage.targets, storage.modules_to_save, fused_experts=storage.fused_experts
    ):
        rank = storage.rank * site.rank_factor
        tall = site.copies if site.stacked else 1
        yield Trainable(rank * tall, site.d_in, copies * site.copies // tall)
        yield Trainable(site.d_out, rank * tall, copies * site.copies // tall)


def _saved_modules(model: ModelSpec, names: tuple[str, ...], element: int) -> Iterator[Trainable]:
    """Full copies that are trained beside the frozen original, in its dtype: PEFT upcasts adapters only."""
    outer = {table.name for table in model.embeddings} | {model.lm_head.name}
    for path, params in saved_modules(model, names).items():
        columns = model.hidden_size if path in outer else 1
        yield Trainable(params // columns, columns, 1, embedding=path in outer, e=element)
