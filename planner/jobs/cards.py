"""What each tool calls a card, by the id of our profile; a class of cards is any of its members."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.errors import UnsupportedScenario
from planner.prices.names import BOARDS, NAMES
from planner.spec import Gpu

SKY: Mapping[str, str] = MappingProxyType(
    {
        "a10": "A10",
        "a100-40gb": "A100",
        "a100-40gb-pcie": "A100",
        "a100-80gb": "A100-80GB",
        "a100-80gb-pcie": "A100-80GB",
        "a10g": "A10G",
        "a30": "A30",
        "a40": "A40",
        "b200": "B200",
        "b300": "B300",
        "gb200": "GB200",
        "gh200": "GH200",
        "h100": "H100",
        "h100-nvl": "H100-NVL",
        "h100-pcie": "H100",
        "h200": "H200",
        "l4": "L4",
        "l40": "L40",
        "l40s": "L40S",
        "p100": "P100",
        "rtx3080-10gb": "RTX3080",
        "rtx3090": "RTX3090",
        "rtx3090ti": "RTX3090-Ti",
        "rtx4000ada": "RTX4000-Ada",
        "rtx4080": "RTX4080",
        "rtx4080super": "RTX4080-SUPER",
        "rtx4090": "RTX4090",
        "rtx5000ada": "RTX5000-Ada",
        "rtx5080": "RTX5080",
        "rtx5090": "RTX5090",
        "rtx6000ada": "RTX6000-Ada",
        "rtxa4000": "RTXA4000",
        "rtxa5000": "RTXA5000",
        "rtxa6000": "RTXA6000",
        "rtxpro6000": "RTXPRO6000",
        "t4": "T4",
        "v100-16gb": "V100",
        "v100-32gb": "V100-32GB",
    }
)
"""Accelerators in SkyPilot's catalogue: skypilot 0.14.1 utils/gpu_names.py and catalog/data_fetchers (runpod, aws,
gcp, azure, fluidstack). It does not tell the boards of A100 and H100 apart."""

PRODUCTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "a10": ("NVIDIA-A10",),
        "a100-40gb": ("NVIDIA-A100-SXM4-40GB",),
        "a100-40gb-pcie": ("NVIDIA-A100-PCIE-40GB",),
        "a100-80gb": ("NVIDIA-A100-SXM4-80GB",),
        "a100-80gb-pcie": ("NVIDIA-A100-80GB-PCIe",),
        "a10g": ("NVIDIA-A10G",),
        "a2": ("NVIDIA-A2",),
        "a30": ("NVIDIA-A30",),
        "a40": ("NVIDIA-A40",),
        "b200": ("NVIDIA-B200",),
        "gb200": ("NVIDIA-GB200",),
        "gh200": ("NVIDIA-GH200-480GB",),
        "h100": ("NVIDIA-H100-80GB-HBM3",),
        "h100-nvl": ("NVIDIA-H100-NVL",),
        "h100-pcie": ("NVIDIA-H100-PCIe",),
        "h20": ("NVIDIA-H20",),
        "h200": ("NVIDIA-H200",),
        "l4": ("NVIDIA-L4",),
        "l40": ("NVIDIA-L40",),
        "l40s": ("NVIDIA-L40S",),
        "p100": ("Tesla-P100-PCIE-16GB", "Tesla-P100-SXM2-16GB"),
        "rtx3090": ("NVIDIA-GeForce-RTX-3090",),
        "rtx3090ti": ("NVIDIA-GeForce-RTX-3090-Ti",),
        "rtx4000ada": ("NVIDIA-RTX-4000-Ada-Generation",),
        "rtx4090": ("NVIDIA-GeForce-RTX-4090",),
        "rtx5000ada": ("NVIDIA-RTX-5000-Ada-Generation",),
        "rtx5090": ("NVIDIA-GeForce-RTX-5090",),
        "rtx6000ada": ("NVIDIA-RTX-6000-Ada-Generation",),
        "rtxa4000": ("NVIDIA-RTX-A4000",),
        "rtxa5000": ("NVIDIA-RTX-A5000",),
        "rtxa6000": ("NVIDIA-RTX-A6000",),
        "rtxpro6000": (
            "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
            "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
        ),
        "t4": ("Tesla-T4",),
        "v100-16gb": ("Tesla-V100-SXM2-16GB", "Tesla-V100-PCIE-16GB"),
        "v100-32gb": ("Tesla-V100-SXM2-32GB", "Tesla-V100-PCIE-32GB"),
    }
)
"""Values of the label nvidia.com/gpu.product, which NVIDIA's GPU feature discovery sets to NVML's name of the card with
dashes for spaces."""

SOLD: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        **{profile: key for key, profile in reversed(tuple(NAMES.items()))},
        **{profile: key for key, boards in BOARDS.items() for profile in boards.values()},
    }
)
"""gpuhunt's name and gigabytes of each card, by which dstack finds it; it does not tell boards apart."""


def members(gpu: Gpu) -> tuple[str, ...]:
    """Ids of the profiles that will do: one card, or those of a class."""
    return gpu.members or (gpu.profile or gpu.id,)


def known(gpu: Gpu, names: Mapping[str, object], tool: str) -> tuple[str, ...]:
    """Those of the cards that a tool has a name for; raise ``UnsupportedScenario`` where there is none."""
    found = tuple(one for one in members(gpu) if one in names)
    if not found:
        raise UnsupportedScenario(
            f"{tool} has no name that we know for {gpu.id}: plan another card, such as --gpu h100"
        )
    return found
