"""What a run says of where it was: the driver, the process, the cap of a processor."""

import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import UnsupportedScenario, UsageError
from planner.hardware import list_gpus
from planner.local import Board, Machine
from planner.measure import driver, here, process
from planner.measure.driver import Driver, ask_driver
from planner.measure.task import Device
from planner.units import GIB, MIB

CARD = Device("cuda", "NVIDIA GeForce RTX 4090", 24_000_000_000, (8, 9), 128)
VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08  Sat May 24 07:00:00 UTC 2025\nGCC version:\n"


def board(uuid: str, used: int | None) -> Board:
    return Board(index=0, uuid=uuid, name="Card", total_bytes=GIB, reserved_bytes=None, used_bytes=used)


def test_the_driver_says_what_each_device_has_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    boards = (board("GPU-ab-1", 5 * MIB), board("GPU-cd-2", None))
    monkeypatch.setattr(driver, "look", lambda: Machine(source="nvml", boards=boards, driver="575.57"))

    found = ask_driver()

    assert (found.version, found.used_on("ab-1")) == ("575.57", 5 * MIB)
    assert found.used_on("cd-2") is found.used_on("ef-3") is found.used_on("") is None


def test_a_mute_driver_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mute() -> Machine:
        raise UnsupportedScenario("no answer")

    monkeypatch.setattr(driver, "look", mute)
    monkeypatch.setattr(driver, "VERSION_FILE", tmp_path / "version")
    assert ask_driver() == Driver("")

    (tmp_path / "version").write_text(VERSION, encoding="ascii")
    assert ask_driver() == Driver("575.57.08")


def test_a_card_that_we_have_a_profile_of_is_that_one_with_its_own_memory() -> None:
    known = here.card_of_device(CARD, list_gpus())
    stranger = here.card_of_device(CARD._replace(name="NVIDIA Example 9"), list_gpus())

    assert (known.id, known.memory_bytes, known.sm_count) == ("local", CARD.total_bytes, 128)
    assert known.context_bytes > 0
    assert (stranger.id, stranger.context_bytes) == ("local", 0)


def test_the_newer_name_of_the_allocators_settings_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert process.allocator_text() == "max_split_size_mb:64"

    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert process.allocator_text() == "expandable_segments:True"


def test_the_most_main_memory_is_the_address_spaces_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name: python\nVmHWM:\t  2048 kB\nVmData:\t  1024 kB\n", encoding="ascii")
    assert process.peak_resident_bytes() == 2 * MIB
    assert process.process_bytes("VmData") == MIB

    (tmp_path / "status").write_text("VmHWM: not a number\n", encoding="ascii")
    assert process.process_bytes("VmHWM") is None
    found = process.peak_resident_bytes()
    assert found is None or found > MIB


def test_what_no_device_can_do_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Device("cpu", "A processor", 16 * GIB)

    here.check_cap(CARD, None)
    here.check_cap(CARD, 8 * GIB)
    here.check_snapshot(CARD, "file")
    here.check_snapshot(cpu, None)
    with pytest.raises(UsageError, match="is more than NVIDIA GeForce RTX 4090 has"):
        here.check_cap(CARD, 48 * GIB)
    with pytest.raises(UnsupportedScenario, match="plan trace --snapshot writes a traced one"):
        here.check_snapshot(cpu, "file")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedScenario, match="needs Linux"):
        here.check_cap(cpu, GIB)


CAPPED = """
import resource
from planner.measure import process
from planner.measure.cap import capped_process

MIB = 2**20
before = resource.getrlimit(resource.RLIMIT_DATA)
with capped_process(64 * MIB, 16 * MIB):
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    assert abs(limit - (process.process_bytes("VmData") + 48 * MIB)) < 4 * MIB
    assert len(bytearray(32 * MIB)) == 32 * MIB
    try:
        bytearray(64 * MIB)
    except MemoryError:
        pass
    else:
        raise AssertionError("no cap")
assert resource.getrlimit(resource.RLIMIT_DATA) == before
with capped_process(None, 0):
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
"""


@pytest.mark.torch
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_a_processors_cap_is_of_tensors_and_ends_with_its_run() -> None:
    """In a process of its own: memory that other tests gave back would be handed out again, beyond any cap."""
    pytest.importorskip("torch")

    done = subprocess.run([sys.executable, "-c", CAPPED], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
