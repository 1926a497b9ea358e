"""Seconds and cost of references and completions: counts by hand, bounds that say that they are stated."""

from typing import Any

import pytest

from planner.closed_form.estimator import estimate
from planner.cost import load_of, run_cost
from planner.planning import scenario
from planner.result import StepTime
from planner.spec import Job, Scenario
from planner.throughput import step_time
from planner.throughput.passes import Pass, forward_pass, pass_seconds
from planner.throughput.rates import rates_of


def of(method: str = "lora", **settings: Any) -> Scenario:
    return scenario(model="llama-3.1-8b", gpu="h100", method=method, **settings)  # type: ignore[arg-type]


def timed(one: Scenario) -> StepTime:
    found = step_time(one, estimate(one))
    assert found is not None
    return found


def test_a_pass_over_few_tokens_takes_as_long_as_weights_and_cache_take_to_be_read() -> None:
    """1000 bytes of weights and 500 of cache at 1 byte a second, beside 2 * 3 FLOPs at 1 a second; no launches."""
    rates = rates_of(of())
    assert rates is not None
    slow = rates._replace(flops_per_s=1.0, bytes_per_s=1.0, attention_flops_per_s=1.0, kernel_s=0.0)
    one = Pass(products=3, head=0, attention=0.0, moved=0.0, weights=1000, dequantised=0.0, kernels=10)

    assert pass_seconds(one, slow, tokens=2, attended=0, scored=0, cached=500) == pytest.approx(1500)
    assert pass_seconds(one, slow, tokens=900, attended=0, scored=0) == pytest.approx(2700)
    assert pass_seconds(one, slow, tokens=2, attended=0, scored=0, gather=9000) == pytest.approx(9000)


def test_a_pass_counts_two_operations_for_each_parameter_and_token() -> None:
    one = forward_pass(of("full"))

    assert one.products + one.head == pytest.approx(2 * (8_030_261_248 - 128_256 * 4096), rel=0.001)


def test_a_reference_takes_its_forward_pass_and_none_takes_nothing() -> None:
    with_base, without = timed(of(objective="dpo")), timed(of(objective="dpo", reference="none"))

    assert with_base.seconds == pytest.approx(without.seconds + with_base.parts["reference"])
    assert "reference" not in without.parts
    assert 0.1 < with_base.parts["reference"] / without.seconds < 0.5


def test_longer_completions_take_longer_and_each_token_reads_the_weights() -> None:
    some = [timed(of("full", objective="grpo", micro_batch_size=8, completion_len=c)) for c in (128, 256)]
    first, second = (found.parts["generate"] for found in some)
    weights = 2 * 8_030_261_248 / 3.35e12

    assert 1.9 < second / first < 2.1
    assert second > 255 * weights


def test_bounds_of_what_nobody_measured_are_stated() -> None:
    found = timed(of(objective="grpo", micro_batch_size=8))

    assert found.basis.kind == "stated"
    assert [found.low, found.high] == pytest.approx([found.seconds / 2, found.seconds * 2])
    assert timed(of()).basis.kind == "published"


def test_prompts_become_groups_and_pairs_are_two_sequences() -> None:
    """1,000 prompts of 8 completions, 8 a step; 1,000 sequences of pairs, 2 a step."""
    job = Job(task="rl", sequences=1000, tokens=100_000)
    grpo, dpo = of(objective="grpo", micro_batch_size=8), of(objective="dpo")
    costs = [run_cost(one, estimate(one), timed(one), job) for one in (grpo, dpo)]

    assert costs[0] is not None
    assert costs[0].steps == 1000
    assert run_cost(dpo, estimate(dpo), timed(dpo), Job(task="dpo", sequences=1000)).steps == 500  # type: ignore[union-attr]


def test_data_are_prompts_and_completions_come_on_top() -> None:
    found = load_of(of(objective="grpo", micro_batch_size=8).train, Job(tokens=100_000, sequences=1000))

    assert found is not None
    assert (found.tokens, found.attended) == (8 * (100 + 512), 612)
