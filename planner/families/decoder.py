"""A whole model from a family's ``Style``: blocks of each kind, their order, embeddings and head."""

from collections.abc import Callable

from planner.families.fields import LAYER_LIMIT, POSITION_LIMIT, Fields
from planner.families.parts import attention, experts, mlp, norm
from planner.families.style import Kind, Mixture, Style
from planner.spec import Attention, Block, Linear, ModelSpec, Table

AttentionRule = Callable[[Style, Fields, Kind], Attention]


def decoder(
    style: Style, mixture: Mixture | None = None, attend: AttentionRule = attention
) -> Callable[[Fields], ModelSpec]:
    """The builder of a family that is fully described by its style."""

    def build(fields: Fields) -> ModelSpec:
        return model(style, fields, mixture, attend)

    return build


def model(style: Style, fields: Fields, mixture: Mixture | None, attend: AttentionRule) -> ModelSpec:
    """Assemble the model; its name and origin are filled in by the caller."""
    kinds = style.layers(fields, fields.size("num_hidden_layers", limit=LAYER_LIMIT))
    distinct = tuple(dict.fromkeys(kinds))
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    return ModelSpec(
        name="",
        model_type=fields.family.model_type,
        hidden_size=hidden,
        vocab_size=vocabulary,
        max_position_embeddings=fields.optional_size("max_position_embeddings", limit=POSITION_LIMIT),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        embeddings=(Table(style.embedding, (vocabulary, hidden)), *positions(style, fields, hidden)),
        blocks=tuple(block(style, fields, kind, mixture, attend) for kind in distinct),
        layout=tuple(distinct.index(kind) for kind in kinds),
        lm_head=Linear("lm_head", hidden, vocabulary, fields.switch(style.head_bias)),
        final_norm=norm(style, fields, style.final_norm, hidden) if style.final_norm else None,
        logits_scaled=style.logits_scaled,
        logits_softcap=style.logits_softcap is not None and fields.is_set(style.logits_softcap),
        embedding_dropout=fields.rate(style.embedding_dropout),
        attends=style.attends,
    )


def block(style: Style, fields: Fields, kind: Kind, mixture: Mixture | None, attend: AttentionRule) -> Block:
    """One kind of layer."""
    hidden = fields.size("hidden_size")
    parallel = style.parallel is not None and fields.flag(style.parallel)
    names = style.norms[:1] if parallel else style.norms
    sparse = mixture is not None and kind.sparse
    dense_width = mixture.dense_width if mixture else "intermediate_size"
    return Block(
        attention=attend(style, fields, kind),
        norms=tuple(norm(style, fields, name, hidden) for name in names),
        mlp=None if sparse else mlp(style, fields, width_of(fields, dense_width), style.mlp),
        experts=experts(style, mixture, fields) if mixture and sparse else None,
        placement="parallel" if parallel else style.placement,
        residual_dropout=fields.rate(style.residual_dropout),
        residual_scaled=style.residual_scaled,
    )


def width_of(fields: Fields, name: str) -> int:
    """Feed-forward width; four times the model's where the file leaves it out, as GPT-2 does."""
    return fields.optional_size(name) or 4 * fields.size("hidden_size")


def positions(style: Style, fields: Fields, hidden: int) -> tuple[Table, ...]:
    """A learned position table where the family has one."""
    if style.positions is None:
        return ()
    rows = fields.size("max_position_embeddings") + style.position_offset
    return (Table(style.positions, (rows, hidden)),)
