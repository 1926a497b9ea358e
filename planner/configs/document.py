"""A configuration file as plain data: YAML without tags, JSON, or the calls of a Python script. Anybody's file may
come in; nothing is executed.

What is refused, each in one line: files that are too large, too deep or not text, keys that stand twice, tags, anchors
that unfold to more than a file of that size could say, and several documents in one.
"""

import codecs
import json
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from planner.configs.script import script_calls
from planner.errors import BrokenInput, show

MOST_BYTES = 256 * 2**10
"""Of the largest file that we read; the longest example of any trainer has 10 KB."""
MOST_DEPTH = 32
MOST_VALUES = 20_000
"""Values in one file, aliases unfolded."""

FileFormat = Literal["yaml", "json", "python"]

STDIN = "-"
"""The name under which standard input is read."""
STREAMS = ("/dev/fd", "/proc/self/fd")
"""Where a shell puts what it passes as ``<(...)``."""

OF_DATA = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
"""Endings of what is trained on."""

MERGE = "tag:yaml.org,2002:merge"
"""The key ``<<``, which lays one mapping under another."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, kw_only=True)
class Document:
    """The keys of one file. ``path`` is as it was named."""

    path: Path
    data: Mapping[str, Any]
    format: FileFormat

    @property
    def name(self) -> str:
        """The file's name, as messages have it."""
        return _name(self.path)

    @property
    def folder(self) -> Path:
        """Where the file lies; names of other files in it are taken from here. What is piped in lies nowhere: here."""
        return Path() if _is_stream(self.path) else self.path.parent


def read_document(path: str | Path, *, piped: bool = False) -> Document:
    """The file at ``path``; raise ``BrokenInput`` for what is no configuration.

    ``piped``: it may be a pipe, or ``-`` for standard input. Only users name those: what a file names is a file.
    """
    path = Path(path)
    text = _decoded(_bytes(path, piped=piped), _name(path))
    return parse_document(text, path)


def parse_document(text: str, path: str | Path) -> Document:
    """The keys in ``text``, which came from ``path``: a script's calls, JSON where it is JSON, else YAML.

    >>> parse_document("micro_batch_size: 2", "sft.yml").data["micro_batch_size"]
    2
    """
    path = Path(path)
    form, name = _format(text, path), _name(path)
    data = PARSERS[form](text, name)
    if not isinstance(data, dict):
        raise BrokenInput(f"{name} holds no settings: {_kind(data)} stands where keys and values belong")
    check_size(data, name)
    return Document(path=path, data=MappingProxyType(data), format=form)


def _format(text: str, path: Path) -> FileFormat:
    """How a text is to be read: scripts and YAML by their endings, JSON by its beginning."""
    ending = path.suffix.lower()
    if ending == ".py":
        return "python"
    return "json" if text.lstrip()[:1] == "{" and ending not in (".yaml", ".yml") else "yaml"


def _is_stream(path: Path) -> bool:
    """Whether the name is that of something piped in, which has no folder of its own."""
    return str(path) == STDIN or str(path.parent) in STREAMS


def _name(path: Path) -> str:
    """The file's name, as messages have it."""
    if str(path) == STDIN:
        return "stdin"
    return str(path) if _is_stream(path) else path.name


def _bytes(path: Path, *, piped: bool) -> bytes:
    """What the file or the pipe holds; raise ``BrokenInput`` for what is neither, and for one that is too large."""
    try:
        if piped and str(path) == STDIN:
            found = _standard_input()
        else:
            _check_kind(path, piped=piped)
            with path.open("rb") as file:
                found = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenInput):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise BrokenInput(f"cannot read {show(str(path))}: {reason}") from None
    if len(found) > MOST_BYTES:
        raise BrokenInput(f"{_name(path)} is larger than {MOST_BYTES // 1024} KiB: that is no trainer's configuration")
    return found


def _standard_input() -> bytes:
    """No more of what is piped in than a configuration may have; raise ``BrokenInput`` where nothing can be."""
    if sys.stdin is None or sys.stdin.closed:
        raise BrokenInput("- is standard input, which is closed: name a file")
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _check_kind(path: Path, *, piped: bool) -> None:
    """Raise ``BrokenInput`` for what is neither a file nor a pipe, and for files of data."""
    shown = show(str(path))
    if path.is_dir():
        raise BrokenInput(f"{shown} is a directory: name the configuration in it")
    if not path.exists():
        raise BrokenInput(f"{shown} does not exist: plan check reads a trainer's configuration")
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not (piped and stat.S_ISFIFO(mode)):
        raise BrokenInput(f"{shown} is no file: plan check reads a trainer's configuration")
    if path.suffix.lower() in OF_DATA:
        raise BrokenInput(f"{path.name} is a file of data: name a trainer's configuration, and --dataset {path.name}")


def _decoded(found: bytes, name: str) -> str:
    encoding = next((code for mark, code in _MARKS if found.startswith(mark)), "utf-8")
    try:
        text = found.decode(encoding)
    except UnicodeDecodeError as error:
        raise BrokenInput(f"{name} is not {encoding.removesuffix('-sig').upper()} text: save it as UTF-8") from error
    if "\0" in text:
        raise BrokenInput(f"{name} is not text: there are zero bytes in it: save it as UTF-8")
    return text


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, name), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BrokenInput(f"{name} is no JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise _too_deep(name) from None
    except BrokenInput:
        raise
    except ValueError as error:  # numbers of thousands of digits, NaN
        raise BrokenInput(f"{name} is no JSON: {error}") from None


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no number")


def _unique(pairs: list[tuple[Any, Any]], name: str, where: str = "") -> dict[str, Any]:
    """The pairs as a mapping of texts; raise ``BrokenInput`` for a key that stands twice, or is none."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise BrokenInput(f"{name}: the key {show(key)}{where} is not text: write it in quotes")
        if key in found:
            raise BrokenInput(f"{name}: the key {show(key)} stands twice{where}: leave one")
        found[key] = value
    return found


def _yaml(text: str, name: str) -> object:
    """One YAML document; trainers read it with PyYAML, so its spellings hold (``1e-4`` without a point is text)."""
    import yaml  # noqa: PLC0415  (only configurations need it)

    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader), name)
        return yaml.load(text, Loader=_loader(name))  # a kind of SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise BrokenInput(f"{name} is no YAML: {line}{problem}") from None
    except RecursionError:
        raise _too_deep(name) from None
    except BrokenInput:
        raise
    except (ValueError, OverflowError) as error:
        raise BrokenInput(f"{name} is no YAML: {error}") from None


def _check_events(events: Iterator[Any], name: str) -> None:
    """Depth and number of documents, before anything is built."""
    depth, documents = 0, 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        documents += kind == "DocumentStartEvent"
        if documents > 1:
            raise BrokenInput(f"{name} holds several YAML documents: keep one, without a second ---")
        if depth > MOST_DEPTH + 2:  # the stream and the document count as well
            raise _too_deep(name)


def _loader(name: str) -> type[Any]:
    """PyYAML's safe loader, but with keys that stand once, and dates left as text."""
    import yaml  # noqa: PLC0415

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:  # noqa: ANN401  (PyYAML has no types)
        where = f" (line {node.start_mark.line + 1})"
        own = [key for key, _ in node.value if key.tag != MERGE]  # before merged keys join them
        _unique([(_key(loader, key), None) for key in own], name, where)
        loader.flatten_mapping(node)
        return {_key(loader, key): loader.construct_object(value, deep=True) for key, value in node.value}

    found: type[Any] = type("Loader", (yaml.SafeLoader,), {})
    found.add_constructor("tag:yaml.org,2002:map", mapping)
    found.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
    return found


def _key(loader: Any, node: Any) -> object:  # noqa: ANN401
    """A key; numbers and truth values as the text that they were."""
    found = loader.construct_object(node, deep=True)
    return node.value if isinstance(found, bool | int | float) else found


def check_size(data: object, name: str) -> None:
    """Walk all values, aliases unfolded; raise ``BrokenInput`` if they are too deep, too many or in a circle."""
    waiting: list[tuple[object, int]] = [(data, 1)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH:
            raise _too_deep(name)
        if count > MOST_VALUES:
            raise BrokenInput(f"{name} unfolds to more than {MOST_VALUES} values: that is no trainer's configuration")
        if isinstance(value, Mapping):
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in value]


def _too_deep(name: str) -> BrokenInput:
    return BrokenInput(f"{name} is nested more than {MOST_DEPTH} levels deep: that is no trainer's configuration")


PARSERS: Mapping[FileFormat, Callable[[str, str], object]] = {
    "yaml": _yaml,
    "json": _json,
    "python": script_calls,
}


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return {list: "a list", str: "a text", bool: "true or false"}.get(type(value), "a number")
