"""References of one key to another, ``${output_dir}``, as OmegaConf has them: torchtune's recipes hold them.

Only names of keys in the same file are followed. What asks for more (``${oc.env:HOME}``, a sum, a relative name) stays
as it stands: nothing of the machine enters, and a reader that needs such a value says so.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from planner.configs.document import MOST_DEPTH, Document, check_size
from planner.errors import BrokenInput, show

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}", re.ASCII)
"""A name of a key, dotted; OmegaConf 2.3 grammar, node interpolations without brackets and without relative dots."""

MOST_TEXT = 4096
"""Characters of a value in which references were followed: they may double what they name, again and again."""


def resolved(document: Document) -> Document:
    """The document with its references followed; raise ``BrokenInput`` for one without an aim, or in a circle."""
    root = _Root(document)
    data = {key: root.value(value, (key,), 0) for key, value in document.data.items()}
    check_size(data, document.name)
    return replace(document, data=MappingProxyType(data))


def refers(value: object) -> bool:
    """Whether a value still asks for something that is not in its file."""
    return isinstance(value, str) and "${" in value


class _Root:
    """The mapping from which names start; ``following`` holds those that are being looked up."""

    def __init__(self, document: Document) -> None:
        self.data, self.name = document.data, document.name
        self.following: list[str] = []
        self.found: dict[str, Any] = {}

    def value(self, value: Any, path: tuple[str, ...], depth: int) -> Any:  # noqa: ANN401  (a file's value)
        if depth > MOST_DEPTH:
            raise BrokenInput(f"{self.name}: {'.'.join(path[:3])} refers to itself, or is too deep")
        if isinstance(value, str):
            return self.text(value, path, depth)
        if isinstance(value, Mapping):
            return {key: self.value(inner, (*path, key), depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, path, depth + 1) for inner in value]
        return value

    def text(self, text: str, path: tuple[str, ...], depth: int) -> Any:  # noqa: ANN401
        whole = REFERENCE.fullmatch(text)
        if whole is not None:
            return self.aim(whole[1], path, depth)
        found = REFERENCE.sub(lambda match: self.written(match[1], path, depth), text)
        if len(found) > MOST_TEXT and found != text:
            raise BrokenInput(f"{self.name}: {'.'.join(path)} grows beyond {MOST_TEXT} characters by its references")
        return found

    def written(self, name: str, path: tuple[str, ...], depth: int) -> str:
        """An aim as a part of a text; a section cannot be one."""
        found = self.aim(name, path, depth)
        if isinstance(found, Mapping | list):
            raise BrokenInput(f"{self.name}: {'.'.join(path)} puts the section {show(name)} into a text")
        return str(found)

    def aim(self, name: str, path: tuple[str, ...], depth: int) -> Any:  # noqa: ANN401
        """What a name stands for."""
        if name in self.found:
            return self.found[name]
        if name in self.following:
            raise BrokenInput(f"{self.name}: {'.'.join(path)} refers to itself through {show(name)}")
        self.following.append(name)
        self.found[name] = self.value(self.look_up(name, path), (*path, name), depth + 1)
        self.following.pop()
        return self.found[name]

    def look_up(self, name: str, path: tuple[str, ...]) -> Any:  # noqa: ANN401
        value: Any = self.data
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise BrokenInput(f"{self.name}: {'.'.join(path)} refers to {show(name)}, which is not in the file")
            value = value[part]
        return value
