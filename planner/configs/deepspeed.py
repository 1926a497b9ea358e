"""DeepSpeed's JSON, and the same keys where another configuration holds them.

Names: DeepSpeed 0.19.8 runtime/config.py, runtime/zero/config.py and offload_config.py, runtime/precision_config.py;
``auto`` is what transformers fills in from its own arguments: 5.23 integrations/deepspeed.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

from planner.configs.document import Document
from planner.configs.hf_script import ARGUMENTS, SCRIPT, trainer_files
from planner.configs.hf_write import DEEPSPEED, deepspeed_keys, rendezvous, setup
from planner.configs.keys import Keys, listed
from planner.configs.understood import Understood
from planner.configs.written import Chosen, File, Line, Written, json_text
from planner.errors import BrokenInput, UnsupportedScenario
from planner.formulas.zero import DEEPSPEED_BUCKETS
from planner.recommend.request import Setting

AUTO = "auto"
STAGES = range(4)

BUCKETS: Mapping[str, int] = {
    "reduce_bucket_size": DEEPSPEED_BUCKETS.reduce,
    "stage3_prefetch_bucket_size": DEEPSPEED_BUCKETS.prefetch,
    "stage3_param_persistence_threshold": DEEPSPEED_BUCKETS.persistence,
}
"""Buckets that transformers fills in where they are ``auto``, and DeepSpeed's own sizes of them."""

LIMITS: Mapping[str, int] = {
    "allgather_bucket_size": DEEPSPEED_BUCKETS.reduce,
    "sub_group_size": DEEPSPEED_BUCKETS.sub_group,
    "stage3_max_live_parameters": DEEPSPEED_BUCKETS.live,
    "stage3_max_reuse_distance": DEEPSPEED_BUCKETS.reuse,
    "max_live_parameters": DEEPSPEED_BUCKETS.live,
    "max_reuse_distance": DEEPSPEED_BUCKETS.reuse,
}
"""Limits without ``auto``, two of them by either of their names. Smaller ones hold less than is planned, larger ones
more."""

NOT_ZERO: Mapping[str, str] = {
    "zero_hpz_partition_size": "ZeRO++ keeps a second copy of the weights in each machine",
    "zero_quantized_*": "ZeRO++ packs what it sends",
    "mics_shard_size": "MiCS shards inside groups of ranks",
    "mics_hierarchical_params_gather": "MiCS shards inside groups of ranks",
    "zenflow": "it keeps a part of the gradients on the card",
    "legacy_stage1": "stage 1 as it was before 0.4",
    "cpu_offload_params": "offloading by its old name",
    "cpu_offload_param": "offloading by its old name",
    "stage3_module_granularity_threshold": "it gathers several modules at once",
    "stage3_use_all_reduce_for_fetch_params": "it gathers by adding",
    "parameter_alignment": "it pads every parameter",
    "save_muon_momentum_buffer_in_memory": "Muon's momentum is another state",
}
"""Keys of ``zero_optimization`` that change the bytes, unless they are off."""

ZERO_IGNORED = listed("""
    allgather_partitions use_multi_rank_bucket_allreduce compute_grad_norm load_from_fp32_weights elastic_checkpoint
    cpu_offload_use_pin_memory stage3_model_persistence_threshold stage3_gather_16bit_weights_on_model_save
    stage3_gather_fp16_weights_on_model_save stage3_allgather_sequential ignore_unused_parameters round_robin_gradients
    memory_efficient_linear pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings
    enable_sanity_checks leaf_module offload_param_persistence_threshold gather_16bit_weights_on_model_save
    model_persistence_threshold
""")

OFFLOAD_IGNORED = listed("""
    nvme_path buffer_count buffer_size max_in_cpu pipeline pipeline_read pipeline_write fast_init cpuadam_cores_perc
""")

UNMODELLED: Mapping[str, str] = {
    "amp": "Apex's mixed precision",
    "torch_autocast": "DeepSpeed's own autocast keeps weights in fp32",
    "data_types": "it sets the dtype in which gradients are kept",
    "tensor_parallel": "DeepSpeed's AutoTP divides layers",
    "sequence_parallel_size": "ranks share sequences: say --ulysses-parallel",
    "expert_parallel": "ranks share experts",
    "pipeline": "stages of a pipeline",
    "hybrid_engine": "it keeps weights for generation, too",
    "compression_training": "it trains a compressed model",
    "quantize_training": "it trains a compressed model",
    "weight_quantization": "it packs weights",
    "sparse_attention": "another kernel of attention",
    "sparse_gradients": "embeddings with sparse gradients",
    "progressive_layer_drop": "it leaves out layers",
    "curriculum_learning": "sequences grow during the run",
    "data_efficiency": "sequences grow, or tokens are dropped",
    "elasticity": "the batch follows the number of cards",
    "autotuning": "it tries settings by itself",
    "msamp": "8-bit training",
    "fp32_allreduce": "gradients are summed in fp32",
    "communication_data_type": "gradients are sent in another dtype",
    "compile": "compiled graphs keep other tensors",
}
"""Sections and keys at the top that change the bytes."""

IGNORED = listed("""
    train_batch_size gradient_clipping steps_per_print wall_clock_breakdown memory_breakdown dump_state scheduler
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer disable_allgather disable_python_gc prescale_gradients
    gradient_predivide_factor gradient_allreduce_op seq_parallel_communication_data_type flops_profiler tensorboard
    wandb comet csv_monitor comms_logger aio checkpoint nebula datastates dataloader_drop_last log_level timers
    eigenvalue use_data_before_expert_parallelism managed_gradient_accumulation inference legacy_fusion zero_init
    data_parallel_group global_rank
""")

MATTER = ("zero_optimization", "bf16", "fp16", "optimizer", "train_micro_batch_size_per_gpu")
ZERO_MATTER = ("stage", "offload_optimizer", "offload_param", *BUCKETS, *LIMITS)

PRECISION_IGNORED = listed("""
    auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis min_loss_scale
    check_grad_overflow check_overflow immediate_grad_update opt_level loss_scale_raise_factor
""")
PRECISION_UNMODELLED = dict.fromkeys(
    ("*_master_weights_and_grads", "bf16_optimizer_states"), "16-bit master weights, gradients or states"
)

ADAMW = ("adam", "adamw", "fusedadam")


class Engine(NamedTuple):
    """What DeepSpeed's keys set, or the file that does; ``fallbacks`` yield to the trainer's own."""

    settings: Mapping[str, Setting]
    fallbacks: Mapping[str, Setting]
    files: Mapping[str, str] = {}


def read(document: Document) -> Understood:
    """What a DeepSpeed configuration says; the trainer that runs it fills in whatever is ``auto``."""
    keys = Keys(document)
    found = engine(keys)
    return Understood(
        format="deepspeed", settings=found.settings, fallbacks=found.fallbacks, readings=keys.readings(MATTER)
    )


def named_engine(keys: Keys) -> Engine:
    """What a trainer's key ``deepspeed`` says: the name of a file, or DeepSpeed's keys themselves."""
    if isinstance(keys.peek("deepspeed"), str):
        return Engine({}, {}, {"deepspeed": keys.take("deepspeed", "text", "sharding")})
    section = keys.section("deepspeed")
    found = engine(section)
    section.readings()
    return found


def engine(keys: Keys) -> Engine:
    """Settings of DeepSpeed's keys, wherever they stand; raise ``BrokenInput`` without any for ZeRO."""
    if "zero_optimization" not in keys:
        raise BrokenInput(f"{keys.file} has no zero_optimization, without which accelerate starts no DeepSpeed")
    settings = {**_batch(keys), **_zero(keys.section("zero_optimization"))}
    fallbacks = {**_precision(keys), **_optimizer(keys)}
    keys.unmodelled(UNMODELLED)
    keys.ignore("activation_checkpointing", why="it acts on DeepSpeed's own checkpoints, which transformers' are not")
    keys.ignore(*IGNORED)
    return Engine(settings, fallbacks)


def _batch(keys: Keys) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for name, setting in (
        ("train_micro_batch_size_per_gpu", "micro_batch_size"),
        ("gradient_accumulation_steps", "grad_accumulation"),
    ):
        if keys.peek(name) == AUTO:
            keys.ignore(name, why="the trainer fills it in")
        elif name in keys:
            found[setting] = keys.take(name, "whole", setting)
    return found


def _zero(zero: Keys) -> dict[str, Setting]:
    stage = zero.take("stage", "whole", "sharding", 0)
    if stage not in STAGES:
        raise BrokenInput(f"{zero.file}: zero_optimization.stage {stage} is not one of 0, 1, 2, 3")
    found: dict[str, Setting] = {"sharding": f"zero{stage}"}
    if stage == 0:
        zero.tell("stage", "unmodelled", why="DeepSpeed without ZeRO keeps a whole fp32 copy; use stage 1")
        found = {}
    found |= offloading(zero)
    if stage:
        found |= {"zero_buckets": _buckets(zero, stage), **_overlap(zero, stage)}
    zero.unmodelled(NOT_ZERO, off=(None, False, 0, 1, -1, "none", {}))
    zero.unmodelled(dict.fromkeys(("contiguous_gradients", "reduce_scatter"), "gradients stay whole"), off=(True,))
    zero.ignore(*ZERO_IGNORED)
    zero.readings(ZERO_MATTER)
    return found


# ---------------------------------------------------------------- buckets


def _buckets(zero: Keys, stage: int) -> str:
    """Which of the two sizes holds for all; what lies below DeepSpeed's own is planned with those."""
    names = list(BUCKETS) if stage == 3 else ["reduce_bucket_size"]
    kinds = {name: _bucket(zero, name) for name in names}
    zero.ignore(*BUCKETS, why=f"stage {stage} has no such bucket")
    for name, most in LIMITS.items():
        _limit(zero, name, most)
    found = AUTO if set(kinds.values()) == {AUTO} else "deepspeed"
    for name, kind in kinds.items():
        if name in zero and kind == AUTO != found:
            zero.tell(name, "used", sets="zero_buckets", why="others are DeepSpeed's own, and larger")
    return found


def _bucket(zero: Keys, name: str) -> str:
    if zero.peek(name) == AUTO:
        zero.take(name, "text", "zero_buckets")
        return AUTO
    _limit(zero, name, BUCKETS[name])
    return "deepspeed"


def _limit(zero: Keys, name: str, most: int) -> None:
    """A size in elements: DeepSpeed's own, or below it, which then bounds it."""
    if name not in zero:
        return
    size = zero.take(name, "whole", "zero_buckets")
    if size > most:
        zero.tell(name, "unmodelled", why=f"buckets are planned up to DeepSpeed's own {most:,} elements")
    elif size < most:
        zero.tell(name, "used", sets="zero_buckets", why=f"planned as DeepSpeed's own {most:,} elements, a bound")


def _overlap(zero: Keys, stage: int) -> dict[str, Setting]:
    """A second bucket of stage 1 or 2; a pair of small ones lies below the one that is planned as a bound."""
    size = zero.peek("reduce_bucket_size")
    small = isinstance(size, int | float) and 2 * size <= DEEPSPEED_BUCKETS.reduce
    if "overlap_comm" in zero and stage < 3 and not small:
        return {"overlap_comm": zero.take("overlap_comm", "flag", "overlap_comm")}
    zero.ignore("overlap_comm", why="what is sent at the same time is part of the plan")
    return {}


# ---------------------------------------------------------------- offloading


def offloading(zero: Keys) -> dict[str, Setting]:
    """What leaves the card, and where to."""
    parts = {"optimizer": zero.section("offload_optimizer"), "parameters": zero.section("offload_param")}
    devices = {what: str(part.take("device", "text", "offload", "none")).lower() for what, part in parts.items()}
    if zero.take("cpu_offload", "flag", "offload", absent=False):
        devices["optimizer"] = "cpu"
    moved = tuple(what for what, device in devices.items() if device != "none")
    pins = {parts[what].take("pin_memory", "flag", "pin_memory", absent=True) for what in moved}
    for what, part in parts.items():
        _part(part, moved=what in moved)
    if not moved:
        return {}
    places = {devices[what] for what in moved}
    if len(places) > 1 or not places <= {"cpu", "nvme"}:
        parts[moved[-1]].tell("device", "unmodelled", why="optimizer and parameters go to cpu, or both to nvme")
    return {"offload": moved, "offload_device": devices[moved[0]], "pin_memory": pins == {True}}


def _part(part: Keys, *, moved: bool) -> None:
    if not moved:
        part.ignore("*", why="nothing is offloaded")
    part.unmodelled({"ratio": "a part of the optimizer stays on the card"}, off=(1, 1.0))
    part.unmodelled({"super_offload": "it moves optimizer states back and forth"})
    part.ignore(*OFFLOAD_IGNORED)
    part.readings(("device", "pin_memory"))


# ---------------------------------------------------------------- dtypes and optimizer


def _precision(keys: Keys) -> dict[str, Setting]:
    """The dtype that the engine computes in; ``auto`` is the trainer's."""
    found: dict[str, Setting] = {}
    for name, dtype in (("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16")):
        if name not in keys:
            continue
        section = keys.section(name)
        if section.peek("enabled") == AUTO:
            section.ignore("enabled", why="the trainer fills it in")
        elif section.take("enabled", "flag", "autocast", absent=False):
            found["autocast"] = dtype
        section.unmodelled(PRECISION_UNMODELLED)
        section.ignore(*PRECISION_IGNORED)
        section.readings(("enabled",))
    return found


def _optimizer(keys: Keys) -> dict[str, Setting]:
    """DeepSpeed's own optimizer, if it is named here: of AdamW a kernel that fuses everything."""
    if "optimizer" not in keys:
        return {}
    section = keys.section("optimizer")
    kind = str(section.take("type", "text", "optimizer", "Adam"))
    section.ignore("params", "legacy_fusion")
    section.readings(("type",))
    if kind.lower() in ADAMW:
        return {"optimizer": "adamw_fused"}
    section.tell("type", "unmodelled", why="of DeepSpeed's optimizers we model Adam and AdamW")
    return {}


# ---------------------------------------------------------------- out


def write(chosen: Chosen) -> Written:
    """A Trainer's script with its arguments, and DeepSpeed's configuration, which the arguments name."""
    train, cluster = chosen.train, chosen.scenario.cluster
    if not train.sharding.startswith("zero"):
        raise UnsupportedScenario(
            f"deepspeed cannot express --sharding {train.sharding}: use --sharding zero2 or zero3"
        )
    files = trainer_files(chosen, "deepspeed", Line("deepspeed", DEEPSPEED))
    return Written(
        files=(*files, File(DEEPSPEED, json_text(deepspeed_keys(chosen)))),
        configs=(files[0].name, DEEPSPEED),
        launch=_launch(chosen),
        setup=setup(chosen),
        gpus=chosen.gpus,
        nodes=cluster.nodes if cluster.nodes > 1 else None,
    )


def _launch(chosen: Chosen) -> str:
    """DeepSpeed's launcher; on several machines torchrun on each, as its own wants a hostfile and SSH between them."""
    cluster = chosen.scenario.cluster
    if cluster.nodes == 1:
        return f"deepspeed --num_gpus {cluster.gpus} {SCRIPT} {ARGUMENTS}"
    return " ".join(["torchrun", *rendezvous(chosen), "--nproc_per_node", str(cluster.gpus), SCRIPT, ARGUMENTS])
