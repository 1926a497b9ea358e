"""Which modules an adapter lands on, as PEFT decides it, and how many parameters that trains.

A target is the end of a module's path (``q_proj``, ``self_attn.q_proj``) or ``all-linear``. Source of the rules:
PEFT 0.21, ``peft/tuners/tuners_utils.py`` (``check_target_module_exists``, ``_maybe_include_all_linear_layers``) and
``peft/utils/transformers_weight_conversion.py`` (``_convert_peft_config_moe``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from planner.errors import UsageError, nearest
from planner.formulas.counts import lora_linear_params
from planner.spec import Block, Experts, Linear, ModelSpec, Norm, Table

ALL_LINEAR = "all-linear"

Part = Linear | Norm | Table

_GATED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj", "gate": "gate.weight"}
_NUMBERED = {"w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj", "gate": "gate.weight"}

EXPERT_TARGETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("mixtral", "minimax_m2"), _NUMBERED),
        **dict.fromkeys(("qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite"), _GATED),
        "ernie4_5_moe": _GATED,
    }
)
"""Families whose expert matrices PEFT turns from module names into stacked parameters under transformers 5.

PEFT 0.21 ``_MOE_TARGET_MODULE_MAPPING`` with transformers 5.23 ``conversion_mapping._MODEL_TO_CONVERSION_PATTERN``,
which lists the types that follow Mixtral and Qwen2-MoE, and of those two only Mixtral itself.
"""


class Site(NamedTuple):
    """A place for an adapter: ``copies`` equal matrices, on a rank that may be a multiple of the user's."""

    name: str
    d_in: int
    d_out: int
    copies: int = 1
    rank_factor: int = 1
    stacked: bool = False
    """One parameter for all ``copies``, which PEFT adapts as a whole."""

    @property
    def per_rank(self) -> int:
        """Trainable entries per unit of rank."""
        return self.copies * lora_linear_params(d_in=self.d_in, d_out=self.d_out, r=self.rank_factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """What a LoRA configuration trains. Names are those of ``Linear`` and ``Table`` in the ``ModelSpec``.

    ``modules`` carry a low-rank branch; ``parameters`` are stacked tensors that PEFT adapts as a whole;
    ``saved`` are trained as full copies beside the frozen original.
    """

    modules: frozenset[str]
    parameters: frozenset[str]
    saved: frozenset[str]
    per_rank: int
    saved_params: int

    def params(self, rank: int) -> int:
        """Trainable entries at one rank."""
        return self.per_rank * rank + self.saved_params


@lru_cache(maxsize=1024)
def adapters(
    model: ModelSpec,
    targets: tuple[str, ...],
    modules_to_save: tuple[str, ...] = (),
    *,
    fused_experts: bool = True,
) -> Adapters:
    """Resolve target names against a model; raise ``UsageError`` for one that it lacks."""
    saved = saved_modules(model, modules_to_save)
    _, parameters = split_targets(model, targets, fused_experts=fused_experts)
    sites = adapter_sites(model, targets, modules_to_save, fused_experts=fused_experts)
    whole = {site.name for site, _ in sites if matches(site.name, parameters)}
    return Adapters(
        modules=frozenset(site.name for site, _ in sites) - whole,
        parameters=frozenset(whole),
        saved=frozenset(saved),
        per_rank=sum(site.per_rank * count for site, count in sites),
        saved_params=sum(saved.values()),
    )


@lru_cache(maxsize=1024)
def adapter_sites(
    model: ModelSpec, targets: tuple[str, ...], modules_to_save: tuple[str, ...] = (), *, fused_experts: bool = True
) -> tuple[tuple[Site, int], ...]:
    """Every place that gets an adapter, with the number of layers that hold it."""
    saved = saved_modules(model, modules_to_save)
    names, parameters = split_targets(model, targets, fused_experts=fused_experts)
    modules = [
        (site, count)
        for site, count in all_sites(model, fused_experts=fused_experts)
        if site.name not in saved and matches(site.name, names)
    ]
    stacked = [
        (site, count)
        for block, count in zip(model.blocks, model.block_counts, strict=True)
        for site in (parameter_sites(block.experts) if block.experts else ())
        if matches(site.name, parameters)
    ]
    return (*modules, *stacked)


def matches(path: str, names: Iterable[str]) -> bool:
    """Whether a path is one of the names or ends in one, at a dot.

    >>> matches("self_attn.q_proj", ["q_proj"]), matches("mlp.shared_expert_gate", ["gate"])
    (True, False)
    """
    return any(path == name or path.endswith(f".{name}") for name in names)


def split_targets(
    model: ModelSpec, targets: tuple[str, ...], *, fused_experts: bool
) -> tuple[frozenset[str], frozenset[str]]:
    """Module names and parameter names that the targets mean for this model."""
    mapping = EXPERT_TARGETS.get(model.model_type, {}) if fused_experts else {}
    if targets == (ALL_LINEAR,):
        found = linear_names(model, fused_experts=fused_experts)
        if not mapping:
            return frozenset(found), frozenset()
        targets = (*{name.rpartition(".")[2] for name in found}, *mapping)
    else:
        refuse_unknown(model, targets, mapping, fused_experts=fused_experts)
    mapped = {target: mapping[leaf] for target in targets if (leaf := target.rpartition(".")[2]) in mapping}
    refuse_halves(mapped, mapping)
    return frozenset(targets) - frozenset(mapped), frozenset(mapped.values())


def linear_names(model: ModelSpec, *, fused_experts: bool) -> set[str]:
    """What ``all-linear`` means: every linear module but the output head; embeddings are none."""
    skipped = {model.lm_head.name, *(table.name for table in model.embeddings)}
    return {site.name for site, _ in all_sites(model, fused_experts=fused_experts)} - skipped


def refuse_unknown(
    model: ModelSpec, targets: tuple[str, ...], mapping: Mapping[str, str], *, fused_experts: bool
) -> None:
    """Raise for the first target that names nothing in the model."""
    paths = {site.name for site, _ in all_sites(model, fused_experts=fused_experts)}
    known = {path.rpartition(".")[2] for path in paths} | (set(mapping) if model.is_moe else set())
    for target in targets:
        if target == ALL_LINEAR:
            raise UsageError(f"lora target {ALL_LINEAR} stands for every matrix: name it alone")
        if target.rpartition(".")[2] in mapping or any(matches(path, [target]) for path in paths):
            continue
        raise UsageError(unknown_module("lora target", target, model, known | {ALL_LINEAR}))


def unknown_module(kind: str, name: str, model: ModelSpec, known: set[str]) -> str:
    """The one line that says which modules there are."""
    near = nearest(name, known)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"{kind} {name[:60]!r} is no module of {model.name}{hint} (it has: {', '.join(sorted(known))})"


def refuse_halves(mapped: Mapping[str, str], mapping: Mapping[str, str]) -> None:
    """PEFT cannot adapt the gate without the up matrix, once both are one tensor."""
    present = {target.rpartition(".")[2] for target, tensor in mapped.items() if tensor == "gate_up_proj"}
    needed = {leaf for leaf, tensor in mapping.items() if tensor == "gate_up_proj"}
    if present and present != needed:
        missing, there = ", ".join(sorted(needed - present)), ", ".join(sorted(present))
        raise UsageError(f"lora target {there} needs {missing} too: transformers 5 keeps both in one expert tensor")


@lru_cache(maxsize=1024)
def all_sites(model: ModelSpec, *, fused_experts: bool) -> tuple[tuple[Site, int], ...]:
    """Every module that PEFT can adapt, with the number of layers that hold it."""
    outside = [model.lm_head, *model.extra_linears]
    found = [(Site(linear.name, linear.d_in, linear.d_out), 1) for linear in outside]
    found += [(Site(table.name, table.shape[0], table.shape[1]), 1) for table in model.embeddings]
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        found += [(Site(linear.name, linear.d_in, linear.d_out), count) for linear in block.linears]
        if block.experts:
            found += [(site, count) for site in expert_sites(block.experts, fused_experts=fused_experts)]
    return tuple(found)


def expert_sites(experts: Experts, *, fused_experts: bool) -> list[Site]:
    """Linear modules among the experts: all of them in transformers 4, at most a router in transformers 5."""
    count, hidden = experts.router.shape
    separate = bool(experts.linear_names) and not fused_experts
    found = []
    if separate:
        path, width = experts.tables[0].name.rpartition(".")[0], experts.intermediate_size
        *inputs, down = experts.linear_names
        found = [Site(f"{path}.{name}", hidden, width, count) for name in inputs]
        found.append(Site(f"{path}.{down}", width, hidden, count))
    if experts.router_linear == "always" or (separate and experts.router_linear == "separate"):
        found.append(Site(experts.router.name.removesuffix(".weight"), hidden, count))
    return found


def parameter_sites(experts: Experts) -> list[Site]:
    """Stacked tensors that PEFT adapts as parameters; the fused one has twice the rank."""
    count, hidden = experts.router.shape
    width = experts.intermediate_size
    gate_up, down = experts.tables[0].name, experts.tables[1].name
    return [
        Site(gate_up, hidden, 2 * width, count, rank_factor=2, stacked=True),
        Site(down, width, hidden, count, stacked=True),
        Site(experts.router.name, hidden, count),
    ]


@lru_cache(maxsize=256)
def saved_modules(model: ModelSpec, names: tuple[str, ...]) -> dict[str, int]:
    """Parameters of every module that ``modules_to_save`` trains as a copy, by name and over all layers."""
    parts = module_params(model)
    for name in names:
        if not any(inside(path, name) for path in parts):
            known = {path.rpartition(".")[2] for path in parts}
            raise UsageError(unknown_module("module to save", name, model, known))
    return {path: count for path, count in parts.items() if any(inside(path, name) for name in names)}


def inside(path: str, name: str) -> bool:
    """Whether a part belongs to a module whose path ends in ``name``; PEFT asks for no dot before it.

    >>> inside("mlp.up_proj", "mlp"), inside("input_layernorm", "norm"), inside("norm", "input_layernorm")
    (True, True, False)
    """
    steps = path.split(".")
    return any(".".join(steps[: depth + 1]).endswith(name) for depth in range(len(steps)))


def module_params(model: ModelSpec) -> dict[str, int]:
    """Parameters by module path, over all layers; a tied head is a module of its own size."""
    outer: list[Part] = [model.lm_head, *model.embeddings, *model.extra_linears, *model.extra_norms]
    if model.final_norm:
        outer.append(model.final_norm)
    parts = [(part, 1) for part in outer]
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        parts += [(part, count) for part in block_parts(block)]
    totals: dict[str, int] = {}
    for part, count in parts:
        totals[part.name] = totals.get(part.name, 0) + part.params * count
    return totals


def block_parts(block: Block) -> tuple[Part, ...]:
    """Everything in a block that holds parameters."""
    parts: list[Part] = [*block.linears, *block.all_norms, *block.tables]
    return tuple(parts)
