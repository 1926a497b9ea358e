"""What is ours of a CUDA run, on stubs of a card: the order in which things are done, the cap, the history."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.errors import UsageError
from planner.hardware import load_gpu
from planner.measure.driver import Driver
from planner.measure.step import without_kernels_hub
from planner.measure.task import Device, Task
from planner.measure.values import Room
from planner.spec import Cluster, Scenario
from planner.units import GIB, MIB

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "bitsandbytes"):
    pytest.importorskip(library)
without_kernels_hub()

from planner.build.place import device_place  # noqa: E402
from planner.measure import cap, history, work  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOTAL, CONTEXT, OTHERS = 80 * GIB, GIB // 2, GIB
Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Told:
    """A card that counts nothing and tells what it was asked; tensors stay on the CPU."""
    told: Told = []

    def noting(name: str, answer: Any = None) -> Callable[..., Any]:
        def note(*arguments: Any, **keywords: Any) -> Any:
            told.append((name, {"arguments": arguments, **keywords}))
            return answer

        return note

    def dump(path: str) -> None:
        told.append(("dump", {"path": path}))
        Path(path).write_bytes(b"history")

    for name, answer in {
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "set_per_process_memory_fraction": None,
        "max_memory_allocated": 3 * GIB,
        "max_memory_reserved": 4 * GIB,
        "memory_allocated": 2 * GIB,
        "memory_reserved": 4 * GIB,
        "mem_get_info": (TOTAL - CONTEXT - OTHERS, TOTAL),
        "get_device_properties": SimpleNamespace(uuid="ab-1"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, noting(name, answer))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", noting("history"))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    monkeypatch.setattr(work, "ask_driver", noting("driver", Driver("575.1", {"GPU-ab-1": OTHERS})))
    monkeypatch.setattr(work, "cuda_here", noting("device", Device("cuda", "Card", TOTAL, (9, 0), 132)))
    monkeypatch.setattr(work, "device_place", lambda _name: device_place("cpu"))
    return told


@pytest.fixture
def on_card(scenario: Scenario) -> Scenario:
    """The scenario with a card whose kernels the CPU has as well."""
    train = replace(scenario.train, attention="sdpa")
    return replace(scenario, train=train, cluster=Cluster(gpu=load_gpu("h100-sxm")))


def taken(task: Task) -> Told:
    """What a run reports."""
    lines: Told = []
    work.measure(task, lambda event, **facts: lines.append((event, facts)))
    return lines


def test_the_driver_is_asked_first_and_the_cap_and_the_history_come_before_the_model(
    card: Told, on_card: Scenario, tmp_path: Path
) -> None:
    path = tmp_path / "snapshot.pickle"
    task = Task(kind="measure", scenario=on_card, device="cuda", steps=2, cap_bytes=24 * GIB, snapshot=str(path))
    lines = taken(task)
    order = [name for name, _ in card]
    reports = dict(lines)

    assert order[:2] == ["driver", "device"]
    for earlier, later in (("device", "mem_get_info"), ("mem_get_info", "set_per_process_memory_fraction")):
        assert order.index(earlier) < order.index(later)
    assert order.index("set_per_process_memory_fraction") < order.index("history") < order.index("max_memory_allocated")
    assert order.index("history") < order.index("empty_cache") < order.index("max_memory_allocated")
    fraction = dict(card)["set_per_process_memory_fraction"]["arguments"][0]
    assert fraction * TOTAL == pytest.approx(24 * GIB - CONTEXT)
    assert reports["room"] == Room(TOTAL, TOTAL - CONTEXT - OTHERS, CONTEXT, OTHERS)._asdict()
    assert reports["environment"]["driver"] == "575.1"
    assert reports["load"]["phases"][0] == ("load", 2 * GIB, 4 * GIB, CONTEXT)
    assert reports["step"]["phases"][0] == ("forward", 3 * GIB, 4 * GIB, CONTEXT)
    assert reports["step"]["number"] == 1
    assert path.read_bytes() == b"history"
    assert [line for line in lines if line[0] in ("snapshot", "owners")][-1] == ("snapshot", {"path": str(path)})


def test_a_run_without_extras_asks_for_none(card: Told, on_card: Scenario) -> None:
    lines = taken(Task(kind="measure", scenario=on_card, device="cuda", steps=1))

    assert {"history", "dump", "set_per_process_memory_fraction"} & {name for name, _ in card} == set()
    assert "snapshot" not in dict(lines)


def test_a_cap_that_the_card_cannot_be_is_refused_before_the_model(card: Told, on_card: Scenario) -> None:
    with pytest.raises(UsageError, match=r"more than the 80\.00 GiB"):
        taken(Task(kind="measure", scenario=on_card, device="cuda", cap_bytes=90 * GIB))
    with pytest.raises(UsageError, match="the context alone takes"):
        taken(Task(kind="measure", scenario=on_card, device="cuda", cap_bytes=256 * MIB))
    assert "max_memory_allocated" not in {name for name, _ in card}


def test_the_whole_card_is_no_cap() -> None:
    room = Room(TOTAL, TOTAL - CONTEXT, CONTEXT, 0)

    assert cap.fraction_for(TOTAL, room) * TOTAL == pytest.approx(TOTAL - CONTEXT)


def test_the_history_of_a_run_that_failed_is_kept(card: Told, tmp_path: Path) -> None:
    path, told = tmp_path / "snapshot", []
    with (
        pytest.raises(torch.OutOfMemoryError),
        history.history(str(path), lambda event, **_facts: told.append(event)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert (path.read_bytes(), told) == (b"history", ["snapshot"])
    assert list(tmp_path.iterdir()) == [path]
    assert card[-1] == ("history", {"arguments": (), "enabled": None})


@pytest.mark.usefixtures("card")
def test_a_history_that_cannot_be_written_is_told_and_leaves_the_run_alone(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    with history.history(str(tmp_path / "gone" / "file"), lambda event, **facts: told.append((event, facts["text"]))):
        pass

    assert told == [("no_snapshot", "No such file or directory")]


def test_a_device_that_has_failed_keeps_its_own_error(monkeypatch: pytest.MonkeyPatch, card: Told) -> None:
    def broken(_path: str) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", broken)
    told: list[str] = []
    with (
        pytest.raises(RuntimeError, match="illegal memory access"),
        history.history("file", lambda _event, **facts: told.append(facts["text"])),
    ):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert told == ["CUDA error: device-side assert triggered"]
    assert [name for name, _ in card] == ["history"]


# ---------------------------------------------------------------- predicted


def test_a_prediction_for_a_card_says_what_its_allocator_makes_of_the_step(on_card: Scenario) -> None:
    lines: Told = []
    work.predict(
        Task(kind="predict", scenario=on_card, device="cuda"), lambda event, **facts: lines.append((event, facts))
    )
    found = dict(lines)["predicted"]
    context = on_card.cluster.gpu.context_bytes

    assert set(found["reserved"]) == {"load", "first", "steady"}
    assert set(found["reserved"]["steady"]) == set(found["first"]) == {"forward", "loss", "backward", "optimizer_step"}
    assert all(count % (2 * MIB) == 0 for step in found["reserved"].values() for count in step.values())
    for phase, memory in found["later"][0].items():
        assert memory.total % 512 == 0
        assert memory.total <= found["reserved"]["steady"][phase]
    assert found["context"] == context
    assert context < found["required"] <= context + max(found["reserved"]["steady"].values())


def test_a_card_whose_context_nobody_knows_has_no_device_bytes(on_card: Scenario) -> None:
    unknown = replace(on_card, cluster=Cluster(gpu=replace(on_card.cluster.gpu, context_bytes=0)))
    lines: Told = []
    work.predict(
        Task(kind="predict", scenario=unknown, device="cuda", layers=2),
        lambda event, **facts: lines.append((event, facts)),
    )

    assert (dict(lines)["predicted"]["context"], dict(lines)["predicted"]["required"]) == (None, None)
