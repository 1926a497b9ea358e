"""Parts of a model as tensor-parallel and expert-parallel ranks hold them: matrices by heads, channels and experts."""

from dataclasses import replace

from planner.spec import Attention, Block, Experts, Linear, Mlp, ModelSpec, Norm, Table


def tensor_part(block: Block, ranks: int) -> Block:
    """One of ``ranks`` parts of a layer: heads and MLP channels are divided, norms and routers are whole."""
    return replace(
        block,
        attention=_attention(block.attention, ranks),
        mlp=None if block.mlp is None else _mlp(block.mlp, ranks),
        experts=None if block.experts is None else _experts(block.experts, ranks),
    )


def _columns(linear: Linear, width: int) -> Linear:
    return replace(linear, d_out=width)


def _attention(whole: Attention, ranks: int) -> Attention:
    heads, keys = whole.num_attention_heads // ranks, max(whole.num_key_value_heads // ranks, 1)
    inner = tuple(_columns(linear, linear.d_out // ranks) for linear in whole.inner)
    part = replace(
        whole,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        inputs=_projections(whole, heads, keys, ranks),
        inner=inner,
        output=replace(whole.output, d_in=whole.output.d_in // ranks),
        tables=tuple(Table(table.name, (table.shape[0] // ranks, *table.shape[1:])) for table in whole.tables),
    )
    if whole.latent is not None:  # these norms act on the compressed vectors, which every rank has
        return part
    q_norm, k_norm = _norm(whole, whole.q_norm, heads), _norm(whole, whole.k_norm, keys)
    return replace(part, q_norm=q_norm, k_norm=k_norm)


def _projections(whole: Attention, heads: int, keys: int, ranks: int) -> tuple[Linear, ...]:
    """Query, key and value by heads; of latent attention the compressions are whole, and a plain query is divided."""
    first, *rest = whole.inputs
    if whole.latent is not None:
        plain = whole.latent.q_lora_rank is None
        return (_columns(first, first.d_out // ranks) if plain else first, *rest)
    if not rest:
        return (_columns(first, (heads + 2 * keys) * whole.head_dim),)
    return (_columns(first, heads * whole.head_dim), *(_columns(linear, keys * whole.head_dim) for linear in rest))


def _norm(whole: Attention, norm: Norm | None, heads: int) -> Norm | None:
    """A norm over the whole projection is divided with it; one of a head is not."""
    if norm is None or norm.size == whole.head_dim:
        return norm
    return replace(norm, size=heads * whole.head_dim)


def _mlp(whole: Mlp, ranks: int) -> Mlp:
    return replace(
        whole,
        intermediate_size=whole.intermediate_size // ranks,
        inputs=tuple(_columns(linear, linear.d_out // ranks) for linear in whole.inputs),
        output=replace(whole.output, d_in=whole.output.d_in // ranks),
    )


def _experts(whole: Experts, ranks: int) -> Experts:
    return replace(
        whole,
        intermediate_size=whole.intermediate_size // ranks,
        tables=tuple(_by_channels(table, whole.intermediate_size, ranks) for table in whole.tables),
        shared=None if whole.shared is None else _mlp(whole.shared, ranks),
        parallel_dense=None if whole.parallel_dense is None else _mlp(whole.parallel_dense, ranks),
    )


def _by_channels(table: Table, channels: int, ranks: int) -> Table:
    """The dimension of the channels divided, gate and up together; a bias of the output is whole."""
    count, *sizes = table.shape
    place = next((place for place, size in reversed(tuple(enumerate(sizes))) if size in (channels, 2 * channels)), None)
    if place is None or (len(sizes) == 1 and "down" in table.name):
        return table
    sizes[place] //= ranks
    return Table(table.name, (count, *sizes))


def expert_part(block: Block, ranks: int) -> Block:
    """One of ``ranks`` parts of a layer's experts; the router and what acts on every token are whole.

    Ranks exchange the rows that chose an expert, so none computes in vain.
    """
    experts = block.experts
    if experts is None:
        return block
    tables = tuple(Table(table.name, (table.shape[0] // ranks, *table.shape[1:])) for table in experts.tables)
    return replace(block, experts=replace(experts, tables=tables, computes_all=False))


def with_all_experts(model: ModelSpec) -> ModelSpec:
    """The model with the experts of all ranks, where it holds one rank's."""
    return replace(model, blocks=tuple(_with_all(block) for block in model.blocks))


def _with_all(block: Block) -> Block:
    experts = block.experts
    if experts is None:
        return block
    tables = tuple(Table(table.name, (experts.num_experts, *table.shape[1:])) for table in experts.tables)
    return replace(block, experts=replace(experts, tables=tables))
