"""A chosen run in the words of Hugging Face's libraries: lines that TRL and a bare Trainer share, and the launcher's.

What only some other software does is refused here, by name; every setting that acts is written out.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from planner.configs import model_arguments as arguments
from planner.configs.keys import Key
from planner.configs.transformers_keys import TRAINING
from planner.configs.written import Chosen, File, Line, json_text, yaml_text
from planner.errors import UnsupportedScenario, option, show
from planner.recommend.sourced import Advice
from planner.spec import NO_JOB

ACCELERATE, DEEPSPEED = "accelerate.yaml", "ds_config.json"
"""Names of the launcher's files."""

BUILDERS: Mapping[str, str] = {
    **dict.fromkeys((".json", ".jsonl", ".jsonlines", ".ndjson"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
    ".csv": "csv",
}
"""Builders of ``datasets`` by the suffix of a file."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of files that ``datasets`` unpacks itself."""
WILD = re.compile(r"[\[*?]")
ELSEWHERE = re.compile(r"\$[A-Za-z_]\w*|\$\{|::")
"""What the names of files mean to ``datasets`` (5.0 data_files.py): patterns, variables of the shell's, chains of
places. The first can be said otherwise."""

ENGINE_WORDS: Mapping[str, str] = {"none": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP", "hsdp": "FSDP"}

NEVER = ("tensor_parallel", "pipeline_parallel", "ulysses_parallel", "expert_parallel")
"""Layouts for which these scripts have no words."""


# ---------------------------------------------------------------- what cannot be said


def refuse(chosen: Chosen, target: str) -> None:
    """Raise ``UnsupportedScenario`` for what the files of ``target`` cannot say, with the nearest that they can."""
    train = chosen.train
    for name in NEVER:
        if getattr(train, name) > 1:
            raise UnsupportedScenario(f"{target} cannot express {option(name)}: use --sharding fsdp or zero3")
    if train.peft_config:
        raise UnsupportedScenario(f"{target} cannot express --peft-config: its files hold LoRA's settings only")
    if chosen.job.packing and train.objective != "sft":
        raise UnsupportedScenario(
            f"{target} cannot express --packing under --objective {train.objective}: leave it out"
        )
    if beyond := [name for name in train.moments if name != "evaluation"]:
        raise UnsupportedScenario(f"{target} cannot express --moments {','.join(beyond)}: leave them out")
    if train.optimizer == "adamw_loop":
        raise UnsupportedScenario(f"{target} cannot express --optimizer adamw_loop: transformers 5 has no such AdamW")
    if chosen.scenario.cluster.nodes > 1 and train.sharding == "none":
        raise UnsupportedScenario(f"{target} cannot express --sharding none on several machines")


# ---------------------------------------------------------------- the model and its adapters


def said(table: Iterable[Key], chosen: Chosen, names: Mapping[str, str]) -> list[Line]:
    """Lines for keys of ``table``; ``names``: which of them, and why they have their values."""
    keys = {key.name: key for key in table}
    return [Line(name, _value(keys[name], chosen), why) for name, why in names.items()]


def _value(key: Key, chosen: Chosen) -> Any:  # noqa: ANN401  (a file's value)
    """The trainer's value; a whole number as such, since ``lora_alpha`` is declared as one."""
    found = key.write(getattr(chosen.train, key.setting))
    return int(found) if key.name == "lora_alpha" and found == int(found) else found


def model_lines(chosen: Chosen) -> list[Line]:
    """Weights, attention, adapters and how they are quantised, as TRL's ModelConfig has them."""
    lines = [
        Line("model_name_or_path", chosen.model),
        *said(arguments.MODEL, chosen, {"dtype": "of the weights as loaded", "attn_implementation": ""}),
    ]
    if chosen.train.uses_adapters:
        lines += _adapter_lines(chosen)
    return lines + (_quant_lines(chosen) if chosen.train.quantized else [])


def _adapter_lines(chosen: Chosen) -> list[Line]:
    rank, alpha = why_of_adapters(chosen)
    whys = {"lora_r": rank, "lora_alpha": alpha, "lora_dropout": "", "lora_target_modules": ""}
    lines = [Line("use_peft", value=True), *said(arguments.LORA, chosen, whys)]
    if chosen.train.modules_to_save:
        lines += said(arguments.LORA, chosen, {"lora_modules_to_save": TRAINED_WHOLE})
    return [*lines, *rslora_lines(chosen, "use_rslora")]


TRAINED_WHOLE = "trained whole, beside the adapters"


def why_of_adapters(chosen: Chosen) -> tuple[str, str]:
    """Why rank and alpha have their values; empty where these are not what the recipe advises."""
    recipe, train = chosen.recipe, chosen.train
    pairs = ((recipe.rank, train.lora_rank), (recipe.alpha, train.lora_alpha))
    rank, alpha = ("" if advice is None or advice.value != value else because(advice) for advice, value in pairs)
    return rank, alpha


def rslora_lines(chosen: Chosen, name: str) -> list[Line]:
    """How adapters are scaled, which the recipe advises together with its alpha."""
    advice, alpha = chosen.recipe.rslora, chosen.recipe.alpha
    if advice is None or alpha is None or alpha.value != chosen.train.lora_alpha:
        return []
    return [Line(name, bool(advice.value), because(advice))]


def _quant_lines(chosen: Chosen) -> list[Line]:
    if chosen.train.quant == "int8":
        return [Line("load_in_8bit", value=True)]
    names = {"bnb_4bit_quant_type": "", "use_bnb_nested_quant": "scales are packed, too"}
    if not chosen.train.double_quant:
        names["use_bnb_nested_quant"] = ""
    names["bnb_4bit_quant_storage"] = "as FSDP and ZeRO-3 need it to shard" if chosen.gpus > 1 else ""
    return [Line("load_in_4bit", value=True), *said(arguments.QUANT, chosen, names)]


# ---------------------------------------------------------------- training


def training_lines(chosen: Chosen) -> list[Line]:
    """Batch, checkpoints, dtypes and optimizer, as TrainingArguments have them."""
    train, stack = chosen.train, chosen.scenario.stack
    batch = train.micro_batch_size * train.grad_accumulation * chosen.scenario.layout.sequences
    names = {
        "per_device_train_batch_size": f"sequences; with accumulation and all cards {batch} per optimizer step",
        "gradient_accumulation_steps": "",
        "gradient_checkpointing": "",
        "optim": "",
    }
    lines = said(TRAINING, chosen, names)
    if train.gradient_checkpointing:
        reentrant = {"use_reentrant": stack.reentrant_checkpoint}
        lines.insert(3, Line("gradient_checkpointing_kwargs", reentrant))
    precision = {"bf16": train.autocast == "bf16", "fp16": train.autocast == "fp16"}
    lines += [Line(name, value) for name, value in precision.items()]
    lines.append(Line("use_liger_kernel", train.kernels == "fused"))
    return lines + _evaluation_lines(chosen)


def _evaluation_lines(chosen: Chosen) -> list[Line]:
    train = chosen.train
    if "evaluation" not in train.moments:
        return [Line("eval_strategy", "no")]
    if train.eval_logits:
        raise UnsupportedScenario("evaluation with gathered logits needs a function for metrics: use --no-eval-logits")
    lines = [Line("eval_strategy", "epoch"), Line("per_device_eval_batch_size", train.eval_batch_size)]
    steps = train.eval_accumulation_steps
    return [*lines, Line("eval_accumulation_steps", steps)] if steps else lines


def recipe_lines(chosen: Chosen) -> list[Line]:
    """What learning feels, under the names of TrainingArguments."""
    warmup = "warmup_steps" if _newer(chosen, 5) else "warmup_ratio"
    return learning_lines(chosen, scheduler="lr_scheduler_type", warmup=warmup, epochs="num_train_epochs")


def learning_lines(chosen: Chosen, *, scheduler: str, warmup: str, epochs: str) -> list[Line]:
    """What learning feels: rate, schedule, warmup and epochs, each with its source; names where trainers differ."""
    recipe = chosen.recipe
    return [
        _advised("learning_rate", recipe.learning_rate),
        _advised(scheduler, recipe.scheduler),
        _advised(warmup, recipe.warmup),
        _advised("weight_decay", recipe.weight_decay),
        epochs_line(chosen, epochs),
    ]


def epochs_line(chosen: Chosen, name: str) -> Line:
    """How often the data is seen: as planned, or as the recipe advises where nobody said anything of data."""
    if chosen.candidate.cost is not None or chosen.job.epochs != NO_JOB.epochs:
        epochs = chosen.job.epochs
        return Line(name, int(epochs) if epochs == int(epochs) else epochs, "as planned")
    return _advised(name, chosen.recipe.epochs)


def _newer(chosen: Chosen, major: int) -> bool:
    return int(chosen.scenario.stack.versions["transformers"].partition(".")[0]) >= major


def _advised(name: str, advice: Advice) -> Line:
    return Line(name, advice.value, because(advice))


def because(advice: Advice) -> str:
    """Why a value, and who says so, in a line."""
    told = f"{advice.why}; {advice.source}" if advice.why else advice.source
    return " ".join(told.split())


# ---------------------------------------------------------------- data


def dataset_file(chosen: Chosen) -> tuple[str, str] | None:
    """The builder and the pattern of a dataset that is a file; ``None`` for a name, and where nobody named any.

    Raise ``UnsupportedScenario`` for a file that ``datasets`` would not find, or would read as something else.
    """
    path = PurePath(chosen.dataset)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    kind = BUILDERS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        if suffixes[-1:] == [".tsv"] or Path(chosen.dataset).is_file():
            raise UnsupportedScenario(
                f"--dataset {show(path.name)} is of no kind that trainers tell by its ending: "
                "save it as .jsonl, .csv or .parquet"
            )
        return None
    if found := ELSEWHERE.search(chosen.dataset):
        raise UnsupportedScenario(
            f"trainers do not find --dataset {show(path.name)}: {found[0]} in a path is a reference to them: rename it"
        )
    return kind, WILD.sub(r"[\g<0>]", chosen.dataset)


def plain_file(chosen: Chosen, target: str) -> str | None:
    """The builder of a dataset that is a file, for a trainer that looks whether a file of that very name is there."""
    found = dataset_file(chosen)
    if found is None:
        return None
    if found[1] != chosen.dataset:
        name = PurePath(chosen.dataset).name
        raise UnsupportedScenario(
            f"{target} cannot express --dataset {show(name)}: it reads it as a pattern: rename it"
        )
    return found[0]


MISSING_DATASET = "set this before you start: a dataset of the Hub, or a folder of files; nobody named one"


# ---------------------------------------------------------------- the launcher


def launcher_files(chosen: Chosen) -> tuple[File, ...]:
    """Accelerate's configuration, and DeepSpeed's beside it under ZeRO."""
    train, cluster = chosen.train, chosen.scenario.cluster
    zero = train.sharding.startswith("zero")
    lines = [
        Line("compute_environment", "LOCAL_MACHINE"),
        Line("distributed_type", "DEEPSPEED" if zero else ENGINE_WORDS[train.sharding]),
        Line("num_machines", cluster.nodes),
        Line("num_processes", chosen.gpus, "cards in all"),
        Line("machine_rank", 0, "another on each machine: the launch command says it" if cluster.nodes > 1 else ""),
    ]
    if chosen.gpus == 1:
        lines.append(Line("gpu_ids", "0", "one card, also where there are more"))
    if zero:
        lines.append(Line("deepspeed_config", _zero_launcher(cluster.nodes)))
    else:
        lines.append(Line("mixed_precision", "no" if train.autocast == "none" else train.autocast))
    if train.shards_by_fsdp:
        lines.append(Line("fsdp_config", _fsdp(chosen)))
    if groups := _groups(chosen):
        lines.append(Line("parallelism_config", groups))
    found = [File(ACCELERATE, yaml_text(chosen.heading[:1], lines))]
    return (*found, *((File(DEEPSPEED, json_text(deepspeed_keys(chosen))),) if zero else ()))


def _zero_launcher(nodes: int) -> dict[str, Any]:
    """Where DeepSpeed's file is; on several machines torchrun starts each, where pdsh would want SSH between them.

    accelerate 1.15 utils/launch.py, prepare_deepspeed_cmd_env.
    """
    found = {"deepspeed_config_file": DEEPSPEED}
    return found if nodes == 1 else {**found, "deepspeed_multinode_launcher": "standard"}


def _fsdp(chosen: Chosen) -> dict[str, Any]:
    train, version = chosen.train, chosen.scenario.stack.fsdp_version
    shared: dict[str, Any] = {
        "fsdp_version": version,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_offload_params": "parameters" in train.offload,
        "fsdp_activation_checkpointing": False,
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_state_dict_type": "FULL_STATE_DICT",
    }
    if version == 1:
        return {
            **shared,
            "fsdp_sharding_strategy": "HYBRID_SHARD" if train.sharding == "hsdp" else "FULL_SHARD",
            "fsdp_sync_module_states": True,
            "fsdp_use_orig_params": not train.uses_adapters,
        }
    return {**shared, "fsdp_reshard_after_forward": train.reshard_after_forward}


def _groups(chosen: Chosen) -> dict[str, int]:
    """Groups of ranks beside FSDP2: its copies, and ranks that share a sequence."""
    layout = chosen.scenario.layout
    if not (layout.replicate > 1 and chosen.scenario.stack.fsdp_version == 2) and layout.context == 1:
        return {}
    return {
        "parallelism_config_dp_replicate_size": layout.replicate,
        "parallelism_config_dp_shard_size": layout.data,
        "parallelism_config_tp_size": 1,
        "parallelism_config_cp_size": layout.context,
    }


def deepspeed_keys(chosen: Chosen) -> dict[str, Any]:
    """DeepSpeed's configuration; what the trainer knows better is ``auto``."""
    train = chosen.train
    zero: dict[str, Any] = {"stage": int(train.sharding.removeprefix("zero"))}
    for what, name in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
        if what in train.offload:
            zero[name] = {"device": train.offload_device, "pin_memory": train.pin_memory}
            if train.offload_device == "nvme":
                zero[name]["nvme_path"] = "/local_nvme"
    if train.zero_buckets == "auto":
        zero["reduce_bucket_size"] = "auto"
        if zero["stage"] == 3:
            zero |= {"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
    if train.takes_turns:
        zero["overlap_comm"] = True
    if zero["stage"] == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def several(chosen: Chosen) -> bool:
    """Whether the run needs the launcher's files."""
    return chosen.gpus > 1 or chosen.train.sharding != "none"


def launch_options(chosen: Chosen) -> str:
    """What each of several machines adds to the command."""
    if chosen.scenario.cluster.nodes == 1:
        return ""
    return f" --machine_rank $MACHINE_RANK --main_process_ip $MAIN_IP --main_process_port {PORT}"


PORT = 29500
"""Where the ranks of several machines meet: torchrun's own. torch 2.13 distributed/run.py."""


def rendezvous(chosen: Chosen) -> list[str]:
    """What each of several machines says to torchrun."""
    nodes = chosen.scenario.cluster.nodes
    if nodes == 1:
        return []
    return ["--nnodes", str(nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", f"$MAIN_IP:{PORT}"]


def setup(chosen: Chosen, *first: str) -> tuple[str, ...]:
    """Packages that these settings need besides the stack's own, those of a trainer ``first``."""
    train = chosen.train
    wanted = [*first, *(["deepspeed"] if train.sharding.startswith("zero") else [])]
    wanted += ["liger-kernel"] if train.kernels == "fused" else []
    return (*((f"pip install {' '.join(wanted)}",) if wanted else ()), *flash_setup(chosen))


def flash_setup(chosen: Chosen, pin: str = "") -> tuple[str, ...]:
    """FlashAttention, which is built against the torch that is there."""
    wanted = chosen.train.attention == "flash"
    return (f"pip install flash-attn{pin} --no-build-isolation",) if wanted else ()
