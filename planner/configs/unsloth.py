"""Unsloth: a script as far as its calls are literals, or the settings of Unsloth Studio.

Names: unsloth 2026.10 models/loader.py (``from_pretrained``), llama.py and vision.py (``get_peft_model``), and those of
TRL's configurations and trainers, which Unsloth patches.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from planner.configs.document import Document
from planner.configs.keys import Keys
from planner.configs.script import CONFIGS, TRAINERS, Expression
from planner.configs.transformers import Trained, training
from planner.configs.transformers_keys import DATA, LENGTHS
from planner.configs.transformers_keys import MATTER as TRAINING_MATTER
from planner.configs.trl_keys import DPO_IGNORED, GRPO_IGNORED, ITERATIONS, SFT_IGNORED, SFT_UNMODELLED
from planner.configs.understood import Reading, Understood
from planner.configs.unsloth_keys import (
    ADAPTERS_IGNORED,
    ADAPTERS_MATTER,
    ADAPTERS_UNMODELLED,
    EMBEDDINGS,
    LOADER_IGNORED,
    LOADER_MATTERS,
    LOADER_UNMODELLED,
    OF_ADAPTERS,
    OF_LOADER,
    PARTS,
    TRAINER_IGNORED,
    TRAINER_UNMODELLED,
    UNNAMED,
    UNPATCHED,
    checkpointing,
)
from planner.configs.unsloth_studio import NAME, read_settings
from planner.configs.unsloth_write import write
from planner.errors import BrokenInput, show
from planner.recommend.request import Setting
from planner.spec import Method

__all__ = ["read", "write"]

LOADER, ADAPTERS = "from_pretrained", "get_peft_model"
SEEING = "FastVisionModel."

CONFIG_MATTERS = (*TRAINING_MATTER, *LENGTHS, "packing")
TRAINER_MATTERS = ("max_seq_length", "packing")
BY_CARD = ("is_bfloat16_supported", "is_bf16_supported")
"""What scripts ask for the choice between bf16 and fp16; the plan asks the card, too."""

OBJECTIVES: Mapping[str, str] = {"DPOConfig": "dpo", "GRPOConfig": "grpo"}

COMPUTED = "it is computed: only literals are read"


def read(document: Document) -> Understood:
    """What a script or a file of settings says."""
    return _script(document) if document.format == "python" else read_settings(document)


def _script(document: Document) -> Understood:
    calls, computed = _literals(document)
    keys = Keys(calls)
    loader, adapters = keys.section(LOADER), keys.section(ADAPTERS)
    method = _method(keys, loader, document.name)
    config = next((name for name in CONFIGS if name in calls.data), "")
    trainer = next((name for name in TRAINERS if name in calls.data), "")
    trained = _trained(keys.section(config)) if config else Trained({}, {})
    lengths = [_length(keys.section(name)) for name in (LOADER, config, trainer) if name]
    settings = {**_loaded(loader, method), **_adapted(adapters, method), **trained.settings}
    settings |= _objective(config) | _cut(lengths)
    settings |= _checkpoints([adapters, loader], settings)
    if config == "TrainingArguments":
        settings = {**UNPATCHED, **settings}
    job = {**trained.job, **_packing(keys, config, trainer)}
    model = loader.take("model_name", "text", "model")
    _rest(keys, config, trainer)
    readings = (*keys.readings((LOADER, ADAPTERS)), *computed, *_missing(config, document.name))
    return Understood(
        format=NAME,
        stack=NAME,
        model=model,
        method=method,
        settings=settings,
        job=job,
        readings=readings,
        notes=trained.notes,
    )


# ---------------------------------------------------------------- literals


MATTERS: Mapping[str, tuple[str, ...]] = {
    LOADER: LOADER_MATTERS,
    ADAPTERS: ADAPTERS_MATTER,
    **dict.fromkeys(CONFIGS, CONFIG_MATTERS),
    **dict.fromkeys(TRAINERS, TRAINER_MATTERS),
}


def _literals(document: Document) -> tuple[Document, list[Reading]]:
    """The calls without values that are computed though they matter, which are told."""
    data: dict[str, dict[str, Any]] = {}
    told: list[Reading] = []
    for call, arguments in document.data.items():
        data[call] = {}
        for name, value in arguments.items():
            reading = _computed(call, name, value, document.name)
            if reading is None:
                data[call][name] = value
            else:
                told.append(reading)
    return replace(document, data=MappingProxyType(data)), told


def _computed(call: str, name: str, value: object, file: str) -> Reading | None:
    """What becomes of a computed value, ``None`` where it is a literal or does not matter."""
    if not isinstance(value, Expression) or name not in MATTERS.get(call, ()):
        return None
    text, key = str(value), f"{call}.{name}"
    if name in ("bf16", "fp16", "dtype") and any(asks in text for asks in BY_CARD):
        return Reading(key=key, value=text, fate="used", sets="autocast", why="the card decides", file=file)
    if name == "model_name":
        return Reading(key=key, value=text, fate="unknown", why=f"{COMPUTED}: --model says it", file=file)
    return Reading(key=key, value=text, fate="unmodelled", why=COMPUTED, file=file)


# ---------------------------------------------------------------- the model


def _method(keys: Keys, loader: Keys, file: str) -> Method:
    """Adapters where there are some, on weights in 4 bits unless the script says otherwise: models/loader.py."""
    flags = {
        name: loader.take(name, "flag", "method", absent=absent)
        for name, absent in (
            ("full_finetuning", False),
            ("load_in_4bit", True),
            ("load_in_8bit", False),
            ("load_in_16bit", False),
        )
    }
    if flags["full_finetuning"]:
        return "full"
    if ADAPTERS not in keys and SEEING + ADAPTERS not in keys:
        raise BrokenInput(f"{file} trains nothing that we can see: it has neither get_peft_model nor full_finetuning")
    quantized = (flags["load_in_4bit"] or flags["load_in_8bit"]) and not flags["load_in_16bit"]
    return "qlora" if quantized else "lora"


def _loaded(keys: Keys, method: Method) -> dict[str, Setting]:
    found = keys.plain(OF_LOADER)
    if method == "qlora" and keys.take("load_in_8bit", "flag", "method", absent=False):
        found["quant"] = "int8"
    if keys.take("float32_mixed_precision", "flag", "weights_dtype", absent=False) and method == "full":
        found["weights_dtype"] = "fp32"
    keys.unmodelled({"device_map": "layers are spread over cards"}, off=(None, "sequential", "auto", {"": 0}))
    keys.unmodelled(LOADER_UNMODELLED)
    keys.ignore(*LOADER_IGNORED)
    return found


def _adapted(keys: Keys, method: Method) -> dict[str, Setting]:
    """LoRA's settings; embedding and head among the targets are trained as copies."""
    if method == "full":
        keys.ignore("*", why="no adapters are trained")
        return {}
    found = keys.plain(OF_ADAPTERS)
    targets = keys.take("target_modules", "names", "lora_targets", absent=[])
    saved = [name for name in targets if name in EMBEDDINGS]
    if saved:
        found["modules_to_save"] = tuple(dict.fromkeys((*found.get("modules_to_save", ()), *saved)))  # type: ignore[misc]
    if targets:
        found["lora_targets"] = tuple(name for name in targets if name not in EMBEDDINGS)
    keys.unmodelled({"bias": "biases are trained"}, off=("none",))
    keys.unmodelled(dict.fromkeys(PARTS, "only some matrices have adapters"), off=(True,))
    keys.unmodelled(ADAPTERS_UNMODELLED)
    keys.ignore(*ADAPTERS_IGNORED)
    return found


def _checkpoints(sections: list[Keys], settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Checkpoints, by the call that speaks of them last; Unsloth's wait in RAM unless sequences are short."""
    said = [one.take("use_gradient_checkpointing", "any", "gradient_checkpointing") for one in sections]
    word = next((one for one in said if one is not None), None)
    if word is None:
        return {}
    found = checkpointing(word, settings.get("seq_len"))
    if found is None:
        raise BrokenInput(f"{sections[0].file}: use_gradient_checkpointing {show(word)} is not unsloth, True or False")
    return found


# ---------------------------------------------------------------- the trainer


def _trained(keys: Keys) -> Trained:
    """What the configuration says; its own switch of checkpoints and its lengths are Unsloth's matter."""
    found = training(keys)
    settings = {name: value for name, value in found.settings.items() if name != "gradient_checkpointing"}
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        if name in keys:
            keys.tell(name, "ignored", why="use_gradient_checkpointing says it")
    return found._replace(settings=settings)


def _length(keys: Keys) -> int | None:
    """Tokens at which a call cuts sequences."""
    found = [keys.take(name, "whole", "seq_len") for name in ("max_seq_length", "max_length")]
    return min((one for one in found if one is not None), default=None)


def _cut(lengths: list[int | None]) -> dict[str, Setting]:
    said = [one for one in lengths if one is not None]
    return {"seq_len": min(said)} if said else {}


def _objective(config: str) -> dict[str, Setting]:
    return {"objective": OBJECTIVES[config]} if config in OBJECTIVES else {}


def _packing(keys: Keys, *calls: str) -> dict[str, Any]:
    said = [keys.section(call).take("packing", "flag", "packing", absent=False) for call in calls if call]
    return {"packing": True} if any(said) else {}


def _missing(config: str, file: str) -> tuple[Reading, ...]:
    """A script whose training arguments are nowhere to be seen."""
    if config:
        return ()
    why = "its batches and optimizer are nowhere to be seen"
    return (Reading(key="SFTConfig", value=None, fate="unmodelled", why=why, file=file),)


LEFT: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    **dict.fromkeys(
        CONFIGS,
        (
            SFT_UNMODELLED,
            (*SFT_IGNORED, *DPO_IGNORED, *GRPO_IGNORED, *DATA, *LENGTHS, "embedding_learning_rate"),
        ),
    ),
    **dict.fromkeys(TRAINERS, (TRAINER_UNMODELLED, TRAINER_IGNORED)),
}
"""What nobody has read of a call: arguments that are not modelled, and that do not matter."""


def _rest(keys: Keys, config: str, trainer: str) -> None:
    """What is left of every call."""
    for call in (LOADER, ADAPTERS, *filter(None, (config, trainer))):
        section = keys.section(call)
        unmodelled, ignored = LEFT.get(call, ({}, ()))
        section.unmodelled({**unmodelled, **UNNAMED})
        if call == config:
            section.unmodelled(ITERATIONS, off=(None, 1))
        section.ignore(*ignored)
        section.readings(MATTERS[call])
    keys.unmodelled({f"{SEEING}*": "a model that sees", "* [0-9]*": "a second call of its kind"})
    keys.ignore(*CONFIGS, *TRAINERS, why="another call says it")
