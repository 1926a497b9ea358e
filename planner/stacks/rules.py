"""Reads ``stacks/*.toml`` and picks, for given versions, what a trainer does by default."""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.spec import Autocast, Behaviour, Float, Loss

STACKS = ("plain", "hf", "trl")
"""Trainers whose defaults we hold as data."""

LATER_STACKS = ("axolotl", "llamafactory", "torchtune", "unsloth")
"""Trainers that we know by name only: asking for one is refused, not guessed."""

_COMPARISON = re.compile(r"(<=|>=|<|>|==)(\d+(?:\.\d+)*)")
_VERSION = re.compile(r"\d{1,6}(?:\.\d{1,6}){0,3}(?:[.+-]?[a-z]\w*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """A trainer's behaviour together with the settings that it chooses for the user."""

    behaviour: Behaviour
    adamw: str
    autocast: Autocast
    loss: Loss
    adapter_dtype: Mapping[str, Float]


@lru_cache(maxsize=64)
def load_stack(text: str) -> Defaults:
    """Defaults of the stack that ``text`` names; raise ``UnknownName`` or ``UsageError``.

    >>> load_stack("trl").loss, load_stack("trl,trl=1.7").loss, load_stack("hf,transformers=4.48.1").adamw
    ('fused', 'chunked', 'foreach')
    """
    name, _, rest = text.strip().partition(",")
    name = name.strip().lower()
    if name in LATER_STACKS:
        raise UnsupportedScenario(f"stack {name!r} is not modelled yet: use one of {', '.join(STACKS)}")
    if name not in STACKS:
        raise UnknownName("stack", name, (*STACKS, *LATER_STACKS), listing="plan explain stack")
    libraries, trainer = _read("libraries"), _read(name)
    newest: dict[str, str] = {**libraries["newest"], **trainer.get("newest", {})}
    versions = {**newest, **_parse_versions(rest, newest)}
    chosen: dict[str, Any] = {}
    for rule in (*libraries["rule"], *trainer["rule"]):
        if _holds(rule.get("when", {}), versions):
            chosen.update(rule["set"])
    return _defaults(name, versions, chosen)


def newer_versions(text: str) -> tuple[str, ...]:
    """A line for each version that is newer than any that was read for the rules of this stack.

    >>> newer_versions("hf,transformers=5.23.1"), newer_versions("hf,transformers=6")
    ((), ('transformers 6 is newer than 5.23, the newest described here, and taken to behave like it',))
    """
    behaviour = load_stack(text).behaviour
    newest = {**_read("libraries")["newest"], **_read(behaviour.name).get("newest", {})}
    return tuple(
        f"{package} {version} is newer than {newest[package]}, the newest described here, and taken to behave like it"
        for package, version in behaviour.versions.items()
        if _numbers(version)[: len(_numbers(newest[package]))] > _numbers(newest[package])
    )


def describe_stack(text: str) -> tuple[tuple[str, str], ...]:
    """Every rule that holds for the stack, as (what it sets, source) in order of application."""
    defaults = load_stack(text)
    name, versions = defaults.behaviour.name, defaults.behaviour.versions
    rules = (*_read("libraries")["rule"], *_read(name)["rule"])
    return tuple(
        (", ".join(f"{key} = {_show(value)}" for key, value in rule["set"].items()), rule["source"])
        for rule in rules
        if _holds(rule.get("when", {}), versions)
    )


def _defaults(name: str, versions: dict[str, str], chosen: dict[str, Any]) -> Defaults:
    settings = {key: chosen.pop(key) for key in ("adamw", "autocast", "loss", "adapter_dtype")}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    behaviour = Behaviour(name=name, versions=MappingProxyType(versions), **chosen)
    return Defaults(behaviour=behaviour, **settings)


@lru_cache(maxsize=8)
def _read(name: str) -> dict[str, Any]:
    path = Path(__file__).parent / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _parse_versions(text: str, known: Collection[str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        package, separator, version = (piece.strip() for piece in part.partition("="))
        if not separator or not _VERSION.fullmatch(version):
            raise UsageError(
                f"stack version {part[:60]!r} is not PACKAGE=VERSION: write for instance transformers=4.48.1"
            )
        if package not in known:
            raise UnknownName("stack package", package, known, listing="plan explain stack")
        if package in versions:
            raise UsageError(f"the stack names {package} twice: {versions[package]} and {version}")
        versions[package] = version
    return versions


def _holds(when: Mapping[str, str], versions: Mapping[str, str]) -> bool:
    return all(
        _compare(versions[package], *match.groups())
        for package, condition in when.items()
        for match in _COMPARISON.finditer(condition)
    )


def _compare(version: str, operator: str, bound: str) -> bool:
    left, right = _numbers(version), _numbers(bound)
    width = max(len(left), len(right))
    left, right = left + (0,) * (width - len(left)), right + (0,) * (width - len(right))
    return {
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
        "==": left == right,
    }[operator]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", version))


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "/".join(f"{key}:{item}" for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
