"""Parts of a block from a family's ``Style``: projections, norms, attention, feed-forward, experts."""

from dataclasses import dataclass

from planner.families.fields import Fields
from planner.families.style import Kind, Mixture, Style
from planner.spec import Attention, Experts, Linear, Mlp, Norm, Table


@dataclass(frozen=True, slots=True)
class Heads:
    """Head counts and sizes."""

    hidden: int
    query: int
    key_value: int
    dim: int

    @property
    def query_width(self) -> int:
        """Output channels of the query projection."""
        return self.query * self.dim

    @property
    def key_value_width(self) -> int:
        """Output channels of the key projection, and of the value projection."""
        return self.key_value * self.dim


def heads_of(fields: Fields) -> Heads:
    """Head counts and sizes, checked against each other."""
    hidden, query = fields.size("hidden_size"), fields.size("num_attention_heads")
    key_value = fields.optional_size("num_key_value_heads") if fields.has("num_key_value_heads") else None
    key_value = key_value or query
    dim = fields.optional_size("head_dim") if fields.has("head_dim") else None
    if dim is None and hidden % query:
        raise fields.broken("num_attention_heads", f"is {query}, which does not divide hidden_size {hidden}")
    if query % key_value:
        raise fields.broken("num_key_value_heads", f"is {key_value}, which does not divide {query} attention heads")
    return Heads(hidden, query, key_value, dim or hidden // query)


def norm(style: Style, fields: Fields, name: str, size: int) -> Norm:
    """A norm of the family's kind."""
    weight = fields.switch(style.norm_weight)
    return Norm(name, size, style.norm, weight=weight, bias=style.norm_bias and weight)


def attention(style: Style, fields: Fields, kind: Kind) -> Attention:
    """Plain attention: separate or fused projections, optional norms on queries and keys."""
    heads = heads_of(fields)
    q_norm, k_norm = qk_norms(style, fields, heads, kind)
    sinks = (Table(f"{style.attention}.sinks", (heads.query,)),) if style.sinks else ()
    return Attention(
        num_attention_heads=heads.query,
        num_key_value_heads=heads.key_value,
        head_dim=heads.dim,
        inputs=projections(style, fields, heads),
        output=linear(
            style, style.attention, style.out, heads.query_width, heads.hidden, fields.switch(style.out_bias)
        ),
        q_norm=q_norm,
        k_norm=k_norm,
        rope=style.rope if kind.rotates else "none",
        rope_dim=rope_dim(style, fields, heads.dim) if kind.rotates else None,
        window=kind.window,
        fused_kv=style.fused_kv,
        sdpa_shares=style.sdpa_shares,
        eager_softmax=style.eager_softmax,
        holds_scores=style.holds_scores,
        returns_probabilities=style.returns_probabilities,
        softcap=style.softcap is not None and fields.is_set(style.softcap),
        dropout=fields.rate("attention_dropout"),
        tables=sinks,
    )


def projections(style: Style, fields: Fields, heads: Heads) -> tuple[Linear, ...]:
    """Query, key and value matrices, or the one that holds all three."""
    widths: tuple[int, ...] = (heads.query_width, heads.key_value_width, heads.key_value_width)
    if len(style.qkv) == 1:
        widths = (sum(widths),)
    bias = fields.switch(style.qkv_bias)
    return tuple(
        linear(style, style.attention, name, heads.hidden, width, bias)
        for name, width in zip(style.qkv, widths, strict=True)
    )


def linear(style: Style, path: str, name: str, d_in: int, d_out: int, bias: bool) -> Linear:
    """A matrix at ``path.name``; OPT keeps its feed-forward directly in the layer, so a path may be empty."""
    return Linear(f"{path}.{name}" if path else name, d_in, d_out, bias, style.subclass)


def qk_norms(style: Style, fields: Fields, heads: Heads, kind: Kind) -> tuple[Norm | None, Norm | None]:
    """Norms on queries and keys: per head, or with one weight for all heads."""
    skipped = style.qk_norm_rotating and not kind.rotates
    if style.qk_norm is None or skipped or not fields.switch(style.qk_norm_if):
        return None, None
    per_head = style.qk_norm == "head"
    sizes = (heads.dim, heads.dim) if per_head else (heads.query_width, heads.key_value_width)
    q_norm, k_norm = (
        Norm(
            f"{style.attention}.{name}",
            size,
            style.qk_norm_kind or style.norm,
            weight=style.qk_norm_weight,
            bias=style.qk_norm_bias,
        )
        for name, size in zip(style.qk_names, sizes, strict=True)
    )
    return q_norm, k_norm


def rope_dim(style: Style, fields: Fields, head_dim: int) -> int | None:
    """Channels per head that rotate before they join the rest; ``None`` where the code rotates whole heads."""
    if style.partial_rotary is None:
        return None
    channels = fields.optional_size("rotary_dim", limit=head_dim) if fields.has("rotary_dim") else None
    return channels or int(head_dim * rotary_share(style.partial_rotary, fields))


def rotary_share(default: float, fields: Fields) -> float:
    """``partial_rotary_factor``, which stands beside the other rope settings or by itself."""
    tables = (fields.mapping("rope_parameters"), fields.mapping("rope_scaling"))
    found = [table["partial_rotary_factor"] for table in tables if "partial_rotary_factor" in table]
    share = found[0] if found else fields.value("partial_rotary_factor")
    if share is None:
        return default
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise fields.broken("partial_rotary_factor", "is not a share between 0 and 1")
    return float(share)


def mlp(style: Style, fields: Fields, width: int, path: str) -> Mlp:
    """Gated or classic feed-forward part at ``path``."""
    hidden = fields.size("hidden_size")
    bias = fields.switch(style.mlp_bias)
    activation = activation_of(style, fields)
    widths = (2 * width,) if style.gated and len(style.gate_up) == 1 else (width,) * len(style.gate_up)
    return Mlp(
        intermediate_size=width,
        activation=activation,
        gated=style.gated,
        inputs=tuple(
            linear(style, path, name, hidden, d_out, bias) for name, d_out in zip(style.gate_up, widths, strict=True)
        ),
        output=linear(style, path, style.down, width, hidden, bias),
        tables=tuple(Table(f"{path}.act_fn.{name}", (1,)) for name in ("alpha_p", "alpha_n") if activation == "xielu"),
    )


def activation_of(style: Style, fields: Fields) -> str:
    """Our name of the family's activation; Gemma 1 says ``gelu`` and computes its tanh form."""
    name = fields.activation(style.activation) if fields.has(style.activation) else style.activation
    return "gelu_tanh" if style.gelu_means_tanh and name == "gelu" else name


def experts(style: Style, mixture: Mixture, fields: Fields) -> Experts:
    """A router, stacked expert tensors and the experts that every token passes."""
    hidden, width, count = fields.size("hidden_size"), fields.size(mixture.width), fields.size(mixture.experts)
    top_k = fields.size(mixture.top_k)
    if top_k > count:
        raise fields.broken(mixture.top_k, f"is {top_k}, more than the {count} experts")
    router = f"{style.mlp}.{mixture.router}"
    shared_width = mixture.shared_width(fields) if mixture.shared else None
    gate = Linear(f"{style.mlp}.{mixture.shared_gate}", hidden, 1) if mixture.shared_gate else None
    return Experts(
        num_experts=count,
        top_k=top_k,
        intermediate_size=width,
        activation=mixture.activation or activation_of(style, fields),
        gated=True,
        router=Table(f"{router}.weight", (count, hidden)),
        router_tables=router_tables(mixture, router, count),
        tables=expert_tables(style, mixture, hidden, width, count),
        shared=mlp(style, fields, shared_width, f"{style.mlp}.{mixture.shared}") if shared_width else None,
        shared_gate=gate,
        linear_names=mixture.linear_names,
        router_linear=mixture.router_linear,
        router_fp32=mixture.router_fp32,
        computes_all=mixture.computes_all,
    )


def router_tables(mixture: Mixture, router: str, count: int) -> tuple[Table, ...]:
    """Parameters of the router besides its matrix."""
    bias = (Table(f"{router}.bias", (count,)),) if mixture.router_bias else ()
    correction = (Table(f"{router}.{mixture.correction}", (1, count)),) if mixture.correction else ()
    return bias + correction


def expert_tables(style: Style, mixture: Mixture, hidden: int, width: int, count: int) -> tuple[Table, ...]:
    """The stacked tensors of all experts as transformers 5 stores them."""
    path = f"{style.mlp}.experts"
    gate_up = (count, hidden, 2 * width) if mixture.input_major else (count, 2 * width, hidden)
    down = (count, width, hidden) if mixture.input_major else (count, hidden, width)
    tables = [Table(f"{path}.gate_up_proj", gate_up), Table(f"{path}.down_proj", down)]
    if mixture.bias:
        tables.append(Table(f"{path}.gate_up_proj_bias", (count, 2 * width)))
        tables.append(Table(f"{path}.down_proj_bias", (count, hidden)))
    return tuple(tables)
