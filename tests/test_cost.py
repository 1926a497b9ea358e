"""What a run takes: only computed tokens cost time, steps are the Trainer's, setup and disk can be added up by hand."""

from dataclasses import replace
from math import ceil
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import load_model
from planner.cost import (
    ASSUMED,
    PROCESS_BYTES,
    disk_bytes,
    host_bytes,
    load_of,
    run_cost,
    saved_bytes,
    sequences_of,
    setup_seconds,
    steps_of,
)
from planner.formulas.host import checkpoint_bytes
from planner.planning import estimate, scenario
from planner.result import Estimate, StepTime, TimeBasis
from planner.spec import Cluster, Gpu, Job, Lengths, Price, Scenario, TrainSpec

LENGTHS = Lengths(((500, 50), (1500, 50)))
PRICE = Price(low_usd=1.0, typical_usd=2.0, hyperscaler_usd=5.0, as_of="2026-10")


def train(**changes: object) -> TrainSpec:
    return replace(TrainSpec(method="lora"), **changes)  # type: ignore[arg-type]


def step(seconds: float = 1.0) -> StepTime:
    return StepTime(
        seconds=seconds,
        low=seconds / 2,
        high=seconds * 2,
        tokens_per_second=1.0,
        parts=MappingProxyType({}),
        bound="compute",
        basis=TimeBasis("stated"),
    )


def planned(method: str = "lora", gpus: int = 1, **settings: Any) -> tuple[Scenario, Estimate]:
    one = scenario(model="llama-3.1-8b", gpu="a100-80gb", gpus=gpus, method=method, **settings)  # type: ignore[arg-type]
    priced = replace(one.cluster.gpu, price=PRICE)
    one = replace(one, cluster=replace(one.cluster, gpu=priced))
    return one, estimate(one)


# ---------------------------------------------------------------- load


def test_without_data_the_load_is_that_of_full_sequences() -> None:
    assert load_of(train(), Job()) is None
    assert load_of(train(), Job(tokens=1000)) is None


def test_padding_is_computed_and_truncated_tokens_are_not() -> None:
    padded = load_of(train(micro_batch_size=2), Job(lengths=LENGTHS))
    cut = load_of(train(micro_batch_size=2, seq_len=1000), Job(lengths=LENGTHS))

    assert padded is not None
    assert cut is not None
    assert padded.tokens == 2 * 1250  # two drawn at random: both short one time in four
    assert padded.attended == (500**2 + 1500**2) / 2000
    assert cut.tokens == 2 * 875
    assert cut.attended == (500**2 + 1000**2) / 1500


def test_packing_fills_windows_and_keeps_documents_apart() -> None:
    load = load_of(train(seq_len=2000, micro_batch_size=3), Job(lengths=LENGTHS, packing=True))

    assert load is not None
    assert load.tokens == 3 * 2000
    assert load.attended == LENGTHS.attended
    assert sequences_of(train(seq_len=2000), Job(lengths=LENGTHS, packing=True)) == 50
    assert sequences_of(train(seq_len=1600), Job(lengths=LENGTHS, packing=True)) == 50 + 17  # three short ones in a row


def test_a_mean_length_stands_in_for_lengths() -> None:
    load = load_of(train(seq_len=2048, micro_batch_size=4), Job(tokens=100_000, sequences=100))
    longer = load_of(train(seq_len=512), Job(tokens=100_000, sequences=100))

    assert load == (4000.0, 1000.0)
    assert longer == (512.0, 512.0)


@given(
    st.dictionaries(st.integers(1, 5000), st.integers(1, 50), min_size=1, max_size=8),
    st.integers(1, 6000),
    st.integers(1, 8),
)
def test_computed_tokens_lie_between_cut_and_full_sequences(counts: dict[int, int], seq_len: int, batch: int) -> None:
    job = Job(lengths=Lengths(tuple(sorted(counts.items()))))
    setting = train(seq_len=seq_len, micro_batch_size=batch)
    assert job.lengths is not None
    cut = job.lengths.truncated(seq_len)

    rows, load = sequences_of(setting, job), load_of(setting, job)

    assert rows is not None
    assert load is not None
    computed = rows * load.tokens / batch
    assert cut.tokens * (1 - 1e-9) <= computed <= cut.sequences * cut.longest * (1 + 1e-9)


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("job", "settings", "gpus", "steps"),
    [
        (Job(), {}, 1, 0),
        (Job(tokens=0), {}, 1, 0),
        (Job(tokens=1), {}, 8, 1),
        (Job(sequences=100, tokens=5000), {"micro_batch_size": 4, "grad_accumulation": 4}, 1, 7),
        (Job(sequences=100, tokens=5000, epochs=3), {"micro_batch_size": 4, "grad_accumulation": 4}, 1, 21),
        (Job(sequences=100, tokens=5000, epochs=0.5), {"micro_batch_size": 4, "grad_accumulation": 4}, 1, 4),
        (Job(sequences=100, tokens=5000), {"micro_batch_size": 4, "grad_accumulation": 4}, 2, 4),
        (Job(tokens=2048 * 10 + 1), {}, 1, 11),
        (Job(lengths=LENGTHS, packing=True), {"seq_len": 1000}, 1, 75),
    ],
)
def test_steps_are_the_trainers(job: Job, settings: dict[str, Any], gpus: int, steps: int) -> None:
    one, _ = planned(gpus=gpus, **settings)

    assert steps_of(one, job) == steps


# ---------------------------------------------------------------- hours and money


def test_a_run_is_setup_and_steps_at_the_price_of_all_cards() -> None:
    one, found = planned(gpus=2, micro_batch_size=4, grad_accumulation=4)
    setup = setup_seconds(one, found)

    cost = run_cost(one, found, step(3600.0), Job(tokens=64_000, sequences=64))

    assert cost is not None
    assert cost.steps == 2
    assert cost.hours == pytest.approx(2 + setup / 3600)
    assert cost.low_hours == pytest.approx(1 + setup / 3600)
    assert cost.high_hours == pytest.approx(4 + setup / 3600)
    assert cost.setup_hours == pytest.approx(setup / 3600)
    assert cost.usd == pytest.approx(cost.hours * 2 * 2.0)
    assert cost.usd_low == pytest.approx(cost.low_hours * 2 * 1.0)
    assert cost.usd_high == pytest.approx(cost.high_hours * 2 * 5.0)
    assert cost.price_as_of == "2026-10"


def test_the_last_step_of_an_epoch_runs_what_is_left() -> None:
    one, found = planned(grad_accumulation=10)
    ten, fifteen = (run_cost(one, found, step(), Job(tokens=n * 100, sequences=n)) for n in (10, 15))

    assert ten is not None
    assert fifteen is not None
    assert (ten.steps, fifteen.steps) == (1, 2)
    assert (fifteen.hours - ten.hours) * 3600 == pytest.approx(0.5)


def test_no_cost_without_data_without_time_and_for_rl() -> None:
    one, found = planned()

    assert run_cost(one, found, step(), Job()) is None
    assert run_cost(one, found, None, Job(tokens=1000)) is None
    assert run_cost(one, found, step(), Job(tokens=1000, task="rl")) is None


def test_no_price_no_money() -> None:
    one, found = planned()
    free = replace(one, cluster=Cluster(gpu=replace(one.cluster.gpu, price=None)))

    cost = run_cost(free, found, step(), Job(tokens=1000))

    assert cost is not None
    assert (cost.usd, cost.usd_low, cost.usd_high, cost.price_as_of) == (None, None, None, None)


@given(st.floats(0.01, 1e4), st.floats(1.0, 4.0), st.integers(1, 10**9))
def test_slower_dearer_and_more_never_cost_less(seconds: float, factor: float, tokens: int) -> None:
    one, found = RUN
    dear = replace(PRICE, typical_usd=2.0 * factor)
    pricier = replace(one, cluster=replace(one.cluster, gpu=replace(one.cluster.gpu, price=dear)))
    base = run_cost(one, found, step(seconds), Job(tokens=tokens))
    slower = run_cost(one, found, step(seconds * factor), Job(tokens=tokens))
    dearer = run_cost(pricier, found, step(seconds), Job(tokens=tokens))
    more = run_cost(one, found, step(seconds), Job(tokens=ceil(tokens * factor)))

    for other in (slower, dearer, more):
        assert base is not None
        assert other is not None
        assert (base.usd or 0) <= (other.usd or 0) * (1 + 1e-12)
        assert base.hours <= other.hours * (1 + 1e-12)


RUN = planned()


# ---------------------------------------------------------------- setup, disk, host memory


def test_setup_is_download_disk_bus_and_quantising() -> None:
    one, found = planned()
    gpu: Gpu = one.cluster.gpu
    checkpoint = checkpoint_bytes(one.model)

    assert gpu.pcie_bytes_per_s is not None
    assert setup_seconds(one, found) == pytest.approx(
        checkpoint / 125e6 + checkpoint / 1e9 + checkpoint / gpu.pcie_bytes_per_s
    )
    fast = replace(ASSUMED, download_gbps=10)
    assert setup_seconds(one, found) - setup_seconds(one, found, fast) == pytest.approx(checkpoint / 125e6 * 0.9)


def test_quantising_on_load_reads_16_bits_and_costs_little() -> None:
    lora, qlora = planned(), planned("qlora")
    more = setup_seconds(*qlora) - setup_seconds(*lora)

    assert 0 < more < 1
    assert more == pytest.approx(
        2.5 * qlora[1].parameters.quantized / (0.2 * qlora[0].cluster.gpu.bandwidth_bytes_per_s)
    )


@pytest.mark.parametrize(
    ("name", "gb"),
    [("llama-3.1-8b", 16.1), ("gpt2", 0.5), ("deepseek-v3", 687), ("gpt-oss-20b", 13.8)],
)
def test_checkpoints_have_the_size_that_the_hub_shows(name: str, gb: float) -> None:
    """Totals of the safetensors on the Hub; GPT-2's file is fp32, V3's has a layer more (14 GB) than the text class."""
    assert checkpoint_bytes(load_model(name).model) / 1e9 == pytest.approx(gb, rel=0.05)


def test_disk_holds_the_download_saved_checkpoints_and_data() -> None:
    one, found = planned()
    full, states = planned("full")

    adapters = 4 * found.parameters.trainable + found.phases["optimizer_step"].optimizer
    assert saved_bytes(one, found) == adapters
    assert disk_bytes(one, found, Job(tokens=10**6)) == checkpoint_bytes(one.model) + 3 * adapters + 13 * 10**6
    assert disk_bytes(one, found, Job(), replace(ASSUMED, kept=1)) == checkpoint_bytes(one.model) + 2 * adapters
    whole = disk_bytes(full, states, Job())
    assert whole > 3 * (2 * states.parameters.total + states.phases["optimizer_step"].optimizer)


def test_shards_of_states_are_saved_whole() -> None:
    two, four = (planned("full", gpus=gpus, sharding="fsdp") for gpus in (2, 4))

    assert saved_bytes(*four) == pytest.approx(saved_bytes(*two), rel=0.001)
    assert four[1].phases["optimizer_step"].optimizer < 0.6 * two[1].phases["optimizer_step"].optimizer


def test_host_memory_follows_who_builds_the_model() -> None:
    weights = 2 * planned()[1].parameters.total

    assert PROCESS_BYTES < host_bytes(*planned()) < weights / 8 + PROCESS_BYTES  # TRL loads onto the one card
    assert host_bytes(*planned(gpus=4, sharding="ddp")) == pytest.approx(4 * (weights + PROCESS_BYTES), rel=0.02)
    assert host_bytes(*planned(gpus=4, sharding="fsdp")) == pytest.approx(weights + 4 * PROCESS_BYTES, rel=0.02)
    assert PROCESS_BYTES < host_bytes(*planned("qlora")) < weights / 8 + PROCESS_BYTES


def test_paged_states_are_host_memory() -> None:
    one, found = planned("qlora", optimizer="paged_adamw_32bit")

    assert found.peak.managed_bytes > 0
    assert found.host.optimizer == found.peak.managed_bytes
    assert host_bytes(one, found) == found.host.required_on(one.cluster) + PROCESS_BYTES
