"""Settings of Unsloth Studio and of ``unsloth train --config``: unsloth 2026.10 unsloth_cli/config.py.

Studio's own defaults are other ones than those of Unsloth's functions, and its optimizer is no key of the file.
"""

from collections.abc import Mapping

from planner.configs.document import Document
from planner.configs.keys import Key, Keys, listed
from planner.configs.transformers_keys import OPTIMIZERS
from planner.configs.understood import Understood
from planner.configs.unsloth_keys import checkpointing
from planner.errors import BrokenInput, option, show
from planner.recommend.request import Setting
from planner.spec import Method

NAME = "unsloth"

TRAINING = (
    Key("max_seq_length", "seq_len", "whole"),
    Key("batch_size", "micro_batch_size", "whole"),
    Key("gradient_accumulation_steps", "grad_accumulation", "whole"),
    Key("optim", "optimizer", "text", OPTIMIZERS),
)
LORA = (
    Key("lora_r", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
    Key("target_modules", "lora_targets", "names"),
)

DEFAULTS: Mapping[str, Setting] = {
    "seq_len": 2048,
    "micro_batch_size": 2,
    "grad_accumulation": 4,
    "optimizer": "adamw_8bit",
    "gradient_checkpointing": True,
    "offload": ("activations",),
}
LORA_DEFAULTS: Mapping[str, Setting] = {
    "lora_rank": 64,
    "lora_alpha": 16.0,
    "lora_dropout": 0.0,
    "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""unsloth 2026.10 unsloth_cli/config.py; studio/backend/core/training/training.py, DEFAULT_TRAINING_OPTIMIZER."""

EPOCHS = 3.0

TRAINING_IGNORED = listed("""
    output_dir learning_rate warmup_steps max_steps save_steps weight_decay random_seed train_on_completions
    lr_scheduler_type
""")
LORA_IGNORED = listed("use_rslora use_loftq finetune_vision_layers")
LORA_UNMODELLED: Mapping[str, str] = {"use_dora": "DoRA trains magnitudes, and forms the whole weight"}
LORA_PARTS = ("finetune_language_layers", "finetune_attention_modules", "finetune_mlp_modules")

WHY_PARTS = "only models that see have them"


def read_settings(document: Document) -> Understood:
    """What a file of Studio's settings says, with Studio's defaults where it says nothing."""
    keys = Keys(document)
    model = keys.take("model", "text", "model")
    training = keys.section("training")
    method = _method(training)
    settings = {**DEFAULTS, **training.plain(TRAINING)}
    settings |= _checkpoints(training, settings)
    job = {"epochs": float(training.take("num_epochs", "number", "epochs", EPOCHS) or EPOCHS)}
    packing = training.take("packing", "flag", "packing", absent=False)
    training.ignore(*TRAINING_IGNORED)
    training.readings(["load_in_4bit", "training_type", "gradient_checkpointing", *(key.name for key in TRAINING)])
    adapters = _adapters(keys.section("lora"), method)
    keys.ignore("data", "logging")
    readings = keys.readings(["model", "training", "lora"])
    said = {one.sets for one in readings} | {"offload"}
    left = [option(name) for name in (*DEFAULTS, *(LORA_DEFAULTS if adapters else ())) if name not in said]
    return Understood(
        format=NAME,
        stack=NAME,
        model=model,
        method=method,
        settings={**settings, **adapters},
        job={**job, "packing": packing},
        readings=readings,
        notes=(f"left out, so what Studio takes: {', '.join(left)}",) if left else (),
    )


def _method(keys: Keys) -> Method:
    kind = keys.take("training_type", "text", "method", "lora").strip().lower()
    in_4_bits = keys.take("load_in_4bit", "flag", "method", absent=True)
    if kind not in ("lora", "full"):
        raise BrokenInput(f"{keys.file}: training.training_type {show(kind)} is neither lora nor full")
    if kind == "full":
        return "full"
    return "qlora" if in_4_bits else "lora"


def _checkpoints(keys: Keys, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    word = keys.take("gradient_checkpointing", "any", "gradient_checkpointing", "unsloth")
    found = checkpointing(word, settings["seq_len"])
    if found is None:
        raise BrokenInput(f"{keys.file}: training.gradient_checkpointing {show(word)} is not unsloth, true or none")
    return found


def _adapters(keys: Keys, method: Method) -> dict[str, Setting]:
    if method == "full":
        keys.ignore("*", why="no adapters are trained")
        return {}
    found = {**LORA_DEFAULTS, **keys.plain(LORA)}
    if not found["lora_targets"]:
        found["lora_targets"] = LORA_DEFAULTS["lora_targets"]
    keys.unmodelled(LORA_UNMODELLED)
    keys.ignore(*LORA_IGNORED)
    keys.ignore("vision_all_linear", *LORA_PARTS, why=WHY_PARTS)
    keys.readings([key.name for key in LORA])
    return found
