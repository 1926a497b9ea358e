"""What must hold of every scenario, whatever its numbers: properties over random models, methods and settings."""

from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.explain import RECOMPUTED, itemise, saved_bytes
from planner.errors import UnsupportedScenario
from planner.hardware import load_gpu
from planner.result import Estimate
from planner.spec import OPTIMIZERS, Cluster, ModelSpec, Scenario
from planner.stacks import resolve

MODELS = (
    "llama-3.2-1b",
    "llama-3.1-8b",
    "qwen2.5-0.5b",
    "qwen3-4b",
    "gemma-2-2b",
    "gemma-3-1b",
    "phi-3-mini",
    "pythia-410m",
    "gpt2",
    "olmo-2-1b",
    "qwen3-30b-a3b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
)
STACKS = ("plain", "hf", "trl", "trl,trl=1.7", "hf,transformers=4.48.1,torch=2.4.1")


THRESHOLDS = ("adamw_8bit", "lion_8bit", "paged_adamw_8bit", "paged_adamw_32bit")
"""bitsandbytes keeps tensors below 4096 elements in fp32 and pages none below 1e5, so a smaller shard can cost more."""

law = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@cache
def model(name: str) -> ModelSpec:
    """A catalogue model."""
    return load_model(name).model


@cache
def cluster(gpu: str, gpus: int) -> Cluster:
    """Cards of one kind."""
    return Cluster(gpu=load_gpu(gpu), gpus=gpus)


@st.composite
def scenarios(draw: st.DrawFn, /, **fixed: Any) -> Scenario:
    """A random question that the libraries could run."""
    gpus = draw(st.sampled_from((1, 1, 2, 8)))
    chosen: dict[str, Any] = {
        "seq_len": draw(st.sampled_from((128, 512, 2048, 3000))),
        "micro_batch_size": draw(st.integers(1, 6)),
        "grad_accumulation": draw(st.sampled_from((1, 4))),
        "gradient_checkpointing": draw(st.booleans()),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "kernels": draw(st.sampled_from(("eager", "fused"))),
        "loss": draw(st.sampled_from(("full", "chunked", "fused"))),
        "lora_rank": draw(st.sampled_from((4, 16, 64))),
        "double_quant": draw(st.booleans()),
        "quant": draw(st.sampled_from(("nf4", "fp4", "int8"))),
        "weights_dtype": draw(st.sampled_from(("bf16", "fp32"))),
        "autocast": draw(st.sampled_from(("none", "bf16"))),
        "sharding": "none" if gpus == 1 else draw(st.sampled_from(("ddp", "zero1", "zero2", "zero3", "fsdp"))),
    }
    method = draw(st.sampled_from(("full", "lora", "qlora")))
    method = fixed.pop("method", method)
    name, stack = draw(st.sampled_from(MODELS)), draw(st.sampled_from(STACKS))
    try:
        return resolve(model(name), cluster("a100-80gb", gpus), method, {**chosen, **fixed}, stack)
    except UnsupportedScenario:
        assume(False)
        raise


def with_(scenario: Scenario, **changes: Any) -> Estimate:
    """The estimate with some settings changed."""
    return estimate(replace(scenario, train=replace(scenario.train, **changes)))


def states(found: Estimate) -> int:
    """Weights, adapters, gradients and optimizer states when the optimizer steps."""
    memory = found.phases["optimizer_step"]
    return memory.weights + memory.adapters + memory.gradients + memory.optimizer


@law
@given(scenarios())
def test_every_number_is_whole_and_none_is_negative(scenario: Scenario) -> None:
    found = estimate(scenario)

    for memory in found.phases.values():
        assert all(type(size) is int and size >= 0 for size in memory)
    assert 0 <= found.parameters.quantized <= found.parameters.total
    assert found.parameters.trainable > 0


@law
@given(scenarios())
def test_the_peak_is_the_largest_phase(scenario: Scenario) -> None:
    found = estimate(scenario)

    assert found.peak.allocated_bytes == max(memory.total for memory in found.phases.values())
    assert found.peak.allocated_bytes == found.phases[found.peak.phase].total


@law
@given(scenarios())
def test_allocated_reserved_device_in_this_order(scenario: Scenario) -> None:
    peak = estimate(scenario).peak

    assert peak.allocated_bytes <= peak.reserved_bytes <= peak.device_bytes
    assert peak.low_bytes <= peak.required_bytes <= peak.high_bytes
    assert peak.allocated_bytes < peak.required_bytes


@law
@given(scenarios())
def test_the_same_question_has_the_same_answer(scenario: Scenario) -> None:
    assert estimate(scenario) == estimate(replace(scenario, origins={}))


@law
@given(scenarios(), st.integers(1, 5))
def test_a_larger_batch_never_shrinks_the_bill(scenario: Scenario, more: int) -> None:
    larger = with_(scenario, micro_batch_size=scenario.train.micro_batch_size + more)

    for phase, memory in estimate(scenario).phases.items():
        assert larger.phases[phase].total >= memory.total, phase


@law
@given(scenarios(), st.integers(1, 4000))
def test_a_longer_sequence_never_shrinks_the_bill(scenario: Scenario, more: int) -> None:
    larger = with_(scenario, seq_len=scenario.train.seq_len + more)

    for phase, memory in estimate(scenario).phases.items():
        assert larger.phases[phase].total >= memory.total, phase


@law
@given(scenarios(method="lora", optimizer="adamw_fused"), st.integers(1, 64))
def test_a_higher_rank_never_shrinks_the_bill(scenario: Scenario, more: int) -> None:
    larger = with_(scenario, lora_rank=scenario.train.lora_rank + more)

    assert larger.parameters.trainable > estimate(scenario).parameters.trainable
    assert larger.peak.required_bytes >= estimate(scenario).peak.required_bytes


@law
@given(scenarios(), st.integers(1, 3))
def test_more_layers_never_shrink_the_bill(scenario: Scenario, more: int) -> None:
    deeper = replace(scenario.model, layout=(*scenario.model.layout, *scenario.model.layout[-1:] * more))

    assert estimate(replace(scenario, model=deeper)).peak.required_bytes >= estimate(scenario).peak.required_bytes


@law
@given(scenarios())
def test_checkpointing_never_raises_what_waits_for_backward(scenario: Scenario) -> None:
    on = replace(scenario, train=replace(scenario.train, gradient_checkpointing=True))
    off = replace(scenario, train=replace(scenario.train, gradient_checkpointing=False))

    assert saved_bytes(on) <= saved_bytes(off)


@law
@given(scenarios())
def test_the_itemised_list_is_the_number(scenario: Scenario) -> None:
    kept = [item.bytes for item in itemise(scenario) if item.group != RECOMPUTED]

    assert sum(kept) == saved_bytes(scenario)


@law
@given(scenarios(autocast="none", weights_dtype="bf16"), st.sampled_from((2, 8, 64)))
def test_a_higher_zero_stage_never_costs_more_state(scenario: Scenario, ranks: int) -> None:
    assume(scenario.train.optimizer not in THRESHOLDS)
    spread = replace(scenario, cluster=replace(scenario.cluster, gpus=ranks))
    bills = [states(with_(spread, sharding=kind)) for kind in ("zero1", "zero2", "zero3")]

    assert bills == sorted(bills, reverse=True)


@law
@given(scenarios(), st.sampled_from(("zero1", "zero2", "zero3", "fsdp")))
def test_more_ranks_never_cost_more_state(scenario: Scenario, sharding: str) -> None:
    assume(scenario.train.optimizer not in THRESHOLDS)
    some = replace(scenario, cluster=replace(scenario.cluster, gpus=4))
    many = replace(scenario, cluster=replace(scenario.cluster, gpus=8))

    assert states(with_(many, sharding=sharding)) <= states(with_(some, sharding=sharding))


@law
@given(scenarios())
def test_frozen_weights_have_no_gradients_and_no_states(scenario: Scenario) -> None:
    assume(scenario.train.uses_adapters and scenario.cluster.world_size == 1)
    found = estimate(scenario)
    memory = found.phases["optimizer_step"]

    assert memory.gradients <= 4 * found.parameters.trainable
    # two fp32 moments, and a step counter of 512 bytes for each of fewer tensors than parameters / 64
    assert memory.optimizer + found.peak.managed_bytes <= 16 * found.parameters.trainable


@law
@given(scenarios(method="qlora"))
def test_double_quantisation_never_costs_weights(scenario: Scenario) -> None:
    assume(scenario.train.quant != "int8")
    nested, plain = with_(scenario, double_quant=True), with_(scenario, double_quant=False)

    assert nested.phases["load"].weights <= plain.phases["load"].weights
