"""transformers' ``TrainingArguments`` as JSON, alone or beside arguments of the model.

Names: transformers 5.23 training_args.py, and those of transformers 4 that it no longer has. ``HfArgumentParser`` reads
such a file, ``to_json_string`` writes it with all its defaults.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from planner.configs.accelerate_fsdp import fsdp_settings
from planner.configs.deepspeed import named_engine
from planner.configs.document import Document
from planner.configs.keys import Keys
from planner.configs.model_arguments import MATTER as MODEL_MATTER
from planner.configs.model_arguments import model_arguments
from planner.configs.transformers_keys import DATA, EVALUATED, IGNORED, LENGTHS, MATTER, OFF, TRAINING, UNMODELLED
from planner.configs.understood import Understood, with_fallbacks
from planner.recommend.request import Setting

LIGER_PARTS = ("rope", "rms_norm", "swiglu", "fused_linear_cross_entropy")
"""What Liger replaces unless told otherwise: liger_kernel 0.6 transformers/monkey_patch.py."""


class Trained(NamedTuple):
    """What TrainingArguments say."""

    settings: Mapping[str, Setting]
    job: Mapping[str, Any]
    fallbacks: Mapping[str, Setting] = {}
    files: Mapping[str, str] = {}
    fsdp: Literal[1, 2] | None = None
    notes: tuple[str, ...] = ()


def read(document: Document) -> Understood:
    """What a file of TrainingArguments says, with the arguments of model and data that may stand beside them."""
    keys = Keys(document)
    arguments = model_arguments(keys)
    trained = training(keys)
    settings = {**arguments.settings, **trained.settings, **lengths(keys), **_liger(keys)}
    job = {**trained.job, **({"packing": True} if keys.take("packing", "flag", "packing", absent=False) else {})}
    keys.ignore(*DATA)
    return Understood(
        format="transformers",
        stack="hf",
        model=arguments.model,
        method=arguments.method,
        settings=settings,
        job=job,
        fallbacks=trained.fallbacks,
        files=trained.files,
        fsdp=trained.fsdp,
        readings=keys.readings((*MATTER, *MODEL_MATTER, *LENGTHS)),
        notes=trained.notes,
    )


def training(keys: Keys) -> Trained:
    """What the keys of TrainingArguments say, wherever they stand."""
    settings = keys.plain(TRAINING)
    if keys.take("adafactor", "flag", "optimizer", absent=False):
        settings["optimizer"] = "adafactor"
    settings |= _autocast(keys)
    evaluated, notes = evaluation(keys)
    engines = _engines(keys)
    checkpoints(keys)
    _accelerator(keys)
    epochs = _epochs(keys)
    keys.unmodelled(UNMODELLED, off=OFF)
    keys.ignore(*IGNORED)
    settings = with_fallbacks({**settings, **evaluated, **engines.settings}, engines.fallbacks)
    return engines._replace(settings=settings, job={"epochs": epochs} if epochs else {}, fallbacks={}, notes=notes)


def _epochs(keys: Keys) -> float | None:
    """Passes over the data, unless steps are counted instead."""
    if (keys.take("max_steps", "whole", "", -1)) > 0:
        keys.ignore("num_train_epochs", why="max_steps stands before it")
        keys.tell("max_steps", "ignored", why="the run's length is that of its data: --dataset, --epochs")
        return None
    if "max_steps" in keys:
        keys.tell("max_steps", "ignored", why="it is off")
    epochs = keys.take("num_train_epochs", "number", "epochs")
    return epochs if epochs and epochs > 0 else None


def lengths(keys: Keys) -> dict[str, Setting]:
    """The tokens of a sequence, by any of its names; ``null`` cuts nothing."""
    found: dict[str, Setting] = {}
    for name in LENGTHS:
        if keys.is_null(name):
            keys.tell(name, "unmodelled", why="sequences are not cut: say how long they get with --seq-len")
        elif name in keys and not found:
            found["seq_len"] = keys.take(name, "whole", "seq_len")
    keys.ignore(*LENGTHS, why="another key says it")
    return found


def _autocast(keys: Keys) -> dict[str, Setting]:
    """Mixed precision, if a key speaks of it; switched off, a launcher may still switch it on."""
    flags = {name: keys.take(name, "flag", "autocast") for name in ("fp16", "bf16")}
    on = [name for name, value in flags.items() if value]
    if on:
        return {"autocast": on[0]}
    return {"autocast": "none"} if flags["bf16"] is False else {}


def evaluation(keys: Keys) -> tuple[dict[str, Setting], tuple[str, ...]]:
    """Evaluation as a moment of the run, if there is one; losses only, as without a function for metrics."""
    found: dict[str, Setting] = {}
    strategies = [str(keys.take(name, "text", "moments", "no")) for name in ("eval_strategy", "evaluation_strategy")]
    wanted = keys.take("do_eval", "flag", "moments", absent=False)
    if set(strategies) <= {"no"} and not wanted:
        keys.ignore("per_device_eval_batch_size", "per_gpu_eval_batch_size", "eval_accumulation_steps")
        keys.ignore("prediction_loss_only", why="there is no evaluation")
        return {}, ()
    found["moments"], found["eval_logits"] = ("evaluation",), False
    for name, setting in (
        ("per_gpu_eval_batch_size", "eval_batch_size"),
        ("per_device_eval_batch_size", "eval_batch_size"),
        ("eval_accumulation_steps", "eval_accumulation_steps"),
    ):
        if name in keys:
            found[setting] = keys.take(name, "whole", setting)
    keys.ignore("prediction_loss_only", why="evaluation is planned without a function for metrics")
    return found, (EVALUATED,)


def checkpoints(keys: Keys) -> None:
    """How checkpoints work; the trainer's way is a rule of its stack."""
    why = "the other way of checkpointing moves the peak by one layer's output at most"
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        section = keys.section(name)
        section.unmodelled({"context_fn": "checkpoints that keep a part"})
        section.ignore("use_reentrant", "preserve_rng_state", "determinism_check", "debug", why=why)
        section.readings()


def _liger(keys: Keys) -> dict[str, Setting]:
    """Liger's kernels, in transformers with its fused head; parts of them alone are not modelled."""
    if not keys.take("use_liger_kernel", "flag", "kernels", absent=False):
        keys.ignore("use_liger_kernel", "liger_kernel_config", why="it is off")
        return {}
    if liger_in_part(keys, LIGER_PARTS):
        return {}
    return {"kernels": "fused", "loss": "fused"}


def liger_in_part(keys: Keys, parts: tuple[str, ...]) -> bool:
    """Whether only some of Liger's kernels are asked for, which is then told."""
    section = keys.section("liger_kernel_config")
    wanted = {name: section.take(name, "flag", "kernels", absent=True) for name in parts}
    section.unmodelled({"*": "kernels of Liger beside those that are planned"})
    left_out = [name for name, value in wanted.items() if not value]
    for name in left_out:
        section.tell(name, "unmodelled", why="Liger's kernels are planned together")
    return bool(left_out)


def _accelerator(keys: Keys) -> None:
    section = keys.section("accelerator_config")
    section.unmodelled({"split_batches": "the batch is that of all cards together"})
    section.ignore("*")


# ---------------------------------------------------------------- engines


def _engines(keys: Keys) -> Trained:
    """FSDP or DeepSpeed, where TrainingArguments themselves name them."""
    if keys.peek("deepspeed"):
        found = named_engine(keys)
        return Trained(found.settings, {}, found.fallbacks, found.files)
    keys.ignore("deepspeed", why="it is empty")
    if keys.peek("fsdp"):
        return _fsdp(keys)
    keys.ignore("fsdp", "fsdp_config", "fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", why="fsdp is off")
    return Trained({}, {})


def _fsdp(keys: Keys) -> Trained:
    """FSDP as ``true``, or by its options in words, with a section for the rest."""
    words = _options(keys)
    strategy = next((word for word in words if word not in ("auto_wrap", "offload")), "")
    keys.ignore("fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", why="layers are units of FSDP")
    if isinstance(keys.peek("fsdp_config"), str):
        moved: dict[str, Setting] = {"offload": ("optimizer", "parameters")} if "offload" in words else {}
        return Trained(moved, {}, files={"fsdp_config": keys.take("fsdp_config", "text", "sharding")})
    section = keys.section("fsdp_config")
    settings, version = fsdp_settings(section, version=2, wraps=True, sharding=strategy, offload="offload" in words)
    return Trained(settings, {}, fsdp=version)


def _options(keys: Keys) -> list[str]:
    if isinstance(keys.peek("fsdp"), bool):
        keys.take("fsdp", "flag", "sharding")
        return []
    words: list[str] = keys.take("fsdp", "names", "sharding")
    return [word.lower() for word in words]
