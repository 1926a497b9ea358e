"""From what a user calls a model to the model itself.

Names are tried in this order: a path that looks like one, a name of the catalogue, an existing directory, a bare size,
a repository on the Hub. Nothing is guessed: what a short name was taken for is part of the answer.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from planner.catalog_files import INDEX, catalogue_model, write_index
from planner.errors import BrokenInput, UnknownName, UnsupportedScenario
from planner.families import model_from_config, opaque_model, parse_config
from planner.families.document import DOCUMENT_LIMIT
from planner.families.fields import printable
from planner.families.text import UNCOVERED
from planner.spec import ModelSpec

NAME_LIMIT = 4096
"""Longest name or path that we look at."""

SUFFIX = re.compile(r"-(instruct|chat|it|base|pt|hf|v\d+\.\d+|bnb-4bit|unsloth)$")
"""Endings that do not change the shapes of a model."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
SIZE_CLASS = 0.10
"""Two models are of one size class when their parameters differ by less than this share."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model and one line that says what the name was taken for."""

    model: ModelSpec
    line: str


class Listing(NamedTuple):
    """One row of ``plan models``. ``active`` parameters act on a token; they differ from ``params`` for experts."""

    id: str
    hub_id: str
    model_type: str
    params: int
    active: int
    context: int | None
    license: str | None
    released: str | None

    @property
    def is_moe(self) -> bool:
        """Whether only some of the parameters act on a token."""
        return self.active < self.params


class Index(NamedTuple):
    """The index of the catalogue."""

    models: Mapping[str, Listing]
    names: Mapping[str, str]
    sizes: Mapping[str, str]
    uncovered: Mapping[str, tuple[str, str]]


@cache
def index() -> Index:
    """The index, read once."""
    data = json.loads(INDEX.read_text(encoding="utf-8"))
    names = data["names"]
    return Index(
        models={key: Listing(id=key, **row) for key, row in data["models"].items()},
        names=names,
        sizes=data["sizes"],
        uncovered={key: tuple(row) for key, row in data["uncovered"].items()},
    )


@cache
def squeezed_names() -> Mapping[str, str]:
    """Names of the index without separators, for who spells one otherwise."""
    return {squeeze(name): found for name, found in index().names.items()}


def load_model(name: str, *, opaque: bool = False) -> Resolved:
    """The model that ``name`` means: a size, a catalogue name, a Hub id, a directory or a ``config.json``.

    ``opaque`` accepts a configuration that no formula knows, for those who only run the real code.

    >>> load_model("llama3.1-8b").model.num_hidden_layers
    32
    """
    wanted = name.strip()
    if not wanted or len(wanted) > NAME_LIMIT or "\0" in wanted:
        raise unknown_model(wanted)
    if looks_like_path(wanted):
        return from_path(Path(wanted), opaque=opaque)
    found = find_name(wanted)
    if found is not None:
        return from_catalogue(wanted, found)
    if exists(Path(wanted)):
        return from_path(Path(wanted), opaque=opaque)
    refuse_uncovered(wanted)
    if REPOSITORY.fullmatch(wanted):
        return from_hub(wanted, opaque=opaque)
    raise unknown_model(wanted)


def looks_like_path(name: str) -> bool:
    r"""Whether a name can only be a path.

    >>> looks_like_path(r"C:\models\llama"), looks_like_path("meta-llama/Llama-3.1-8B")
    (True, False)
    """
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or "\\" in name or name.endswith(".json")


def exists(path: Path) -> bool:
    """Whether there is such a file or directory; names that no file can have count as absent."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------- names


def find_name(name: str) -> str | None:
    """The id behind a name: exact, without its organisation, without harmless endings, without separators."""
    known = index()
    if name.lower() in known.sizes:
        return known.sizes[name.lower()]
    for candidate in spellings(name):
        if candidate in known.names:
            return known.names[candidate]
    for candidate in spellings(name):
        if candidate in known.uncovered:
            return None
        if squeeze(candidate) in squeezed_names():
            return squeezed_names()[squeeze(candidate)]
    return None


def spellings(name: str) -> list[str]:
    """The name, then shorter forms of it.

    >>> spellings("Qwen/Qwen2.5-7B-Instruct")
    ['qwen/qwen2.5-7b-instruct', 'qwen2.5-7b-instruct', 'qwen2.5-7b']
    """
    lower = name.lower()
    short = re.sub(r"[_: ]", "-", lower.rpartition("/")[2])
    found = [lower, short]
    while (stripped := SUFFIX.sub("", found[-1])) != found[-1]:
        found.append(stripped)
    return found


def squeeze(name: str) -> str:
    """A name without its separators but for those between digits: qwen2-57b is not qwen25-7b.

    >>> squeeze("qwen-2.5-7b"), squeeze("phi-3-mini")
    ('qwen2.5-7b', 'phi3mini')
    """
    return re.sub(r"(?<!\d)[-_: ]|[-_: ](?!\d)", "", name)


def from_catalogue(name: str, model_id: str) -> Resolved:
    """A model of ours, with the line that says what was taken."""
    model = catalogue_model(model_id)
    listing = index().models[model_id]
    line = model_id if name.lower() == model_id else f"{name} -> {model_id}"
    line += f" ({listing.hub_id})"
    if "/" in name and name.lower() not in index().names:
        line += "; taken by its name, the repository itself was not read"
    if name.lower() in index().sizes:
        others = same_class(listing)
        line += f"; other {name.lower()}-class models: {', '.join(others)}: write the name for those" if others else ""
    return Resolved(model, line)


def same_class(listing: Listing, count: int = 4) -> list[str]:
    """Newest other models of about the same size."""
    near = [
        other
        for other in index().models.values()
        if other.id != listing.id and abs(other.params - listing.params) < SIZE_CLASS * listing.params
    ]
    near.sort(key=lambda other: (other.released or "", other.id), reverse=True)
    return [other.id for other in near[:count]]


def refuse_uncovered(name: str) -> None:
    """A model that we know of and cannot plan for is no unknown name."""
    for candidate in spellings(name):
        if candidate in index().uncovered:
            hub_id, model_type = index().uncovered[candidate]
            reason = UNCOVERED.get(model_type, "its architecture has other activations")
            raise UnsupportedScenario(
                f"model {name[:80]!r} is {hub_id}, model_type {model_type}, not covered: {reason}"
            )


def unknown_model(name: str) -> UnknownName:
    """The error for a name that means nothing, with the nearest that do."""
    known = index()
    return UnknownName("model", name, (*known.names, *known.sizes), listing="plan models")


def list_models(query: str = "") -> tuple[Listing, ...]:
    """Models whose id, repository, architecture or licence holds every word of ``query``, smallest first.

    A size (``7b``) must stand as a word of its own; ``moe`` asks for mixtures of experts.
    """
    words = query.lower().split()
    found = [row for row in index().models.values() if all(mentions(row, word) for word in words)]
    return tuple(sorted(found, key=lambda row: (row.params, row.id)))


def mentions(row: Listing, word: str) -> bool:
    """Whether one row answers to one word of a search."""
    text = f"{row.id} {row.hub_id} {row.model_type} {row.license or ''}".lower()
    if re.fullmatch(r"\d+(\.\d+)?[bm]", word):
        return word in re.split(r"[-_/: ]", text)
    return row.is_moe if word == "moe" else word in text


# ---------------------------------------------------------------- files


def from_path(path: Path, *, opaque: bool = False) -> Resolved:
    """A directory with a ``config.json``, or the file itself."""
    where = printable(str(path), limit=200)
    try:
        path = path.expanduser()
        file = path / "config.json" if path.is_dir() else path
        where = printable(str(file), limit=200)
        data, folder = read_config(file, where), file.resolve().parent.name
    except OSError as error:
        raise BrokenInput(f"{where}: {error.strerror or 'cannot be read'}") from None
    except (RuntimeError, UnicodeError):
        raise BrokenInput(f"{where}: not a usable path") from None
    model = _model_of(parse_config(data, where), printable(folder) or "model", where, opaque=opaque)
    return Resolved(model, f"{where} (read from disk)")


def read_config(file: Path, where: str) -> bytes:
    """Bytes of a config; whatever is no ordinary file of believable size is refused."""
    if not file.exists():
        base = adapter_base(file)
        hint = f"; it is an adapter for {base}: plan for that model" if base else ""
        raise BrokenInput(f"{where}: no such file{hint}")
    if not file.is_file():
        raise BrokenInput(f"{where}: not an ordinary file")
    with file.open("rb") as stream:
        return stream.read(DOCUMENT_LIMIT + 1)


def adapter_base(file: Path) -> str | None:
    """The base model of a PEFT adapter that lies where a model was expected."""
    settings = file.with_name("adapter_config.json")
    if not settings.is_file():
        return None
    with settings.open("rb") as stream:
        base = parse_config(stream.read(DOCUMENT_LIMIT + 1), settings.name).get("base_model_name_or_path")
    return printable(base, limit=120) if isinstance(base, str) else None


def _model_of(config: Mapping[str, object], name: str, where: str, *, opaque: bool) -> ModelSpec:
    try:
        return model_from_config(config, name=name, where=where)
    except UnsupportedScenario:
        if not opaque:
            raise
        return opaque_model(config, name=name, where=where)


# ---------------------------------------------------------------- Hub


def from_hub(repository: str, *, opaque: bool = False) -> Resolved:
    """A repository that the catalogue lacks: its config, cross-checked against its weights' headers."""
    from planner import hub  # noqa: PLC0415 - huggingface_hub is optional and slow to import

    found = hub.fetch(repository, nearby(repository))
    where = f"{repository}/config.json"
    config = parse_config(found.config, where)
    model = _model_of(config, repository.rpartition("/")[2].lower(), where, opaque=opaque)
    counted = hub.check_count(found.stored_params, model) if model.blocks else ()
    notes = (*model.notes, *counted)
    return Resolved(replace(model, hub_id=repository, notes=notes), f"{repository} (read from the Hub)")


def nearby(repository: str) -> str:
    """The part of an error that says what comes nearest in the catalogue."""
    message = str(unknown_model(repository.rpartition("/")[2]))
    return message.partition(";")[2].strip()


def main(arguments: list[str]) -> int:
    """``python -m planner.catalog --write-index``: make the index anew after a model file has changed."""
    if arguments != ["--write-index"]:
        sys.stderr.write("usage: python -m planner.catalog --write-index\n")
        return 2
    write_index()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
