"""Reads LLaMA-Factory's YAML or JSON, as ``llamafactory-cli train`` takes it.

What a key leaves to others is LLaMA-Factory's own doing: 0.9.5 hparams/parser.py, model/adapter.py and
model/model_utils/.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.document import Document
from planner.configs.keys import Keys
from planner.configs.llamafactory_keys import (
    ALONE,
    ATTENTION,
    DATA,
    IGNORED,
    LORA,
    MATTER,
    METHODS,
    OBJECTIVES,
    PAIRS,
    QUANT,
    UNMODELLED,
)
from planner.configs.llamafactory_write import write
from planner.configs.transformers import training
from planner.configs.understood import Understood
from planner.errors import BrokenInput
from planner.recommend.request import Setting
from planner.spec import Method

__all__ = ["read", "write"]

ALL = "all"
LORA_RANK = 8
"""hparams/finetuning_args.py, LoraArguments; alpha is twice the rank unless it is given."""

UNMODELLED_METHODS: Mapping[str, str] = {
    "freeze": "only the last layers are trained",
    "oft": "orthogonal matrices instead of LoRA's",
}


def read(document: Document) -> Understood:
    """What a LLaMA-Factory configuration says."""
    keys = Keys(document)
    model = keys.take("model_name_or_path", "text", "model")
    method = _method(keys)
    stage, preferences = _stage(keys)
    trained = training(keys)
    settings: dict[str, Setting] = {
        **trained.settings,
        **keys.plain(DATA),
        **_precision(keys, method, trained.settings),
        **_adapters(keys, method),
        **_quant(keys, method, trained.settings),
        **_attention(keys),
        **_kernels(keys, stage),
        **preferences,
        **_checkpoints(keys, trained.settings),
    }
    packing = _packing(keys, stage, settings)
    keys.unmodelled(UNMODELLED, off=(None, False, 0, 0.0, "", "none", "huggingface", [], {}))
    keys.ignore(*IGNORED)
    return Understood(
        format="llamafactory",
        stack="llamafactory",
        model=model,
        method=method,
        settings=settings,
        job={**trained.job, **packing},
        files=trained.files,
        fsdp=trained.fsdp,
        readings=keys.readings(MATTER),
        notes=trained.notes,
    )


def _method(keys: Keys) -> Method:
    """The method: LoRA unless told otherwise, on quantised weights if ``quantization_bit`` is there."""
    kind = str(keys.take("finetuning_type", "text", "method", "lora")).lower()
    bits = keys.take("quantization_bit", "whole", "method")
    if bits is not None and kind in ("full", "freeze"):
        raise BrokenInput(f"{keys.file}: quantization_bit with finetuning_type {kind}, which LLaMA-Factory refuses")
    if kind == "full":
        return "full"
    if kind != "lora":
        why = UNMODELLED_METHODS.get(kind, "of this key we model lora and full")
        keys.tell("finetuning_type", "unmodelled", sets="method", why=why)
    if bits is None:
        return "lora"
    if bits not in (4, 8):
        keys.tell("quantization_bit", "unmodelled", sets="method", why="of bits we model 4 and 8")
    named = str(keys.take("quantization_method", "text", "quant", METHODS[0])).lower()
    if named not in METHODS:
        keys.tell("quantization_method", "unmodelled", sets="quant", why="of methods we model bnb")
    return "qlora"


def _stage(keys: Keys) -> tuple[str, dict[str, Setting]]:
    """The stage; of pairs ORPO and SimPO need no reference."""
    stage = str(keys.take("stage", "text", "objective", "sft")).lower()
    if stage not in OBJECTIVES:
        keys.tell("stage", "unmodelled", sets="objective", why=f"of stages we model {', '.join(OBJECTIVES)}")
    loss = keys.take("pref_loss", "text", "reference", PAIRS[0]) if stage == "dpo" else PAIRS[0]
    keys.ignore("pref_loss", why="there are no pairs")
    if OBJECTIVES.get(stage) != "dpo":
        return stage, {}
    if loss in ALONE:
        return stage, {"objective": "dpo", "reference": "none"}
    if loss not in PAIRS:
        keys.tell("pref_loss", "unmodelled", sets="reference", why=f"of losses we model {', '.join((*PAIRS, *ALONE))}")
    return stage, {"objective": "dpo"}


def _precision(keys: Keys, method: Method, trained: Mapping[str, Setting]) -> dict[str, Setting]:
    """Trained weights become fp32 unless ``pure_bf16`` leaves them; adapters are PEFT's, fp32 either way.

    LLaMA-Factory 0.9.5 model/adapter.py, init_adapter.
    """
    pure = keys.take("pure_bf16", "flag", "weights_dtype", absent=False)
    if pure and method != "full" and keys.peek("additional_target"):
        keys.tell(
            "pure_bf16", "unmodelled", sets="modules_to_save", why="modules that are trained whole stay in 16 bits"
        )
    found: dict[str, Setting] = {"autocast": trained.get("autocast", "none")}
    if method == "full":
        found["weights_dtype"] = "bf16" if pure else "fp32"
    return found


def _adapters(keys: Keys, method: Method) -> dict[str, Setting]:
    if method == "full":
        keys.ignore("lora_*", "additional_target", why="no adapters are trained")
        return {}
    if "adapter_name_or_path" in keys and not keys.take("create_new_adapter", "flag", "lora_rank", absent=False):
        keys.tell("adapter_name_or_path", "unmodelled", why="adapters that are there already say their own rank")
    keys.ignore("adapter_name_or_path", "create_new_adapter", why="merged before new adapters are made")
    found = keys.plain(LORA)
    if "lora_alpha" not in found:
        found["lora_alpha"] = 2 * keys.take("lora_rank", "whole", "lora_rank", LORA_RANK)
    names = keys.take("lora_target", "names", "lora_targets", [ALL])
    found["lora_targets"] = ("all-linear",) if names == [ALL] else tuple(names)
    return found


def _quant(keys: Keys, method: Method, trained: Mapping[str, Setting]) -> dict[str, Setting]:
    """What bitsandbytes makes of the weights; 4-bit ones are stored in the dtype of the computation."""
    names = [key.name for key in QUANT]
    if method != "qlora":
        keys.ignore("quantization_method", *names, why="no weights are quantised")
        return {}
    if keys.peek("quantization_bit") == 8:
        keys.ignore(*names, why="8-bit weights have no such setting")
        return {"quant": "int8"}
    return {**keys.plain(QUANT), "quant_storage": "fp16" if trained.get("autocast") == "fp16" else "bf16"}


def _attention(keys: Keys) -> dict[str, Setting]:
    kind = str(keys.take("flash_attn", "text", "attention", "auto")).lower()
    if kind in ATTENTION:
        return {"attention": ATTENTION[kind]}
    if kind == "auto":
        keys.ignore("flash_attn", why="transformers chooses")
    else:
        keys.tell(
            "flash_attn", "unmodelled", sets="attention", why=f"of kernels we model {', '.join(map(str, ATTENTION))}"
        )
    return {}


def _kernels(keys: Keys, stage: str) -> dict[str, Setting]:
    """Liger's kernels, with its head where the stage needs no logits: model/model_utils/liger_kernel.py."""
    if not keys.take("enable_liger_kernel", "flag", "kernels", absent=False):
        return {}
    return {"kernels": "fused", "loss": "fused" if stage in ("sft", "pt") else "full"}


def _checkpoints(keys: Keys, trained: Mapping[str, Setting]) -> dict[str, Setting]:
    """LLaMA-Factory checkpoints unless told not to; Unsloth's way moves the inputs of layers to host memory."""
    off = keys.take("disable_gradient_checkpointing", "flag", "gradient_checkpointing", absent=False)
    moved = keys.take("use_unsloth_gc", "flag", "offload", absent=False)
    on = not off or bool(trained.get("gradient_checkpointing", False))
    others = trained.get("offload", ())
    offload = (*(others if isinstance(others, tuple) else ()), "activations")
    return {"gradient_checkpointing": on, **({"offload": offload} if moved and on else {})}


def _packing(keys: Keys, stage: str, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Whether samples share a sequence: always in pretraining; masks between them take room without FlashAttention."""
    neat = keys.take("neat_packing", "flag", "packing", absent=False)
    packs = keys.take("packing", "flag", "packing", absent=stage == "pt") or neat
    if neat and settings.get("attention") != "flash":
        keys.tell("neat_packing", "unmodelled", sets="packing", why="masks between samples: set flash_attn fa2")
    return {"packing": True} if packs else {}
