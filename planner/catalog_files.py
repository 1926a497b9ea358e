"""The model catalogue on disk: one TOML file per model, and an index made from them.

A plan needs one model, so it parses one file; the index answers which one, and what ``plan models`` lists.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from planner.errors import BrokenInput
from planner.families import model_from_config
from planner.formulas.params import active_params, model_params
from planner.spec import ModelSpec

MODELS = Path(__file__).with_name("models")
INDEX = MODELS / "index.json"
UNCOVERED = MODELS / "_uncovered.toml"

REQUIRED_KEYS = {"id", "name", "hub_id", "aliases", "model_type", "config", "parameters", "source"}
OPTIONAL_KEYS = {"generic_aliases", "variants", "license", "native_dtype", "release_date", "context", "notes"}


class Extra(NamedTuple):
    """Parameters of the published checkpoint that the text class does not load."""

    what: str
    params: int


class Entry(NamedTuple):
    """One model file. ``text`` is what transformers' text class holds, ``published`` what the repository holds."""

    id: str
    name: str
    hub_id: str
    model_type: str
    config: Mapping[str, object]
    text: int
    published: int | None
    extra: tuple[Extra, ...]
    aliases: tuple[str, ...] = ()
    generic_aliases: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    license: str | None = None
    native_dtype: str | None = None
    release_date: str | None = None
    context: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the model but the bare sizes."""
        repositories = (self.hub_id, *self.variants)
        return (self.id, *self.aliases, *repositories, *(repo.rpartition("/")[2] for repo in repositories))


def read_entry(path: Path) -> Entry:
    """One model file; a key that nobody reads is an error in it."""
    with path.open("rb") as file:
        data = tomllib.load(file)
    unknown = set(data) - REQUIRED_KEYS - OPTIONAL_KEYS
    if unknown:
        raise BrokenInput(f"{path}: unknown key {min(unknown)!r}")
    parameters = data["parameters"]
    return Entry(
        id=data["id"],
        name=data["name"],
        hub_id=data["hub_id"],
        model_type=data["model_type"],
        config=config_of(data["config"], data["model_type"]),
        text=parameters["text"],
        published=parameters.get("published"),
        extra=tuple(Extra(what=row["what"], params=row["params"]) for row in parameters.get("extra", ())),
        aliases=tuple(data["aliases"]),
        generic_aliases=tuple(data.get("generic_aliases", ())),
        variants=tuple(data.get("variants", ())),
        license=data.get("license"),
        native_dtype=data.get("native_dtype"),
        release_date=data.get("release_date"),
        context=data.get("context"),
        notes=tuple(data.get("notes", ())),
    )


def config_of(table: Mapping[str, object], model_type: str) -> dict[str, object]:
    """The fields of ``config.json``; ``nulls`` lists those that are null there, which TOML cannot say."""
    fields = {key: value for key, value in table.items() if key != "nulls"}
    nulls = table.get("nulls", [])
    assert isinstance(nulls, list)
    return {**fields, **dict.fromkeys(nulls), "model_type": model_type}


@cache
def catalogue_model(model_id: str) -> ModelSpec:
    """The model of one file of ours."""
    path = MODELS / f"{model_id}.toml"
    entry = read_entry(path)
    spec = model_from_config(entry.config, name=entry.id, where=path.name)
    return replace(
        spec,
        hub_id=entry.hub_id,
        license=entry.license,
        native_dtype=entry.native_dtype,
        notes=(*spec.notes, *entry.notes),
    )


def model_files() -> list[Path]:
    """Every model file, by name."""
    return sorted(path for path in MODELS.glob("*.toml") if not path.name.startswith("_"))


def build_index() -> dict[str, object]:
    """The index of all model files: facts for a listing, names, bare sizes, and what is not covered."""
    entries = [read_entry(path) for path in model_files()]
    with UNCOVERED.open("rb") as file:
        uncovered = tomllib.load(file)["model"]
    return {
        "models": {entry.id: listing_facts(entry) for entry in entries},
        "names": {name.lower(): entry.id for entry in entries for name in entry.names},
        "sizes": {size: entry.id for entry in entries for size in entry.generic_aliases},
        "uncovered": {
            name.lower(): [row["hub_id"], row["model_type"]]
            for row in uncovered
            for name in (row["id"], row["hub_id"], *row["aliases"], *row.get("variants", ()))
        },
    }


def listing_facts(entry: Entry) -> dict[str, object]:
    """What ``plan models`` shows of one model."""
    spec = catalogue_model(entry.id)
    return {
        "hub_id": entry.hub_id,
        "model_type": entry.model_type,
        "params": model_params(spec),
        "active": active_params(spec),
        "context": entry.context,
        "license": entry.license,
        "released": entry.release_date,
    }


def index_text() -> str:
    """The index as it stands on disk: one line per entry, so that a change reads as a change."""
    sections = []
    for name, rows in build_index().items():
        assert isinstance(rows, dict)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(rows.items()))
        sections.append(f'"{name}": {{\n{lines}\n}}')
    return "{\n" + ",\n".join(sections) + "\n}\n"


def write_index() -> None:
    """Write ``models/index.json`` after a model file has changed."""
    INDEX.write_text(index_text(), encoding="utf-8")
