"""Reads ``stacks/*.toml`` and picks, for given versions, what a trainer does by default."""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.spec import Autocast, Behaviour, Float, Kernels, Loss, ModelSpec, Offload, QuantStorage

STACKS = ("plain", "hf", "trl", "axolotl", "llamafactory", "unsloth", "torchtune")
"""Trainers whose defaults we hold as data."""

Setting = bool | int | float | str | tuple[str, ...]

CHOSEN = ("adamw", "autocast", "loss", "adapter_dtype", "quant_storage", "kernels", "weights_dtype", "offload")
"""Keys of the rules that are settings, which the user may set otherwise; the others are behaviour."""

FSDP = "fsdp"
"""Stands beside packages in a stack's text: ``accelerate`` takes either, and each trainer's default is a rule."""

PEFT_TABLE = "peft"
"""Stands in the rules for the matrices that PEFT adapts where none are named."""

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
    quant_storage: QuantStorage
    """In what 4-bit weights are packed."""
    kernels: Mapping[str, Kernels]
    """By method, where they are not eager."""
    weights_dtype: Mapping[str, Float]
    """By method, where the trainer itself decides it."""
    offload: tuple[Offload, ...]
    unset: Mapping[str, Any]
    """What the trainer takes where its configuration is silent, as the rules say it: see ``unset_settings``."""
    offers: Mapping[str, tuple[str, ...]]
    """What is planned of a setting, of settings that not every trainer has whole: of ``attention`` in order of
    preference, of ``sharding`` first what one card has, then what several have where nobody chooses."""


@lru_cache(maxsize=64)
def load_stack(text: str) -> Defaults:
    """Defaults of the stack that ``text`` names; raise ``UnknownName`` or ``UsageError``, or for an old version
    ``UnsupportedScenario``.

    >>> load_stack("trl").loss, load_stack("trl,trl=1.7").loss, load_stack("hf,transformers=4.48.1").adamw
    ('fused', 'chunked', 'foreach')
    """
    name, _, rest = text.strip().partition(",")
    name = name.strip().lower()
    if name not in STACKS:
        raise UnknownName("stack", name, STACKS, listing="plan explain stack")
    libraries, trainer = _read("libraries"), _read(name)
    newest: dict[str, str] = {**libraries["newest"], **trainer.get("newest", {})}
    given = _parse_versions(rest, (*newest, *libraries["optional"], *trainer.get("optional", ()), FSDP))
    fsdp = given.pop(FSDP, None)
    _refuse_older(given, {**libraries["oldest"], **trainer.get("oldest", {})})
    versions = {**newest, **given}
    chosen, unset, offers = (
        _last([*libraries.get(kind, ()), *trainer.get(kind, ())], versions) for kind in ("rule", "unset", "offer")
    )
    if fsdp is not None:
        chosen["fsdp_version"] = _fsdp_version(fsdp)
    behaviour, settings = _parted(name, versions, chosen)
    return Defaults(
        behaviour=behaviour,
        unset=MappingProxyType(unset),
        offers=MappingProxyType({name: tuple(values) for name, values in offers.items()}),
        **settings,
    )


def pinned(text: str) -> tuple[str, ...]:
    """Versions that a stack's text names, without what the trainer's own files say: its plugins and FSDP's version.

    >>> pinned("axolotl,axolotl=0.17,liger=0.8,fsdp=1"), pinned("trl")
    (('axolotl=0.17',), ())
    """
    name = load_stack(text).behaviour.name
    in_files = {FSDP, *_read(name).get("optional", ())}
    versions = [part.partition("=") for part in text.split(",")[1:] if part.strip()]
    return tuple(f"{package.strip()}={one.strip()}" for package, _, one in versions if package.strip() not in in_files)


def _refuse_older(given: Mapping[str, str], oldest: Mapping[str, str]) -> None:
    """Raise ``UnsupportedScenario`` for a version from before what the rules describe."""
    for package, version in given.items():
        first = oldest.get(package)
        if first is not None and _compare(version, "<", first):
            raise UnsupportedScenario(
                f"stack version {package}={version} is older than {first}, the oldest that is described here: "
                f"take {package}={first} or a newer one"
            )


def _fsdp_version(text: str) -> int:
    """The version of FSDP that the user's launcher asks for, where the libraries have both."""
    if text not in ("1", "2"):
        raise UsageError(f"stack {FSDP}={text} is not a version of FSDP: write {FSDP}=1 or {FSDP}=2")
    return int(text)


def _last(rules: list[dict[str, Any]], versions: Mapping[str, str]) -> dict[str, Any]:
    """What rules set: of those that hold, the last one for each key."""
    chosen: dict[str, Any] = {}
    for rule in rules:
        if _holds(rule.get("when", {}), versions):
            chosen.update(rule["set"])
    return chosen


def unset_settings(stack: str, model: ModelSpec | None = None, *, gpus: int = 1) -> Mapping[str, Setting]:
    """What the trainer takes where its own configuration says nothing, by ``TrainSpec`` field.

    These are the trainer's own defaults, for the reader of a configuration; ``plan --stack`` keeps to ours instead.
    What is left out here is the stack's or ours. Two settings depend on the model, and are there only with one: the
    kernel of attention that its class has, and the matrices that PEFT adapts by model type, none where it has no entry.
    ``sharding`` is there from two GPUs on. A rule may open what another one settled, by an empty text.

    >>> unset_settings("trl")["seq_len"], unset_settings("hf")["micro_batch_size"]
    (1024, 8)
    """
    unset = {name: one for name, one in load_stack(stack).unset.items() if one != ""}
    found = {name: tuple(one) if isinstance(one, list) else one for name, one in unset.items()}
    kernels, targets = found.pop("attention", ()), found.pop("lora_targets", None)
    if kernels and model is not None:
        found["attention"] = next((name for name in kernels if name in model.attends), model.attends[0])
    if targets is not None and targets != PEFT_TABLE:
        found["lora_targets"] = targets
    elif targets == PEFT_TABLE and model is not None:
        found["lora_targets"] = tuple(_read("libraries")["peft_targets"].get(model.model_type, ()))
    if gpus == 1:
        found.pop("sharding", None)
    return MappingProxyType(found)


def describe_unset(stack: str) -> tuple[tuple[str, str], ...]:
    """Every rule for what a configuration leaves unset, as (what it sets, source) in order of application."""
    behaviour = load_stack(stack).behaviour
    return tuple(_described("unset", behaviour.name, behaviour.versions))


def newer_versions(text: str) -> tuple[str, ...]:
    """A line for each version that is newer than any that was read for the rules of this stack.

    >>> newer_versions("hf,transformers=5.23.1"), newer_versions("hf,transformers=6")
    ((), ('transformers 6 is newer than 5.23, the newest described here, and taken to behave like it',))
    """
    behaviour = load_stack(text).behaviour
    trainer = _read(behaviour.name)
    libraries = _read("libraries")
    newest = {**libraries["newest"], **trainer.get("newest", {})}
    newest |= {**libraries["optional"], **trainer.get("optional", {})}
    return tuple(
        f"{package} {version} is newer than {newest[package]}, the newest described here, and taken to behave like it"
        for package, version in behaviour.versions.items()
        if _numbers(version)[: len(_numbers(newest[package]))] > _numbers(newest[package])
    )


def describe_stack(text: str) -> tuple[tuple[str, str], ...]:
    """Every rule that holds for the stack, as (what it sets, source) in order of application."""
    defaults = load_stack(text)
    name, versions = defaults.behaviour.name, defaults.behaviour.versions
    return tuple(_described("rule", name, versions))


def _described(kind: str, name: str, versions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for rule in (*_read("libraries").get(kind, ()), *_read(name).get(kind, ())):
        if _holds(rule.get("when", {}), versions):
            yield ", ".join(f"{key} = {_show(value)}" for key, value in rule["set"].items()), rule["source"]


def _parted(name: str, versions: dict[str, str], chosen: dict[str, Any]) -> tuple[Behaviour, dict[str, Any]]:
    """What the rules set, as behaviour and as settings of the trainer's choice."""
    settings = {key: chosen.pop(key) for key in CHOSEN}
    settings["offload"] = tuple(settings["offload"])
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    return Behaviour(name=name, versions=MappingProxyType(versions), **chosen), settings


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
        package in versions and _compare(versions[package], *match.groups())
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
