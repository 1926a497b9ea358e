"""Lists of GPUs, models and rules as neutral tables."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.sheet import Cell, Column, Sheet, row
from planner.spec import Gpu, Price
from planner.units import format_count

if TYPE_CHECKING:
    from planner.catalog import Listing
    from planner.local import Cards
    from planner.recommend.rules import Rule

ESTIMATED = "~"
"""Stands before a figure that nobody has measured."""


# ---------------------------------------------------------------- GPUs


def gpus_sheet(gpus: Sequence[Gpu]) -> Sheet:
    """Single cards: memory that torch can see, bandwidth, dense bf16 peak, price."""
    columns = (
        Column("gpu"),
        Column("GiB", numeric=True),
        Column("GB/s", numeric=True),
        Column("TFLOP/s", numeric=True),
        Column("US$/h", numeric=True),
        Column("hyperscaler", numeric=True, optional=True),
        Column("name", optional=True),
    )
    return Sheet("GPUs", columns, tuple(_gpu(gpu) for gpu in gpus), notes=_gpu_notes(gpus))


def local_sheet(found: Sequence["Cards"]) -> Sheet:
    """Cards that are here: what torch sees of each, what others hold, what is left."""
    columns = (
        Column("card", numeric=True),
        Column("profile"),
        Column("GiB", numeric=True),
        Column("held by others", numeric=True),
        Column("free", numeric=True),
        Column("name", wraps=True),
    )
    rows = [
        row((str(place), gpu.profile or "–", *(words.gib(count) for count in _shares(gpu)), gpu.name))
        for place, (gpu, _) in enumerate(found)
    ]
    notes = [f"{place}: {note}" for place, (_, lines) in enumerate(found) for note in lines]
    return Sheet(
        "What is here", columns, tuple(rows), notes=(*notes, "--gpu local plans for it; plan doctor tells more")
    )


def _shares(gpu: Gpu) -> tuple[int, int, int]:
    return gpu.memory_bytes, gpu.taken_bytes, gpu.memory_bytes - gpu.taken_bytes


def classes_sheet(classes: Sequence[Gpu]) -> Sheet:
    """Class names, each with the card that stands for it."""
    columns = (Column("class"), Column("GiB", numeric=True), Column("planned as its weakest card"))
    rows = tuple(row((Cell(gpu.id, "strong"), _memory(gpu), f"{gpu.represents}, {gpu.name}")) for gpu in classes)
    return Sheet("Classes of cards", columns, rows)


def _gpu(gpu: Gpu) -> tuple[Cell, ...]:
    bandwidth = _figure(gpu, "bandwidth_bytes_per_s", f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f}")
    peak = gpu.peak_flops_per_s.get("bf16")
    flops = "–" if peak is None else _figure(gpu, "peak_flops_per_s", f"{peak / 1e12:,.0f}")
    return row(
        (Cell(gpu.id, "strong"), _memory(gpu), bandwidth, flops, _price(gpu.price), _hyperscaler(gpu.price), gpu.name)
    )


def _memory(gpu: Gpu) -> str:
    return _figure(gpu, "memory_bytes", words.gib(gpu.memory_bytes))


def _figure(gpu: Gpu, field: str, text: str) -> str:
    return f"{ESTIMATED}{text}" if field in gpu.estimated else text


def _price(price: Price | None) -> str:
    if price is None:
        return "–"
    text = words.dollars((price.low_usd, price.typical_usd)).removeprefix("$").removesuffix("/h")
    return f"{ESTIMATED}{text}" if price.estimated else text


def _hyperscaler(price: Price | None) -> str:
    return "–" if price is None or price.hyperscaler_usd is None else f"{price.hyperscaler_usd:,.2f}"


def _gpu_notes(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    dates = sorted({gpu.price.as_of for gpu in gpus if gpu.price is not None})
    notes = [
        "GiB: what torch can see, before a desktop or other programs take their part",
        "TFLOP/s: dense peak in bf16",
    ]
    if dates:
        notes.append(f"US$/h: lowest and typical offer for one card on demand, as of {', '.join(dates)}")
        notes.append("hyperscaler: the same at a large cloud")
    if any(gpu.estimated or (gpu.price and gpu.price.estimated) for gpu in gpus):
        notes.append(f"{ESTIMATED} estimated: nobody has measured it, or one marketplace alone offers the card")
    return tuple(notes)


def gpus_document(gpus: Iterable[Gpu], classes: Iterable[Gpu]) -> dict[str, object]:
    """The same, and more, for scripts."""
    return {
        "schema": 1,
        "gpus": [_gpu_document(gpu) for gpu in gpus],
        "classes": [{**_gpu_document(gpu), "represents": gpu.represents} for gpu in classes],
    }


def _gpu_document(gpu: Gpu) -> dict[str, object]:
    plain = (
        "id",
        "name",
        "vendor",
        "architecture",
        "memory_bytes",
        "taken_bytes",
        "context_bytes",
        "bandwidth_bytes_per_s",
    )
    links = ("pcie_bytes_per_s", "nvlink_bytes_per_s", "supports_bf16", "supports_flash", "unified_memory")
    price = gpu.price
    return {
        **{name: getattr(gpu, name) for name in plain},
        "peak_flops_per_s": dict(gpu.peak_flops_per_s),
        "compute_capability": list(gpu.compute_capability) if gpu.compute_capability else None,
        **{name: getattr(gpu, name) for name in links},
        "estimated": list(gpu.estimated),
        "warnings": list(gpu.warnings),
        "aliases": list(gpu.aliases),
        "price": None if price is None else _price_document(price),
    }


def _price_document(price: Price) -> dict[str, object]:
    names = ("low_usd", "typical_usd", "hyperscaler_usd", "as_of", "estimated")
    return {name: getattr(price, name) for name in names}


# ---------------------------------------------------------------- models


def models_sheet(models: Sequence["Listing"]) -> Sheet:
    """Models by name with their size."""
    columns = (
        Column("model"),
        Column("parameters", numeric=True),
        Column("active", numeric=True),
        Column("context", numeric=True),
        Column("type", optional=True),
        Column("licence", optional=True),
        Column("Hub id", optional=True),
    )
    notes = ("active: parameters that act on each token of a mixture of experts",)
    moe = any(model.is_moe for model in models)
    return Sheet("Models", columns, tuple(_model(model) for model in models), notes=notes if moe else ())


def _model(model: "Listing") -> tuple[Cell, ...]:
    active = format_count(model.active) if model.is_moe else ""
    context = str(model.context or "–")
    name = Cell(model.id, "strong")
    return row(
        (name, format_count(model.params), active, context, model.model_type, model.license or "–", model.hub_id)
    )


def models_document(models: Iterable["Listing"]) -> dict[str, object]:
    """The same for scripts."""
    return {"schema": 1, "models": [{**model._asdict(), "is_moe": model.is_moe} for model in models]}


# ---------------------------------------------------------------- rules


def rules_sheet(rules: Iterable["Rule"], titles: Iterable[str]) -> Sheet:
    """Rules by code, each with its one sentence."""
    columns = (Column("code"), Column("name", optional=True), Column("what it says", wraps=True))
    rows = tuple(row((Cell(rule.code, "strong"), rule.slug, text)) for rule, text in zip(rules, titles, strict=True))
    return Sheet("Rules", columns, rows, notes=("read one with: plan explain CODE",))
