"""What joins the ranks of each group: the links of a machine, and its network."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from planner.formulas.collectives import Axis, Route
from planner.spec import Cluster, Scenario
from planner.spec.layout import Layout
from planner.throughput.constants import Constants

HOPS: Mapping[str, float] = {"nvlink": 3.4e-6, "pcie": 5.7e-6, "network": 14.0e-6}
"""Seconds of one step of a ring under NCCL's protocol for large messages. NCCL src/graph/tuning.cc, hwLat, "Simple"."""


class Island(NamedTuple):
    """Cards that one fabric joins, and what their network adapters carry together: a machine, or several on NVLink."""

    cards: int
    network: float | None


def routes_of(scenario: Scenario, known: Constants) -> Mapping[Axis, Route] | None:
    """Routes of every group of more than one rank; ``None`` where a link that one of them needs is unknown."""
    found: dict[Axis, Route] = {}
    for axis, (ranks, _) in groups_of(scenario.layout).items() if scenario.cluster.world_size > 1 else ():
        if ranks > 1:
            route = route_of(axis, scenario, known)
            if route is None:
                return None
            found[axis] = route
    return found


def route_of(axis: Axis, scenario: Scenario, known: Constants) -> Route | None:
    """The route of one axis' group; ``None`` where a link that it needs is unknown.

    Ranks of a group are ``stride`` apart, so those of one machine are its cards over the stride; groups that cross
    machines side by side share the network.
    """
    cluster = scenario.cluster
    ranks, stride = groups_of(scenario.layout)[axis]
    island = _island(cluster)
    within = min(max(island.cards // stride, 1), ranks)
    inside, hop = _inside(cluster, within, stride, known)
    outside = None
    if ranks > within:
        if island.network is None:
            return None
        outside = island.network * known.network.value * within / island.cards
    if within > 1 and inside is None:
        return None
    return Route(ranks, within, inside, outside, hop, HOPS["network"])


@lru_cache(maxsize=1024)
def groups_of(layout: Layout) -> Mapping[Axis, tuple[int, int]]:
    """Ranks of every axis, and how far apart they are: tensor innermost, then shards, replicas, and stages outermost.

    accelerate 1.15 parallelism_config.py (order of the mesh); Megatron-LM core/parallel_state.py, "tp-cp-ep-dp-pp".
    """
    sequence, shard = layout.tensor * layout.context, layout.shard
    found: dict[Axis, tuple[int, int]] = {
        "tensor": (layout.tensor, 1),
        "context": (layout.context, layout.tensor),
        "ulysses": (layout.ulysses, sequence),
        "expert": (layout.expert, sequence * layout.ulysses),
        "shard": (shard, layout.tensor),
        "replicate": (layout.replicate, layout.tensor * shard),
        "pipeline": (layout.pipeline, layout.tensor * shard * layout.replicate),
    }
    return MappingProxyType(found)


def _island(cluster: Cluster) -> Island:
    reach, network = cluster.gpu.nvlink_gpus, cluster.network_bytes_per_s
    machines = min(max(reach // cluster.gpus, 1), cluster.nodes) if reach else 1
    return Island(cluster.gpus * machines, None if network is None else network * machines)


def _inside(cluster: Cluster, within: int, stride: int, known: Constants) -> tuple[float | None, float]:
    """Rate of one card to the others of its machine, and the seconds of a hop; a bridge joins two neighbours."""
    gpu = cluster.gpu
    if within == 1:
        return None, 0.0
    if gpu.nvlink_bytes_per_s:
        return gpu.nvlink_bytes_per_s * known.nvlink.value, HOPS["nvlink"]
    if within == 2 and stride == 1 and gpu.bridge_bytes_per_s:
        return gpu.bridge_bytes_per_s * known.nvlink.value, HOPS["nvlink"]
    return gpu.pcie_bytes_per_s and gpu.pcie_bytes_per_s * known.pcie.value, HOPS["pcie"]
