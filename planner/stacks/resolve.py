"""Settings that the user made, completed from stack, model and our own defaults, into a ``Scenario``."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, get_args

from planner.errors import UnsupportedScenario, UsageError, option
from planner.peft_config import lora_settings
from planner.spec import (
    SHARDS_WEIGHTS,
    Behaviour,
    Cluster,
    Method,
    ModelSpec,
    Origin,
    Scenario,
    Sharding,
    TrainSpec,
)
from planner.stacks.layouts import leaves_nothing, refuse_layout, settle_layout
from planner.stacks.objectives import refuse_objective, settle_objective
from planner.stacks.offloads import refuse_offload
from planner.stacks.rules import Defaults, load_stack
from planner.stacks.values import FILES, MAX_GPUS, checked


class _Question(NamedTuple):
    """What decides a scenario's settings: of the cards only how many there are and what they can do."""

    model: ModelSpec
    method: Method
    settings: tuple[tuple[str, type, object], ...]
    stack: str
    ranks: int
    nodes: int
    supports_flash: bool
    supports_bf16: bool


class _Settled(NamedTuple):
    """The settings, who chose each, and what the trainer does."""

    train: TrainSpec
    origins: Mapping[str, Origin]
    behaviour: Behaviour


MOST_SETTLED = 10_000
"""Answers that are remembered: those of a few models on all cards."""

_settled: dict[_Question, _Settled] = {}


def resolve(
    model: ModelSpec,
    cluster: Cluster,
    method: Method,
    settings: Mapping[str, Any] = {},
    stack: str | Defaults = "trl",
) -> Scenario:
    """The complete scenario of one method; ``settings`` holds only what the user set, by ``TrainSpec`` field.

    What was settled for one card holds for all that can do the same. Raise ``UsageError`` for a value without meaning
    and ``UnsupportedScenario`` for one that the hardware or the method cannot do.
    """
    question = _question(model, cluster, method, settings, stack)
    found = None if question is None else _settled.get(question)
    if found is None:
        found = _settle_all(model, cluster, method, settings, load_stack(stack) if isinstance(stack, str) else stack)
        if question is not None:
            if len(_settled) >= MOST_SETTLED:
                _settled.clear()
            _settled[question] = found
    return Scenario(model=model, train=found.train, cluster=cluster, stack=found.behaviour, origins=found.origins)


def _question(
    model: ModelSpec, cluster: Cluster, method: Method, settings: Mapping[str, Any], stack: str | Defaults
) -> _Question | None:
    """The question by what decides it; ``None`` where it cannot be told from others: a file may change, a list too."""
    if not isinstance(stack, str) or any(name in settings for name in FILES):
        return None
    gpu = cluster.gpu
    chosen = tuple((name, type(value), value) for name, value in settings.items())
    found = _Question(
        model,
        method,
        chosen,
        stack,
        cluster.world_size,
        cluster.nodes,
        gpu.supports_flash,
        gpu.supports_bf16,
    )
    try:
        hash(found)
    except TypeError:
        return None
    return found


def _settle_all(
    model: ModelSpec, cluster: Cluster, method: Method, settings: Mapping[str, Any], defaults: Defaults
) -> _Settled:
    """Defaults, the stack's choices and the user's, each over those before it, and what they decide about others."""
    user = {
        "method": checked("method", method),
        **{name: checked(name, value) for name, value in settings.items() if value is not None},
    }
    chosen: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    ours = _defaults(model, cluster, method, defaults.offers)
    for source, values in (("default", ours), ("stack", _from_stack(defaults, cluster, method))):
        for name, value in values.items():
            chosen[name], origins[name] = value, source  # type: ignore[assignment]
    for name, value in user.items():
        chosen[name], origins[name] = value, "user"
    _adopt(chosen, origins)
    settle_layout(chosen, origins, model, cluster)
    _settle(chosen, origins, defaults, model, cluster)
    settle_objective(chosen, origins, cluster, defaults.behaviour)
    if origins["attention"] != "user" and chosen["attention"] == "flash" and _computes_in_fp32(chosen):
        chosen["attention"] = next(name for name in ("sdpa", "eager") if name in model.attends)
    _refuse_unoffered(chosen, defaults)
    _refuse(chosen, model, cluster, defaults.behaviour)
    refuse_objective(chosen, cluster, defaults.behaviour)
    refuse_offload(chosen, defaults.behaviour)
    refuse_layout(chosen, model, cluster, defaults.behaviour)
    return _Settled(TrainSpec(**chosen), origins, defaults.behaviour)


def _defaults(
    model: ModelSpec, cluster: Cluster, method: Method, offers: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    values = {field.name: field.default for field in fields(TrainSpec) if field.name != "method"}
    runs = (name for name in offers["attention"] if name in model.attends and _can_run(name, cluster))
    values["attention"] = next(runs, model.attends[-1])
    values["sharding"] = offers["sharding"][1] if cluster.world_size > 1 else "none"
    if not cluster.gpu.supports_bf16:
        values["weights_dtype"] = "fp32" if method == "full" else "fp16"
    return values


def _can_run(attention: str, cluster: Cluster) -> bool:
    return attention != "flash" or cluster.gpu.supports_flash


def _computes_in_fp32(chosen: Mapping[str, Any]) -> bool:
    """Whether queries and keys reach attention in fp32, which FlashAttention-2 refuses."""
    return bool(chosen["weights_dtype"] == "fp32" and chosen["autocast"] == "none")


def _from_stack(defaults: Defaults, cluster: Cluster, method: Method) -> dict[str, Any]:
    """What the trainer chooses for the user."""
    autocast = defaults.autocast
    if autocast == "bf16" and not cluster.gpu.supports_bf16:
        autocast = "fp16"
    adapter = defaults.adapter_dtype.get(method, "fp32")
    if adapter == "bf16" and not cluster.gpu.supports_bf16:
        adapter = "fp32"
    storage = defaults.quant_storage
    if storage == "bf16" and not cluster.gpu.supports_bf16:
        storage = "fp16"
    found: dict[str, Any] = {
        "autocast": autocast,
        "loss": defaults.loss,
        "adapter_dtype": adapter,
        "optimizer": "adamw",
    }
    if storage != TrainSpec.quant_storage:
        found["quant_storage"] = storage
    if defaults.offload:
        found["offload"] = defaults.offload
    by_method = {"kernels": defaults.kernels, "weights_dtype": defaults.weights_dtype}
    return {**found, **{name: values[method] for name, values in by_method.items() if method in values}}


def _adopt(chosen: dict[str, Any], origins: dict[str, Origin]) -> None:
    """What the file of an adapter settles; raise ``UsageError`` where an option says it a second time."""
    if not chosen["peft_config"]:
        return
    if chosen["method"] == "full":
        raise UsageError("--peft-config describes adapters, and --method full trains none")
    for name, value in lora_settings(json.loads(chosen["peft_config"])).items():
        if origins[name] == "user":
            raise UsageError(f"{option(name)} stands in --peft-config already: give one of them")
        chosen[name], origins[name] = value if isinstance(value, tuple) else checked(name, value), "user"


def _settle(
    chosen: dict[str, Any], origins: dict[str, Origin], defaults: Defaults, model: ModelSpec, cluster: Cluster
) -> None:
    """What one setting decides about another."""
    if chosen["optimizer"] == "adamw":
        chosen["optimizer"] = f"adamw_{defaults.adamw}"
        origins["optimizer"] = "stack"
    _unless_asked(chosen, origins, defaults.behaviour)
    if origins["lora_alpha"] != "user":
        chosen["lora_alpha"] = 2.0 * chosen["lora_rank"]
    if chosen["method"] == "full" and len(chosen["moments"]) > 1:  # beside others, merging is just not there
        chosen["moments"] = tuple(moment for moment in chosen["moments"] if moment != "merge")
    if chosen["sharding"] == "fsdp" and origins["sharding"] != "user" and _saves_a_tied_matrix(chosen, model):
        chosen["sharding"] = "ddp"
    if chosen["method"] == "qlora" and chosen["sharding"] in SHARDS_WEIGHTS and origins["quant_storage"] != "user":
        chosen["quant_storage"] = "bf16" if cluster.gpu.supports_bf16 else "fp16"


def _unless_asked(chosen: dict[str, Any], origins: dict[str, Origin], stack: Behaviour) -> None:
    """What a trainer decides by other settings: kernels by dropout, offloading and checkpoints by each other."""
    if origins["kernels"] == "stack" and chosen["lora_dropout"] > 0 and not stack.fuses_dropout:
        chosen["kernels"] = "eager"
    if "activations" in chosen["offload"] and chosen["method"] != "full" and stack.offload_for_recompute:
        chosen["gradient_checkpointing"], origins["gradient_checkpointing"] = False, "stack"
    short = chosen["seq_len"] < stack.offloads_from
    if origins["offload"] == "stack" and (short or not chosen["gradient_checkpointing"]):
        chosen["offload"] = ()


def _saves_a_tied_matrix(chosen: Mapping[str, Any], model: ModelSpec) -> bool:
    """Whether a matrix that is embedding and head is trained as a copy beside adapters, which FSDP2 refuses."""
    tied = (model.lm_head.name, *(table.name for table in model.embeddings[:1]))
    saved = any(name.endswith(one) for name in tied for one in chosen["modules_to_save"])
    return model.tie_word_embeddings and chosen["method"] != "full" and saved


def _refuse(chosen: Mapping[str, Any], model: ModelSpec, cluster: Cluster, stack: Behaviour) -> None:
    """Combinations that cannot run."""
    gpu, sharding = cluster.gpu, chosen["sharding"]
    if cluster.world_size > MAX_GPUS:
        raise UsageError(f"--gpus {cluster.world_size} is more than the {MAX_GPUS} that we plan for")
    if cluster.world_size > 1 and sharding == "none" and not leaves_nothing(chosen, cluster):
        kinds = ", ".join(kind for kind in get_args(Sharding) if kind != "none")
        raise UsageError(f"--sharding none on {cluster.world_size} GPUs: use --sharding {kinds}")
    if chosen["attention"] not in model.attends:
        offered = ", ".join(model.attends)
        raise UnsupportedScenario(f"{model.name} has no {chosen['attention']} attention in transformers: use {offered}")
    if not _can_run(chosen["attention"], cluster):
        raise UnsupportedScenario(f"{gpu.id} cannot run FlashAttention-2: use --attention sdpa")
    if chosen["attention"] == "flash" and _computes_in_fp32(chosen):
        raise UnsupportedScenario("FlashAttention-2 takes 16-bit inputs only: use --attention sdpa or --autocast bf16")
    if chosen["method"] == "qlora" and chosen["quant"] == "int8" and sharding in SHARDS_WEIGHTS:
        raise UnsupportedScenario(
            f"bitsandbytes' 8-bit weights cannot be sharded by {sharding}: use --quant nf4 or ddp"
        )
    if chosen["method"] == "qlora" and chosen["quant"] != "nf4" and stack.nf4 == "torchao":
        raise UnsupportedScenario(f"stack {stack.name} has no {chosen['quant']} weights: use --quant nf4")
    if chosen["method"] == "qlora" and stack.quantizes_experts and model.is_moe and sharding not in ("none", "ddp"):
        raise UnsupportedScenario(
            f"experts that {stack.name} quantises as it loads them are not planned under {sharding}: use --sharding ddp"
        )
    scales_itself = sharding.startswith("zero")  # DeepSpeed keeps fp32 masters, and a scaler of its own
    if chosen["weights_dtype"] == "fp16" and chosen["method"] == "full" and not scales_itself:
        raise UnsupportedScenario(
            "full fine-tuning of fp16 weights: a gradient scaler cannot unscale them; "
            "use --weights-dtype fp32 --autocast fp16"
        )
    _refuse_moments(chosen)
    if chosen["method"] in ("lora", "qlora") and not chosen["lora_targets"]:
        raise UsageError("--lora-targets is empty: name modules with commas, or all-linear")


def _refuse_unoffered(chosen: Mapping[str, Any], defaults: Defaults) -> None:
    """Values that the trainer does not have, or that are not planned with it."""
    for name, offered in defaults.offers.items():
        if chosen[name] not in offered:
            raise UnsupportedScenario(
                f"stack {defaults.behaviour.name} with {option(name)} {chosen[name]} is not planned: "
                f"use {' or '.join(offered)}"
            )


def _refuse_moments(chosen: Mapping[str, Any]) -> None:
    """Moments that the method or the sharding does not have."""
    moments = chosen["moments"]
    if moments and chosen["sharding"] != "none":
        raise UnsupportedScenario(
            f"--moments {','.join(moments)} under --sharding {chosen['sharding']} is not planned yet: "
            "use --gpus 1 --sharding none"
        )
    if "merge" in moments and chosen["method"] == "full":
        raise UnsupportedScenario("--moments merge: full fine-tuning has no adapters to merge; use --method lora")
    if "merge" in moments and chosen["method"] == "qlora" and chosen["quant"] == "int8":
        raise UnsupportedScenario("--moments merge into 8-bit weights is not planned yet: use --quant nf4")
