"""What the examination says of libraries, cards, variables and disks, in order and out of it."""

import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from planner.doctor import examine, lacking
from planner.doctor.cards import cards
from planner.doctor.environment import environment, workspace_bytes
from planner.doctor.places import machine, stored
from planner.doctor.software import Build, library, software, torch_build
from planner.doctor.values import Fact
from planner.errors import PlannerError, UnsupportedScenario
from planner.local import Machine
from planner.local.machine import seen
from planner.records.store import Store, Tell
from planner.trace.cache import Cache
from planner.units import GIB
from tests.local.fakes import FakeCard, FakeNvml
from tests.test_architecture import FRAMEWORKS, loaded_by

CARD = FakeCard("NVIDIA GeForce RTX 4090", 24564, reserved_mib=347, used_mib=1200)
OLD_CARD = FakeCard("Tesla P100-PCIE-16GB", 16384, capability=(6, 0))
NOTHING = Machine(source="cpu", boards=())


def with_cards(*found: FakeCard) -> Machine:
    return seen(FakeNvml(*found), None, {})


def named(facts: Iterable[Fact], name: str) -> Fact:
    return next(fact for fact in facts if fact.name == name)


def kept(path: Path | None) -> Callable[[Tell], Store]:
    return lambda tell: Store(path, tell)


# ---------------------------------------------------------------- software


def test_a_library_as_it_should_be() -> None:
    fact = library("pytest", (1,), "pip install pytest", "")

    assert (fact.state, fact.value) == ("ok", importlib.metadata.version("pytest"))


def test_a_library_that_is_too_old() -> None:
    fact = library("pytest", (999,), "pip install pytest", "")

    assert fact.state == "bad"
    assert fact.value.endswith("older than 999")
    assert fact.advice == "pip install pytest --upgrade"


@pytest.mark.parametrize(("purpose", "state"), [("", "bad"), ("for pictures", "note")])
def test_a_library_that_is_not_there(purpose: str, state: str) -> None:
    fact = library("no-such-library", (1,), "pip install it", purpose)

    assert (fact.state, fact.advice) == (state, "pip install it")
    assert fact.value.startswith("missing")


def test_a_library_that_nobody_has_tried_yet() -> None:
    assert library("pytest", (1,), "", "", newer=True).state == "note"


def test_every_library_that_a_trace_may_need_is_looked_at() -> None:
    names = {fact.name for fact in software()}

    assert {"torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "liger-kernel", "python"} <= names


def test_torch_says_what_it_was_built_for() -> None:
    torch = pytest.importorskip("torch")

    assert torch_build() == Build(torch.version.cuda, torch.version.hip)


# ---------------------------------------------------------------- cards


def test_a_card_with_what_is_free_on_it() -> None:
    facts = [*cards(with_cards(CARD), Build("13.0", None))]

    assert named(facts, "driver").value == "590.48.01 (by nvml), serves CUDA up to 13.1"
    assert named(facts, "torch's build").state == "ok"
    assert named(facts, "card 0").value == (
        "NVIDIA GeForce RTX 4090 (as rtx4090), 23.65 GiB, 1.17 GiB of it in use, compute capability 8.9, PCIe 4 x16"
    )


@pytest.mark.parametrize(
    ("build", "state"),
    [
        (Build("14.0", None), "bad"),
        (Build("13.2", None), "ok"),
        (Build("12.8", None), "ok"),
        (Build(None, None), "bad"),
    ],
)
def test_torch_and_the_driver_go_together(build: Build, state: str) -> None:
    assert named(cards(with_cards(CARD), build), "torch's build").state == state


def test_a_card_that_torch_no_longer_serves() -> None:
    assert named(cards(with_cards(OLD_CARD), Build("13.0", None)), "card 0").state == "bad"
    assert named(cards(with_cards(OLD_CARD), Build("12.6", None)), "card 0").state == "ok"


def test_no_card_and_no_answer() -> None:
    assert named(cards(NOTHING, Build(None, None)), "torch's build").state == "ok"
    silent = named(cards(UnsupportedScenario("mismatch"), None), "driver")
    assert (silent.state, silent.advice) == ("bad", "mismatch")


# ---------------------------------------------------------------- variables


def test_settings_of_the_allocator_are_read_as_torch_reads_them() -> None:
    good = named(environment({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}), "PYTORCH_ALLOC_CONF")
    wrong = named(environment({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segment:True"}), "PYTORCH_CUDA_ALLOC_CONF")

    assert (good.state, "--alloc-conf" in good.advice) == ("note", True)
    assert (wrong.state, "did you mean expandable_segments?" in wrong.advice) == ("bad", True)


def test_of_two_allocator_variables_one_is_ignored() -> None:
    facts = [*environment({"PYTORCH_CUDA_ALLOC_CONF": "backend:native", "PYTORCH_ALLOC_CONF": "backend:native"})]

    assert "ignored" in named(facts, "PYTORCH_CUDA_ALLOC_CONF").advice
    assert named(facts, "PYTORCH_ALLOC_CONF").advice == "changes no bytes"


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("CUDA_VISIBLE_DEVICES", "1", "note"),
        ("CUDA_LAUNCH_BLOCKING", "1", "warning"),
        ("CUDA_LAUNCH_BLOCKING", "0", "ok"),
        ("CUBLAS_WORKSPACE_CONFIG", ":16:8", "note"),
        ("CUBLAS_WORKSPACE_CONFIG", "16:8", "warning"),
        ("CUDA_MODULE_LOADING", "EAGER", "warning"),
        ("CUDA_MODULE_LOADING", "LAZY", "note"),
        ("NVIDIA_TF32_OVERRIDE", "0", "note"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1", "warning"),
        ("HF_HOME", "/data/hf", "note"),
    ],
)
def test_variables_that_bear_on_memory(name: str, value: str, state: str) -> None:
    (fact,) = environment({name: value, "PATH": "/bin"})

    assert (fact.name, fact.state) == (name, state)


def test_an_environment_without_any() -> None:
    (fact,) = environment({"PATH": "/bin"})

    assert fact.state == "ok"


def test_workspaces_by_their_text() -> None:
    assert workspace_bytes(":4096:8") == 2**25
    assert workspace_bytes(":4096") is None
    assert workspace_bytes("") is None


# ---------------------------------------------------------------- this machine and its disks


def test_the_machine_has_a_processor_and_memory() -> None:
    assert [fact.name for fact in machine()] == ["processor", "memory"]


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.doctor.places.available_bytes", lambda: GIB)

    assert named(machine(), "memory").state == "warning"


def test_places_that_do_not_exist_yet(tmp_path: Path) -> None:
    facts = [*stored({"HF_HOME": str(tmp_path / "hf")}, kept(tmp_path / "a" / "b.db"), Cache(tmp_path / "traces"))]

    assert [fact.state for fact in facts] == ["ok", "ok", "ok"]
    assert named(facts, "measurements").value.startswith("0 in ")
    assert named(facts, "traces").value.startswith("0 entries, 0 B of at most")
    assert [*tmp_path.iterdir()] == []


def test_what_is_turned_off_is_said() -> None:
    facts = [*stored({}, kept(None), Cache(None))]

    assert [fact.state for fact in facts[:2]] == ["note", "note"]


def test_a_store_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "measurements.db"
    broken.write_bytes(b"SQLite format 3\0" + b"no database" * 1000)

    facts = [*stored({}, kept(broken), Cache(None))]

    assert named(facts, "measurements").state in ("bad", "warning")


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.doctor.places.SCARCE_DISK", 2**60)

    assert named(stored({}, kept(tmp_path / "x.db"), Cache(None)), "measurements").state == "warning"


# ---------------------------------------------------------------- what can run


def test_what_can_run_follows_from_the_facts() -> None:
    missing = Fact("software", "peft", "missing", "bad", "pip install it")

    able = lacking([], with_cards(CARD), Build("13.0", None))
    unable = lacking([missing], NOTHING, None)

    assert set(able.values()) == {""}
    assert unable["traced"] == unable["measure"] == "peft missing: pip install it"
    assert unable["gpu"] == "no card is here"
    assert lacking([], with_cards(CARD), None)["gpu"] == "torch is missing"


def test_a_silent_driver_takes_measuring_with_it() -> None:
    found = lacking([], UnsupportedScenario("mismatch"), Build("13.0", None))

    assert (found["local"], found["gpu"], found["measure"], found["traced"]) == ("mismatch", "mismatch", "mismatch", "")


def test_an_examination_survives_a_silent_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def mute() -> Machine:
        raise PlannerError("no answer")

    monkeypatch.setattr("planner.doctor.look", mute)

    assert examine({}).lacking["local"] == "no answer"


def test_nothing_heavy_is_loaded() -> None:
    assert loaded_by("from planner.doctor import examine; examine()") & FRAMEWORKS == set()
