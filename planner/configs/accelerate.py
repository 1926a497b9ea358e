"""accelerate's YAML: how many processes there are, and which engine divides the model among them.

Names: accelerate 1.15 commands/config/config_args.py, ClusterConfig, commands/launch.py, and utils/dataclasses.py,
FullyShardedDataParallelPlugin, DeepSpeedPlugin and ParallelismConfig.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from planner.configs.accelerate_fsdp import MATTER as FSDP_MATTER
from planner.configs.accelerate_fsdp import fsdp_settings, is_section
from planner.configs.deepspeed import AUTO
from planner.configs.document import Document
from planner.configs.hf_script import script_options, trainer_files
from planner.configs.hf_write import ACCELERATE, launcher_files, setup
from planner.configs.keys import Keys, listed
from planner.configs.understood import Understood
from planner.configs.written import Chosen, Written
from planner.recommend.request import Setting

IGNORED = listed("""
    debug machine_rank gpu_ids main_process_ip main_process_port rdzv_backend rdzv_conf same_network
    main_training_function enable_cpu_affinity downcast_bf16 tpu_name tpu_zone tpu_use_cluster tpu_use_sudo command_file
    commands tpu_vm tpu_env main_process_port deepspeed_hostfile num_cpu_threads_per_process max_restarts
    monitor_interval log_dir tee role module no_python quiet
""")

OFF: tuple[Any, ...] = (None, False, 0, "", "no", "NO", [], {})
"""Values with which a section or key of accelerate does nothing."""

UNMODELLED: Mapping[str, str] = {
    "megatron_lm_config": "Megatron-LM divides layers",
    "mpirun_config": "it runs on processors",
    "ipex_config": "it runs on Intel's devices",
    "fp8_config": "8-bit training",
    "use_cpu": "accelerate on processors repeats the model (DDP), whatever distributed_type says",
    "dynamo_backend": "compiled graphs keep other tensors",
}

KINDS: Mapping[str, str] = {"NO": "none", "MULTI_GPU": "ddp", "FSDP": "fsdp", "DEEPSPEED": "zero2"}
"""distributed_type in our words; of the last two their sections say more."""

SECTIONS: Mapping[str, str] = {"fsdp_config": "FSDP", "deepspeed_config": "DEEPSPEED"}
"""Sections, and the engine that each is of."""

AUTOCASTS = ("bf16", "fp16")

MATTER = (
    "distributed_type", "num_processes", "num_machines", "mixed_precision", "fsdp_config", "deepspeed_config",
    "parallelism_config", "compute_environment",
)  # fmt: skip

PLUGIN_IGNORED = listed("""
    gradient_clipping zero3_init_flag zero3_save_16bit_model deepspeed_multinode_launcher deepspeed_hostfile
    deepspeed_inclusion_filter deepspeed_exclusion_filter deepspeed_moe_layer_cls_names transformer_moe_cls_names
    offload_optimizer_nvme_path offload_param_nvme_path is_train_batch_min
""")
PLUGIN_MATTER = (
    "zero_stage", "gradient_accumulation_steps", "offload_optimizer_device", "offload_param_device",
    "deepspeed_config_file",
)  # fmt: skip

PARALLEL = ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size")
PARALLEL_IGNORED = listed("""
    cp_backend cp_comm_strategy sp_backend sp_seq_length sp_seq_length_is_variable sp_attn_implementation
""")


class Part(NamedTuple):
    """What one section says. ``fsdp``: its version."""

    settings: Mapping[str, Setting]
    files: Mapping[str, str] = {}
    fsdp: Literal[1, 2] | None = None


def read(document: Document) -> Understood:
    """What accelerate's configuration says, or a section of it alone, which TrainingArguments may name."""
    keys = Keys(document)
    if "distributed_type" in keys or not is_section(keys):
        return launched(keys, "accelerate")
    settings, version = fsdp_settings(keys, version=2, wraps=True)
    return Understood(format="accelerate", settings=settings, fsdp=version, readings=keys.readings(FSDP_MATTER))


def launched(keys: Keys, form: str, **absent: Any) -> Understood:  # noqa: ANN401  (values of a file)
    """What keys of ``accelerate launch`` say, wherever they stand; ``absent``: values where they are silent."""
    kind = str(keys.take("distributed_type", "text", "sharding", absent.get("distributed_type", "NO"))).upper()
    processes = keys.take("num_processes", "whole", "gpus", absent.get("num_processes", 1))
    machines = keys.take("num_machines", "whole", "nodes")
    part = _part(keys, kind, processes)
    parallel = _parallel(keys, machines or 1)
    keys.unmodelled({"compute_environment": "another machine's own way of starting"}, off=("LOCAL_MACHINE",))
    keys.unmodelled(UNMODELLED, off=OFF)
    _compiled(keys)
    fallbacks = _precision(keys)
    keys.ignore(*IGNORED)
    notes = []
    if kind == "NO" and processes > 1:
        notes.append(f"distributed_type NO starts one process, whatever num_processes ({processes}) says")
    return Understood(
        format=form,
        gpus=processes if kind in KINDS and kind != "NO" else 1,
        nodes=machines,
        settings={**part.settings, **parallel},
        fallbacks=fallbacks,
        files=part.files,
        fsdp=part.fsdp,
        readings=keys.readings(MATTER),
        notes=tuple(notes),
    )


def _part(keys: Keys, kind: str, processes: int) -> Part:
    """What divides the model; sections of other engines do nothing."""
    found = Part({"sharding": KINDS.get(kind, "none")})
    if kind == "MULTI_GPU" and processes == 1:
        found = Part({"sharding": "none"})
    if kind == "FSDP":
        settings, version = fsdp_settings(keys.section("fsdp_config"), version=1, wraps=False)
        found = Part(settings, fsdp=version)
    elif kind == "DEEPSPEED":
        found = _plugin(keys.section("deepspeed_config"))
    elif kind not in KINDS:
        keys.tell("distributed_type", "unmodelled", why=f"of this key we model {', '.join(KINDS)}")
    others = [name for name, engine in SECTIONS.items() if engine != kind]
    keys.ignore(*others, why=f"distributed_type is {kind}")
    return found


def _plugin(section: Keys) -> Part:
    """DeepSpeed's section: another file, or the few settings that accelerate has names for."""
    if "deepspeed_config_file" in section:
        name = section.take("deepspeed_config_file", "text", "sharding")
        section.ignore("*", why="deepspeed_config_file says it")
        return Part({}, {"deepspeed_config_file": name})
    stage = section.take("zero_stage", "whole", "sharding", 2)
    found: dict[str, Setting] = {"sharding": f"zero{stage}", "zero_buckets": "deepspeed"}
    if stage not in (1, 2, 3):
        section.tell("zero_stage", "unmodelled", why="of this key we model 1, 2, 3")
        found = {}
    if section.peek("gradient_accumulation_steps") not in (None, AUTO):
        found["grad_accumulation"] = section.take("gradient_accumulation_steps", "whole", "grad_accumulation")
    found |= _offload(section)
    section.unmodelled(dict.fromkeys(("enable_msamp", "msamp_opt_level"), "8-bit training"))
    section.ignore("gradient_accumulation_steps", why="the trainer fills it in")
    section.ignore(*PLUGIN_IGNORED)
    section.readings(PLUGIN_MATTER)
    return Part(found)


def _offload(section: Keys) -> dict[str, Setting]:
    names = {"optimizer": "offload_optimizer_device", "parameters": "offload_param_device"}
    devices = {what: section.take(name, "text", "offload", "none").lower() for what, name in names.items()}
    moved = tuple(what for what, device in devices.items() if device != "none")
    if not moved:
        return {}
    if len({devices[what] for what in moved}) > 1:
        section.tell(names[moved[-1]], "unmodelled", why="optimizer and parameters go to cpu, or both to nvme")
    return {"offload": moved, "offload_device": devices[moved[0]], "pin_memory": True}


def _parallel(keys: Keys, machines: int) -> dict[str, Setting]:
    """Sizes of the groups of ranks; FSDP's copies are planned one in each machine."""
    section = keys.section("parallelism_config")
    prefix = "parallelism_config_" if any(section.peek(f"parallelism_config_{name}") for name in PARALLEL) else ""
    sets = dict(
        zip(PARALLEL, ("sharding", "sharding", "tensor_parallel", "context_parallel", "ulysses_parallel"), strict=True)
    )
    sizes = {name: section.take(prefix + name, "whole", sets[name], 1) for name in PARALLEL}
    section.ignore(*(prefix + name for name in PARALLEL_IGNORED))
    section.readings(PARALLEL)
    found: dict[str, Setting] = {sets[name]: sizes[name] for name in PARALLEL[2:] if sizes[name] > 1}
    copies = sizes["dp_replicate_size"]
    if copies > 1:
        found["sharding"] = "hsdp" if sizes["dp_shard_size"] > 1 else "ddp"
        if found["sharding"] == "hsdp" and copies != machines:
            why = f"copies of FSDP's shards are planned one in each machine, here {machines}"
            section.tell(prefix + "dp_replicate_size", "unmodelled", why=why)
    return found


def _precision(keys: Keys) -> dict[str, Setting]:
    """The dtype of autocast where the trainer says none."""
    precision = str(keys.take("mixed_precision", "text", "autocast", "no")).lower()
    if precision in AUTOCASTS:
        return {"autocast": precision}
    if precision != "no":
        keys.tell("mixed_precision", "unmodelled", why="of this key we model no, bf16, fp16")
    return {}


def _compiled(keys: Keys) -> None:
    section = keys.section("dynamo_config")
    backend = str(section.take("dynamo_backend", "text", "", "no"))
    if backend.lower() != "no":
        section.tell("dynamo_backend", "unmodelled", why="compiled graphs keep other tensors")
    section.ignore("*", why="it tells how to compile")


def write(chosen: Chosen) -> Written:
    """A Trainer's script with its arguments, and the launcher's files."""
    files = trainer_files(chosen, "accelerate")
    beside = launcher_files(chosen)
    return Written(
        files=(*files, *beside),
        configs=(files[0].name, *(file.name for file in beside)),
        launch=f"accelerate launch --config_file {ACCELERATE}{script_options(chosen)}",
        setup=setup(chosen),
    )
