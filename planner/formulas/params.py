"""Parameter counts of a model: in all, per token, quantised, trained by adapters.

Everything here is cached by model, because a plan asks thousands of times for the same few counts.
"""

from collections.abc import Iterator
from functools import lru_cache

from planner.formulas.adapters import Adapters, Site, adapters, block_parts, expert_sites
from planner.spec import Block, Experts, ModelSpec

__all__ = [
    "Adapters",
    "active_params",
    "adapters",
    "block_params",
    "computed_in_vain",
    "expert_params",
    "lora_params",
    "model_params",
    "outer_params",
    "quantizable_params",
]


def block_params(block: Block) -> int:
    """Parameters of one layer.

    Shapes:    those of its ``Linear``, ``Norm`` and ``Table`` parts
    Formula:   the sum of their entries, biases included
    Source:    derived here; every family is held against transformers 5.23 on the meta device
    Valid:     every architecture of the catalogue
    Excludes:  buffers (rotary frequencies, causal masks, router corrections)
    """
    return sum(part.params for part in block_parts(block))


@lru_cache(maxsize=1024)
def outer_params(model: ModelSpec) -> int:
    """Parameters outside the layers: embeddings, head, norms and projections.

    Shapes:    embeddings (V, h), (positions, h)    head (V, h)    norms (h)
    Formula:   the sum; a tied head adds only its bias
    Source:    Press and Wolf 2016, arXiv:1608.05859, for the tie
    Valid:     every architecture of the catalogue
    Excludes:  the layers (see ``block_params``)
    """
    norms = sum(norm.params for norm in (model.final_norm, *model.extra_norms) if norm)
    inner = sum(table.params for table in model.embeddings) + sum(linear.params for linear in model.extra_linears)
    head = model.lm_head.params - (model.lm_head.weight_params if model.tie_word_embeddings else 0)
    return inner + norms + head


@lru_cache(maxsize=1024)
def model_params(model: ModelSpec) -> int:
    """Parameters of the whole model as the text class loads it, a tied head counted once.

    Shapes:    see ``block_params`` and ``outer_params``
    Formula:   outer + sum over kinds of layer of count*block
    Source:    derived here; equals the published count of every model in the catalogue, whose file explains the rest
    Valid:     every architecture of the catalogue
    Excludes:  adapters, vision and audio towers, layers for multi-token prediction
    """
    blocks = zip(model.blocks, model.block_counts, strict=True)
    return outer_params(model) + sum(count * block_params(block) for block, count in blocks)


@lru_cache(maxsize=1024)
def expert_params(model: ModelSpec) -> int:
    """Entries of the routed experts, which act on a few tokens each.

    Shapes:    gate_up (E, 2f, h)    down (E, h, f), and their biases
    Formula:   sum over the layers that hold experts
    Source:    transformers 5 MixtralExperts and its like
    Valid:     every architecture of the catalogue; 0 for dense models
    Excludes:  routers and shared experts, which act on every token
    """
    return sum(entries for _, entries in _routed(model))


def _routed(model: ModelSpec) -> Iterator[tuple[Experts, int]]:
    """The experts of each kind of layer, with their entries in all layers of that kind."""
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        if block.experts:
            yield block.experts, count * sum(table.params for table in block.experts.tables)


@lru_cache(maxsize=1024)
def active_params(model: ModelSpec) -> int:
    """Parameters that act on one token.

    Shapes:    top_k of the E experts, everything else whole
    Formula:   all - routed + sum over layers of routed*top_k/E
    Source:    Jiang et al. 2024, arXiv:2401.04088, section 2.1
    Valid:     every architecture of the catalogue; all parameters for dense models
    Excludes:  nothing: embeddings and head are counted, some model cards leave them out
    """
    acting = sum(entries * experts.top_k // experts.num_experts for experts, entries in _routed(model))
    return model_params(model) - expert_params(model) + acting


@lru_cache(maxsize=1024)
def computed_in_vain(model: ModelSpec) -> int:
    """Entries of experts that compute for a token that did not choose them.

    Shapes:    (E - top_k)/E of the routed experts of layers whose experts all work
    Formula:   sum over those layers of routed - routed*top_k/E
    Source:    transformers 5.23 models/llama4/modeling_llama4.py, Llama4TextMoe.forward: unchosen rows are zeros
    Valid:     every architecture of the catalogue; 0 for all but Llama 4
    Excludes:  padding of grouped products
    """
    working = ((experts, entries) for experts, entries in _routed(model) if experts.computes_all)
    return sum(entries - entries * experts.top_k // experts.num_experts for experts, entries in working)


@lru_cache(maxsize=1024)
def quantizable_params(model: ModelSpec, *, fused_experts: bool = True) -> int:
    """Entries that bitsandbytes stores in 4 or 8 bits when the whole model is quantised.

    Shapes:    weights of the ``nn.Linear`` and ``Conv1D`` modules inside the model
    Formula:   sum of d_in*d_out; with separate experts (transformers 4) theirs and the routers' too
    Source:    transformers 5.23 integrations/bitsandbytes.py, replace_with_bnb_linear (``type(module) is nn.Linear``);
               quantizers/base.py, get_keys_to_not_convert (the output head); 4.x tested ``isinstance``
    Valid:     no ``llm_int8_skip_modules``
    Excludes:  the head, embeddings, biases, norms, stacked experts and routers, subclasses of nn.Linear (Falcon)
    """
    matrices = quantized_matrices(model, fused_experts=fused_experts)
    return sum(count * site.copies * site.d_in * site.d_out for site, count in matrices)


@lru_cache(maxsize=1024)
def quantized_matrices(model: ModelSpec, *, fused_experts: bool = True) -> tuple[tuple[Site, int], ...]:
    """The matrices behind ``quantizable_params``, each with the number of layers that hold it."""
    found = [(linear, 1) for linear in model.extra_linears]
    experts: list[tuple[Site, int]] = []
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        found += [(linear, count) for linear in block.linears]
        if block.experts and not fused_experts:
            experts += [(site, count) for site in expert_sites(block.experts, fused_experts=False)]
    plain = [(linear, count) for linear, count in found if not (fused_experts and linear.subclass)]
    return (*((Site(linear.name, linear.d_in, linear.d_out), count) for linear, count in plain), *experts)


@lru_cache(maxsize=1024)
def expert_stacks(model: ModelSpec) -> tuple[tuple[Site, int], ...]:
    """Three-dimensional expert tensors as matrices of all their rows, each with the number of layers that hold it.

    Biases of experts have two dimensions, and routers: axolotl 0.19 monkeypatch/moe_quant.py quantises neither.
    """
    return tuple(
        (Site(table.name, table.shape[-1], table.params // table.shape[-1]), count)
        for block, count in zip(model.blocks, model.block_counts, strict=True)
        for table in (block.experts.tables if block.experts else ())
        if len(table.shape) == 3
    )


def lora_params(
    model: ModelSpec,
    targets: tuple[str, ...],
    rank: int,
    modules_to_save: tuple[str, ...] = (),
    *,
    fused_experts: bool = True,
) -> int:
    """Trainable parameters of a LoRA configuration.

    Shapes:    A (r, d_in), B (d_out, r) per adapted matrix; a full copy per saved module
    Formula:   r*sum(d_in + d_out) + the saved modules, whose frozen originals stay in memory too
    Source:    Hu et al. 2021, arXiv:2106.09685, section 4.1; targets as PEFT 0.21 resolves them (see ``adapters``)
    Valid:     plain LoRA, also on embeddings
    Excludes:  the frozen base
    """
    return adapters(model, targets, modules_to_save, fused_experts=fused_experts).params(rank)
