"""Choosing the family of a config, and building the model."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from planner.errors import BrokenInput, UnsupportedScenario, nearest
from planner.families import classic, dense, latent, moe
from planner.families.fields import SIZE_LIMIT, Family, Fields, check_fields, printable, show
from planner.families.quantized import storage_note
from planner.families.text import SAME_TEXT_CLASS, TEXT_KEYS, UNCOVERED, text_part
from planner.spec import Linear, ModelSpec, Table

COVERED: Mapping[str, Family] = MappingProxyType(
    {family.model_type: family for family in (*dense.FAMILIES, *classic.FAMILIES, *moe.FAMILIES, *latent.FAMILIES)}
)
"""Every architecture that the formulas know, by ``model_type``."""

PARAMETER_LIMIT = 10**14
"""A hundred times the largest open model; a config beyond it is a mistake or a trap."""


def model_from_config(config: Mapping[str, object], *, name: str, where: str = "config.json") -> ModelSpec:
    """The model that transformers' text class builds from ``config``.

    Raises ``BrokenInput`` for values that make no sense and ``UnsupportedScenario`` for what we do not know.
    """
    text, notes = text_part(config, where)
    family = family_of(text, where)
    storage = storage_note(config, text, where)
    check_fields(text, family, where)
    spec = family.build(Fields(text, family, where))
    refuse_absurd(spec, where)
    return replace(spec, name=name, notes=(*notes, *storage), native_dtype=dtype_of(config, text), config=text)


def opaque_model(config: Mapping[str, object], *, name: str, where: str = "config.json") -> ModelSpec:
    """A model of which we know the configuration alone: transformers may build it, formulas cannot.

    Raises ``BrokenInput`` for a config without a ``model_type`` or a vocabulary.
    """
    text, notes = text_part(config, where)
    if config is not text and "model_type" in config and isinstance(inner := _inner_type(config), str):
        text = {**text, "model_type": inner}
    kind = text.get("model_type")
    if not isinstance(kind, str):
        raise BrokenInput(f"{where}: model_type is {show(kind)}, so the architecture is unknown")
    vocabulary = _first(text, ("vocab_size",), where)
    width = _first(text, ("hidden_size", "d_model", "n_embd"), where)
    return ModelSpec(
        name=name,
        model_type=printable(kind),
        hidden_size=width,
        vocab_size=vocabulary,
        max_position_embeddings=None,
        tie_word_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        embeddings=(Table("embed_tokens", (vocabulary, width)),),
        blocks=(),
        layout=(),
        lm_head=Linear("lm_head", width, vocabulary),
        final_norm=None,
        attends=("sdpa", "eager"),
        notes=(*notes, f"model_type {printable(kind)} has no closed form here: every number comes from a trace"),
        native_dtype=dtype_of(config, text),
        config=text,
    )


def _inner_type(config: Mapping[str, object]) -> object:
    """The text part's own ``model_type``."""
    inner = next((config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict)), {})
    return inner.get("model_type") if isinstance(inner, dict) else None


def _first(config: Mapping[str, object], names: tuple[str, ...], where: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SIZE_LIMIT:
            return value
    raise BrokenInput(f"{where}: {names[0]} is missing or no sane number")


def family_of(config: Mapping[str, object], where: str = "config.json") -> Family:
    """The family named by ``model_type``."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise BrokenInput(f"{where}: model_type is {show(model_type)}, so the architecture is unknown")
    family = COVERED.get(SAME_TEXT_CLASS.get(model_type, model_type))
    if family is not None:
        return family
    if model_type in UNCOVERED:
        raise UnsupportedScenario(f"{where}: model_type {model_type} is not covered: {UNCOVERED[model_type]}")
    near = nearest(model_type, COVERED)
    hint = f"; nearest that is: {', '.join(near)}" if near else ""
    raise UnsupportedScenario(f"{where}: model_type {show(model_type)} is not covered{hint}")


def refuse_absurd(spec: ModelSpec, where: str) -> None:
    """Refuse a model whose single sizes pass and whose product does not."""
    blocks = sum(
        count * (sum(linear.params for linear in block.linears) + sum(table.params for table in block.tables))
        for block, count in zip(spec.blocks, spec.block_counts, strict=True)
    )
    if blocks + spec.lm_head.params > PARAMETER_LIMIT:
        raise BrokenInput(f"{where}: the sizes multiply to more than {PARAMETER_LIMIT:.0e} parameters")


def dtype_of(config: Mapping[str, object], text: Mapping[str, object]) -> str | None:
    """What the checkpoint says it is stored in."""
    for source in (text, config):
        for key in ("dtype", "torch_dtype"):
            value = source.get(key)
            if isinstance(value, str):
                return printable(value.removeprefix("torch."))
    return None
