"""torchtune's recipe YAML: torchtune 0.6.1, ``recipes/*.py``. How many cards there are stands on its command line."""

from collections.abc import Mapping
from typing import Any

from planner.configs.document import Document
from planner.configs.keys import NO_TOUCH, Keys
from planner.configs.references import refers, resolved
from planner.configs.torchtune_keys import (
    ATTENTION,
    FUSED,
    LEGACY,
    LOOPS,
    LOSSES,
    MLP,
    OF_LORA,
    OF_PPO,
    OF_TOKENIZER,
    OPTIMIZER,
    OTHERS,
    OUTPUT,
    PREFERENCES,
    SEPARATE,
    SETTINGS,
    UNMODELLED,
)
from planner.configs.torchtune_models import Built, built
from planner.configs.torchtune_write import write
from planner.configs.understood import Fate, Understood
from planner.errors import BrokenInput, UnsupportedScenario, show
from planner.formulas.adapters import ALL_LINEAR
from planner.recommend.request import Setting

__all__ = ["read", "write"]

NAME = "torchtune"

APART = f"{NAME},custom_sharded_layers=1"
"""The stack under which embedding and head are units of their own."""

NO_LENGTH = "tokenizer.max_seq_len is not set, so sequences are as long as those of the data: --seq-len says how long"


def read(document: Document) -> Understood:
    """What a recipe says; raise ``UnsupportedScenario`` for one that trains nothing."""
    document = resolved(document)
    keys = Keys(document)
    if "optimizer" not in keys:
        raise UnsupportedScenario(f"{document.name} trains nothing: it is a recipe without an optimizer")
    found, lora = _model(keys.section("model"))
    settings: dict[str, Setting] = {
        **keys.plain(SETTINGS),
        **lora,
        **_optimizer(keys.section("optimizer")),
        **_loss(keys.section("loss")),
        **_sequences(keys.section("tokenizer")),
        **_offload(keys),
        **_compiled(keys),
    }
    if "weights_dtype" in settings:
        settings |= {"autocast": "none", "adapter_dtype": settings["weights_dtype"]}
    job = _job(keys)
    apart = _shards_apart(keys)
    _device(keys)
    keys.unmodelled(UNMODELLED)
    keys.ignore(*OTHERS, *OF_PPO)
    keys.ignore(*LEGACY, why="torchtune 0.6.1 does not read it")
    readings = keys.readings([key.name for key in SETTINGS] + list(UNMODELLED))
    for one in readings:
        if one.fate != "ignored" and refers(one.value):
            raise BrokenInput(f"{one.file}: {one.key} {show(one.value)} asks for what is not in the file: write it out")
    return Understood(
        format=NAME,
        stack=APART if apart else NAME,
        model=None if found.builder is None else found.builder.model,
        method=found.method,
        settings=settings,
        job=job,
        readings=readings,
        notes=() if "seq_len" in settings else (NO_LENGTH,),
    )


# ---------------------------------------------------------------- the model


def _model(keys: Keys) -> tuple[Built, dict[str, Setting]]:
    """The builder, the method, and the settings of its adapters."""
    component = keys.take("_component_", "text", "model", absent="")
    found = built(component)
    if component and found.builder is None:
        why = "none of torchtune's own models: --model says which one it is"
        keys.tell("_component_", "unknown", sets="model", why=why)
    if found.method == "full":
        _rest_of_model(keys)
        return found, {}
    if keys.take("quantize_base", "flag", "method", absent=found.method == "qlora"):
        found = found._replace(method="qlora")
    settings = keys.plain(OF_LORA)
    targets = _targets(keys, fused=found.builder is not None and found.builder.fused)
    if targets:
        settings["lora_targets"] = targets
    if found.method == "qlora":
        settings |= {"quant": "nf4", "double_quant": True}  # torchao's NF4Tensor knows no other
    _rest_of_model(keys)
    return found, settings


def _rest_of_model(keys: Keys) -> None:
    keys.unmodelled(
        {
            "use_dora": "magnitudes need a norm of every adapted matrix",
            "*_trainable": "parts of a multimodal model",
        }
    )
    keys.ignore("image_size", "tie_word_embeddings", "max_seq_len")
    keys.readings([key.name for key in OF_LORA] + ["lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output"])


def _targets(keys: Keys, *, fused: bool) -> tuple[str, ...]:
    """Adapted matrices under transformers' names; all of every layer are ``all-linear``."""
    attention = keys.take("lora_attn_modules", "names", "lora_targets", absent=[])
    for name in attention:
        if name not in ATTENTION:
            raise BrokenInput(f"{keys.file}: model.lora_attn_modules {show(name)} is not one of {', '.join(ATTENTION)}")
    mlp = keys.take("apply_lora_to_mlp", "flag", "lora_targets", absent=False)
    output = keys.take("apply_lora_to_output", "flag", "lora_targets", absent=False)
    names = [theirs for ours, theirs in ATTENTION.items() if ours in attention] + (list(MLP) if mlp else [])
    if fused and names:
        why = "transformers' class has them in fewer matrices, whose adapters are smaller: --ignore plans with those"
        keys.tell("lora_attn_modules", "unmodelled", sets="lora_targets", why=why)
        names = [FUSED.get(name, name) for name in names]
    elif len(names) == len(ATTENTION) + len(MLP) and not output:
        return (ALL_LINEAR,)
    return tuple(dict.fromkeys([*names, OUTPUT] if output else names))


# ---------------------------------------------------------------- other sections


def _optimizer(keys: Keys) -> dict[str, Setting]:
    """The optimizer; which loop of torch's AdamW runs is told by its arguments."""
    settings = keys.plain((OPTIMIZER,))
    if settings.get("optimizer") in LOOPS:
        fused = keys.take("fused", "flag", "optimizer", absent=False)
        foreach = keys.take("foreach", "flag", "optimizer", absent=True)
        settings["optimizer"] = "adamw_fused" if fused else "adamw_foreach" if foreach else "adamw_loop"
    keys.unmodelled({"amsgrad": "it keeps a third state", "optim_bits": "it changes the states", "momentum": "a state"})
    keys.ignore("*")
    return settings


def _loss(keys: Keys) -> dict[str, Setting]:
    """The loss, of a likelihood or of preferences."""
    name = keys.take("_component_", "text", "loss", absent="")
    keys.ignore("*")
    if name.lower() in PREFERENCES:
        keys.tell("_component_", "used", sets="objective")
        return {"objective": "dpo"}
    if name.lower() in LOSSES:
        return {"objective": "sft", "loss": LOSSES[name.lower()]}
    if name:
        keys.tell("_component_", "unmodelled", sets="loss", why=f"of losses we model {', '.join(LOSSES)} and DPO's")
    return {}


def _sequences(keys: Keys) -> dict[str, Setting]:
    settings = keys.plain(OF_TOKENIZER)
    keys.ignore("*")
    return settings


def _offload(keys: Keys) -> dict[str, Setting]:
    """What leaves the card: FSDP takes parameters and optimizer along together."""
    states = keys.take("fsdp_cpu_offload", "flag", "offload")
    activations = keys.take("enable_activation_offloading", "flag", "offload")
    if states is None and activations is None:
        return {}
    found = (("optimizer", "parameters") if states else ()) + (("activations",) if activations else ())
    return {"offload": found}


def _compiled(keys: Keys) -> dict[str, Setting]:
    """Whether layers and a chunked loss are compiled: torchtune 0.6.1 training/_compile.py."""
    compiled = keys.take("compile", "flag", "kernels")
    return {} if compiled is None else {"kernels": "compiled" if compiled else "eager"}


def _job(keys: Keys) -> dict[str, Any]:
    """Epochs, and whether sequences are packed."""
    job: dict[str, Any] = {}
    if (epochs := keys.take("epochs", "number", "epochs")) is not None:
        job["epochs"] = float(epochs)
    if not isinstance(keys.peek("dataset"), Mapping):
        keys.ignore("dataset", why="what the data is decides nothing here: --dataset reads its lengths")
        return job
    dataset = keys.section("dataset")
    if (packing := dataset.take("packed", "flag", "packing")) is not None:
        job["packing"] = packing
    dataset.ignore("*")
    return job


def _shards_apart(keys: Keys) -> bool:
    """Whether embedding and head are gathered apart from the rest of the model."""
    names = keys.take("custom_sharded_layers", "names", "sharding", absent=[])
    apart = {name.rpartition(".")[2] for name in names} >= set(SEPARATE)
    if names:
        fate: Fate = "used" if apart else "ignored"
        keys.tell("custom_sharded_layers", fate, sets="sharding" if apart else "", why="" if apart else NO_TOUCH)
    return apart


def _device(keys: Keys) -> None:
    """Recipes run on whatever device they name."""
    if "device" in keys and keys.peek("device") != "cuda":
        keys.tell("device", "unmodelled", why="plans are made for GPUs")
    keys.ignore("device")
