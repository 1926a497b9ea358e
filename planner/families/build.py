"""Choosing the family of a config, and building the model."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from planner.errors import BrokenInput, UnsupportedScenario, nearest
from planner.families import classic, dense, latent, moe
from planner.families.fields import Family, Fields, check_fields, printable, show
from planner.families.quantized import storage_note
from planner.families.text import SAME_TEXT_CLASS, UNCOVERED, text_part
from planner.spec import ModelSpec

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
