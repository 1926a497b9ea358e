"""Writes a run as a recipe YAML of torchtune 0.6.1, with the command that starts the recipe for it."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from planner.configs.hf_write import dataset_file, epochs_line, rendezvous
from planner.configs.torchtune_keys import (
    ATTENTION,
    CHUNKED,
    COMPONENTS,
    DPO,
    LOOPS,
    MLP,
    OF_LORA,
    OUTPUT,
    SEPARATE,
    SETTINGS,
)
from planner.configs.torchtune_models import BUILDERS, MODELS, Builder, builders_for
from planner.configs.written import NULL, Chosen, File, Line, Written, yaml_text
from planner.errors import UnsupportedScenario, nearest, show
from planner.formulas.adapters import ALL_LINEAR
from planner.spec import TrainSpec

FILE = "recipe.yaml"
CHECKPOINT = "model"
"""Where ``tune download`` puts the model."""

WARMUP_STEPS = 100
"""Of the shipped recipes; taken where nobody said how much data there is."""


def write(chosen: Chosen) -> Written:
    """The recipe and its launch; raise ``UnsupportedScenario`` for what torchtune does not have."""
    builder = _builder(chosen)
    _refuse(chosen, builder)
    text = yaml_text(chosen.heading, _lines(chosen, builder))
    return Written(
        files=(File(FILE, text),),
        configs=(FILE,),
        launch=_launch(chosen),
        setup=_download(chosen),
        gpus=chosen.gpus,
        nodes=chosen.scenario.cluster.nodes,
        packages=("torchtune", "torch", "torchao") + (("bitsandbytes",) if _uses_bitsandbytes(chosen.train) else ()),
    )


def _download(chosen: Chosen) -> tuple[str, ...]:
    """The model's files, where they are not here."""
    if chosen.model_is_here:
        return ()
    model = shlex.quote(chosen.model)
    return (f'tune download {model} --output-dir {CHECKPOINT} --ignore-patterns "original/consolidated*"',)


def _folder(chosen: Chosen) -> str:
    """Where the model's files are; a dollar and a brace begin a reference in a recipe."""
    if not chosen.model_is_here:
        return CHECKPOINT
    if "${" in chosen.model:
        raise UnsupportedScenario(
            f"torchtune cannot express --model {show(chosen.model)}: it would resolve ${{: rename it"
        )
    return chosen.model


def recipe_name(chosen: Chosen) -> str:
    """The recipe in torchtune's registry."""
    train = chosen.train
    kind = "lora" if train.uses_adapters else "full"
    what = "dpo" if train.objective == "dpo" else "finetune"
    return f"{kind}_{what}_{'distributed' if chosen.gpus > 1 else 'single_device'}"


def _launch(chosen: Chosen) -> str:
    words = ["tune", "run", *rendezvous(chosen)]
    if chosen.gpus > 1:
        words += ["--nproc_per_node", str(chosen.scenario.cluster.gpus)]
    return " ".join([*words, recipe_name(chosen), "--config", FILE])


# ---------------------------------------------------------------- what torchtune has


def _builder(chosen: Chosen) -> Builder:
    name = chosen.scenario.model.name
    found = next(builders_for(name), None)
    if found is None:
        near = ", ".join(nearest(name, {one.model for one in BUILDERS if "/" not in one.model}))
        raise UnsupportedScenario(f"torchtune 0.6 has no builder of {show(name)}; of its models the nearest are {near}")
    return found


def _refuse(chosen: Chosen, builder: Builder) -> None:
    """What no recipe does, before the file is read back."""
    train = chosen.train
    if train.peft_config:
        raise UnsupportedScenario("torchtune cannot express --peft-config: its recipes hold LoRA's settings only")
    if train.peft_type not in (None, "LORA"):
        raise UnsupportedScenario(f"torchtune trains LoRA and everything, not {train.peft_type}: take another target")
    if builder.fused and train.uses_adapters:
        raise UnsupportedScenario(
            f"torchtune adapts queries, keys and values of {builder.model} one by one, which the plan of its joined "
            "matrices does not describe: take another target, or --method full"
        )
    if chosen.job.packing and train.objective == "dpo":
        raise UnsupportedScenario("torchtune cannot express --packing under --objective dpo: leave out one")
    if train.objective == "grpo":
        raise UnsupportedScenario("torchtune 0.6 has no GRPO: take --objective sft or dpo, or plan export trl")


# ---------------------------------------------------------------- lines


def _lines(chosen: Chosen, builder: Builder) -> Iterator[Line]:
    train, advice = chosen.train, chosen.recipe
    yield Line("output_dir", "output")
    yield Line("tokenizer", _tokenizer(builder, chosen))
    yield Line("model", _model(builder, train))
    yield Line("checkpointer", _checkpointer(builder, chosen))
    if train.objective == "dpo" and train.reference == "copy":
        yield Line("ref_checkpointer", _checkpointer(builder, chosen), "the model that preferences are compared with")
    yield Line("resume_from_checkpoint", value=False)
    if train.uses_adapters:
        yield Line("save_adapter_weights_only", True, "the base model is there already")
    yield Line("dataset", _dataset(chosen), "yours: its columns and source")
    yield Line("seed", 0)
    yield Line("shuffle", value=True)
    yield from _settings(chosen)
    yield Line("optimizer", _optimizer(chosen), f"learning rate: {advice.learning_rate.source}")
    yield Line("lr_scheduler", _schedule(chosen))
    yield Line("loss", {"_component_": _loss(train)})
    yield _epochs(chosen)
    yield Line("max_steps_per_epoch", NULL)
    yield Line("clip_grad_norm", 1.0)
    yield Line("compile", train.kernels == "compiled", "of layers and of a chunked loss; what they keep depends on it")
    yield Line("device", "cuda")
    yield Line(
        "metric_logger", {"_component_": f"{TRAINING}.metric_logging.DiskLogger", "log_dir": "${output_dir}/logs"}
    )
    yield Line("log_every_n_steps", 1)
    yield Line("log_peak_memory_stats", True, "to hold against the plan")


def _epochs(chosen: Chosen) -> Line:
    found = epochs_line(chosen, "epochs")
    if not isinstance(found.value, int):
        raise UnsupportedScenario(f"torchtune cannot express --epochs {found.value}: it counts whole ones")
    return found


TRAINING = "torchtune.training"

REASONS: Mapping[str, str] = {
    "micro_batch_size": "sequences on one card at a time",
    "grad_accumulation": "micro-batches before each update",
    "weights_dtype": "of weights, adapters and states: torchtune has no autocast",
}


def _settings(chosen: Chosen) -> Iterator[Line]:
    train = chosen.train
    acting = {"micro_batch_size", "grad_accumulation", "gradient_checkpointing", "weights_dtype"}
    if train.shards_by_fsdp:
        acting.add("reshard_after_forward")
    if train.tensor_parallel > 1:
        acting.add("tensor_parallel")
    for key in SETTINGS:
        if key.setting in acting:
            yield Line(key.name, key.write(getattr(train, key.setting)), REASONS.get(key.setting, ""))
    yield Line("enable_activation_offloading", "activations" in train.offload)
    if chosen.gpus > 1:
        yield Line("fsdp_cpu_offload", {"optimizer", "parameters"} <= set(train.offload))
        if "custom_sharded_layers" in chosen.scenario.stack.versions:
            yield Line("custom_sharded_layers", list(SEPARATE), "gathered when they are used, as planned")
    if train.tensor_parallel > 1:
        yield Line("tensor_parallel_plan", {"_component_": f"{MODELS}.llama3.base_llama_tp_plan"})


def _tokenizer(builder: Builder, chosen: Chosen) -> dict[str, Any]:
    folder = _folder(chosen)
    files = {name: f"{folder}/{file}" for name, file in builder.vocabulary}
    return {"_component_": f"{MODELS}.{builder.tokenizer}", **files, "max_seq_len": chosen.train.seq_len}


def _model(builder: Builder, train: TrainSpec) -> dict[str, Any]:
    if not train.uses_adapters:
        return {"_component_": builder.component}
    found = {"_component_": builder.lora, **_targets(builder, train)}
    found |= {key.name: key.write(getattr(train, key.setting)) for key in OF_LORA}
    return {**found, "quantize_base": train.quantized}


def _targets(builder: Builder, train: TrainSpec) -> dict[str, Any]:
    """The builder's three arguments; raise ``UnsupportedScenario`` for matrices that it cannot adapt, or not alone."""
    names = set(train.lora_targets)
    if ALL_LINEAR in names:
        names = names - {ALL_LINEAR} | {*ATTENTION.values(), *MLP}
    mlp = names & set(MLP)
    unknown = names - {*ATTENTION.values(), *MLP, OUTPUT}
    if unknown or (mlp and mlp != set(MLP)) or (OUTPUT in names and not builder.adapts_output):
        raise UnsupportedScenario(
            f"torchtune cannot adapt exactly {show(', '.join(train.lora_targets))}: it takes any of "
            f"{', '.join(ATTENTION.values())}, and {', '.join(MLP)} together"
        )
    found: dict[str, Any] = {"lora_attn_modules": [theirs for theirs, ours in ATTENTION.items() if ours in names]}
    found["apply_lora_to_mlp"] = bool(mlp)
    return found | ({"apply_lora_to_output": OUTPUT in names} if builder.adapts_output else {})


def _checkpointer(builder: Builder, chosen: Chosen) -> dict[str, Any]:
    count = f"{builder.shards:05d}"
    files: Any = {"filename_format": builder.weights, "max_filename": count}
    return {
        "_component_": f"{TRAINING}.FullModelHFCheckpointer",
        "checkpoint_dir": _folder(chosen),
        "checkpoint_files": ["model.safetensors"] if builder.shards == 1 else files,
        "output_dir": "${output_dir}",
        "model_type": builder.kind,
    }


def _dataset(chosen: Chosen) -> dict[str, Any]:
    """The user's own rows, or those of the shipped recipes to begin with."""
    packed = {} if chosen.train.objective == "dpo" else {"packed": chosen.job.packing}
    if not chosen.dataset:
        shipped = "stack_exchange_paired_dataset" if chosen.train.objective == "dpo" else "alpaca_cleaned_dataset"
        return {"_component_": f"torchtune.datasets.{shipped}", **packed}
    file = dataset_file(chosen)
    named = {"source": chosen.dataset} if file is None else {"source": file[0], "data_files": file[1]}
    rows = {**named, "split": "train"}
    if chosen.train.objective == "dpo":
        return {"_component_": "torchtune.datasets.preference_dataset", **rows}
    conversation = {"conversation_column": "messages", "conversation_style": "openai"}
    return {"_component_": "torchtune.datasets.chat_dataset", **rows, **conversation, **packed}


def _optimizer(chosen: Chosen) -> dict[str, Any]:
    train, advice = chosen.train, chosen.recipe
    if train.optimizer not in COMPONENTS:
        raise UnsupportedScenario(
            f"torchtune's recipes cannot be given --optimizer {train.optimizer}: take one of {', '.join(COMPONENTS)}"
        )
    found: dict[str, Any] = {"_component_": COMPONENTS[train.optimizer], **LOOPS.get(train.optimizer, {})}
    return {**found, "lr": advice.learning_rate.value, "weight_decay": advice.weight_decay.value}


def _schedule(chosen: Chosen) -> dict[str, Any]:
    share, cost = chosen.recipe.warmup.value, chosen.candidate.cost
    steps = round(float(share) * cost.steps) if cost is not None and isinstance(share, int | float) else WARMUP_STEPS
    name = f"{TRAINING}.lr_schedulers.get_cosine_schedule_with_warmup"
    return {"_component_": name, "num_warmup_steps": steps}


def _uses_bitsandbytes(train: TrainSpec) -> bool:
    return COMPONENTS.get(train.optimizer, "").startswith("bitsandbytes")


def _loss(train: TrainSpec) -> str:
    if train.objective == "dpo":
        return DPO
    return CHUNKED if train.loss == "chunked" else "torch.nn.CrossEntropyLoss"
