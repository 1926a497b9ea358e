"""Constants of the time model that are not a card's own, from ``rates.toml``."""

import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from planner.spec import Gpu, Share

FILE = Path(__file__).with_name("rates.toml")


class Family(NamedTuple):
    """What cards of one architecture reach: shares of their dense 16-bit peak, and of their bandwidth where that is
    known to differ.
    """

    products: Share
    attention: Share
    memory: Share | None = None


class Constants(NamedTuple):
    """Everything that is not a card's own; ``rates.toml`` says what each is."""

    memory: Share
    dequantise: Share
    kernel: Share
    compiled: Share
    nvlink: Share
    pcie: Share
    network: Share
    exposed: Share
    collective: Share
    host: Share
    pinned: Share
    dram: Share
    drive: Share
    families: Mapping[str, Family]

    def family(self, gpu: Gpu) -> Family:
        """What the card's architecture reaches; a profile's own figures come first."""
        found = self.families[_first(tuple(self.families), gpu.architecture)]
        return Family(gpu.products or found.products, gpu.attention or found.attention, found.memory)


@lru_cache(maxsize=256)
def _first(names: tuple[str, ...], architecture: str) -> str:
    return next(name for name in names if architecture.startswith(name))


@cache
def constants() -> Constants:
    """Those that ship."""
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    families = {item["architecture"]: _family(item) for item in raw["family"]}
    named = {name: _share(raw[name]) for name in Constants._fields if name != "families"}
    return Constants(**named, families=families)


def _family(item: Mapping[str, Any]) -> Family:
    memory = _share(item["memory"]) if "memory" in item else None
    return Family(_share(item["products"]), _share(item["attention"]), memory)


def _share(item: Mapping[str, Any]) -> Share:
    return Share(float(item["value"]), item["n"], tuple(item["sources"]))
