"""Frozen inputs: what is trained (``ModelSpec``), how (``TrainSpec``), on what (``Cluster``).

A ``Scenario`` joins the three with the software stack that runs them; it is the only input of every
estimator. Architecture words are those of Hugging Face configs. Everything is resolved: no field
means "ask somebody else", so two equal scenarios give equal estimates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

Method = Literal["full", "lora", "qlora"]
Float = Literal["fp32", "bf16", "fp16"]
Autocast = Literal["none", "bf16", "fp16"]
Quant = Literal["nf4", "fp4", "int8"]
QuantStorage = Literal["uint8", "bf16", "fp16", "fp32"]
Attend = Literal["flash", "sdpa", "eager"]
Kernels = Literal["eager", "fused"]
Loss = Literal["full", "chunked", "fused"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
NormKind = Literal["rms", "rms_fp32", "layer", "layer_fp32"]
Rope = Literal["none", "half", "interleaved"]
Placement = Literal["pre", "post", "sandwich", "parallel", "parallel_two"]

FLOAT_BYTES: Mapping[str, int] = MappingProxyType({"fp32": 4, "bf16": 2, "fp16": 2})

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")

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


# ---------------------------------------------------------------- architecture


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix ``(d_out, d_in)`` that transformers builds as an ``nn.Linear`` (or GPT-2's ``Conv1D``).

    ``name`` is the module's path inside its block, as in ``self_attn.q_proj``; outside the blocks its last part.
    """

    name: str
    d_in: int
    d_out: int
    bias: bool = False
    subclass: bool = False
    """A subclass of ``nn.Linear`` (Falcon's), which transformers 5 does not hand to bitsandbytes."""

    @property
    def weight_params(self) -> int:
        """Entries of the matrix, which are what bitsandbytes quantises."""
        return self.d_in * self.d_out

    @property
    def params(self) -> int:
        """Entries of the matrix and its bias."""
        return self.weight_params + (self.d_out if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over the last ``size`` channels.

    ``rms``: Llama's, upcast to fp32, cast back, then scaled. ``rms_fp32``: Gemma's and OLMo-2's, scaled
    in fp32 before the cast. ``layer``: ``nn.LayerNorm``. ``layer_fp32``: Cohere's and OLMo's, in fp32.
    """

    name: str
    size: int
    kind: NormKind = "rms"
    weight: bool = True
    bias: bool = False

    @property
    def params(self) -> int:
        """Entries of weight and bias."""
        return self.size * (int(self.weight) + int(self.bias))


@dataclass(frozen=True, slots=True)
class Table:
    """A parameter that is neither a ``Linear`` nor a ``Norm``: embeddings, sinks, fused experts, routers.

    ``shape`` is the tensor's own, so that a 3-D expert tensor stays recognisable.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def params(self) -> int:
        """Entries of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Sizes of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Self-attention of one block.

    ``inputs`` are the projections that read the block's normalised input, in execution order: q, k, v;
    or one fused matrix; or, for latent attention, q_a (or q) and kv_a. ``inner`` are latent attention's
    q_b and kv_b, which read the compressed vectors. ``q_norm`` and ``k_norm`` act per head when their size is
    ``head_dim``, else on the whole projection; in latent attention they act on the compressed vectors.
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    inputs: tuple[Linear, ...]
    output: Linear
    inner: tuple[Linear, ...] = ()
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    rope: Rope = "half"
    rope_dim: int | None = None
    """Channels per head that are rotated and then joined with the rest; ``None``: whole heads, nothing to join."""
    window: int | None = None
    softcap: bool = False
    dropout: float = 0.0
    tables: tuple[Table, ...] = ()
    latent: Latent | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every projection in execution order."""
        return (*self.inputs, *self.inner, self.output)

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The query and key norms that exist."""
        return tuple(norm for norm in (self.q_norm, self.k_norm) if norm is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """Feed-forward part: gated (``gate`` and ``up``, or both in one ``fused_gate`` matrix) or classic.

    ``inputs`` are (gate, up), (gate_up,) or (up,).
    """

    intermediate_size: int
    activation: str
    gated: bool
    inputs: tuple[Linear, ...]
    output: Linear
    dropout: float = 0.0
    tables: tuple[Table, ...] = ()

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every matrix in execution order."""
        return (*self.inputs, self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Mixture of experts: a router, ``num_experts`` experts of which ``top_k`` act on a token, shared ones.

    ``tables`` are the expert tensors as transformers 5 stores them, ``gate_up_proj`` and ``down_proj``
    in three dimensions (and their biases). Before transformers 5 each expert was a set of
    ``nn.Linear``; ``Behaviour.fused_experts`` says which holds.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    activation: str
    gated: bool
    router: Table
    tables: tuple[Table, ...]
    router_tables: tuple[Table, ...] = ()
    """Trained biases of the router and the like."""
    shared: Mlp | None = None
    shared_gate: Linear | None = None
    parallel_dense: Mlp | None = None
    """A dense MLP that runs beside the experts (Gemma 4)."""
    linear_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Names of an expert's matrices where experts are separate modules (transformers 4); empty if they never were."""
    router_linear: Literal["never", "separate", "always"] = "separate"
    """When the router is an ``nn.Linear``: where experts are separate modules (transformers 4), or in every version."""
    router_fp32: bool = False
    """The router computes in fp32, on a copy of its input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One decoder layer: attention, then an ``mlp`` or ``experts``, with its norms.

    ``placement``: ``pre`` (norm before each part), ``post`` (after each part), ``sandwich`` (both),
    ``parallel`` (one norm feeds both parts), ``parallel_two`` (two norms, both parts in parallel).
    ``norms`` stand in execution order.
    """

    attention: Attention
    norms: tuple[Norm, ...]
    mlp: Mlp | None = None
    experts: Experts | None = None
    placement: Placement = "pre"
    residual_dropout: float = 0.0
    residual_scaled: bool = False
    """A multiplier on each branch before it joins the stream (Granite)."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every ``nn.Linear`` of the block in execution order, shared experts included."""
        parts = [*self.attention.linears]
        for mlp in (self.mlp, *((self.experts.shared, self.experts.parallel_dense) if self.experts else ())):
            parts.extend(mlp.linears if mlp else ())
        if self.experts and self.experts.shared_gate:
            parts.append(self.experts.shared_gate)
        return tuple(parts)

    @property
    def all_norms(self) -> tuple[Norm, ...]:
        """The block's norms and the attention's own."""
        return (*self.norms, *self.attention.norms)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every other parameter of the block, expert tensors and routers included."""
        found = [*self.attention.tables]
        if self.mlp:
            found.extend(self.mlp.tables)
        if self.experts:
            found.extend((self.experts.router, *self.experts.router_tables, *self.experts.tables))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A decoder-only language model as transformers' text class builds it.

    ``blocks`` are the distinct kinds of layer, ``layout`` names the kind of each layer in order
    (an index into ``blocks``). ``embeddings`` holds token and position tables; ``lm_head`` adds
    parameters only when ``tie_word_embeddings`` is false.
    """

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int | None
    tie_word_embeddings: bool
    embeddings: tuple[Table, ...]
    blocks: tuple[Block, ...]
    layout: tuple[int, ...]
    lm_head: Linear
    final_norm: Norm | None
    extra_norms: tuple[Norm, ...] = ()
    """Norms outside the layers besides the last (BLOOM's embedding norm)."""
    extra_linears: tuple[Linear, ...] = ()
    """Matrices outside the layers besides the head (OPT-350m's project_in and project_out)."""
    logits_scaled: bool = False
    logits_softcap: bool = False
    embedding_dropout: float = 0.0
    attends: tuple[Attend, ...] = ("flash", "sdpa", "eager")
    """Attention kernels that transformers offers for the class; others fall back to the last one."""
    hub_id: str | None = None
    license: str | None = None
    native_dtype: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_hidden_layers(self) -> int:
        """Depth."""
        return len(self.layout)

    @property
    def is_moe(self) -> bool:
        """Whether any layer holds experts."""
        return any(block.experts for block in self.blocks)

    @cached_property
    def block_counts(self) -> tuple[int, ...]:
        """How many layers are of each kind."""
        return tuple(self.layout.count(index) for index in range(len(self.blocks)))

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.model_type, self.blocks, self.layout, self.embeddings, self.lm_head))

    def __hash__(self) -> int:
        return self._hash


# ---------------------------------------------------------------- training


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

    @property
    def tokens(self) -> int:
        """Tokens that one GPU sees in one micro-step."""
        return self.micro_batch_size * self.seq_len

    @property
    def quantized(self) -> bool:
        """Whether base weights are stored in 4 or 8 bits."""
        return self.method == "qlora"

    @property
    def uses_adapters(self) -> bool:
        """Whether low-rank adapters are trained and the base is frozen."""
        return self.method != "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a trainer and its libraries do that the user did not ask for; from ``stacks/*.toml``."""

    name: str
    versions: Mapping[str, str]
    kbit_upcast: Literal["none", "norms", "all"]
    """Which 16-bit parameters of a quantised base become fp32 before training: with PEFT's
    ``prepare_model_for_kbit_training`` all, with TRL's older preparation the norms."""
    holds_logits: bool
    """The caller keeps the model's outputs while backward and the optimizer run."""
    logits_upcast: Literal["none", "in_place", "copy"]
    """How the logits become fp32 before the loss: not at all, under the same name (the 16-bit tensor is
    freed), or as a copy beside the 16-bit tensor that the outputs keep."""
    logits_shift_copy: bool
    """The loss copies the logits to drop the last position (transformers before labels were shifted instead)."""
    clips_gradients: bool
    fused_experts: bool
    """Experts are 3-D parameters that bitsandbytes does not quantise (transformers 5)."""
    repeats_kv: bool
    """sdpa attention expands key and value heads to the query heads before the kernel."""
    reentrant_checkpoint: bool = False
    """Checkpoints keep a recomputed layer's output through its backward (``use_reentrant=True``)."""
    flash_repeats_kv: tuple[str, ...] = ()
    """Model types whose FlashAttention class expands key and value heads itself."""
    fused_parts: tuple[str, ...] = ("norm", "rope", "swiglu", "lora", "loss")
    """What ``kernels = fused`` replaces; ``lora_quantized`` stands for fused adapters on a quantised base only."""
    fsdp_version: int = 2
    """1: embedding, head and final norm stay gathered through the step, one layer is gathered at a time."""
    chunks_upcast_head: bool = False
    """TRL's chunked head makes an fp32 copy of the head's weight."""

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.versions.items())))


# ---------------------------------------------------------------- hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per GPU-hour, on demand: a range, because the same card differs by 3 to 5 times."""

    low_usd: float | None
    typical_usd: float | None
    hyperscaler_usd: float | None
    as_of: str
    estimated: bool = False
    basis: str = ""
    """How ``typical_usd`` was chosen among the offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator in base units. ``memory_bytes`` is what torch can see, not what the box says."""

    id: str
    name: str
    vendor: str
    architecture: str
    memory_bytes: int
    driver_bytes: int
    context_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    """Dense peak by dtype: fp32, tf32, fp16, bf16, fp8, int8 where the card has it."""
    compute_capability: tuple[int, int] | None
    pcie_bytes_per_s: float | None
    nvlink_bytes_per_s: float | None
    """One way, per GPU."""
    supports_bf16: bool
    supports_flash: bool
    unified_memory: bool = False
    estimated: tuple[str, ...] = ()
    """Names of the fields that nobody has measured."""
    warnings: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    represents: str | None = None
    """For a class profile such as ``24gb``: the id of the smallest card of the class."""
    price: Price | None = None
    advertised_gb: int | None = None
    """The number on the box: it names classes and enters no sum."""
    form_factor: str = ""
    system_bytes: int = 0
    """Of a pool that CPU and GPU share: what the operating system holds."""
    measured_bf16_flops_per_s: float | None = None
    """The best bf16 matrix product that somebody reports, where somebody does."""
    bridge_bytes_per_s: float | None = None
    """NVLink of cards that are joined in pairs by a bridge, one way; ``nvlink_bytes_per_s`` is then ``None``."""
    sm_count: int | None = None
    tdp_w: float | None = None
    members: tuple[str, ...] = ()
    """For a class profile: every card of the class."""
    resolution: str | None = field(default=None, compare=False)
    """What the name that was asked for stands for, as one line to show."""

    def __hash__(self) -> int:
        return hash((self.id, self.memory_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """``nodes`` machines with ``gpus`` equal cards each, of which ``headroom_bytes`` per card stay free."""

    gpu: Gpu
    gpus: int = 1
    nodes: int = 1
    headroom_bytes: int = 0

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.gpus * self.nodes

    @property
    def usable_bytes(self) -> int:
        """What a training process may take on each card, its context included."""
        return max(self.gpu.memory_bytes - self.gpu.system_bytes - self.headroom_bytes, 0)


Origin = Literal["user", "stack", "model", "default"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One complete question: this model, trained this way, on this hardware, by this software."""

    model: ModelSpec
    train: TrainSpec
    cluster: Cluster
    stack: Behaviour
    origins: Mapping[str, Origin] = field(default_factory=dict, hash=False, compare=False)
    """Who chose each setting of ``train``: shown beside it, without influence on any number."""
