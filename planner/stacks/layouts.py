"""Which layouts of ranks exist: what a layout decides about other settings, and which ones cannot run, in one line.

Tensor, context and Ulysses parallelism alone are Accelerate's (transformers' tensor-parallel plans, torch's ring,
DeepSpeed's sequence parallelism). Sequence parallelism, stages and experts on their own ranks are laid out as
Megatron-LM and torchtitan do: ``spec.layout.divides_as_megatron``.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from planner.errors import UnsupportedScenario, UsageError, option
from planner.spec import Behaviour, Block, Cluster, ModelSpec, Origin, TrainSpec
from planner.spec.layout import divides_as_megatron, is_divided, layout_of

TENSOR_PLANS = (
    "apertus", "cohere", "deepseek_v2", "ernie4_5", "ernie4_5_moe", "exaone4", "gemma", "gemma2", "gemma3_text",
    "glm4_moe", "gpt_neox", "granite", "llama", "llama4_text", "ministral3", "mistral", "mixtral", "olmo", "phi",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip
"""Model types whose plan divides attention by heads and every MLP by channels: transformers 5.23,
``base_model_tp_plan``. Other plans leave attention whole or gather what they divide."""

GROUP = ("tensor_parallel", "pipeline_parallel", "context_parallel", "ulysses_parallel")
"""Sizes whose product is the number of ranks that work on the same sequences."""


def leaves_nothing(chosen: Mapping[str, Any], cluster: Cluster) -> bool:
    """Whether the model is divided and every rank holds another part, so that there is nothing to shard or repeat."""
    train = TrainSpec(**chosen)
    layout = layout_of(train, cluster)
    return is_divided(train) and layout.shard * layout.replicate == 1


def settle_layout(chosen: dict[str, Any], origins: dict[str, Origin], model: ModelSpec, cluster: Cluster) -> None:
    """What a layout decides about settings that were left open.

    Stages need as many micro-batches as there are of them to work at once. Where every rank holds another part,
    nothing is left to shard. Heads in parts have no fused loss; torch's ring is one of sdpa; Ulysses is DeepSpeed's.
    """
    train = TrainSpec(**chosen)
    if not is_divided(train):
        return
    wanted: dict[str, Any] = {}
    if train.pipeline_parallel > 1:
        wanted["grad_accumulation"] = train.pipeline_parallel
    if train.tensor_parallel > 1 or train.pipeline_parallel > 1:
        wanted["loss"] = "full"
    if train.context_parallel > 1 and "sdpa" in model.attends:
        wanted["attention"] = "sdpa"
    if leaves_nothing(chosen, cluster):
        wanted["sharding"] = "none"
    elif train.ulysses_parallel > 1:
        wanted["sharding"] = "zero3"
    elif max(train.pipeline_parallel, train.expert_parallel) > 1:
        wanted["sharding"] = "zero1"
    for name, value in wanted.items():
        if origins[name] != "user" and chosen[name] != value:
            chosen[name], origins[name] = value, "default"


def refuse_layout(chosen: Mapping[str, Any], model: ModelSpec, cluster: Cluster, stack: Behaviour) -> None:
    """Raise ``UsageError`` or ``UnsupportedScenario`` for a layout that cannot run, with the nearest that can."""
    _lonely(chosen, model)
    train = TrainSpec(**chosen)
    if not is_divided(train):
        return
    _heads(train, model)
    _channels(train, model)
    _groups(train, cluster)
    _sequence(train)
    _stages(train, model)
    _experts(train, model, stack)
    _engines(train, model)
    _sharding(train, cluster)


def _lonely(chosen: Mapping[str, Any], model: ModelSpec) -> None:
    """Settings that say nothing without another one."""
    if chosen["sequence_parallel"] and chosen["tensor_parallel"] == 1:
        raise UsageError("--sequence-parallel divides what tensor-parallel ranks have whole: add --tensor-parallel 2")
    if chosen["virtual_stages"] > 1 and chosen["pipeline_parallel"] == 1:
        raise UsageError("--virtual-stages cuts the stages of a pipeline: add --pipeline-parallel 2")
    if chosen["expert_parallel"] > 1 and not model.is_moe:
        raise UnsupportedScenario(
            f"--expert-parallel divides experts, and {model.name} has none: use --tensor-parallel"
        )


# ---------------------------------------------------------------- ranks


def _groups(train: TrainSpec, cluster: Cluster) -> None:
    """Ranks that share sequences come in whole groups, and so do those that share experts."""
    sizes = [size for size in (getattr(train, name) for name in GROUP) if size > 1]
    group, world = math.prod(sizes), cluster.world_size
    if world % group:
        shape = " x ".join(map(str, sizes))
        told = f"{shape} = {group}" if len(sizes) > 1 else str(group)
        raise UnsupportedScenario(f"groups of {told} ranks do not divide {world} GPUs: {_cards(group, cluster)}")
    if train.sharding == "hsdp" and world // group % cluster.nodes:
        raise UnsupportedScenario(
            f"--sharding hsdp replicates on {cluster.nodes} machines, which do not divide {world // group} groups of "
            f"ranks: use --sharding fsdp"
        )
    ranks = layout_of(train, cluster).shard
    if train.expert_parallel > 1 and ranks % train.expert_parallel:
        raise UnsupportedScenario(
            f"--expert-parallel {train.expert_parallel} does not divide the {ranks} ranks that train on different "
            f"data: use {_dividing(ranks, train.expert_parallel)}"
        )


def _cards(group: int, cluster: Cluster) -> str:
    """The numbers of cards next to this one that groups and machines divide: beyond these machines, whole ones."""
    step, world, machine = math.lcm(group, cluster.nodes), cluster.world_size, cluster.gpu.gpus_per_node
    below, above = world // step * step, (world // step + 1) * step
    if above > machine * cluster.nodes:
        whole = math.lcm(step, machine)
        above = (world // whole + 1) * whole
    return "use " + " or ".join(f"--gpus {count}" for count in (below, above) if count)


def _dividing(whole: int, wanted: int) -> str:
    """The sizes next to ``wanted`` that divide ``whole``.

    >>> _dividing(32, 3)
    '2 or 4'
    >>> _dividing(14, 8)
    '7 or 14'
    """
    sizes = [size for size in range(1, whole + 1) if whole % size == 0]
    below = [size for size in sizes if size < wanted][-1:]
    above = [size for size in sizes if size > wanted][:1]
    return " or ".join(map(str, below + above))


# ---------------------------------------------------------------- layers


def _heads(train: TrainSpec, model: ModelSpec) -> None:
    """Heads are divided, and keys and values with them; Megatron and DeepSpeed copy those that do not suffice."""
    for block in model.blocks:
        heads, keys = block.attention.num_attention_heads, block.attention.num_key_value_heads
        t, u = train.tensor_parallel, train.ulysses_parallel
        _divides(heads, t, "tensor_parallel", f"the {heads} heads of {model.name}")
        _divides(heads // t, u, "ulysses_parallel", f"the {heads // t} heads of {model.name} on each rank")
        copied = divides_as_megatron(train) and t % keys == 0
        if block.attention.latent is None and keys % t and not copied:
            more = ", or --sequence-parallel, under which they are copied" if t % keys == 0 else ""
            raise UnsupportedScenario(
                f"--tensor-parallel {t} does not divide the {keys} key-value heads of {model.name}: use "
                f"{_dividing(keys, t)}{more}"
            )
        left = max(keys // t, 1)
        if left % u and u % left:
            raise UnsupportedScenario(
                f"--ulysses-parallel {u} neither divides the {left} key-value heads of {model.name} nor is a multiple "
                f"of them: use {_dividing(left, u)}"
            )


def _channels(train: TrainSpec, model: ModelSpec) -> None:
    """MLPs are divided by channels, and the residual stream by ranks that share a sequence."""
    for width in sorted({width for block in model.blocks for width in _widths(block)}):
        _divides(width, train.tensor_parallel, "tensor_parallel", f"an MLP of {width} channels in {model.name}")
    if train.sequence_parallel:
        hidden = model.hidden_size
        _divides(hidden, train.tensor_parallel, "tensor_parallel", f"the hidden size {hidden} of {model.name}")


def _widths(block: Block) -> Iterator[int]:
    experts = block.experts
    if experts is not None:
        yield experts.intermediate_size
    for mlp in (block.mlp, *((experts.shared, experts.parallel_dense) if experts else ())):
        if mlp is not None:
            yield mlp.intermediate_size


def _divides(whole: int, size: int, name: str, what: str) -> None:
    if whole % size:
        raise UnsupportedScenario(f"{option(name)} {size} does not divide {what}: use {_dividing(whole, size)}")


def _sequence(train: TrainSpec) -> None:
    """Each rank has equal parts of a sequence; a ring gives each two, one early and one late, so that all work alike.

    Source of the two parts: torch 2.13 _context_parallel/_attention.py, the note on load balance of causal masks.
    """
    parts = 2 * train.context_parallel if train.context_parallel > 1 else 1
    parts *= train.ulysses_parallel * (train.tensor_parallel if train.sequence_parallel else 1)
    if train.seq_len % parts:
        below = train.seq_len // parts * parts
        nearest = " or ".join(str(length) for length in (below, below + parts) if length)
        raise UnsupportedScenario(
            f"--seq-len {train.seq_len} is not a multiple of the {parts} parts of a sequence: use {nearest}"
        )


# ---------------------------------------------------------------- stages and experts


def _stages(train: TrainSpec, model: ModelSpec) -> None:
    """Every chunk has a layer; interleaved chunks are equal, and micro-batches come in multiples of the stages."""
    p, v, layers = train.pipeline_parallel, train.virtual_stages, model.num_hidden_layers
    if p > layers:
        raise UnsupportedScenario(
            f"--pipeline-parallel {p} is more than the {layers} layers of {model.name}: use {layers}"
        )
    if v == 1:
        return
    fitting = [v for v in range(1, layers // p + 1) if layers % (p * v) == 0 or (layers + 2) % (p * v) == 0]
    if v not in fitting:
        nearest = sorted(fitting, key=lambda chunks: (abs(chunks - v), chunks))[:2]
        told = " or ".join(map(str, sorted(nearest))) or "--virtual-stages 1"
        raise UnsupportedScenario(
            f"--virtual-stages {v} does not cut the {layers} layers of {model.name} on {p} stages into equal chunks: "
            f"use {told}"
        )
    if train.grad_accumulation % p:
        below = train.grad_accumulation // p * p
        nearest_counts = " or ".join(str(count) for count in (below, below + p) if count)
        raise UnsupportedScenario(
            f"interleaved stages take micro-batches by {p}, the number of stages, not {train.grad_accumulation}: use "
            f"--grad-accumulation {nearest_counts}"
        )


def _experts(train: TrainSpec, model: ModelSpec, stack: Behaviour) -> None:
    size = train.expert_parallel
    if size == 1:
        return
    for block in model.blocks:
        if block.experts is None:
            continue
        count = block.experts.num_experts
        _divides(count, size, "expert_parallel", f"the {count} experts of {model.name}")
        if block.experts.linear_names and not stack.fused_experts:
            raise UnsupportedScenario(
                "experts that are modules of their own (transformers 4) are not planned on ranks of their own: "
                "use a stack with transformers 5"
            )


# ---------------------------------------------------------------- engines


def _engines(train: TrainSpec, model: ModelSpec) -> None:
    """What no engine does."""
    if train.moments:
        raise UnsupportedScenario(
            f"--moments {','.join(train.moments)} of a model that is divided among GPUs is not planned: leave out "
            "--moments"
        )
    if train.context_parallel > 1 and train.ulysses_parallel > 1:
        raise UnsupportedScenario(
            "Accelerate shares a sequence in a ring or by heads, not both: use --context-parallel "
            f"{train.context_parallel * train.ulysses_parallel} --ulysses-parallel 1"
        )
    if train.attention == "eager" and max(train.context_parallel, train.ulysses_parallel) > 1:
        raise UnsupportedScenario("ranks that share a sequence need a fused attention kernel: use --attention sdpa")
    if train.loss != "full" and max(train.tensor_parallel, train.pipeline_parallel) > 1:
        raise UnsupportedScenario(f"--loss {train.loss} needs the whole head on each GPU: use --loss full")
    if divides_as_megatron(train):
        _megatron(train)
    else:
        _accelerate(train, model)


def _megatron(train: TrainSpec) -> None:
    if train.quantized:
        raise UnsupportedScenario(
            "no engine with stages, sequence parallelism or experts on ranks of their own trains bitsandbytes' "
            "weights: use --method lora, or --sharding fsdp alone"
        )
    if train.expert_parallel > 1 and train.sharding in ("fsdp", "hsdp", "zero3"):
        raise UnsupportedScenario(
            f"experts on ranks of their own are planned as Megatron-LM and DeepSpeed-MoE have them, not under "
            f"{train.sharding}: use --sharding zero1"
        )
    if train.pipeline_parallel > 1 and train.sharding in ("zero2", "zero3"):
        raise UnsupportedScenario(
            f"DeepSpeed has no pipeline beside ZeRO-{train.sharding[-1]}, which divides gradients: use --sharding zero1"
        )


def _accelerate(train: TrainSpec, model: ModelSpec) -> None:
    t = train.tensor_parallel
    if t > 1 and train.quantized:
        raise UnsupportedScenario(
            "bitsandbytes' 4-bit and 8-bit weights have no tensor parallelism in transformers: use --tensor-parallel 1 "
            "--sharding fsdp, or --method lora"
        )
    if t > 1 and model.model_type not in TENSOR_PLANS:
        raise UnsupportedScenario(
            f"transformers has no tensor-parallel plan that divides all of a {model.model_type} layer: add "
            "--sequence-parallel for Megatron-LM's layout"
        )
    if train.context_parallel > 1 and train.attention != "sdpa":
        raise UnsupportedScenario("Accelerate's context parallelism is a ring of sdpa: use --attention sdpa")


def _sharding(train: TrainSpec, cluster: Cluster) -> None:
    """Which engine shards among the ranks that remain: FSDP2 beside a ring, DeepSpeed beside Ulysses."""
    sharding, layout = train.sharding, layout_of(train, cluster)
    if layout.shard * layout.replicate == 1:
        if sharding != "none":
            raise UnsupportedScenario(
                f"--sharding {sharding} has nothing to divide: all {cluster.world_size} GPUs hold different parts; use "
                f"--sharding none, or --gpus {2 * cluster.world_size}"
            )
        return
    if divides_as_megatron(train):
        return
    if train.context_parallel > 1 and sharding not in ("fsdp", "hsdp"):
        raise UnsupportedScenario(f"Accelerate's context parallelism is FSDP2's, not {sharding}'s: use --sharding fsdp")
    if train.ulysses_parallel > 1 and not sharding.startswith("zero"):
        raise UnsupportedScenario(f"Ulysses parallelism is DeepSpeed's, not {sharding}'s: use --sharding zero3")
    if train.tensor_parallel > 1 and sharding == "ddp":
        raise UnsupportedScenario("Accelerate has no DDP beside tensor parallelism: use --sharding fsdp")


def refuse_recording(train: TrainSpec) -> None:
    """Raise ``UnsupportedScenario`` where a step would have to be run, which only whole models can here."""
    if is_divided(train):
        raise UnsupportedScenario(
            "a model that is divided among GPUs by layers, heads, experts or sequences is planned by closed form only: "
            "use --evidence closed-form, or --sharding alone"
        )
