"""How a model is trained: settings (``TrainSpec``) and what the software does unasked (``Behaviour``)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from planner.spec.architecture import Attend

Method = Literal["full", "lora", "qlora", "peft"]
"""``peft``: adapters of another kind than LoRA, from a file."""
Float = Literal["fp32", "bf16", "fp16"]
Autocast = Literal["none", "bf16", "fp16"]
Quant = Literal["nf4", "fp4", "int8"]
QuantStorage = Literal["uint8", "bf16", "fp16", "fp32"]
Kernels = Literal["eager", "fused", "compiled"]
Loss = Literal["full", "chunked", "fused"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp"]
"""``hsdp``: FSDP2 that shards inside each machine and replicates among machines."""
SHARDS_WEIGHTS: tuple[Sharding, ...] = ("fsdp", "hsdp", "zero3")
"""Kinds that divide weights among the ranks."""
Offload = Literal["optimizer", "parameters", "activations"]
OFFLOADS: tuple[Offload, ...] = ("optimizer", "parameters", "activations")
"""What may lie in memory beyond the GPU."""
OffloadDevice = Literal["cpu", "nvme"]
ZeroBuckets = Literal["auto", "deepspeed"]
"""Sizes of DeepSpeed's buckets: as transformers fills in ``auto``, or DeepSpeed's own defaults."""

Objective = Literal["sft", "dpo", "grpo"]
"""What the step optimises: likelihood, preferences between pairs (DPO), or rewards of sampled groups (GRPO)."""
Reference = Literal["none", "copy", "base"]
"""Where reference log probabilities come from: nowhere (or a file), a second model, the base under the adapters."""
Pairs = Literal["fused", "kernel", "rows", "row_copies", "row_views", "log_softmax", "divided", "halves"]
"""How a trainer of pairs makes log probabilities: by TRL's fused head, or of whole logits (``formulas.pairs``)."""
OBJECTIVE_SETTINGS = ("objective", "reference", "num_generations", "completion_len")
"""Settings of preference and reinforcement learning."""

FLOAT_BYTES: Mapping[str, int] = MappingProxyType({"fp32": 4, "bf16": 2, "fp16": 2})

Moment = Literal["evaluation", "generation", "save", "resume", "merge"]
MOMENTS: tuple[Moment, ...] = ("evaluation", "generation", "save", "resume", "merge")
"""What a job may do besides its steps, in the order in which it is planned: merging ends the adapters."""

MOMENTS_OF: Mapping[str, tuple[Moment, ...]] = MappingProxyType(
    {
        "moments": MOMENTS,
        "eval_batch_size": ("evaluation", "generation"),
        "eval_samples": ("evaluation",),
        "eval_accumulation_steps": ("evaluation",),
        "eval_logits": ("evaluation",),
        "new_tokens": ("generation",),
    }
)
"""Moments on which a setting of a ``TrainSpec`` acts."""
MOMENT_SETTINGS = tuple(MOMENTS_OF)
"""Settings that act only where moments are asked for."""

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""Methods that are planned when none is named."""

OPTIMIZERS = (
    "adamw_fused",
    "adamw_foreach",
    "adamw_loop",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "lion",
    "lion_8bit",
    "sgd",
    "muon",
)
"""Concrete optimizers; the option also takes ``adamw``, the stack's own kind of AdamW."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Every training setting, resolved. Field names are the long options of the command."""

    method: Method
    seq_len: int = 2048
    micro_batch_size: int = 1
    grad_accumulation: int = 1
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ("all-linear",)
    modules_to_save: tuple[str, ...] = ()
    adapter_dtype: Float = "fp32"
    quant: Quant = "nf4"
    double_quant: bool = True
    quant_storage: QuantStorage = "uint8"
    weights_dtype: Float = "bf16"
    autocast: Autocast = "bf16"
    optimizer: str = "adamw_fused"
    gradient_checkpointing: bool = True
    attention: Attend = "flash"
    kernels: Kernels = "eager"
    loss: Loss = "full"
    sharding: Sharding = "none"
    reshard_after_forward: bool = True
    """FSDP2 frees gathered weights of a layer after its forward pass; without, they stay until its backward pass."""
    zero_buckets: ZeroBuckets = "auto"
    overlap_comm: bool = False
    """ZeRO-1 and ZeRO-2 fill a second bucket with gradients while the first is sent."""
    offload: tuple[Offload, ...] = ()
    """States that leave the GPU, in the order of ``OFFLOADS``."""
    offload_device: OffloadDevice = "cpu"
    """Where optimizer and parameters go: host RAM, or with ZeRO-3 an NVMe drive. Activations go to host RAM."""
    pin_memory: bool = True
    """Offloaded states lie in page-locked memory."""
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    """Megatron's: what tensor parallelism leaves whole is divided along the sequence by the same ranks."""
    pipeline_parallel: int = 1
    virtual_stages: int = 1
    """Model chunks on each pipeline rank: 1 is the schedule 1F1B, more are interleaved."""
    context_parallel: int = 1
    """Ranks that share a sequence and pass keys and values around (ring attention)."""
    ulysses_parallel: int = 1
    """Ranks that share a sequence and exchange it for heads around attention."""
    expert_parallel: int = 1
    """Ranks among which experts are divided; they are data-parallel ranks outside the experts."""
    peft_config: str = ""
    """The fields of an ``adapter_config.json`` as one JSON object; empty where LoRA's settings above say it all."""
    objective: Objective = "sft"
    reference: Reference = "none"
    num_generations: int = 8
    """Completions that GRPO samples of each prompt. trl 1.16 trainer/grpo_config.py."""
    completion_len: int = 512
    """Tokens of ``seq_len`` that GRPO samples. trl 1.16 trainer/grpo_config.py, max_completion_length."""
    moments: tuple[Moment, ...] = ()
    """Moments besides the step that the plan covers, in the order of ``MOMENTS``."""
    eval_batch_size: int = 8
    """Sequences in one batch of evaluation and of generation. transformers 5.23 training_args.py,
    per_device_eval_batch_size."""
    eval_samples: int = 32
    """Sequences that are evaluated."""
    eval_accumulation_steps: int = 0
    """Batches after which gathered logits move to the host; 0: only at the end, as TrainingArguments has it."""
    eval_logits: bool = True
    """Logits are gathered for metrics; without, only losses are, as the Trainer does when it has no metrics."""
    new_tokens: int = 128
    """Tokens that are generated after a prompt of ``seq_len``."""

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that act: those of moments, say, only where there are any."""
        return tuple(name for name in NAMES if name not in ACTS or ACTS[name](self))

    @property
    def adapter(self) -> Mapping[str, object] | None:
        """The fields of ``peft_config``, or ``None``."""
        return json.loads(self.peft_config) if self.peft_config else None

    @property
    def peft_type(self) -> str | None:
        """PEFT's name of the adapters' kind; ``None`` under full fine-tuning."""
        if self.adapter is not None:
            return str(self.adapter["peft_type"])
        return "LORA" if self.uses_adapters else None

    @property
    def sequences(self) -> int:
        """Sequences in one forward pass of one GPU: DPO's samples are pairs, the chosen and the rejected one."""
        return self.micro_batch_size * (2 if self.objective == "dpo" else 1)

    @property
    def tokens(self) -> int:
        """Tokens that one GPU sees in one micro-step."""
        return self.sequences * self.seq_len

    @property
    def scored_tokens(self) -> int:
        """Tokens of one micro-step that bear loss, or may: GRPO's are those that were sampled."""
        return self.sequences * self.completion_len if self.objective == "grpo" else self.tokens

    @property
    def rollout_sequences(self) -> int:
        """Completions that one GPU samples at once under GRPO: those of one optimizer step.

        trl 1.16 trainer/grpo_config.py: ``steps_per_generation`` is the accumulation unless it is set.
        """
        return self.micro_batch_size * self.grad_accumulation

    @property
    def prompt_len(self) -> int:
        """Tokens of ``seq_len`` before GRPO's completion."""
        return self.seq_len - self.completion_len

    @property
    def shards_by_fsdp(self) -> bool:
        """Whether FSDP divides states, over all ranks or inside each machine."""
        return self.sharding in ("fsdp", "hsdp")

    @property
    def takes_turns(self) -> bool:
        """Whether ZeRO fills one bucket with gradients while another is sent; stage 3 has one, whatever is said."""
        return self.overlap_comm and self.sharding in ("zero1", "zero2")

    @property
    def quantized(self) -> bool:
        """Whether base weights are stored in 4 or 8 bits."""
        return self.method == "qlora"

    @property
    def uses_adapters(self) -> bool:
        """Whether low-rank adapters are trained and the base is frozen."""
        return self.method != "full"


NAMES = tuple(field.name for field in fields(TrainSpec))
"""Every setting."""


def _has_moments(train: TrainSpec) -> bool:
    return bool(train.moments)


ACTS: Mapping[str, Callable[[TrainSpec], bool]] = MappingProxyType(
    {
        **dict.fromkeys(MOMENT_SETTINGS, _has_moments),
        "objective": lambda train: train.objective != "sft",
        "reference": lambda train: train.objective != "sft",
        "num_generations": lambda train: train.objective == "grpo",
        "completion_len": lambda train: train.objective == "grpo",
        "reshard_after_forward": lambda train: train.shards_by_fsdp,
        "zero_buckets": lambda train: train.sharding.startswith("zero"),
        "overlap_comm": lambda train: train.takes_turns,
        "offload": lambda train: bool(train.offload),
        "offload_device": lambda train: bool({"optimizer", "parameters"} & set(train.offload)),
        "pin_memory": lambda train: bool(train.offload),
        "tensor_parallel": lambda train: train.tensor_parallel > 1,
        "sequence_parallel": lambda train: train.tensor_parallel > 1,
        "pipeline_parallel": lambda train: train.pipeline_parallel > 1,
        "virtual_stages": lambda train: train.pipeline_parallel > 1,
        "context_parallel": lambda train: train.context_parallel > 1,
        "ulysses_parallel": lambda train: train.ulysses_parallel > 1,
        "expert_parallel": lambda train: train.expert_parallel > 1,
    }
)
"""Where a setting acts only beside others: whether it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a trainer and its libraries do that the user did not ask for; from ``stacks/*.toml``."""

    name: str
    versions: Mapping[str, str]
    kbit_upcast: Literal["none", "norms", "experts", "all"]
    """Which 16-bit parameters of a quantised base become fp32 before training: with PEFT's
    ``prepare_model_for_kbit_training`` all, with TRL's older preparation the norms. Axolotl puts norms, embeddings and
    head back, and with that leaves the stacked experts."""
    holds_logits: bool
    """The caller keeps the model's outputs while backward and the optimizer run."""
    logits_upcast: Literal["none", "in_place", "copy"]
    """How the logits become fp32 before the loss: not at all, under the same name (the 16-bit tensor is
    freed), or as a copy beside the 16-bit tensor that the outputs keep."""
    logits_shift_copy: bool
    """The loss copies the logits to drop the last position (transformers before labels were shifted instead)."""
    fused_experts: bool
    """Experts are 3-D parameters that bitsandbytes does not quantise (transformers 5)."""
    repeats_kv: bool
    """sdpa attention expands key and value heads to the query heads before the kernel."""
    quantizes_experts: bool = False
    """On a quantised base stacked experts are quantised, too, each stack whole as it is loaded (Axolotl, if asked)."""
    reentrant_checkpoint: bool = False
    """Checkpoints keep a recomputed layer's output through its backward (``use_reentrant=True``)."""
    flash_repeats_kv: tuple[str, ...] = ()
    """Model types whose FlashAttention class expands key and value heads itself."""
    fused_parts: tuple[str, ...] = ("norm", "rope", "swiglu", "lora", "loss")
    """What ``kernels = fused`` replaces; ``lora_quantized`` stands for fused adapters on a quantised base only,
    ``lora_mlp`` for adapters and the MLP around them as Unsloth and Axolotl take them in one."""
    fuses_dropout: bool = True
    """Fused adapters may have dropout; without, one with dropout is left to PEFT."""
    fsdp_version: int = 2
    """1: embedding, head and final norm stay gathered through the step, one layer is gathered at a time."""
    no_sync: Literal["all", "not_fsdp2", "none"] = "all"
    """Where gradients of all micro-batches but the last are left unreduced: with all engines, not under FSDP2
    (whose modules have no ``no_sync``), or nowhere."""
    fsdp2_units: Literal["outer", "layers"] = "outer"
    """What FSDP2 gathers and reduces apart: layers, embedding and head, or layers alone, so that all else is one unit
    that is whole through the step."""
    fsdp2_widens: Literal["trained", "all", "nothing"] = "trained"
    """Which parameters become fp32 shards under FSDP2's mixed precision."""
    fused_loss: Literal["liger", "trl", "cut", "unsloth"] = "liger"
    """Whose head makes no full logits under ``loss = fused``."""
    chunked_loss: Literal["trl", "outputs"] = "trl"
    """What ``loss = chunked`` cuts: TRL's head and loss together, or torchtune's fp32 loss after a head in chunks."""
    chunks_upcast_head: bool = False
    """TRL's chunked head makes an fp32 copy of the head's weight."""
    keeps_4bit_input: bool = False
    """bitsandbytes' product with a 4-bit matrix keeps its input."""
    nf4: Literal["bitsandbytes", "torchao"] = "bitsandbytes"
    """Whose 4-bit weights these are."""
    xielu_kernel: bool = False
    """Apertus's activation is one kernel, of the package xielu."""
    keeps_dequantized: bool = False
    """One buffer, as large as the largest dequantised matrix, stays between the products that need it (Unsloth)."""
    full_upcast: tuple[str, ...] = ()
    """Kernels of attention under which full fine-tuning on one card, or on copies, trains norms, embeddings and head in
    fp32, unless its loss takes a 16-bit head (Axolotl)."""
    saved_as_adapters: bool = False
    """Modules that are trained as copies take the adapters' dtype."""
    offload_for_recompute: bool = False
    """Under adapters, activations that are offloaded are not recomputed besides (Axolotl)."""
    offloads_activations: Literal["none", "saved_tensors", "checkpoints"] = "none"
    """Which activations it can move to RAM: all that is saved, or the inputs of recomputed layers, so that without
    checkpoints nothing is moved."""
    offloads_from: int = 0
    """Tokens of a sequence from which on it moves activations unless it is asked to."""
    checkpoint_stash: int = 5
    """Layer inputs that stay on the card under offloaded checkpoints: TRL's whose copies are on their way, Unsloth's
    two buffers and the input at work."""
    objectives: tuple[Objective, ...] = ("sft",)
    """What its trainers optimise."""
    pairs: Pairs = "fused"
    """How its trainer of pairs scores them."""
    adapted_pairs: Pairs | Literal[""] = ""
    """The same of adapters, where that is another recipe."""
    pairs_with_states: bool = False
    """Pairs are scored from outputs that have the hidden states of all layers."""
    references: tuple[Reference, ...] = ("none", "copy", "base")
    """Where its trainer may take reference log probabilities from."""
    full_pairs_alone: bool = True
    """Its trainer of pairs trains all weights on one card, too: not only on several."""
    copy_beside_adapters: bool = True
    """Its trainer of pairs takes a second model beside adapters, too."""
    narrow_reference: bool = False
    """A second model is loaded in the 16 bits of the computation, whatever the policy is."""
    reference_units: Literal["one", "layers", "none"] = "one"
    """What FSDP2 gathers of a second model at once: all of it, a layer as of the policy, or what is not planned."""
    fuses_pairs: bool = True
    """The kernels that it chooses for adapters are those of preferences, too."""

    def widens_tables(self, *, method: str, attention: str, sharding: str, weights_dtype: str) -> bool:
        """Whether norms, embeddings and head are trained in fp32 beside 16-bit matrices: ``full_upcast``.

        What the loss makes of such a head is for those who ask: one that takes it in 16 bits narrows them again.
        """
        alone = method == "full" and sharding in ("none", "ddp")
        return alone and weights_dtype != "fp32" and attention in self.full_upcast

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.versions.items())))
