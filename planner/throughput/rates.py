"""How fast a card and a stack do their work: constants of ``rates.toml`` and of the profiles, for one scenario."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from planner.spec import Cluster, Gpu, Scenario, Share

FILE = Path(__file__).with_name("rates.toml")

WIDE_SHARE = 0.8
"""Share of the fp32 peak that products without tensor cores reach: cuBLAS on square matrices of 4096 and more."""

WIDE_ELSEWHERE = 1 / 16
"""fp32 peak for each FLOP/s of the 16-bit one, where a profile has none: the A100's."""


class Family(NamedTuple):
    """What cards of one architecture reach: shares of their dense 16-bit peak, and of their bandwidth where that is
    known to differ.
    """

    products: Share
    attention: Share
    memory: Share | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
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
    named = {field.name: _share(raw[field.name]) for field in fields(Constants) if field.name != "families"}
    return Constants(**named, families=families)


def _family(item: Mapping[str, Any]) -> Family:
    memory = _share(item["memory"]) if "memory" in item else None
    return Family(_share(item["products"]), _share(item["attention"]), memory)


def _share(item: Mapping[str, Any]) -> Share:
    return Share(float(item["value"]), item["n"], tuple(item["sources"]))


class Rates(NamedTuple):
    """What seconds follow from, for one card and stack."""

    flops_per_s: float
    wide_flops_per_s: float
    attention_flops_per_s: float
    bytes_per_s: float
    dequant_bytes_per_s: float
    link_bytes_per_s: float
    exposed: float
    host_bytes_per_s: float
    kernel_s: float
    collective_s: float


def peak_of(gpu: Gpu) -> float | None:
    """Dense 16-bit peak: bf16, or fp16 where the card has no bf16."""
    return gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s.get("fp16")


def link_of(scenario: Scenario, known: Constants) -> float | None:
    """Bytes per second, one way, that collectives reach between the ranks; ``None`` where one they need is unknown."""
    inside, outside = _inside(scenario.cluster, known), _outside(scenario.cluster, known)
    if scenario.cluster.nodes == 1:
        return inside
    if scenario.cluster.gpus == 1:
        return outside
    return None if inside is None or outside is None else min(inside, outside)


def _inside(cluster: Cluster, known: Constants) -> float | None:
    """Within one machine; ``None`` for one card, or where the profile has no link."""
    gpu = cluster.gpu
    if cluster.gpus == 1:
        return None
    bridge = gpu.bridge_bytes_per_s if cluster.gpus == 2 else None
    fast = gpu.nvlink_bytes_per_s or bridge
    if fast:
        return fast * known.nvlink.value
    return gpu.pcie_bytes_per_s and gpu.pcie_bytes_per_s * known.pcie.value


def _outside(cluster: Cluster, known: Constants) -> float | None:
    """Between machines: all cards of a machine send together, and only what other machines hold has to come in.

    A gather of P bytes brings P * (N - 1) / N into a machine of G cards, and P * (D - 1) / D into each card, which is
    what the bytes of a ``Work`` count.
    """
    nodes, ranks, pcie = cluster.nodes, cluster.world_size, cluster.gpu.pcie_bytes_per_s
    if nodes == 1 or pcie is None:
        return None
    return cluster.gpus * pcie * known.network.value * ((ranks - 1) / ranks) / ((nodes - 1) / nodes)


def rates_of(scenario: Scenario, known: Constants | None = None) -> Rates | None:
    """Rates of a scenario's card and stack; ``None`` where the card's 16-bit peak, or a link it needs, is unknown."""
    known = known or constants()
    gpu, peak = scenario.cluster.gpu, peak_of(scenario.cluster.gpu)
    link = link_of(scenario, known) if scenario.cluster.world_size > 1 else 1.0
    if peak is None or link is None:
        return None
    family, bandwidth = known.family(gpu), gpu.bandwidth_bytes_per_s
    return Rates(
        flops_per_s=peak * family.products.value,
        wide_flops_per_s=gpu.peak_flops_per_s.get("fp32", peak * WIDE_ELSEWHERE) * WIDE_SHARE,
        attention_flops_per_s=peak * family.attention.value,
        bytes_per_s=bandwidth * (family.memory or known.memory).value,
        dequant_bytes_per_s=bandwidth * known.dequantise.value,
        link_bytes_per_s=link,
        exposed=known.exposed.value,
        host_bytes_per_s=(gpu.pcie_bytes_per_s or bandwidth) * known.host.value,
        kernel_s=known.kernel.value,
        collective_s=known.collective.value,
    )
