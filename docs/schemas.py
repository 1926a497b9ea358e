"""JSON schemas of what the commands print: one file for each document that scripts may rely on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from planner.render import config_document, dataset, document, explore_document, rent_document

DOCS = Path(__file__).resolve().parent

DIALECT = "https://json-schema.org/draft/2020-12/schema"


PUBLISHED: Mapping[str, type] = {
    "plan": document.PlanDocument,
    "check": config_document.CheckDocument,
    "export": config_document.ExportDocument,
    "rent": rent_document.RentDocument,
    "what-if": explore_document.WhatIfDocument,
    "frontier": explore_document.FrontierDocument,
    "sweep": explore_document.RowDocument,
    "dataset": dataset.DatasetAnswer,
}
"""What a command prints, by the command's name; of ``sweep``, one line."""

HOMES: tuple[ModuleType, ...] = (document, config_document, rent_document, explore_document, dataset)
"""Modules whose objects stand on the page."""


def identifier(name: str) -> str:
    """What a schema is called, wherever its file lies.

    >>> identifier("plan")
    'urn:finetune-planner:schema:1:plan'
    """
    return f"urn:finetune-planner:schema:{document.SCHEMA}:{name}"


def schema(name: str) -> dict[str, Any]:
    """The schema of one document. It allows keys that it does not name, since later versions may add some."""
    found = TypeAdapter(PUBLISHED[name]).json_schema()
    return {"$schema": DIALECT, "$id": identifier(name), "version": document.SCHEMA, **found}


def schema_files() -> Iterator[tuple[Path, str]]:
    """Every published schema with its text."""
    for name in PUBLISHED:
        yield DOCS / f"{name}.schema.json", json.dumps(schema(name), indent=2) + "\n"


def objects() -> list[type]:
    """Every object of every document: the answers first, then their parts."""
    found = [one for home in HOMES for one in vars(home).values() if isinstance(one, type) and _is_object(one)]
    parts = [one for one in dict.fromkeys(found) if one not in PUBLISHED.values()]
    return [*PUBLISHED.values(), *parts]


def _is_object(kind: type) -> bool:
    return hasattr(kind, "__total__") and bool(get_type_hints(kind))
