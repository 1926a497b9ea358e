"""Reads axolotl's YAML, as ``axolotl train`` takes it.

What a key leaves to others is axolotl's own doing: 0.19.0 utils/schemas/validation.py and config.py, where it checks
and fills in, utils/config/__init__.py, loaders/model.py and loaders/adapter.py, where it acts.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from planner.configs.accelerate_fsdp import fsdp_settings
from planner.configs.axolotl_adapters import adapters, method_of, quantized_experts
from planner.configs.axolotl_kernels import kernels
from planner.configs.axolotl_keys import (
    ATTENTION,
    IGNORED,
    IN_8_BITS_BY_TORCHAO,
    MATTER,
    OLDER_ATTENTION,
    OPTIMIZERS,
    ROWS,
    TRAINING,
    UNMODELLED,
)
from planner.configs.axolotl_write import write
from planner.configs.deepspeed import named_engine
from planner.configs.document import Document
from planner.configs.keys import Keys
from planner.configs.transformers import checkpoints
from planner.configs.trl_keys import ITERATIONS
from planner.configs.understood import Understood, with_fallbacks
from planner.errors import BrokenInput
from planner.recommend.request import Setting
from planner.spec import Method
from planner.stacks import load_stack

__all__ = ["read", "write"]

PREFERENCES: Mapping[str, str] = {"dpo": "dpo", "ipo": "dpo", "grpo": "grpo"}
"""``rl`` in our words: ipo is DPO with another loss of the same bytes."""

CONTEXT = ("context_parallel_size", "sequence_parallel_degree")
"""Ranks that share a sequence, by the newer name and by the older."""


class Engines(NamedTuple):
    """What divides the run among cards. ``fallbacks`` yield to axolotl's own keys."""

    settings: Mapping[str, Setting] = {}
    fallbacks: Mapping[str, Setting] = {}
    files: Mapping[str, str] = {}
    fsdp: Literal[1, 2] | None = None
    gpus: int | None = None
    nodes: int | None = None


def read(document: Document) -> Understood:
    """What an axolotl configuration says."""
    keys = Keys(document)
    model = keys.take("base_model", "text", "model")
    method = method_of(keys)
    fused, experts = kernels(keys, method), quantized_experts(keys, method)
    engines = _engines(keys)
    attention = _attention(keys)
    settings: dict[str, Setting] = {
        **keys.plain(TRAINING),
        **adapters(keys, method),
        **_precision(keys),
        **_optimizer(keys, method),
        **attention,
        **fused.settings,
        **engines.settings,
    }
    settings |= _checkpoints(keys, method, settings)
    settings |= _objective(keys, method) | _evaluation(keys, settings)
    if fused.liger_head and not engines.files:
        _wide_tables(keys, method, settings)
    job = _job(keys)
    keys.ignore(*ROWS, why="the table of tokens grows by a few rows")
    keys.unmodelled(UNMODELLED)
    keys.ignore(*IGNORED)
    return Understood(
        format="axolotl",
        stack=",".join(("axolotl", *fused.plugins, *experts)),
        model=model,
        method=method,
        settings=with_fallbacks(settings, engines.fallbacks),
        gpus=engines.gpus,
        nodes=engines.nodes,
        job=job,
        readings=keys.readings(MATTER),
        files=engines.files,
        fsdp=engines.fsdp,
    )


def _job(keys: Keys) -> dict[str, Any]:
    """How often the data is seen, and whether samples share a sequence."""
    found: dict[str, Any] = {}
    if keys.take("max_steps", "whole", "", 0):
        keys.tell("max_steps", "ignored", why="the run's length is that of its data: --dataset, --epochs")
        keys.ignore("num_epochs", why="max_steps stands before it")
    elif "num_epochs" in keys:
        found["epochs"] = keys.take("num_epochs", "number", "epochs")
    if keys.take("sample_packing", "flag", "packing", absent=False):
        found["packing"] = True
    return found


# ---------------------------------------------------------------- dtypes, optimizer, attention


def _precision(keys: Keys) -> dict[str, Setting]:
    """Dtypes of weights and of autocast; ``auto``, axolotl's default, is left to the card.

    axolotl 0.19 utils/config/__init__.py, resolve_dtype; core/builders/base.py, _configure_precision_settings.
    """
    wide = "auto" if "bf16" not in keys and not keys.is_null("bf16") else keys.take("bf16", "any", "autocast", False)
    if wide not in ("auto", True, False):
        keys.tell("bf16", "unmodelled", sets="autocast", why="of this key we model auto, true and false")
        return {}
    half = {name: keys.take(name, "flag", "autocast", absent=False) for name in ("fp16", "bfloat16", "float16")}
    if wide is True or half["bfloat16"]:
        return {"weights_dtype": "bf16", "autocast": "bf16"}
    if wide == "auto" and not half["fp16"]:
        return {}
    if half["fp16"] or half["float16"] or keys.peek("load_in_8bit") is True:
        return {"weights_dtype": "fp16", "autocast": "fp16" if half["fp16"] else "none"}
    return {"weights_dtype": "fp32", "autocast": "none"}


def _optimizer(keys: Keys, method: Method) -> dict[str, Setting]:
    if "optimizer" not in keys:
        return {}
    name = str(keys.take("optimizer", "text", "optimizer")).lower()
    if name in IN_8_BITS_BY_TORCHAO and method != "full":
        return {"optimizer": "adamw_8bit"}
    if name not in OPTIMIZERS:
        known = ", ".join(str(one) for one in OPTIMIZERS)
        why = "torchao's states in 8 bits, embeddings too" if name in IN_8_BITS_BY_TORCHAO else f"we model {known}"
        keys.tell("optimizer", "unmodelled", sets="optimizer", why=why)
        return {}
    return {"optimizer": OPTIMIZERS[name]}


def _attention(keys: Keys) -> dict[str, Setting]:
    """The kernel of attention, by its name or by one of the older flags; a revision behind ``@`` does not matter."""
    name, value = "attn_implementation", keys.take("attn_implementation", "text", "attention")
    flags = [flag for flag in OLDER_ATTENTION if keys.take(flag, "flag", "attention", absent=False)]
    if value and flags:
        raise BrokenInput(f"{keys.file}: attn_implementation and {flags[0]} say the same: leave one")
    if flags:
        name, value = flags[0], OLDER_ATTENTION[flags[0]]
    if value is None:
        return {}
    kind = ATTENTION.get(value.split("@")[0].split(":")[0].strip().lower())
    if kind is None:
        keys.tell(name, "unmodelled", sets="attention", why=f"of kernels we model {', '.join(map(str, ATTENTION))}")
        return {}
    return {"attention": kind}


def _wide_tables(keys: Keys, method: Method, settings: Mapping[str, Setting]) -> None:
    """Full fine-tuning without FlashAttention keeps tables and norms in fp32; Liger's head there is not planned."""
    kept = {"attention": "sdpa", "sharding": "none", "weights_dtype": "bf16"}
    said = {name: str(settings.get(name, absent)) for name, absent in kept.items()}
    if load_stack("axolotl").behaviour.widens_tables(method=method, **said):
        why = "Liger's head on a table in fp32, which axolotl keeps without FlashAttention: set flash_attention_2"
        keys.tell("attn_implementation", "unmodelled", sets="attention", why=why)


# ---------------------------------------------------------------- checkpoints, objective, evaluation


def _checkpoints(keys: Keys, method: Method, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Checkpointing and offloaded activations: with adapters axolotl offloads instead of computing again.

    axolotl 0.19 loaders/model.py, _apply_activation_checkpointing; core/builders/base.py,
    _configure_gradient_checkpointing.
    """
    kind = keys.take("gradient_checkpointing", "any", "gradient_checkpointing")
    kind = kind or settings.get("gradient_checkpointing", kind)  # FSDP may have its own
    moved = keys.take("activation_offloading", "any", "offload", absent=False)
    checkpoints(keys)
    if kind == "offload":
        kind, moved = True, True
    if kind not in (None, True, False):
        keys.tell("gradient_checkpointing", "unmodelled", why="of this key we model true, false and offload")
        return {}
    if moved not in (True, False, "legacy"):
        keys.tell("activation_offloading", "unmodelled", why="of this key we model true, legacy and false")
        return {}
    if not moved:
        return {} if kind is None else {"gradient_checkpointing": kind}
    if not kind:
        raise BrokenInput(f"{keys.file}: activation_offloading without gradient_checkpointing, which axolotl refuses")
    offload = (*_names(settings.get("offload")), "activations")
    return {"gradient_checkpointing": method == "full", "offload": offload}


def _names(value: Setting | None) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _objective(keys: Keys, method: Method) -> dict[str, Setting]:
    """What the step optimises; other trainers than DPO's and GRPO's step otherwise."""
    kind = keys.take("rl", "text", "objective")
    if kind is None:
        return {}
    if kind not in PREFERENCES:
        planned = " and ".join(one for one, objective in PREFERENCES.items() if objective == "dpo")
        keys.tell("rl", "unmodelled", sets="objective", why=f"of trainers we model {planned}")
        return {}
    found: dict[str, Setting] = {"objective": PREFERENCES[kind]}
    if PREFERENCES[kind] == "dpo":
        keys.unmodelled({"dpo_use_liger_kernel": "Liger's loss of pairs", "dpo_padding_free": "pairs without padding"})
        if keys.take("precompute_ref_log_probs", "flag", "reference", absent=False):
            found["reference"] = "none"
        return found
    return found | _groups(keys.section("trl"), method)


def _groups(section: Keys, method: Method) -> dict[str, Setting]:
    """GRPO's own keys; completions that a server makes are not planned."""
    found: dict[str, Setting] = {}
    for name, setting in (("num_generations", "num_generations"), ("max_completion_length", "completion_len")):
        if name in section:
            found[setting] = section.take(name, "whole", setting)
    if section.take("beta", "number", "reference", 0.0):
        found["reference"] = "copy" if method == "full" else "base"
    section.unmodelled({"use_vllm": "vLLM makes the completions", "use_liger_loss": "Liger's loss", "vllm_*": "vLLM"})
    section.unmodelled(ITERATIONS, off=(None, 1))
    section.ignore("*", why="neither memory nor time of a step feels it")
    return found


def _evaluation(keys: Keys, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Evaluation as a moment, if there is data for it and a time; losses only.

    axolotl 0.19 core/builders/base.py, _configure_save_and_eval_strategy; core/builders/causal.py.
    """
    data = keys.take("val_set_size", "number", "moments", 0.0) or keys.peek("test_datasets")
    times = [keys.take(name, "number", "moments", 0) for name in ("evals_per_epoch", "eval_steps")]
    strategies = [keys.take(name, "text", "moments", "no") for name in ("eval_strategy", "evaluation_strategy")]
    batch = keys.take("eval_batch_size", "whole", "eval_batch_size", settings.get("micro_batch_size", 1))
    if not data or not (any(times) or set(strategies) - {"no"}):
        return {}
    return {
        "moments": ("evaluation",),
        "eval_batch_size": batch,
        "eval_accumulation_steps": settings.get("grad_accumulation", 1),
        "eval_logits": False,
    }


# ---------------------------------------------------------------- engines


def _engines(keys: Keys) -> Engines:
    """DeepSpeed, FSDP or neither, and how ranks are grouped."""
    parts = {name: keys.take(name, "whole", "gpus") for name in ("dp_shard_size", "dp_replicate_size")}
    context = {name: keys.take(name, "whole", "context_parallel", 1) or 1 for name in CONTEXT}
    for name in (name for name, ranks in context.items() if ranks > 1):
        keys.tell(name, "unmodelled", why="a ring of FlashAttention: what is planned is accelerate's, of sdpa")
    if (keys.take("tensor_parallel_size", "whole", "tensor_parallel", 1) or 1) > 1:
        keys.tell("tensor_parallel_size", "unmodelled", why="DTensors divide layers otherwise than we plan")
    return _meshed(_engine(keys), parts["dp_shard_size"], parts["dp_replicate_size"], max(context.values()))


def _engine(keys: Keys) -> Engines:
    sharded = bool(keys.peek("fsdp") or keys.peek("fsdp_config"))
    if keys.peek("deepspeed") and sharded:
        raise BrokenInput(f"{keys.file}: deepspeed and fsdp cannot be used together")
    if keys.peek("deepspeed"):
        keys.ignore("fsdp_version", "fsdp", "fsdp_config", why="DeepSpeed divides the run")
        return Engines(**named_engine(keys)._asdict())
    keys.ignore("deepspeed", why="it is empty")
    if not sharded:
        keys.ignore("fsdp", "fsdp_config", "fsdp_version", why="there is no fsdp_config")
        return Engines()
    words = [word.lower() for word in keys.take("fsdp", "names", "sharding", [])]
    version = keys.take("fsdp_version", "whole", "stack", 1)
    strategy = next((word for word in words if word not in ("auto_wrap", "offload")), "")
    section = keys.section("fsdp_config")
    section.ignore("final_state_dict_type")
    settings, version = fsdp_settings(
        section, version=2 if version == 2 else 1, wraps=True, sharding=strategy, offload="offload" in words
    )
    return Engines(settings=settings, fsdp=version)


def _meshed(found: Engines, shard: int | None, replicate: int | None, context: int) -> Engines:
    """How many cards the mesh has, where it is said; replicas of shards are machines."""
    if not shard and not replicate:
        return found
    shard, replicate = shard or 1, replicate or 1
    found = found._replace(gpus=shard * replicate * context)
    if found.settings.get("sharding") != "fsdp" or replicate == 1:
        return found
    kind = "hsdp" if shard > 1 else "ddp"
    return found._replace(settings={**found.settings, "sharding": kind}, nodes=replicate if shard > 1 else None)
