"""Every file of ``hardware_profiles/``: what it must hold, and the names that lead to it."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from planner.errors import UnknownName
from planner.hardware import _squeeze, list_classes, list_gpus, load_gpu, shipped_dir
from planner.hardware_schema import SECTIONS
from planner.hardware_sections import Peak
from planner.spec import Cluster
from planner.units import GIB, MIB

PROFILES = shipped_dir()
RAW: dict[str, dict[str, Any]] = {
    path.stem: tomllib.loads(path.read_text()) for path in sorted(PROFILES.glob("*.toml"))
}
PRICES = RAW.pop("prices")
CARDS = {name: raw for name, raw in RAW.items() if "members" not in raw}
CLASSES = {name: raw for name, raw in RAW.items() if "members" in raw}
GPUS = {gpu.id: gpu for gpu in list_gpus()}

FLOP_PER_BYTE_EXCEPTIONS = {
    "jetson-agx-thor-128gb": "a data-centre-sized tensor unit on LPDDR5X",
}
CLOCK_EXCEPTIONS = {
    "h100-nvl": "400 W hold it below SMs x boost clock",
}


@pytest.fixture(autouse=True)
def no_profiles_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


# ---------------------------------------------------------------- shipped files


def test_at_least_fifty_gpus_are_known() -> None:
    rented_or_sold = [gpu for gpu in GPUS.values() if not gpu.unified_memory]

    assert len(rented_or_sold) >= 50
    assert len(GPUS) == len(CARDS)


@pytest.mark.parametrize("name", RAW)
def test_file_name_is_the_id_and_resolves_to_it(name: str) -> None:
    assert RAW[name]["id"] == name
    assert load_gpu(name).id == name


def test_names_are_unique_in_the_whole_folder_however_they_are_written() -> None:
    names = Counter(key for raw in RAW.values() for key in {_squeeze(name) for name in (raw["id"], *raw["aliases"])})

    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("name", CARDS)
def test_every_section_has_a_public_source(name: str) -> None:
    covered = {section for source in CARDS[name]["source"] for section in source["sections"]}

    assert covered == {*SECTIONS, *({"machine"} & CARDS[name].keys())}
    assert "/work" not in str(CARDS[name])


@pytest.mark.parametrize("name", CARDS)
def test_torch_sees_at_most_what_the_driver_reports(name: str) -> None:
    gpu = GPUS[name]

    assert gpu.system_bytes < gpu.memory_bytes <= gpu.driver_bytes
    assert 0.9 * gpu.driver_bytes < gpu.memory_bytes
    assert gpu.advertised_gb is not None
    assert 0.85 * gpu.advertised_gb < gpu.driver_bytes / GIB < 1.03 * gpu.advertised_gb


@pytest.mark.parametrize("name", CARDS)
def test_torch_total_was_seen_or_is_marked_as_estimated(name: str) -> None:
    memory = CARDS[name]["memory"]
    total = memory["torch_total_mib"]

    assert isinstance(total, dict) or total in memory["torch_seen_mib"]
    assert ("memory_bytes" in GPUS[name].estimated) == isinstance(total, dict)


@pytest.mark.parametrize("name", CARDS)
def test_flop_per_byte_is_plausible(name: str) -> None:
    gpu = GPUS[name]
    if "bf16" not in gpu.peak_flops_per_s:
        assert gpu.compute_capability is not None
        assert gpu.compute_capability < (8, 0)
        return
    intensity = gpu.peak_flops_per_s["bf16"] / gpu.bandwidth_bytes_per_s

    assert (30 < intensity < 500) != (name in FLOP_PER_BYTE_EXCEPTIONS)


@pytest.mark.parametrize("name", [name for name, raw in CARDS.items() if "flop_per_clock_per_sm" in raw["compute"]])
def test_16_bit_peak_follows_from_units_and_clock(name: str) -> None:
    compute = CARDS[name]["compute"]
    derived = compute["sm_count"] * compute["boost_mhz"] * 1e6 * compute["flop_per_clock_per_sm"]
    peak = GPUS[name].peak_flops_per_s["fp16"]

    assert (peak == pytest.approx(derived, rel=0.03)) != (name in CLOCK_EXCEPTIONS)


@pytest.mark.parametrize("name", CARDS)
def test_peaks_by_dtype_are_in_order(name: str) -> None:
    peaks = GPUS[name].peak_flops_per_s
    order = [peaks[dtype] for dtype in ("fp32", "tf32", "bf16", "fp8") if dtype in peaks]

    assert order == sorted(order)
    assert peaks.get("bf16", peaks["fp16"]) == pytest.approx(peaks["fp16"], rel=0.005)


def test_printed_sparse_and_fp16_accumulation_rates_are_halved() -> None:
    assert (
        Peak(printed=1979, sparse=True).dense_flops_per_s == 989.5e12
    )  # H100 SXM data sheet, footnote "with sparsity"
    assert Peak(printed=330.3, fp16_accumulate=True).dense_flops_per_s == 165.15e12
    assert GPUS["h100"].peak_flops_per_s["bf16"] == 989.5e12
    assert GPUS["rtx4090"].peak_flops_per_s["fp16"] == 165.15e12


@pytest.mark.parametrize(
    ("name", "capability", "bf16", "flash"),
    [
        ("t4", (7, 5), False, False),
        ("v100-16gb", (7, 0), False, False),
        ("p100", (6, 0), False, False),
        ("a100-40gb", (8, 0), True, True),
        ("rtx3090", (8, 6), True, True),
        ("jetson-agx-orin-64gb", (8, 7), True, True),
        ("h200", (9, 0), True, True),
        ("rtx5090", (12, 0), True, True),
        ("mi300x", None, True, True),
    ],
)
def test_capability_decides_bf16_and_flash(
    name: str, capability: tuple[int, int] | None, bf16: bool, flash: bool
) -> None:
    gpu = GPUS[name]

    assert (gpu.compute_capability, gpu.supports_bf16, gpu.supports_flash) == (capability, bf16, flash)


def test_links_are_one_way_in_bytes_per_second() -> None:
    # PCIe 4.0 x16: 16 GT/s x 16 lanes / 8 bit x 128/130 = 31.5 GB/s; NVLink 4: 900 GB/s both ways together
    assert GPUS["rtx4090"].pcie_bytes_per_s == pytest.approx(31.5e9, rel=0.001)
    assert GPUS["b300"].pcie_bytes_per_s == pytest.approx(121e9, rel=0.001)
    assert GPUS["h100"].nvlink_bytes_per_s == 450e9
    assert GPUS["rtx4090"].nvlink_bytes_per_s is None
    assert GPUS["dgx-spark"].pcie_bytes_per_s is None


def test_a_bridge_is_no_fabric() -> None:
    bridged = GPUS["a100-80gb-pcie"]

    assert (bridged.nvlink_bytes_per_s, bridged.bridge_bytes_per_s) == (None, 300e9)
    assert any("bridge" in warning for warning in bridged.warnings)


@pytest.mark.parametrize(
    ("name", "cards", "gbps"),
    [
        ("a100-80gb", 8, 8 * 200),
        ("a100-40gb", 8, 400),
        ("h100", 8, 8 * 400),
        ("b200", 8, 8 * 400),
        ("gb200", 4, 4 * 400),
        ("gh200", 1, 200),
        ("mi300x", 8, 8 * 400),
        ("l4", 8, 100),
        ("v100-16gb", 8, 25),
        ("rtx4090", 8, None),
        ("h100-pcie", 8, None),
        ("jetson-orin-nx-16gb", 1, None),
    ],
)
def test_machines_as_they_are_let(name: str, cards: int, gbps: float | None) -> None:
    gpu = GPUS[name]

    assert (gpu.gpus_per_node, gpu.network_bytes_per_s) == (cards, gbps and gbps * 1e9 / 8)


def test_no_network_is_faster_than_the_fabric_inside_the_machine() -> None:
    rates = [(gpu.network_bytes_per_s or 0, (gpu.nvlink_bytes_per_s or 0) * gpu.gpus_per_node) for gpu in GPUS.values()]

    assert all(4 * network <= fabric for network, fabric in rates if network and fabric)
    assert GPUS["gb200"].nvlink_gpus == 72


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("p100", "6.0"),
        ("v100-16gb", "7.0"),
        ("v100-32gb", "7.0"),
        ("rtx5090", "12.0"),
        ("mi300x", "ROCm"),
        ("dgx-spark", "share"),
        ("jetson-orin-nx-16gb", "share"),
        ("rtx4060ti-16gb", "8 GB"),
    ],
)
def test_cards_with_a_catch_warn(name: str, word: str) -> None:
    assert any(word in warning for warning in GPUS[name].warnings)


@pytest.mark.parametrize("name", ["jetson-agx-orin-64gb", "jetson-orin-nx-16gb", "jetson-agx-thor-128gb", "dgx-spark"])
def test_shared_memory_leaves_room_for_the_system_and_marks_its_estimates(name: str) -> None:
    gpu = GPUS[name]

    assert gpu.unified_memory
    assert {"system_bytes", "context_bytes", "peak_flops_per_s"} <= set(gpu.estimated)
    assert Cluster(gpu=gpu).usable_bytes == gpu.memory_bytes - gpu.system_bytes


def test_rtx_4090_in_base_units() -> None:
    gpu = load_gpu("4090")

    assert gpu.memory_bytes == 24081 * MIB
    assert gpu.driver_bytes == 24564 * MIB
    assert gpu.context_bytes == 430 * MIB
    assert gpu.bandwidth_bytes_per_s == 1008e9
    assert gpu.estimated == ()


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("4090", "rtx4090"),
        ("RTX 4090", "rtx4090"),
        ("rtx_4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("a100-80g", "a100-80gb"),
        ("h100-sxm", "h100"),
        ("A10", "a10"),
        ("3090 Ti", "rtx3090ti"),
        ("AMD Instinct MI300X", "mi300x"),
        ("GB10", "dgx-spark"),
    ],
)
def test_names_as_people_and_torch_write_them(asked: str, found: str) -> None:
    assert load_gpu(asked).id == found


@pytest.mark.parametrize(
    ("asked", "found", "other"),
    [
        ("a100", "a100-80gb", "a100-40gb"),
        ("h100", "h100", "h100-pcie"),
        ("3080", "rtx3080-10gb", "3080-12gb"),
        ("v100", "v100-16gb", "v100-32gb"),
        ("4060ti", "rtx4060ti-16gb", "8 GB"),
    ],
)
def test_a_name_of_several_cards_says_which_it_took(asked: str, found: str, other: str) -> None:
    gpu = load_gpu(asked)

    assert gpu.id == found
    assert gpu.resolution is not None
    assert gpu.resolution.startswith(f"{asked} -> {gpu.name} (")
    assert other in gpu.resolution


@pytest.mark.parametrize("asked", ["4900", "", "a100-10gb", "rtx", "4090!", "../rtx4090", "4" * 10_000, "٤٠٩٠"])
def test_unknown_names_are_refused_in_one_line(asked: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown gpu .*plan gpus") as caught:
        load_gpu(asked)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_typing_error_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="did you mean 4090"):
        load_gpu("4900")


# ---------------------------------------------------------------- classes


def test_the_common_sizes_are_classes() -> None:
    assert {"12gb", "16gb", "24gb", "32gb", "40gb", "48gb", "80gb", "96gb", "141gb"} <= set(CLASSES)
    assert [gpu.id for gpu in list_classes()] == sorted(CLASSES, key=lambda name: CLASSES[name]["advertised_gb"])


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_holds_every_card_of_its_size(name: str) -> None:
    size = CLASSES[name]["advertised_gb"]
    of_that_size = [gpu.id for gpu in GPUS.values() if gpu.advertised_gb == size and not gpu.unified_memory]

    assert name == f"{size}gb"
    assert sorted(CLASSES[name]["members"]) == sorted(of_that_size)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_stands_for_its_smallest_card(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.represents is not None
    weakest = GPUS[gpu.represents]

    assert gpu.members == tuple(CLASSES[name]["members"])
    assert gpu.memory_bytes == min(GPUS[member].memory_bytes for member in gpu.members)
    assert (gpu.memory_bytes, gpu.bandwidth_bytes_per_s, gpu.compute_capability, gpu.price) == (
        weakest.memory_bytes,
        weakest.bandwidth_bytes_per_s,
        weakest.compute_capability,
        weakest.price,
    )


def test_24gb_says_what_it_stands_for() -> None:
    # L4 with ECC on: 22563 MiB = 22.03 GiB; the A10 has 22579, the RTX 3090 24124
    assert load_gpu("24gb").resolution == "24gb -> NVIDIA L4 (the smallest 24 GB card: 22.0 GiB visible to torch)"


def test_of_equal_cards_the_slower_one_represents_the_class() -> None:
    assert load_gpu("40gb").represents == "a100-40gb-pcie"


# ---------------------------------------------------------------- prices


@pytest.mark.parametrize("name", PRICES["gpus"])
def test_a_price_is_a_dated_range(name: str) -> None:
    price = GPUS[name].price
    assert price is not None
    known = [usd for usd in (price.low_usd, price.typical_usd, price.hyperscaler_usd) if usd is not None]

    assert price.as_of == PRICES["as_of"]
    assert len(known) >= 2
    assert known == sorted(known)
    assert known[0] < known[-1]
    assert price.estimated == ("1.3 times" in price.basis or "1/1.3" in price.basis)


def test_cards_that_nobody_lists_have_no_price() -> None:
    unpriced = {gpu.id for gpu in GPUS.values() if gpu.price is None}

    assert unpriced == set(CARDS) - set(PRICES["gpus"])
    assert {"a2", "h20", "dgx-spark"} <= unpriced
