"""Laws that hold for every scenario, tried on random ones over a dozen architectures.

Where a library switches at a threshold of its own, a law has a gap there, and the gap is listed beside it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.explain import RECOMPUTED, itemise, saved_bytes
from planner.closed_form.profile import profile_of
from planner.errors import UnsupportedScenario
from planner.formulas.loss import unsloth_chunks
from planner.hardware import load_gpu
from planner.result import OWNERS, PHASES, Estimate
from planner.spec import METHODS, OPTIMIZERS, Cluster, Method, ModelSpec, Scenario
from planner.stacks import resolve

NAMES = (
    "llama-3.2-1b", "qwen3-8b", "gemma-2-2b", "gemma-3-4b", "phi-3-mini", "gpt2", "pythia-1b", "opt-350m", "falcon-7b",
    "bloom-560m", "starcoder2-3b", "command-r-35b", "olmo-2-7b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite",
    "gpt-oss-20b", "llama-4-scout",
)  # fmt: skip
MODELS: dict[str, ModelSpec] = {name: load_model(name).model for name in NAMES}
CARDS = {name: load_gpu(name) for name in ("a100-80gb", "h100", "rtx4090", "t4", "dgx-spark")}
STACKS = (
    "plain", "hf", "trl", "hf,transformers=4.48.1", "hf,transformers=4.45.2,peft=0.11", "trl,trl=1.7", "trl,trl=0.24",
    "plain,transformers=4.30", "axolotl", "llamafactory", "unsloth", "torchtune", "unsloth,unsloth=2025.1",
)  # fmt: skip
SHARDED = ("ddp", "zero1", "zero2", "zero3", "fsdp")

EIGHT_BIT = ("adamw_8bit", "lion_8bit", "paged_adamw_8bit")
"""Below 4,096 elements bitsandbytes keeps fp32 states: a tensor that grows over the threshold gets cheaper, and one
that is divided among ranks until it falls below gets dearer."""

PAGED = ("paged_adamw_8bit", "paged_adamw_32bit")
"""From 100,000 elements on states are managed memory: a tensor that grows over the threshold leaves the card."""

quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

# ---------------------------------------------------------------- scenarios


def options(draw: st.DrawFn, model: ModelSpec, card: str) -> dict[str, Any]:
    """Settings of every kind; the attention is one that class and card have."""
    kernels = [name for name in model.attends if name != "flash" or CARDS[card].supports_flash]
    return {
        "seq_len": draw(st.integers(1, 8192)),
        "micro_batch_size": draw(st.integers(1, 16)),
        "grad_accumulation": draw(st.sampled_from([1, 1, 4])),
        "lora_rank": draw(st.integers(1, 256)),
        "lora_dropout": draw(st.sampled_from([0.0, 0.1])),
        "adapter_dtype": draw(st.sampled_from([None, "fp32", "bf16"])),
        "quant": draw(st.sampled_from(["nf4", "fp4", "int8"])),
        "double_quant": draw(st.booleans()),
        "weights_dtype": draw(st.sampled_from([None, "bf16", "fp32"])),
        "autocast": draw(st.sampled_from([None, "none", "bf16"])),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "gradient_checkpointing": draw(st.booleans()),
        "attention": draw(st.sampled_from(kernels)),
        "kernels": draw(st.sampled_from(["eager", "fused"])),
        "loss": draw(st.sampled_from([None, "full", "chunked", "fused"])),
    }


@st.composite
def scenarios(
    draw: st.DrawFn, /, *, methods: tuple[Method, ...] = METHODS, sharded: bool | None = None, **fixed: Any
) -> Scenario:
    """Any scenario; ``fixed`` settings win over drawn ones."""
    model, card = MODELS[draw(st.sampled_from(NAMES))], draw(st.sampled_from(list(CARDS)))
    method, stack = draw(st.sampled_from(methods)), draw(st.sampled_from(STACKS))
    several = draw(st.booleans()) if sharded is None else sharded
    gpus = draw(st.sampled_from([2, 3, 8])) if several else 1
    chosen = {**options(draw, model, card), **fixed}
    chosen["sharding"] = draw(st.sampled_from(SHARDED)) if several else None
    try:
        scenario = resolve(model, Cluster(gpu=CARDS[card], gpus=gpus), method, chosen, stack)
    except UnsupportedScenario:  # 8-bit weights in shards, FlashAttention-2 in fp32
        reject()
    # Gap: Unsloth's fused loss, which cuts into four what is over 4 GiB, and the more the less room there is.
    assume(scenario.train.loss != "fused" or scenario.stack.fused_loss != "unsloth")
    assume(runs(scenario))
    return scenario


def runs(scenario: Scenario) -> bool:
    """Whether the libraries could run it: PEFT has no dropout on stacked experts."""
    try:
        estimate(scenario)
    except UnsupportedScenario:
        return False
    return True


def changed(scenario: Scenario, **settings_: Any) -> Scenario:
    """The same question with other training settings."""
    return replace(scenario, train=replace(scenario.train, **settings_))


def deeper(scenario: Scenario, more: int) -> Scenario:
    """The same model with ``more`` layers like its last."""
    model = scenario.model
    return replace(
        scenario, model=replace(model, name=f"{model.name}+{more}", layout=model.layout + model.layout[-1:] * more)
    )


def state(scenario: Scenario) -> int:
    """Weights, adapters, gradients and optimizer states, on the card and in managed memory."""
    found = estimate(scenario)
    memory = found.phases["optimizer_step"]
    return memory.weights + memory.adapters + memory.gradients + memory.optimizer + found.peak.managed_bytes


def nothing_shrinks(before: Estimate, after: Estimate) -> None:
    """No phase and no figure of the peak is smaller."""
    for phase in PHASES:
        assert after.phases[phase].total >= before.phases[phase].total, phase
    assert after.peak.allocated_bytes >= before.peak.allocated_bytes
    assert after.peak.required_bytes >= before.peak.required_bytes
    assert after.peak.managed_bytes >= before.peak.managed_bytes


# ---------------------------------------------------------------- growth


@quick
@given(scenario=scenarios(), more=st.integers(1, 8))
def test_a_larger_batch_never_takes_less(scenario: Scenario, more: int) -> None:
    larger = changed(scenario, micro_batch_size=scenario.train.micro_batch_size + more)

    nothing_shrinks(estimate(scenario), estimate(larger))
    assert saved_bytes(larger) >= saved_bytes(scenario)


@quick
@given(scenario=scenarios(), more=st.integers(1, 4096))
def test_longer_sequences_never_take_less(scenario: Scenario, more: int) -> None:
    longer = changed(scenario, seq_len=scenario.train.seq_len + more)

    nothing_shrinks(estimate(scenario), estimate(longer))
    assert saved_bytes(longer) >= saved_bytes(scenario)


@quick
@given(scenario=scenarios(methods=("lora", "qlora")), more=st.integers(1, 64))
def test_a_higher_rank_never_takes_less(scenario: Scenario, more: int) -> None:
    # Gaps: 8-bit and paged optimizers, whose thresholds a growing A or B crosses.
    if scenario.train.optimizer in (*EIGHT_BIT, *PAGED):
        scenario = changed(scenario, optimizer="adamw_foreach")

    nothing_shrinks(estimate(scenario), estimate(changed(scenario, lora_rank=scenario.train.lora_rank + more)))


@quick
@given(scenario=scenarios(), more=st.integers(1, 12))
def test_more_layers_never_take_less(scenario: Scenario, more: int) -> None:
    nothing_shrinks(estimate(scenario), estimate(deeper(scenario, more)))


@quick
@given(scenario=scenarios())
def test_accumulating_gradients_never_lowers_forward_and_loss(scenario: Scenario) -> None:
    # gradients of earlier micro-steps stand beside the activations
    once, often = (estimate(changed(scenario, grad_accumulation=steps)) for steps in (1, 4))

    for phase in ("forward", "loss"):
        assert often.phases[phase].total >= once.phases[phase].total
        assert often.phases[phase].gradients >= once.phases[phase].gradients


@quick
@given(scenario=scenarios())
def test_saved_bytes_are_linear_in_the_batch(scenario: Scenario) -> None:
    # Gaps: heads in tiles (their statistics grow with tokens, their tiles stop), the shifted copy of two sequences on,
    # and eager attention, which copies heads from two sequences on: so three batches above one, and the full loss.
    three = [saved_bytes(changed(scenario, micro_batch_size=b, loss="full")) for b in (2, 3, 4)]

    assert three[1] - three[0] == three[2] - three[1]


# ---------------------------------------------------------------- choices that save


@quick
@given(scenario=scenarios())
def test_checkpointing_never_raises_saved_activations(scenario: Scenario) -> None:
    with_, without = (changed(scenario, gradient_checkpointing=on) for on in (True, False))

    assert saved_bytes(with_) <= saved_bytes(without)


@quick
@given(scenario=scenarios(sharded=True))
def test_a_higher_zero_stage_never_costs_more_state(scenario: Scenario) -> None:
    # Gap: stage 0 is DDP, which has no fp32 master weights; from stage 1 on 16-bit parameters have them.
    one, two, three = (state(changed(scenario, sharding=f"zero{stage}")) for stage in (1, 2, 3))

    assert one >= two >= three


@quick
@given(scenario=scenarios(sharded=True))
def test_more_ranks_never_cost_more_state(scenario: Scenario) -> None:
    # Gap: 8-bit optimizers, whose shards fall below 4,096 elements.
    if scenario.train.optimizer in EIGHT_BIT:
        scenario = changed(scenario, optimizer="adamw_fused")
    found = [state(replace(scenario, cluster=replace(scenario.cluster, gpus=gpus))) for gpus in (2, 4, 16, 64)]

    assert found == sorted(found, reverse=True)


@quick
@given(scenario=scenarios(methods=("qlora",)))
def test_double_quantisation_never_costs_more_weights(scenario: Scenario) -> None:
    twice, once = (estimate(changed(scenario, quant="nf4", double_quant=on)) for on in (True, False))

    assert twice.phases["load"].weights <= once.phases["load"].weights


@quick
@given(scenario=scenarios(methods=("lora",), weights_dtype="bf16"))
def test_a_quantised_base_never_costs_more_weights(scenario: Scenario) -> None:
    # Gap: k-bit preparation widens what is not quantised, and so do shards that bytes cannot be divided into.
    if scenario.stack.kbit_upcast != "none" or scenario.cluster.world_size > 1:
        return
    plain = estimate(scenario).phases["load"].weights

    for quant in ("nf4", "fp4", "int8"):
        assert estimate(changed(scenario, method="qlora", quant=quant)).phases["load"].weights <= plain


# ---------------------------------------------------------------- what is frozen


@quick
@given(scenario=scenarios(methods=("lora", "qlora"), grad_accumulation=1))
def test_frozen_weights_have_no_gradients_and_no_states(scenario: Scenario) -> None:
    found, inventory = estimate(scenario), profile_of(scenario).inventory
    trained = inventory.trainable * inventory.trained_bytes
    # at most: two fp32 moments and an fp32 master, and a 512-byte step counter per tensor
    tensors = sum(tensor.copies for tensor in inventory.trained)

    assert inventory.trainable < inventory.parameters.total
    for memory in found.phases.values():
        assert memory.gradients <= trained
        assert memory.optimizer <= 12 * inventory.trainable + 512 * tensors
    assert found.peak.managed_bytes <= 8 * inventory.trainable


@quick
@given(scenario=scenarios(methods=("full",)))
def test_full_fine_tuning_trains_everything_and_adds_no_adapters(scenario: Scenario) -> None:
    found = estimate(scenario)

    assert found.parameters.trainable == found.parameters.total
    assert found.parameters.quantized == 0
    assert all(memory.adapters == 0 for memory in found.phases.values())


@quick
@given(scenario=scenarios(methods=("lora", "qlora")))
def test_freezing_never_costs_more_state_than_training_all(scenario: Scenario) -> None:
    # Gap: 2-byte pure-bf16 training against fp32 adapters of a rank near the width of the matrices.
    scenario = changed(scenario, lora_rank=min(scenario.train.lora_rank, 16), optimizer="adamw_foreach")
    if scenario.model.is_moe or scenario.stack.kbit_upcast != "none":
        return

    assert state(changed(scenario, method="lora")) <= state(changed(scenario, method="full"))


# ---------------------------------------------------------------- every estimate


@quick
@given(scenario=scenarios())
def test_an_estimate_is_whole_numbers_that_add_up(scenario: Scenario) -> None:
    found = estimate(scenario)
    peak = found.peak

    assert tuple(found.phases) == PHASES
    for memory in found.phases.values():
        assert all(type(count) is int and count >= 0 for count in memory)
        assert sum(getattr(memory, owner) for owner in OWNERS) == memory.total <= peak.allocated_bytes
    assert found.phases[peak.phase].total == peak.allocated_bytes
    assert peak.allocated_bytes <= peak.reserved_bytes <= peak.device_bytes
    assert peak.allocated_bytes < peak.required_bytes
    assert 0 <= peak.low_bytes <= peak.required_bytes <= peak.high_bytes
    assert peak.managed_bytes >= 0
    assert 0 <= found.parameters.quantized <= found.parameters.total
    assert found.parameters.trainable > 0


@quick
@given(scenario=scenarios())
def test_an_estimate_depends_on_its_scenario_only(scenario: Scenario) -> None:
    again = replace(scenario, train=replace(scenario.train), cluster=replace(scenario.cluster))

    assert estimate(scenario) == estimate(again) == estimate(scenario)


@quick
@given(scenario=scenarios())
def test_the_itemised_list_sums_to_the_saved_bytes(scenario: Scenario) -> None:
    items = itemise(scenario)

    assert sum(item.bytes for item in items if item.group != RECOMPUTED) == saved_bytes(scenario)
    assert all(item.bytes >= 0 and item.copies >= 1 for item in items)


@quick
@given(scenario=scenarios(), headroom=st.integers(0, 2**33))
def test_headroom_changes_what_is_usable_and_not_what_is_needed(scenario: Scenario, headroom: int) -> None:
    narrower = replace(scenario, cluster=replace(scenario.cluster, headroom_bytes=headroom))

    assert narrower.cluster.usable_bytes <= scenario.cluster.usable_bytes
    assert estimate(narrower) == estimate(scenario)


# ---------------------------------------------------------------- the gaps are where we say


def lora_state(rank: int, optimizer: str) -> int:
    train = {"lora_rank": rank, "lora_targets": "q_proj", "optimizer": optimizer, "adapter_dtype": "fp32"}
    scenario = resolve(MODELS["llama-3.2-1b"], Cluster(gpu=CARDS["a100-80gb"]), "lora", train)
    return estimate(scenario).phases["optimizer_step"].optimizer


# Llama-3.2-1B, q_proj: A (r, 2048) and B (2048, r) in 16 layers. At r = 1 both have 2,048 elements, fp32 states of
# 8 bytes: 32 * 2048 * 8; at r = 2 both have 4,096, 8-bit states of 2 * (1 + 4/256) bytes: 32 * 4096 * 2.03125.
GAPS: list[tuple[str, Callable[[], int], int]] = [
    ("one chunk of Unsloth's loss up to 4 GiB", lambda: unsloth_chunks(2092, 128256, 40 * 2**30), 1),
    ("four chunks of Unsloth's loss from there on", lambda: unsloth_chunks(2093, 128256, 40 * 2**30), 4),
    ("8-bit states below 4,096 elements", lambda: lora_state(1, "adamw_8bit"), 32 * 2048 * 8),
    ("8-bit states from 4,096 elements on", lambda: lora_state(2, "adamw_8bit"), 32 * (4096 * 2 + 16 * 8)),
    # r = 48: 98,304 elements stay on the card; r = 49: 100,352 are managed
    ("paged states below 100,000 elements", lambda: lora_state(48, "paged_adamw_32bit"), 32 * 98_304 * 8),
    ("paged states from 100,000 elements on", lambda: lora_state(49, "paged_adamw_32bit"), 0),
]


@pytest.mark.parametrize(("title", "found", "expected"), GAPS, ids=[gap[0] for gap in GAPS])
def test_thresholds_of_the_libraries_are_the_gaps(title: str, found: Callable[[], int], expected: int) -> None:
    assert found() == expected, title
