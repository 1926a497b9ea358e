"""Names as NVML gives them lead to the right profile, and to none where there is none."""

import pytest

from planner.hardware import list_gpus
from planner.local.card import name_words, profile_of
from planner.spec import Gpu
from planner.units import MIB

GPUS = list_gpus()

NAMES = [
    ("NVIDIA GeForce RTX 4090", 24564, "rtx4090"),
    ("NVIDIA GeForce RTX 4090", 49140, "rtx4090-48gb"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, None),
    ("NVIDIA GeForce RTX 3080", 10240, "rtx3080-10gb"),
    ("NVIDIA GeForce RTX 3080", 12288, "rtx3080-12gb"),
    ("NVIDIA GeForce RTX 3080 Ti", 12288, None),
    ("NVIDIA GeForce RTX 3060", 12288, "rtx3060-12gb"),
    ("NVIDIA GeForce RTX 4060 Ti", 16380, "rtx4060ti-16gb"),
    ("NVIDIA GeForce RTX 4060 Ti", 8188, None),
    ("Tesla T4", 15360, "t4"),
    ("Tesla T4", 16127, "t4"),
    ("NVIDIA A2", 15356, "a2"),
    ("NVIDIA L4", 23034, "l4"),
    ("NVIDIA L40", 46068, "l40"),
    ("NVIDIA L40S", 46068, "l40s"),
    ("NVIDIA A10", 23028, "a10"),
    ("NVIDIA A10G", 23028, "a10g"),
    ("NVIDIA A30", 24576, "a30"),
    ("NVIDIA A40", 46068, "a40"),
    ("NVIDIA A40", 49140, "a40"),
    ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
    ("A100-SXM4-40GB", 40536, "a100-40gb"),
    ("NVIDIA A100-PCIE-40GB", 40960, "a100-40gb-pcie"),
    ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
    ("NVIDIA A100 80GB PCIe", 81920, "a100-80gb-pcie"),
    ("NVIDIA H100 80GB HBM3", 81559, "h100"),
    ("NVIDIA H100 PCIe", 81559, "h100-pcie"),
    ("NVIDIA H100 NVL", 95830, "h100-nvl"),
    ("NVIDIA H200", 143771, "h200"),
    ("NVIDIA H20", 97871, "h20"),
    ("NVIDIA GH200 480GB", 97871, "gh200"),
    ("NVIDIA B200", 183359, "b200"),
    ("NVIDIA GB200", 189471, "gb200"),
    ("NVIDIA B300 SXM6 AC", 275040, "b300"),
    ("NVIDIA RTX A6000", 49140, "rtxa6000"),
    ("NVIDIA RTX A4000", 16376, "rtxa4000"),
    ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx6000ada"),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "rtxpro6000"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "rtxpro6000"),
    ("Tesla V100-SXM2-16GB", 16384, "v100-16gb"),
    ("Tesla V100-SXM2-32GB", 32768, "v100-32gb"),
    ("Tesla V100-PCIE-16GB", 16384, "v100-16gb"),
    ("Tesla P100-PCIE-16GB", 16384, "p100"),
    ("Quadro RTX 8000", 49152, None),
    ("NVIDIA GeForce RTX 5090", 32607, "rtx5090"),
    ("NVIDIA GeForce RTX 5090 D", 32607, None),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, "rtx4070tisuper"),
    ("NVIDIA GeForce RTX 4080 SUPER", 16376, "rtx4080super"),
    ("NVIDIA GeForce RTX 4080", 16376, "rtx4080"),
    ("NVIDIA GeForce RTX 3090 Ti", 24564, "rtx3090ti"),
    ("NVIDIA GeForce RTX 3090", 24576, "rtx3090"),
    ("NVIDIA GB10", None, "dgx-spark"),
]


@pytest.mark.parametrize(("name", "total_mib", "expected"), NAMES, ids=[f"{n} {t}" for n, t, _ in NAMES])
def test_a_name_of_nvml_finds_its_profile(name: str, total_mib: int | None, expected: str | None) -> None:
    found = profile_of(name, None if total_mib is None else total_mib * MIB, GPUS)

    assert (found.id if found else None) == expected


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.id)
def test_every_profile_is_found_by_its_own_name(gpu: Gpu) -> None:
    assert profile_of(gpu.name, gpu.driver_bytes, GPUS) is gpu


def test_words_of_no_meaning_are_left_out() -> None:
    assert name_words("NVIDIA H100 80GB HBM3 (SXM5)") == ("h100", "80gb", "hbm3")
