"""How a scenario's layers are stored and compute, by those of its settings that decide it."""

from typing import Literal, NamedTuple

from planner.closed_form.inventory import Storage
from planner.closed_form.parallel import ranks_on_tape
from planner.errors import UnsupportedScenario
from planner.formulas.adapters import Adapters, adapters
from planner.formulas.blocks import block_tape
from planner.formulas.operations import Ranks, Recipe
from planner.spec import FLOAT_BYTES, Behaviour, ModelSpec, Pairs, Scenario, TrainSpec

NO_ADAPTERS = Adapters(modules=frozenset(), parameters=frozenset(), saved=frozenset(), per_rank=0, saved_params=0)


class ProfileKey(NamedTuple):
    """The settings of a ``TrainSpec`` that shape the tapes; batch, length and optimizer are not among them."""

    method: str
    lora_rank: int
    lora_targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    adapter_dtype: str
    dropout: bool
    quant: str
    double_quant: bool
    weights_dtype: str
    autocast: str
    attention: str
    flash_kernel: bool
    kernels: str
    mixed_shards: bool
    """FSDP's own mixed precision: fp32 shards of what is trained, 16-bit copies for compute."""
    units: bool
    """FSDP2 gathers and frees the head and every layer apart."""
    several: bool
    """More than one sequence in the micro-batch."""
    checkpointing: bool
    ranks: Ranks = Ranks()
    wide_outside: bool = False
    """Norms, embeddings and head are trained in fp32 beside narrower layers."""
    pairs: Pairs | Literal[""] = ""
    """How whole logits of pairs are scored; empty where there are none."""
    alone: bool = False
    """Pairs are scored without a reference's pass."""


def key_of(scenario: Scenario) -> ProfileKey:
    """What of a scenario decides its profile."""
    train = scenario.train
    return ProfileKey(
        train.method,
        train.lora_rank,
        train.lora_targets,
        train.modules_to_save,
        train.adapter_dtype,
        train.lora_dropout > 0 and train.objective != "dpo",  # DPOConfig.disable_dropout
        train.quant if train.method == "qlora" else "",
        train.double_quant,
        train.weights_dtype,
        train.autocast,
        train.attention,
        scenario.cluster.gpu.supports_flash or scenario.cluster.gpu.is_cpu,  # a processor's kernel shares heads
        train.kernels,
        _mixed_shards(train, scenario.stack),
        train.shards_by_fsdp and scenario.stack.fsdp_version == 2,
        train.sequences > 1,
        train.gradient_checkpointing,
        ranks_on_tape(scenario),
        _wide_outside(train, scenario.stack),
        scenario.pairs if train.objective == "dpo" and train.loss == "full" else "",
        train.objective == "dpo" and train.reference == "none",
    )


def _wide_outside(train: TrainSpec, stack: Behaviour) -> bool:
    """Whether norms, tables and head are trained in fp32 beside 16-bit matrices, and a head in fp32 is what is used."""
    return train.loss != "fused" and stack.widens_tables(
        method=train.method, attention=train.attention, sharding=train.sharding, weights_dtype=train.weights_dtype
    )


def _mixed_shards(train: TrainSpec, stack: Behaviour) -> bool:
    """Version 1 gives each unit one dtype, and what it does with adapters we leave as it is on one card."""
    mixed = train.shards_by_fsdp and train.autocast != "none"
    return mixed and (train.method == "full" or stack.fsdp_version == 2)


def storage_of(key: ProfileKey, stack: Behaviour) -> Storage:
    """How the parameters are stored under a profile's settings.

    FSDP's mixed precision makes fp32 what is trained, but not on a quantised base: accelerate 1.15
    utils/fsdp_utils.py, fsdp2_prepare_model.
    """
    weight = FLOAT_BYTES[key.weights_dtype]
    quantized = key.method == "qlora"
    upcast = stack.kbit_upcast if quantized else "none"
    widened = key.mixed_shards and not quantized and stack.fsdp2_widens != "nothing"
    full = widened and (key.method == "full" or stack.fsdp2_widens == "all")
    outer = 4 if upcast == "all" or full else weight
    return Storage(
        method=key.method,
        weight_bytes=4 if full else weight,
        norm_bytes=4 if upcast in ("norms", "all") or full or key.wide_outside else weight,
        outer_bytes=outer,
        tables_bytes=4 if key.wide_outside else outer,
        experts_bytes=4 if upcast == "experts" else outer,
        quant=key.quant,
        double_quant=key.double_quant,
        fused_experts=stack.fused_experts,
        adapter_bytes=4 if widened else FLOAT_BYTES[key.adapter_dtype],
        saved_bytes=4 if widened else FLOAT_BYTES[key.adapter_dtype] if stack.saved_as_adapters else outer,
        rank=key.lora_rank,
        targets=key.lora_targets,
        modules_to_save=key.modules_to_save,
        torchao=stack.nf4 == "torchao",
        packed_experts=quantized and stack.fused_experts and stack.quantizes_experts,
    )


def recipe_of(model: ModelSpec, key: ProfileKey, stack: Behaviour) -> Recipe:
    """How a layer computes under a profile's settings.

    A layer that returns a wider dtype than it was given (fp32 norms before 4-bit matrices) widens the residual
    stream for all layers after it.
    """
    storage = storage_of(key, stack)
    placed = NO_ADAPTERS
    if key.method != "full":
        placed = adapters(model, key.lora_targets, key.modules_to_save, fused_experts=stack.fused_experts)
    _refuse_experts(model, key, placed, packed=storage.packed_experts)
    compute = 2 if key.autocast != "none" or key.mixed_shards or key.quant else FLOAT_BYTES[key.weights_dtype]
    weight = 2 if key.mixed_shards else FLOAT_BYTES[key.weights_dtype]
    upcast = key.quant != "" and stack.kbit_upcast in ("norms", "all") and not key.mixed_shards
    adapter = 2 if key.mixed_shards else FLOAT_BYTES[key.adapter_dtype]
    recipe = Recipe(
        full=key.method == "full",
        stream_bytes=4 if upcast or key.wide_outside else weight,
        weight_bytes=weight,
        norm_bytes=2 if key.mixed_shards else storage.norm_bytes,
        compute_bytes=compute,
        autocast=key.autocast != "none",
        adapter_bytes=0 if key.method == "full" else adapter,
        rank=key.lora_rank,
        modules=placed.modules,
        stacked=placed.parameters,
        dropout=key.dropout,
        quant=key.quant,
        double_quant=key.double_quant,
        attention=key.attention,
        flash_kernel=key.flash_kernel,
        fused=_fused(key, stack),
        several=key.several,
        repeats_kv=stack.repeats_kv if key.attention == "sdpa" else model.model_type in stack.flash_repeats_kv,
        fused_experts=stack.fused_experts,
        stored_bytes=2 if key.mixed_shards else storage.experts_bytes,
        keeps_4bit_input=stack.keeps_4bit_input,
        torchao=storage.torchao,
        keeps_dequantized=stack.keeps_dequantized and "lora" in _fused(key, stack),
        ranks=key.ranks,
        compiled=key.kernels == "compiled",
        packed_experts=storage.packed_experts,
    )
    if key.mixed_shards and key.units:  # which casts what enters a layer
        return recipe
    widest = max(block_tape(block, model.hidden_size, recipe).result.e for block in model.blocks)
    return recipe._replace(stream_bytes=max(recipe.stream_bytes, widest))


def _refuse_experts(model: ModelSpec, key: ProfileKey, placed: Adapters, *, packed: bool) -> None:
    """What no library does with experts, or is not planned."""
    if placed.parameters and key.dropout:
        raise UnsupportedScenario(
            f"PEFT has no dropout on stacked experts, which these targets of {model.name} are: use --lora-dropout 0"
        )
    if key.kernels == "compiled" and any(block.experts for block in model.blocks):
        raise UnsupportedScenario(
            f"what torch.compile keeps of the experts of {model.name} is not known: use --kernels eager"
        )
    if placed.parameters and packed:
        raise UnsupportedScenario(
            f"adapters on quantised experts, as these targets of {model.name} put them, are not planned: "
            "name matrices of attention, as in --lora-targets q_proj,k_proj,v_proj,o_proj"
        )


def _fused(key: ProfileKey, stack: Behaviour) -> frozenset[str]:
    """What runs as one kernel; of fused adapters nothing where there are none."""
    parts = frozenset(stack.fused_parts) if key.kernels == "fused" else frozenset[str]()
    parts |= {"xielu"} if stack.xielu_kernel else set[str]()
    return parts - {"lora", "lora_quantized", "lora_mlp"} if key.method == "full" else parts
