"""Writes axolotl's YAML for a chosen run; what axolotl refuses or cannot say is an error by name.

Keys and what goes together: axolotl 0.19.0 utils/schemas/, as the reader has them.
"""

from typing import Any

from planner.configs.axolotl_keys import (
    ADAPTERS,
    ATTENTION,
    CUT,
    LIGER,
    LIGER_PARTS,
    LORA_KERNELS,
    OPTIMIZERS,
    QUANT,
    QUANTIZE_EXPERTS,
    TRAINING,
)
from planner.configs.hf_write import (
    DEEPSPEED,
    PORT,
    TRAINED_WHOLE,
    deepspeed_keys,
    flash_setup,
    learning_lines,
    plain_file,
    refuse,
    rslora_lines,
    said,
    why_of_adapters,
)
from planner.configs.keys import Key
from planner.configs.written import Chosen, File, Line, Written, json_text, yaml_text
from planner.errors import UnsupportedScenario

HELD_OUT = 0.05
"""Share of the data that is evaluated, where evaluation is planned."""

PRECISIONS = {
    ("bf16", "bf16"): {"bf16": True, "fp16": False},
    ("fp16", "fp16"): {"bf16": False, "fp16": True},
    ("fp16", "none"): {"bf16": False, "fp16": False, "float16": True},
    ("fp32", "none"): {"bf16": False, "fp16": False},
}
"""axolotl loads weights in the dtype it computes in: utils/config/__init__.py, resolve_dtype."""

CUT_INSTALL = (
    'pip install "cut-cross-entropy[transformers] @ '
    'git+https://github.com/axolotl-ai-cloud/ml-cross-entropy.git@4dfa522"'
)
"""integrations/cut_cross_entropy/__init__.py."""

OPTIMIZER, ATTENDS = Key("optimizer", "optimizer", "text", OPTIMIZERS), Key("", "attention", "text", ATTENTION)


def write(chosen: Chosen) -> Written:
    """``sft.yml`` or ``dpo.yml``, and DeepSpeed's JSON under ZeRO."""
    refuse(chosen, "axolotl")
    _refuse(chosen)
    zero = chosen.train.sharding.startswith("zero")
    lines = [
        *_model(chosen),
        *_training(chosen),
        *_kernels(chosen),
        *_engine(chosen),
        *_pairs(chosen),
        *_data(chosen),
        *_evaluation(chosen),
        *learning_lines(chosen, scheduler="lr_scheduler", warmup="warmup_ratio", epochs="num_epochs"),
        Line("output_dir", "output"),
    ]
    name, text = _name(chosen), yaml_text(chosen.heading, lines, _missing(chosen))
    engine = (File(DEEPSPEED, json_text(deepspeed_keys(chosen))),) if zero else ()
    return Written(
        files=(File(name, text), *engine),
        configs=(name, *(file.name for file in engine)),
        launch=_launch(chosen),
        setup=_setup(chosen),
        gpus=chosen.gpus,
        nodes=chosen.scenario.cluster.nodes if chosen.scenario.cluster.nodes > 1 else None,
        packages=("axolotl", "torch"),
    )


# ---------------------------------------------------------------- what cannot be said


def _refuse(chosen: Chosen) -> None:
    """Raise ``UnsupportedScenario`` for combinations that axolotl refuses, or in which it does something else."""
    train = chosen.train
    if train.context_parallel > 1:
        raise UnsupportedScenario(
            "axolotl cannot express --context-parallel as it is planned: its ring is of FlashAttention; use --stack trl"
        )
    if (train.weights_dtype, train.autocast) not in PRECISIONS:
        raise UnsupportedScenario(
            f"axolotl cannot express --weights-dtype {train.weights_dtype} --autocast {train.autocast}: "
            "it loads weights in the dtype it computes in"
        )
    if "activations" in train.offload and train.gradient_checkpointing == train.uses_adapters:
        instead = "--no-gradient-checkpointing" if train.uses_adapters else "--gradient-checkpointing"
        raise UnsupportedScenario(
            "axolotl cannot express --offload activations so: with adapters it offloads instead of computing again, "
            f"without them both: use {instead}"
        )
    if train.optimizer == "adamw_8bit" and train.shards_by_fsdp and not train.uses_adapters:
        raise UnsupportedScenario("axolotl refuses bitsandbytes' 8-bit AdamW under FSDP: use --optimizer adamw")
    if train.quantized and _names(chosen, QUANTIZE_EXPERTS) and train.lora_targets == ("all-linear",):
        raise UnsupportedScenario(
            f"axolotl has no lora_target_linear beside {QUANTIZE_EXPERTS}: name matrices, as in "
            "--lora-targets q_proj,k_proj,v_proj,o_proj"
        )
    _refuse_kernels(chosen)
    if _heads_a_wide_table(chosen):
        raise UnsupportedScenario(
            "axolotl keeps embeddings and head in fp32 here, on which Liger's head is not planned: "
            "use --attention flash, or --stack axolotl"
        )


def _heads_a_wide_table(chosen: Chosen) -> bool:
    train = chosen.train
    wide = chosen.scenario.stack.widens_tables(
        method=train.method, attention=train.attention, sharding=train.sharding, weights_dtype=train.weights_dtype
    )
    return wide and train.loss == "fused" and _names(chosen, "liger_loss")


def _refuse_kernels(chosen: Chosen) -> None:
    train, stack = chosen.train, chosen.scenario.stack
    if train.kernels != "fused":
        return
    if train.method == "full" and not _names(chosen, "liger"):
        raise UnsupportedScenario("axolotl's own kernels are for adapters: add Liger's with --stack axolotl,liger=0.8")
    if train.quantized and train.quant == "int8":
        raise UnsupportedScenario("axolotl's kernels do not go with 8-bit weights: use --kernels eager")
    if train.uses_adapters and train.shards_by_fsdp and stack.fsdp_version == 1:
        raise UnsupportedScenario("axolotl's kernels do not go with FSDP of version 1: use --kernels eager")


def _names(chosen: Chosen, plugin: str) -> bool:
    """Whether the stack's text names a plugin."""
    return plugin in chosen.scenario.stack.versions


# ---------------------------------------------------------------- the model and its adapters


def _model(chosen: Chosen) -> list[Line]:
    train = chosen.train
    lines = [Line("base_model", chosen.model)]
    lines += [Line(name, value) for name, value in PRECISIONS[train.weights_dtype, train.autocast].items()]
    attention = ATTENDS.write(train.attention)
    lines += [Line("attn_implementation", attention)]
    return lines + (_adapters(chosen) if train.uses_adapters else [])


def _adapters(chosen: Chosen) -> list[Line]:
    train = chosen.train
    in_8_bits = train.quantized and train.quant == "int8"
    lines = [
        Line("adapter", "qlora" if train.quantized and not in_8_bits else "lora"),
        Line("load_in_8bit", in_8_bits),
        Line("load_in_4bit", train.quantized and not in_8_bits),
    ]
    if train.quantized and not in_8_bits:
        lines.append(Line("bnb_config_kwargs", {key.name: key.write(getattr(train, key.setting)) for key in QUANT}))
    if train.quantized and _names(chosen, QUANTIZE_EXPERTS):
        lines.append(Line(QUANTIZE_EXPERTS, value=True, why="each stack of experts as it is loaded"))
    if train.lora_alpha != int(train.lora_alpha):
        raise UnsupportedScenario(f"axolotl cannot express --lora-alpha {train.lora_alpha}: it wants a whole number")
    rank, alpha = why_of_adapters(chosen)
    return [
        *lines,
        *said(ADAPTERS, chosen, {"lora_r": rank, "lora_alpha": alpha, "lora_dropout": ""}),
        *_targets(chosen),
        *rslora_lines(chosen, "peft_use_rslora"),
        Line("peft_autocast_adapter_dtype", train.adapter_dtype == "fp32", "adapters in fp32, or as loaded"),
    ]


def _targets(chosen: Chosen) -> list[Line]:
    train = chosen.train
    if train.lora_targets == ("all-linear",):
        lines = [Line("lora_target_linear", value=True)]
    else:
        lines = [Line("lora_target_modules", list(train.lora_targets))]
    if train.modules_to_save:
        lines.append(Line("lora_modules_to_save", list(train.modules_to_save), TRAINED_WHOLE))
    return lines


# ---------------------------------------------------------------- training


def _training(chosen: Chosen) -> list[Line]:
    train = chosen.train
    batch = train.micro_batch_size * train.grad_accumulation * chosen.scenario.layout.sequences
    whys = {
        "sequence_len": "tokens of a sequence; longer samples are dropped",
        "micro_batch_size": f"sequences; with accumulation and all cards {batch} per optimizer step",
        "gradient_accumulation_steps": "",
    }
    packs = chosen.job.packing
    return [
        *said(TRAINING, chosen, whys),
        Line("sample_packing", packs),
        Line("pad_to_sequence_len", packs, "every step takes the same memory" if packs else ""),
        Line("optimizer", _optimizer(chosen)),
        *_checkpoints(chosen),
    ]


def _optimizer(chosen: Chosen) -> Any:  # noqa: ANN401  (a file's value)
    """The optimizer's name; under FSDP2 torchao's 8-bit AdamW, as bitsandbytes' is refused there."""
    if chosen.train.optimizer == "adamw_8bit" and chosen.train.shards_by_fsdp:
        return "adamw_torch_8bit"
    return OPTIMIZER.write(chosen.train.optimizer)


def _checkpoints(chosen: Chosen) -> list[Line]:
    """Checkpoints, by FSDP where it shards, and activations that leave the card."""
    train = chosen.train
    if "activations" in train.offload:
        return [Line("gradient_checkpointing", value=True), Line("activation_offloading", value=True)]
    if not train.gradient_checkpointing or train.shards_by_fsdp:
        return [Line("gradient_checkpointing", value=False)]
    reentrant = {"use_reentrant": chosen.scenario.stack.reentrant_checkpoint}
    return [Line("gradient_checkpointing", value=True), Line("gradient_checkpointing_kwargs", reentrant)]


def _kernels(chosen: Chosen) -> list[Line]:
    """Kernels for adapters, and plugins: Liger's, and a head that makes no full logits."""
    train = chosen.train
    parts = train.kernels == "fused" and _names(chosen, "liger")
    head = train.loss == "fused" and _names(chosen, "liger_loss")
    cut = train.loss == "fused" and not head
    plugins = [name for name, there in ((LIGER, parts or head), (CUT, cut)) if there]
    lines = [Line("plugins", plugins)] if plugins else []
    lines += [Line(name, value=True) for name in LIGER_PARTS if parts]
    if head:
        lines.append(Line("liger_fused_linear_cross_entropy", value=True, why="no full logits"))
    if cut:
        lines.append(Line("cut_cross_entropy", value=True, why="no full logits"))
    if train.loss == "chunked":
        lines.append(Line("chunked_cross_entropy", value=True, why="logits become fp32 a part at a time"))
    if train.uses_adapters:
        lines += [Line(name, train.kernels == "fused") for name in LORA_KERNELS]
    return lines


# ---------------------------------------------------------------- several cards


def _engine(chosen: Chosen) -> list[Line]:
    train, layout = chosen.train, chosen.scenario.layout
    lines = []
    if train.sharding.startswith("zero"):
        lines.append(Line("deepspeed", DEEPSPEED, "keep it beside this file"))
    if train.shards_by_fsdp:
        lines += [Line("fsdp_version", chosen.scenario.stack.fsdp_version), Line("fsdp_config", _fsdp(chosen))]
    if train.sharding == "hsdp":
        lines += [
            Line("dp_shard_size", layout.data, "cards of a machine"),
            Line("dp_replicate_size", layout.replicate, "machines"),
        ]
    return lines


def _fsdp(chosen: Chosen) -> dict[str, Any]:
    train = chosen.train
    found: dict[str, Any] = {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "offload_params": "parameters" in train.offload,
        "activation_checkpointing": train.gradient_checkpointing and "activations" not in train.offload,
        "cpu_ram_efficient_loading": not train.quantized,
        "state_dict_type": "FULL_STATE_DICT",
    }
    if chosen.scenario.stack.fsdp_version == 2:
        return {**found, "reshard_after_forward": train.reshard_after_forward}
    return {**found, "sync_module_states": True, "use_orig_params": False}


def _launch(chosen: Chosen) -> str:
    cluster = chosen.scenario.cluster
    if cluster.nodes == 1:
        return f"axolotl train {_name(chosen)} -- --num_processes {chosen.gpus}"
    per_node = cluster.world_size // cluster.nodes
    return (
        f"axolotl train {_name(chosen)} --launcher torchrun -- --nnodes {cluster.nodes} --nproc_per_node {per_node} "
        f"--rdzv_endpoint $MAIN_IP:{PORT}"
    )


def _setup(chosen: Chosen) -> tuple[str, ...]:
    """Packages that these settings need besides axolotl's own."""
    train = chosen.train
    wanted = ['pip install "axolotl[deepspeed]"'] if train.sharding.startswith("zero") else []
    if train.loss == "fused" and not _names(chosen, "liger_loss"):
        wanted.append(CUT_INSTALL)
    return (*wanted, *flash_setup(chosen, "==2.8.3"))


# ---------------------------------------------------------------- data and advice


def _name(chosen: Chosen) -> str:
    return f"{chosen.train.objective}.yml"


def _pairs(chosen: Chosen) -> list[Line]:
    """Preferences, and where their reference is computed before training."""
    train = chosen.train
    if train.objective != "dpo":
        return []
    if train.reference == "copy" and train.uses_adapters:
        raise UnsupportedScenario("axolotl cannot express --reference copy beside adapters: use --reference base")
    before = train.reference == "none"
    return [Line("rl", "dpo"), *([Line("precompute_ref_log_probs", value=True)] if before else [])]


def _kind(chosen: Chosen) -> str:
    """What a row is: messages, or messages with a chosen and a rejected answer."""
    return "chat_template.default" if chosen.train.objective == "dpo" else "chat_template"


def _data(chosen: Chosen) -> list[Line]:
    if not chosen.dataset:
        return []
    found = plain_file(chosen, "axolotl")
    kind = {"ds_type": found} if found else {}
    return [Line("datasets", [{"path": chosen.dataset, **kind, "type": _kind(chosen)}], "rows with messages")]


def _missing(chosen: Chosen) -> list[str]:
    """What nobody has said, and axolotl asks for."""
    if chosen.dataset:
        return []
    return [f"datasets: [{{path: ..., type: {_kind(chosen)}}}]  # set this before you start: nobody named one"]


def _evaluation(chosen: Chosen) -> list[Line]:
    train = chosen.train
    if "evaluation" not in train.moments:
        return [Line("val_set_size", 0.0)]
    return [
        Line("val_set_size", HELD_OUT),
        Line("evals_per_epoch", 1),
        Line("eval_batch_size", train.eval_batch_size),
    ]
