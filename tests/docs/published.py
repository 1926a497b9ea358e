"""The published schemas, and the keys that a document of theirs may have."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCS = Path(__file__).parents[2] / "docs"
FILES = {path.name.removesuffix(".schema.json"): path for path in sorted(DOCS.glob("*.schema.json"))}

Schema = dict[str, Any]


@cache
def schema(name: str) -> Schema:
    found: Schema = json.loads(FILES[name].read_text(encoding="utf-8"))
    return found


@cache
def exact(name: str) -> Draft202012Validator:
    """A judge that allows no key which the schema does not name: what we print is all described."""
    return Draft202012Validator(closed(schema(name)))


def closed(part: Any) -> Any:
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    inner = {key: closed(value) for key, value in part.items()}
    return {"additionalProperties": False, **inner} if "properties" in part else inner


def kind_of(document: Mapping[str, Any]) -> str | None:
    """The published document whose top level this is."""
    return next((name for name in FILES if set(schema(name)["required"]) <= set(document)), None)


def complaints(name: str, document: Any) -> list[str]:
    """What is wrong with a document, with the place of each fault."""
    return [f"{error.json_path}: {error.message[:200]}" for error in exact(name).iter_errors(document)]


# ---------------------------------------------------------------- keys


Keys = dict[str, set[str]]


def described(name: str) -> Keys:
    """The keys of every object of a schema."""
    whole = schema(name)
    objects = {whole["title"]: whole, **whole["$defs"]}
    return {title: set(one["properties"]) for title, one in objects.items() if "properties" in one}


def printed(document: Any) -> Keys:
    """The keys of every object of a document, by the key that it stands under."""
    found: Keys = {}
    _gather(document, "", found)
    return found


def _gather(document: Any, above: str, found: Keys) -> None:
    if isinstance(document, list):
        for one in document:
            _gather(one, above, found)
    elif isinstance(document, dict):
        found.setdefault(above, set()).update(document)
        for key, value in document.items():
            _gather(value, key, found)


def lost(before: Keys, now: Keys) -> Keys:
    """What stood there before and no longer does."""
    return {one: keys - now.get(one, set()) for one, keys in before.items() if keys - now.get(one, set())}
