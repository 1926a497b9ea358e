"""A rank that does not hold its part fails loudly, and on a card it uses the device of its number."""

from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft"):
    pytest.importorskip(library)

from planner.errors import UnsupportedScenario  # noqa: E402
from planner.measure import engine, work  # noqa: E402
from planner.measure.counters import COLLECTIVE, PREFIX, RankCounter  # noqa: E402
from planner.measure.task import Task  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def test_a_model_that_nobody_divided_is_no_rank_of_fsdp() -> None:
    """As it is where accelerate takes DDP without a word."""
    with pytest.raises(RuntimeError, match="weight is whole on every rank"):
        engine.check_shards(torch.nn.Linear(4, 4), 0, 2)


def test_packed_integers_stay_whole() -> None:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    engine.check_shards(module, 0, 2)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 4001])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_rows_are_those_of_chunks(rows: int, ranks: int) -> None:
    chunks = [len(chunk) for chunk in torch.chunk(torch.empty(rows), ranks)]
    assert [engine.rows_of(rows, rank, ranks) for rank in range(ranks)] == chunks + [0] * (ranks - len(chunks))


def test_a_rank_uses_the_card_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(work, "cuda_here", lambda: None)
    monkeypatch.setattr(work, "ask_driver", lambda: None)
    scenario: Any = SimpleNamespace(cluster=SimpleNamespace(world_size=4))
    with pytest.raises(UnsupportedScenario):
        work._prepared(Task(kind="measure", scenario=scenario, device="cuda"), lambda _event, **_facts: None)
    assert said == [3]


@pytest.mark.parametrize(("device", "backend"), [("cuda", "nccl"), ("cpu", "gloo")])
def test_cards_talk_by_nccl_and_processors_by_gloo(monkeypatch: pytest.MonkeyPatch, device: Any, backend: str) -> None:
    said: list[str] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **_options: said.append(name))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: said.append("over"))
    with engine.process_group(device):
        assert said == [backend]
    assert said == [backend, "over"]


def test_a_card_without_memory_for_nccl_is_out_of_memory() -> None:
    assert work.is_out_of_memory(RuntimeError("ncclUnhandledCudaError: Cuda failure 2 'out of memory'"))


def event(name: str, at: int, *children: Any, thread: int = 1, place: int = 0, size: int = 0) -> Any:
    fields = SimpleNamespace(ptr=place, alloc_size=size)
    return SimpleNamespace(name=name, start_time_ns=at, start_tid=thread, children=children, extra_fields=fields)


def memory(at: int, place: int, size: int, thread: int = 1) -> Any:
    return event("[memory]", at, thread=thread, place=place, size=size)


def test_copies_of_gloo_do_not_count() -> None:
    """Neither what a collective allocates, nor what other threads do; a place that is taken anew has been released."""
    tree = [
        event(PREFIX + "forward", 0, memory(1, 10, 100), event(COLLECTIVE + "allgather_", 2, memory(3, 20, 7000))),
        memory(4, 30, 9000, thread=2),
        event(PREFIX + "backward", 5, memory(6, 10, 60), memory(7, 10, -60)),
    ]
    counter = RankCounter()
    profiler = SimpleNamespace(
        profiler=SimpleNamespace(kineto_results=SimpleNamespace(experimental_event_tree=lambda: tree))
    )
    assert [tuple(peak[:2]) for peak in counter._peaks(profiler)] == [("forward", 100), ("backward", 100)]
    assert counter.level == 0
