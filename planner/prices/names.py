"""Which profile a gpuhunt offer is: its name and gigabytes, and for A100 and H100 the board, which it does not tell."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol

Board = Literal["sxm", "pcie"]

NAMES: Mapping[tuple[str, int], str] = MappingProxyType(
    {
        ("rtx3060", 12): "rtx3060-12gb",
        ("rtx3080", 10): "rtx3080-10gb",
        ("rtx3090", 24): "rtx3090",
        ("rtx3090ti", 24): "rtx3090ti",
        ("rtx4060ti", 16): "rtx4060ti-16gb",
        ("rtx4070tisuper", 16): "rtx4070tisuper",
        ("rtx4080", 16): "rtx4080",
        ("rtx4080super", 16): "rtx4080super",
        ("rtx4090", 24): "rtx4090",
        ("rtx4090", 48): "rtx4090-48gb",
        ("rtx5070ti", 16): "rtx5070ti",
        ("rtx5080", 16): "rtx5080",
        ("rtx5090", 32): "rtx5090",
        ("rtx4000ada", 20): "rtx4000ada",
        ("rtx5000ada", 32): "rtx5000ada",
        ("rtx6000ada", 48): "rtx6000ada",
        ("rtxpro6000", 96): "rtxpro6000",
        ("a4000", 16): "rtxa4000",
        ("a5000", 24): "rtxa5000",
        ("a6000", 48): "rtxa6000",
        ("a10", 24): "a10",
        ("a10g", 24): "a10g",
        ("a30", 24): "a30",
        ("a40", 48): "a40",
        ("l4", 24): "l4",
        ("l40", 48): "l40",
        ("l40s", 48): "l40s",
        ("t4", 16): "t4",
        ("p100", 16): "p100",
        ("v100", 16): "v100-16gb",
        ("v100", 32): "v100-32gb",
        ("h100nvl", 94): "h100-nvl",
        ("gh200", 96): "gh200",
        ("h200", 141): "h200",
        ("b200", 180): "b200",
        ("gb200", 186): "gb200",
        ("b300", 270): "b300",
        ("b300", 288): "b300",
        ("mi210", 64): "mi210",
        ("mi300x", 192): "mi300x",
        ("mi325x", 256): "mi325x",
        ("mi325x", 288): "mi325x",
        ("mi355x", 288): "mi355x",
    }
)
"""Names and sizes of gpuhunt 0.1.34, _internal/constraints.py; it gives B300 270 GB, and MI325X 288, which has 256."""

BOARDS: Mapping[tuple[str, int], Mapping[Board, str]] = MappingProxyType(
    {
        ("a100", 40): {"sxm": "a100-40gb", "pcie": "a100-40gb-pcie"},
        ("a100", 80): {"sxm": "a100-80gb", "pcie": "a100-80gb-pcie"},
        ("h100", 80): {"sxm": "h100", "pcie": "h100-pcie"},
    }
)
"""One name, two boards."""

SXM_SELLERS = frozenset({"aws", "gcp", "oci", "verda", "nebius"})
"""Sellers whose A100 and H100 machines all have SXM boards (p4d, p4de, p5; a2, a3; BM.GPU; verda's and nebius' own
lists name no other)."""

SXM = re.compile(r"sxm|standard_nd\d", re.IGNORECASE)
"""How others say so in an instance's name: Azure's ND series, RunPod's and Lambda's types."""


class Named(Protocol):
    """What tells a card."""

    provider: str
    instance_name: str
    gpu_name: str | None
    gpu_memory: float | None


def profile_of(item: Named) -> str | None:
    """Id of the profile; ``None`` for cards without one. An unmarked A100 or H100 counts as PCIe, the slower board."""
    if item.gpu_name is None or item.gpu_memory is None:
        return None
    key = (item.gpu_name.lower(), round(item.gpu_memory))
    boards = BOARDS.get(key)
    return NAMES.get(key) if boards is None else boards[_board(item)]


def _board(item: Named) -> Board:
    return "sxm" if item.provider.lower() in SXM_SELLERS or SXM.search(item.instance_name) else "pcie"
