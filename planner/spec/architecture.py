"""A decoder-only language model by its parts: matrices, norms, tables, attention, MLP, experts, layers.

Words are those of Hugging Face configs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Attend = Literal["flash", "sdpa", "eager"]
NormKind = Literal["rms", "rms_fp32", "layer", "layer_fp32"]
Rope = Literal["none", "half", "interleaved"]
Placement = Literal["pre", "post", "sandwich", "parallel", "parallel_two"]


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
    fused_kv: Literal["view", "copy", "expanded"] = "view"
    """How key and value leave a fused projection: as views, copied, or copied for every query head (Falcon)."""
    sdpa_shares: bool = True
    """sdpa is told that query heads share key heads (``enable_gqa``); who does not tell it gets the math path."""
    eager_softmax: Literal["fp32", "native", "upcast", "scores"] = "fp32"
    """Eager attention's probabilities: in fp32 and cast back; in the model's dtype, or autocast's; with fp32 query and
    key too; or in the dtype of the scores, whatever autocast says."""
    holds_scores: bool = False
    """A variable of eager attention still points at the scores before mask and softmax."""
    returns_probabilities: bool = False
    """The layer returns them beside its output, and the model's loop holds them until the next layer returns."""
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
    computes_all: bool = False
    """Every expert works on every token, unchosen ones on zeros (Llama 4)."""
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
    config: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The fields of the text class's ``config.json``, from which transformers builds the real model."""

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
