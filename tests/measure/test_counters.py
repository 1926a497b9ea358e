"""Counters: the profiler's sums on the CPU, CUDA's statistics with stubs for a card, and words for no memory."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from planner.errors import UnsupportedScenario
from planner.measure.driver import Driver
from planner.measure.values import PhasePeak, Room

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "bitsandbytes"):
    pytest.importorskip(library)

from planner.measure import counters, work  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def test_the_cpu_counts_every_byte_by_phase_and_carries_the_level() -> None:
    counter = counters.CpuCounter()
    with counter.counting() as first:
        counter.begin("forward")
        kept = torch.empty(1000, dtype=torch.uint8)
        counter.begin("loss")
        torch.empty(300, dtype=torch.uint8)
        torch.empty(500, dtype=torch.uint8)
    with counter.counting() as second:
        counter.begin("backward")
        del kept
        torch.empty(700, dtype=torch.uint8)

    assert first == [PhasePeak("forward", 1000), PhasePeak("loss", 1500)]
    assert second == [PhasePeak("backward", 1000)]
    assert counter.standing() == PhasePeak("load", 0)


def test_cuda_statistics_are_read_where_a_phase_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    card = SimpleNamespace(allocated=0, given_back=0)

    def noting(name: str) -> Callable[[], None]:
        return lambda: told.append(name)

    stubs: dict[str, Any] = {
        "synchronize": noting("synchronize"),
        "reset_peak_memory_stats": noting("reset"),
        "max_memory_allocated": lambda: card.allocated,
        "max_memory_reserved": lambda: card.allocated + 100,
        "memory_reserved": lambda: card.allocated + 100 - card.given_back,
        "memory_allocated": lambda: card.allocated,
        "mem_get_info": lambda: (1000 - OTHERS - CONTEXT - card.allocated - 100 + card.given_back, 1000),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)

    counter = counters.counter_for("cuda", Room(1000, 1000 - OTHERS - CONTEXT, CONTEXT, OTHERS))
    with counter.counting() as found:
        for phase, count in (("forward", 10), ("backward", 20), ("forward", 30)):
            counter.begin(phase)  # type: ignore[arg-type]
            card.allocated = count
        card.given_back = 25

    assert found == [PhasePeak("forward", 30, 130, 130 + CONTEXT), PhasePeak("backward", 20, 120, 120 + CONTEXT)]
    assert counter.standing() == PhasePeak("load", 30, 105, 105 + CONTEXT)
    assert told[:3] == ["synchronize", "reset", "synchronize"]


OTHERS, CONTEXT = 200, 50
"""Bytes of a small card that others hold, and that a context takes."""


@pytest.mark.parametrize(("known", "others", "context"), [({"GPU-ab-1": OTHERS}, OTHERS, CONTEXT), ({}, None, 250)])
def test_what_others_use_is_told_from_the_context_where_the_driver_says_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, int], others: int | None, context: int
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (750, 1000))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: SimpleNamespace(uuid="ab-1"))

    assert counters.cuda_room(Driver("575.1", known)) == Room(1000, 750, context, others)


def test_no_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)

    assert work.explain(refused.value)["event"] == "out_of_memory"
    assert work.explain(torch.OutOfMemoryError("CUDA out of memory. Tried"))["event"] == "out_of_memory"
    assert work.explain(MemoryError())["text"] == "MemoryError"
    wrapped = UnsupportedScenario("transformers cannot build it")
    wrapped.__cause__ = refused.value
    assert work.explain(wrapped)["event"] == "out_of_memory"
    assert work.explain(UnsupportedScenario("transformers cannot build it"))["event"] == "failed"
    assert work.explain(RuntimeError("CUDA error: an illegal memory access"))["event"] == "failed"
