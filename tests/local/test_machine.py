"""``--gpu local``: what NVML and nvidia-smi say becomes one card to plan for, and what must be known about it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.closed_form import estimate
from planner.errors import UnsupportedScenario, UsageError
from planner.hardware import load_gpu
from planner.local import Cards, Machine, cards_here, nvml, processor_card
from planner.local.machine import seen
from planner.local.nvml import NoAnswer
from planner.local.smi import FIELDS, Ask
from planner.local.smi import read as read_smi
from planner.planning import plan, scenario
from planner.recommend.request import Request
from planner.spec import Cluster
from planner.units import MIB
from tests.local.fakes import FakeCard, FakeNvml

RTX4090 = FakeCard(
    "NVIDIA GeForce RTX 4090",
    24564,
    reserved_mib=347,
    used_mib=1200,
    display=1,
    computing=[(812, 640)],
    drawing=[(700, 210), (812, 640)],
)
A100 = FakeCard("NVIDIA A100-SXM4-80GB", 81920, reserved_mib=882, capability=(8, 0), uuid="GPU-aa", link=(4, 16))
STRANGER = FakeCard("NVIDIA GeForce RTX 2080 Ti", 11264, reserved_mib=250, capability=(7, 5), link=(3, 16))


def machine(*cards: FakeCard, environ: Mapping[str, str] | None = None, **facts: Any) -> Machine:
    return seen(FakeNvml(*cards, **facts), None, environ or {})


def cards(*found: FakeCard, count: int = 1, environ: Mapping[str, str] | None = None, **facts: Any) -> Cards:
    return cards_here(count, machine=machine(*found, environ=environ, **facts))


def test_the_real_total_lies_over_the_profile() -> None:
    gpu, notes = cards(RTX4090, names={812: "/usr/bin/python3"})
    profile = load_gpu("rtx4090")

    assert (gpu.id, gpu.profile, gpu.driver_bytes) == ("local", "rtx4090", 24564 * MIB)
    assert gpu.memory_bytes == (24564 - 347) * MIB  # as torch reports it on such cards: 24217 MiB
    assert gpu.taken_bytes == 1200 * MIB
    assert (gpu.bandwidth_bytes_per_s, gpu.context_bytes) == (profile.bandwidth_bytes_per_s, profile.context_bytes)
    assert gpu.pcie_bytes_per_s == profile.pcie_bytes_per_s
    assert Cluster(gpu=gpu, headroom_bytes=MIB).usable_bytes == (24564 - 347 - 1200 - 1) * MIB
    assert notes == (
        "others hold 1.17 GiB on it now: python3 (812) 640.00 MiB, process (700) 210.00 MiB; "
        "a display and the driver's contexts 350.00 MiB",
    )


def test_an_old_driver_counts_its_own_share_as_used() -> None:
    gpu, _ = cards(RTX4090, old=True)
    kept = load_gpu("rtx4090").driver_bytes - load_gpu("rtx4090").memory_bytes

    assert gpu.memory_bytes == 24564 * MIB - kept
    assert gpu.taken_bytes == (1200 + 347) * MIB - kept


def test_what_a_card_will_not_tell_is_left_to_its_profile() -> None:
    silent = FakeCard(
        "NVIDIA L4", 23034, reserved_mib=471, capability=None, display=None, link=None, computing=None, drawing=None
    )

    gpu, notes = cards(silent)

    assert (gpu.profile, gpu.compute_capability) == ("l4", (8, 9))
    assert gpu.pcie_bytes_per_s == load_gpu("l4").pcie_bytes_per_s
    assert notes == ()


def test_processes_without_figures_leave_the_sum() -> None:
    hidden = FakeCard("NVIDIA L4", 23034, reserved_mib=471, used_mib=5000, computing=[(1, None)])

    gpu, notes = cards(hidden)

    assert gpu.taken_bytes == 5000 * MIB
    assert notes == ("others hold 4.88 GiB on it now: programs that the driver does not name 4.88 GiB",)


def test_cards_that_differ_are_planned_as_the_weakest() -> None:
    gpu, notes = cards(A100, RTX4090, count=2)

    assert gpu.profile == "rtx4090"
    assert notes[0].startswith("the cards differ (0: NVIDIA A100-SXM4-80GB, 1: NVIDIA GeForce RTX 4090)")
    assert cards(A100, RTX4090).gpu.profile == "a100-80gb"


def test_equal_cards_of_which_one_is_busy() -> None:
    busy = FakeCard("NVIDIA A100-SXM4-80GB", 81920, reserved_mib=882, used_mib=4096, capability=(8, 0), uuid="GPU-bb")

    gpu, notes = cards(A100, busy, count=2)

    assert gpu.taken_bytes == 4096 * MIB
    assert notes[0] == "the cards have 75.14 GiB to 79.14 GiB free: planned as the one with least"


def test_more_cards_than_are_here() -> None:
    with pytest.raises(UsageError, match="--gpus 2: 1 card is here"):
        cards(A100, count=2)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,0", ["NVIDIA GeForce RTX 4090", "NVIDIA A100-SXM4-80GB"]),
        ("1", ["NVIDIA GeForce RTX 4090"]),
        ("GPU-aa", ["NVIDIA A100-SXM4-80GB"]),
        ("0,7,1", ["NVIDIA A100-SXM4-80GB"]),
        ("0,0", ["NVIDIA A100-SXM4-80GB"]),
        ("-1", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(text: str, names: list[str]) -> None:
    found = machine(A100, RTX4090, environ={"CUDA_VISIBLE_DEVICES": text})

    assert [board.name for board in found.boards] == names
    assert found.hidden == 2 - len(names)


def test_hidden_cards_leave_the_processor() -> None:
    gpu, notes = cards(A100, environ={"CUDA_VISIBLE_DEVICES": ""})

    assert gpu.is_cpu
    assert notes == ("CUDA_VISIBLE_DEVICES hides every card here, 1 in all",)


PARTITIONED = FakeCard(
    "NVIDIA A100-SXM4-40GB",
    40960,
    capability=(8, 0),
    instances=[
        FakeCard("MIG 3g.20gb", 20096, reserved_mib=20, used_mib=0, uuid="MIG-1", multiprocessors=42),
        FakeCard("MIG 1g.5gb", 4864, reserved_mib=10, used_mib=100, uuid="MIG-2", multiprocessors=14),
    ],
)


def test_instances_of_a_partitioned_card_are_cards_of_their_own() -> None:
    found = machine(PARTITIONED)
    gpu, _ = cards_here(machine=found)

    assert [board.uuid for board in found.boards] == ["MIG-1", "MIG-2"]
    assert gpu.memory_bytes == (20096 - 20) * MIB
    assert gpu.sm_count == 42
    assert gpu.bandwidth_bytes_per_s == pytest.approx(load_gpu("a100-40gb").bandwidth_bytes_per_s * 20096 / 40960)
    assert "bandwidth_bytes_per_s" in gpu.estimated


def test_an_instance_can_be_chosen_by_its_uuid() -> None:
    gpu, _ = cards(PARTITIONED, environ={"CUDA_VISIBLE_DEVICES": "MIG-2"})

    assert gpu.memory_bytes == (4864 - 10) * MIB


def test_several_instances_are_several_processes() -> None:
    _, notes = cards(PARTITIONED, count=2)

    assert any("one MIG instance" in note for note in notes)


def test_a_card_without_a_profile_says_what_is_guessed() -> None:
    gpu, notes = cards(STRANGER)

    assert gpu.memory_bytes == (11264 - 250) * MIB
    assert (gpu.supports_bf16, gpu.supports_flash, gpu.profile) == (False, False, None)
    assert gpu.context_bytes == load_gpu("t4").context_bytes
    assert "context_bytes" in gpu.estimated
    assert notes[-1].startswith("no profile is of NVIDIA GeForce RTX 2080 Ti")


def test_a_shared_memory_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.local.card.total_bytes", lambda: 128_000 * MIB)
    monkeypatch.setattr("planner.local.card.available_bytes", lambda: 100_000 * MIB)

    gpu, _ = cards(FakeCard("NVIDIA GB10", None, capability=(12, 1)))

    assert (gpu.profile, gpu.memory_bytes, gpu.taken_bytes) == ("dgx-spark", 128_000 * MIB, 28_000 * MIB)
    assert Cluster(gpu=gpu).usable_bytes == 100_000 * MIB


def test_a_card_of_unknown_memory_is_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="does not tell how much memory NVIDIA Thing"):
        cards(FakeCard("NVIDIA Thing", None))


def test_nothing_here_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.local.machine.NVIDIA_DRIVERS", ())
    monkeypatch.setattr("planner.local.machine.AMD_DRIVER", "/nowhere")

    gpu, _ = cards_here(machine=seen(None, None, {}))

    assert gpu.is_cpu
    assert gpu.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert "no GPU here: planned for the processor's memory" in str(gpu.resolution)


def test_a_driver_that_does_not_answer_is_no_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("planner.local.machine.NVIDIA_DRIVERS", (str(tmp_path),))

    with pytest.raises(UnsupportedScenario, match="Driver/library version mismatch"):
        seen(FakeNvml(mute="Driver/library version mismatch"), None, {})
    with pytest.raises(UnsupportedScenario, match=r'pip install "finetune-planner\[local\]"'):
        seen(None, None, {})


def test_amd_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("planner.local.machine.NVIDIA_DRIVERS", ())
    monkeypatch.setattr("planner.local.machine.AMD_DRIVER", str(tmp_path))

    with pytest.raises(UnsupportedScenario, match="--gpu mi300x"):
        seen(None, None, {})


def test_nvml_is_closed_again() -> None:
    fake = FakeNvml(A100)

    seen(fake, None, {})

    assert fake.open == 0


SMI = {
    "index": "0",
    "uuid": "GPU-5c2f",
    "name": "NVIDIA GeForce RTX 4090",
    "memory.total": "24564",
    "memory.reserved": "347",
    "memory.used": "1200",
    "driver_version": "590.48.01",
    "compute_cap": "8.9",
    "display_active": "Enabled",
    "pcie.link.gen.max": "4",
    "pcie.link.width.max": "16",
    "mig.mode.current": "[N/A]",
}


def smi(**facts: str) -> Ask:
    row = ", ".join({**SMI, **facts}[field] for field in FIELDS)

    def ask(arguments: Sequence[str]) -> str:
        return row + "\n" if "--query-gpu" in arguments[0] else "GPU-5c2f, 812, /usr/bin/python3, 640\n"

    return ask


def test_nvidia_smi_says_the_same_as_nvml() -> None:
    gpu, notes = cards_here(machine=seen(None, smi(), {}))
    by_nvml, _ = cards(RTX4090)

    assert gpu == by_nvml
    assert notes[0].startswith("others hold 1.17 GiB on it now: python3 (812) 640.00 MiB; a display")


def test_nvidia_smi_stands_in_where_nvml_fails() -> None:
    found = seen(FakeNvml(mute="Library Not Found"), smi(), {})

    assert (found.source, found.driver) == ("nvidia-smi", "590.48.01")


def test_what_nvidia_smi_has_no_answer_for() -> None:
    odd = {"display_active": "[Not Supported]", "memory.reserved": "[N/A]", "compute_cap": "[N/A]"}

    board = read_smi(smi(**odd)).boards[0]

    assert (board.display, board.reserved_bytes, board.capability) == (None, None, None)


def test_nvidia_smi_says_that_it_sees_no_instances() -> None:
    assert "partitioned (MIG)" in read_smi(smi(**{"mig.mode.current": "Enabled"})).notes[0]


def test_words_instead_of_a_table_are_no_machine() -> None:
    with pytest.raises(NoAnswer, match="nvidia-smi printed"):
        read_smi(lambda _arguments: "No devices were found\n")


def test_the_real_library_has_what_we_ask() -> None:
    library = pytest.importorskip("pynvml")

    missing = [name for name in vars(nvml.Nvml) if "nvml" in name.lower() and not hasattr(library, name)]

    assert missing == []


def test_local_is_a_gpu_of_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.local.machine.look", lambda: machine(RTX4090))

    answer = plan(Request(model="8b", gpu="local", headroom_bytes=100 * MIB))

    assert answer.cluster.usable_bytes == (24564 - 347 - 1200 - 100) * MIB
    assert any(note.startswith("local -> NVIDIA GeForce RTX 4090 (as rtx4090; 23.6 GiB") for note in answer.notes)
    assert any("others hold 1.17 GiB" in note for note in answer.notes)


def test_more_local_cards_are_offered_by_their_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.local.machine.look", lambda: machine(RTX4090))

    rent = plan(Request(model="70b", gpu="local")).recommendation.rent

    commands = [way.command for way in rent]
    assert any("--gpu rtx4090" in command for command in commands)
    assert not any("--gpu local" in command for command in commands)


def test_a_processor_has_no_workspace_of_cublas_and_no_equals() -> None:
    one = plan(Request(model="8b", gpu="local", methods=("lora",)))
    on_card = estimate(scenario(model="8b", gpu="rtx4090", method="lora", attention="sdpa"))

    peak = one.candidates[0].estimate.peak
    assert one.cluster.gpu.is_cpu
    assert peak.allocated_bytes == peak.reserved_bytes == peak.device_bytes
    assert peak.allocated_bytes == on_card.peak.allocated_bytes - 2 * 8_519_680
    assert not any(way.gpu == "local" for way in one.recommendation.rent)


def test_looking_loads_no_framework() -> None:
    code = "import sys; from planner.local import cards_here; cards_here(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_the_processor_as_a_card() -> None:
    card = processor_card()

    assert (card.id, card.architecture, card.compute_capability, card.context_bytes) == ("local", "cpu", None, 0)
    assert 0 <= card.taken_bytes < card.memory_bytes


def test_cards_that_are_here_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("planner.local.machine.look", lambda: machine(A100, RTX4090))

    assert main(["gpus", "local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("rtx4090" in line and "23.6" in line and "1.2" in line and "22.5" in line for line in lines)
    assert any(line.strip().startswith("1: others hold 1.17 GiB") for line in lines)

    assert main(["gpus", "LOCAL", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["taken_bytes"] // MIB for one in found["gpus"]] == [0, 1200]
    assert found["classes"] == []


def test_without_a_card_the_processor_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "local", "--format", "json"]) == 0

    (one,) = json.loads(capsys.readouterr().out)["gpus"]
    assert (one["id"], one["architecture"]) == ("local", "cpu")
