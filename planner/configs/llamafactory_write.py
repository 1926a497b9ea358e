"""Writes LLaMA-Factory's YAML for a chosen run, with the entry of its dataset and the engine's files beside it.

Keys and what goes together: LLaMA-Factory 0.9.5 hparams/, as the reader has them.
"""

from pathlib import PurePath
from typing import Any

from planner.configs.hf_write import (
    ACCELERATE,
    DEEPSPEED,
    PORT,
    TRAINED_WHOLE,
    launch_options,
    launcher_files,
    plain_file,
    recipe_lines,
    refuse,
    rslora_lines,
    said,
    setup,
    training_lines,
    why_of_adapters,
)
from planner.configs.keys import Key
from planner.configs.llamafactory_keys import ATTENTION, DATA, LORA, QUANT
from planner.configs.written import Chosen, File, Line, Written, json_text, yaml_text
from planner.errors import UnsupportedScenario

DATASETS, ENTRY = "dataset_info.json", "train"
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".txt")
"""extras/constants.py, FILEEXT2TYPE."""
ATTENDS = Key("flash_attn", "attention", "text", ATTENTION)
UNSAID = ("gradient_checkpointing", "gradient_checkpointing_kwargs", "use_liger_kernel")
"""Keys of TrainingArguments for which LLaMA-Factory has its own."""


def write(chosen: Chosen) -> Written:
    """``sft.yaml`` or ``dpo.yaml``, ``dataset_info.json``, and the engine's file where one is needed."""
    refuse(chosen, "llamafactory")
    _refuse(chosen)
    lines = [
        *_model(chosen),
        *_data(chosen),
        *_training(chosen),
        *recipe_lines(chosen),
        Line("output_dir", "output"),
    ]
    name, text = _name(chosen), yaml_text(chosen.heading, lines, _missing(chosen))
    engine = _engine(chosen)
    return Written(
        files=(File(name, text), *engine, *_dataset(chosen)),
        configs=(name, *(file.name for file in engine)),
        launch=_launch(chosen),
        setup=_setup(chosen),
        gpus=chosen.gpus,
        nodes=chosen.scenario.cluster.nodes if chosen.scenario.cluster.nodes > 1 else None,
        packages=("llamafactory", "torch"),
    )


def _name(chosen: Chosen) -> str:
    return f"{chosen.train.objective}.yaml"


def _refuse(chosen: Chosen) -> None:
    """Raise ``UnsupportedScenario`` for what LLaMA-Factory has no words for."""
    train = chosen.train
    if train.objective == "dpo":
        _refuse_pairs(chosen)
    elif (train.kernels == "fused") != (train.loss == "fused") or train.loss == "chunked":
        raise UnsupportedScenario(
            f"llamafactory cannot express --kernels {train.kernels} --loss {train.loss}: it has all of Liger's kernels "
            "or none; use --kernels fused --loss fused, or --kernels eager --loss full"
        )
    if train.uses_adapters and train.adapter_dtype != "fp32":
        raise UnsupportedScenario("llamafactory cannot express --adapter-dtype bf16: it makes what is trained fp32")
    if train.uses_adapters and train.weights_dtype == "fp32":
        raise UnsupportedScenario(
            "llamafactory cannot express --weights-dtype fp32: it loads weights as they are stored, in 16 bits"
        )
    if train.method == "full" and train.weights_dtype == "bf16" and train.sharding == "zero3":
        raise UnsupportedScenario("llamafactory refuses pure bf16 under ZeRO-3: use --weights-dtype fp32")
    if "activations" in train.offload and not train.gradient_checkpointing:
        raise UnsupportedScenario("llamafactory offloads checkpoints only: use --gradient-checkpointing")
    if train.context_parallel > 1:
        raise UnsupportedScenario("llamafactory cannot express --context-parallel: use --sharding fsdp or zero3")


def _refuse_pairs(chosen: Chosen) -> None:
    train = chosen.train
    if train.reference == "none" or (train.reference == "copy" and train.uses_adapters):
        raise UnsupportedScenario(
            f"llamafactory cannot express --reference {train.reference} under --objective dpo: leave --reference out"
        )
    if chosen.job.packing:
        raise UnsupportedScenario("llamafactory cannot express --packing under --objective dpo: leave out one")


# ---------------------------------------------------------------- the model and its adapters


def _model(chosen: Chosen) -> list[Line]:
    train = chosen.train
    full = train.method == "full"
    lines = [
        Line("model_name_or_path", chosen.model),
        Line("stage", train.objective),
        Line("do_train", value=True),
        Line("finetuning_type", "full" if full else "lora"),
        Line("flash_attn", ATTENDS.write(train.attention)),
        Line("enable_liger_kernel", train.kernels == "fused"),
    ]
    if full:
        pure = train.weights_dtype == "bf16"
        return [*lines, Line("pure_bf16", pure, "" if pure else "trained weights are fp32")]
    return [*lines, *_adapters(chosen), *(_quant(chosen) if train.quantized else [])]


def _adapters(chosen: Chosen) -> list[Line]:
    train = chosen.train
    if train.lora_alpha != int(train.lora_alpha):
        raise UnsupportedScenario(
            f"llamafactory cannot express --lora-alpha {train.lora_alpha}: it wants a whole number"
        )
    targets = "all" if train.lora_targets == ("all-linear",) else ",".join(train.lora_targets)
    rank, alpha = why_of_adapters(chosen)
    lines = [
        Line("lora_rank", train.lora_rank, rank),
        Line("lora_alpha", int(train.lora_alpha), alpha),
        *said(LORA, chosen, {"lora_dropout": ""}),
        Line("lora_target", targets),
    ]
    if train.modules_to_save:
        lines.append(Line("additional_target", ",".join(train.modules_to_save), TRAINED_WHOLE))
    return [*lines, *rslora_lines(chosen, "use_rslora")]


def _quant(chosen: Chosen) -> list[Line]:
    bits = 8 if chosen.train.quant == "int8" else 4
    lines = [Line("quantization_bit", bits), Line("quantization_method", "bnb")]
    return lines if bits == 8 else [*lines, *said(QUANT, chosen, {"quantization_type": "", "double_quantization": ""})]


# ---------------------------------------------------------------- training


def _training(chosen: Chosen) -> list[Line]:
    """What TrainingArguments hold, and LLaMA-Factory's own keys for checkpoints."""
    train = chosen.train
    lines = [
        *said(DATA, chosen, {"cutoff_len": "tokens of a sequence; longer ones are cut"}),
        *([Line("pref_loss", "sigmoid")] if train.objective == "dpo" else [Line("packing", chosen.job.packing)]),
        Line("disable_gradient_checkpointing", not train.gradient_checkpointing),
        Line("use_unsloth_gc", "activations" in train.offload, "inputs of layers wait in host memory, or not"),
    ]
    lines += [line for line in training_lines(chosen) if line.key not in UNSAID]
    if "evaluation" in train.moments:
        lines.append(Line("val_size", 0.05))
    if train.sharding.startswith("zero"):
        lines.append(Line("deepspeed", DEEPSPEED, "keep it beside this file"))
    return lines


def _engine(chosen: Chosen) -> tuple[File, ...]:
    """DeepSpeed's JSON, which the YAML names, or accelerate's YAML, which the launch command names."""
    sharding = chosen.train.sharding
    if sharding.startswith("zero"):
        return tuple(file for file in launcher_files(chosen) if file.name == DEEPSPEED)
    return launcher_files(chosen) if chosen.train.shards_by_fsdp else ()


def _launch(chosen: Chosen) -> str:
    cluster = chosen.scenario.cluster
    if chosen.train.shards_by_fsdp:
        there = f"{ACCELERATE}{launch_options(chosen)}"
        return f"accelerate launch --config_file {there} -m llamafactory.launcher {_name(chosen)}"
    if chosen.gpus == 1 and chosen.train.sharding == "none":
        return f"CUDA_VISIBLE_DEVICES=0 llamafactory-cli train {_name(chosen)}"
    per_node = cluster.world_size // cluster.nodes
    several = f"NNODES={cluster.nodes} NODE_RANK=$MACHINE_RANK MASTER_ADDR=$MAIN_IP MASTER_PORT={PORT} "
    cards = f"FORCE_TORCHRUN=1 NPROC_PER_NODE={per_node} {several if cluster.nodes > 1 else ''}"
    return f"{cards}llamafactory-cli train {_name(chosen)}"


def _setup(chosen: Chosen) -> tuple[str, ...]:
    """Packages that these settings need besides LLaMA-Factory's own."""
    train = chosen.train
    wanted = ["bitsandbytes"] if train.quantized or "8bit" in train.optimizer or "paged" in train.optimizer else []
    return setup(chosen, *wanted)


# ---------------------------------------------------------------- data


def _data(chosen: Chosen) -> list[Line]:
    lines = [Line("dataset_dir", ".", f"where {DATASETS} lies")]
    return [*lines, Line("dataset", ENTRY, f"an entry of {DATASETS}")] if chosen.dataset else lines


def _dataset(chosen: Chosen) -> tuple[File, ...]:
    """The entry of the dataset: rows with a list ``messages`` of ``role`` and ``content``, or texts of pairs."""
    if not chosen.dataset:
        return ()
    file = plain_file(chosen, "llamafactory")
    if file and PurePath(chosen.dataset).suffix.lower() not in SUFFIXES:
        raise UnsupportedScenario(f"llamafactory reads files that end in {', '.join(SUFFIXES)} only: rename --dataset")
    source = {"file_name" if file else "hf_hub_url": chosen.dataset}
    if chosen.train.objective == "dpo":
        columns = {name: name for name in ("prompt", "chosen", "rejected")}
        return (File(DATASETS, json_text({ENTRY: {**source, "ranking": True, "columns": columns}})),)
    entry: dict[str, Any] = {
        **source,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    return (File(DATASETS, json_text({ENTRY: entry})),)


def _missing(chosen: Chosen) -> list[str]:
    """What nobody has said, and LLaMA-Factory asks for."""
    if chosen.dataset:
        return []
    return [f"dataset:  # set this before you start: an entry of {DATASETS}; nobody named one"]
