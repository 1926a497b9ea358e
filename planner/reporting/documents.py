"""Where the facts of a card, its price and a model were read, as their files say."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog import index
from planner.catalog_files import MODELS
from planner.hardware import shipped_dir, user_dir
from planner.result import Plan


class Document(NamedTuple):
    """What of ``of`` was read in ``document``, with a note on it, and at which address if it has one."""

    of: str
    facts: str
    document: str
    url: str = ""
    note: str = ""


def documents(answer: Plan, profiles_dir: Path | None) -> Iterator[Document]:
    """Documents behind the card, its price and the model; none of a model that is the user's own file."""
    gpu, model = answer.cluster.gpu, answer.model
    folders = [folder for folder in (profiles_dir, user_dir(), shipped_dir()) if folder is not None]
    name = gpu.profile or gpu.represents or gpu.id
    for source in _facts([folder / f"{name}.toml" for folder in folders]).get("source", ()):
        yield _document(gpu.name, source)
    if gpu.price is not None:
        yield from _prices(gpu.name, name, _facts([folder / "prices.toml" for folder in folders]))
    if model.name in index().models:
        for source in _facts([MODELS / f"{model.name}.toml"]).get("source", ()):
            yield _document(model.name, source)


def _prices(of: str, name: str, listed: Mapping[str, Any]) -> Iterator[Document]:
    """The lists in which a card's price was read."""
    used = listed.get("gpus", {}).get(name, {}).get("sources", ())
    for source in listed.get("source", ()):
        if source["id"] in used:
            yield _document(of, {**source, "sections": ["price"]})


def _document(of: str, source: Mapping[str, Any]) -> Document:
    facts = source.get("sections") or [source.get("field", "")]
    document, note = source.get("document", ""), source.get("note", "")
    return Document(of, ", ".join(facts), document or note, source.get("url", ""), note if document else "")


def _facts(paths: list[Path]) -> Mapping[str, Any]:
    """The first file that there is: the plan has read it before, and found it sound."""
    found = next((path for path in paths if path.is_file()), None)
    return {} if found is None else tomllib.loads(found.read_text(encoding="utf-8"))
