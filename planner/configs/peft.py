"""PEFT's ``adapter_config.json``, of any kind of adapter: the adapter and the model that it belongs to.

Alone it is a run of transformers' Trainer on our own settings; beside a trainer's file it says what is adapted.
"""

from planner.configs.document import Document
from planner.configs.keys import NO_TOUCH
from planner.configs.understood import Fate, Reading, Understood
from planner.peft_config import checked

NOT_BYTES = (
    "task_type", "revision", "inference_mode", "auto_mapping", "peft_version", "use_rslora", "init_lora_weights",
    "megatron_core", "runtime_config",
)  # fmt: skip
"""Fields that change no byte. peft 0.21 tuners/lora/config.py, config.py."""

WITH_KEYS = ("loftq_config", "eva_config", "corda_config")
"""Fields of ways to initialise, that change no byte."""


def read(document: Document) -> Understood:
    """What the file says; its fields are checked as those of ``--peft-config`` are."""
    fields = checked(dict(document.data), document.name)
    model = fields.get("base_model_name_or_path")
    return Understood(
        format="peft",
        model=model if isinstance(model, str) and model else None,
        settings={"peft_config": str(document.path)},
        readings=tuple(_reading(name, document) for name in document.data),
        notes=(f"adapters are {fields['peft_type']}: --method qlora where the base is quantised",),
    )


def _reading(name: str, document: Document) -> Reading:
    """All that PEFT builds adapters from is used: the configuration as a whole is the setting."""
    value = document.data[name]
    off = name in (*NOT_BYTES, *WITH_KEYS) or value in (None, [], {})
    fate: Fate = "ignored" if off else "used"
    sets = "model" if name == "base_model_name_or_path" else "peft_config"
    return Reading(
        key=name,
        value=value,
        fate=fate,
        sets="" if off else sets,
        why=NO_TOUCH if off else "",
        file=document.name,
    )
