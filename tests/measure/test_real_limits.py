"""The two that take several real children: a limit under a cap, and a model measured by its first layers."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from planner.families import model_from_config
from planner.measure import Measurement, Prediction, measure, predict
from planner.measure.here import card_of_device, cpu_here
from planner.measure.limit import limit_record, search_limit
from planner.measure.truncation import depth_of, measure_truncated
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from planner.units import MIB
from tests.measure.conftest import TINY, Start

pytestmark = pytest.mark.torch

WIDE: Mapping[str, object] = MappingProxyType({**TINY, "hidden_size": 128, "vocab_size": 16384, "num_hidden_layers": 5})
"""A sequence of 64 tokens takes 20 MiB of logits and their like: more than a process takes beside its tensors."""
CAP = 256 * MIB


@pytest.fixture
def wide(start: Start) -> Scenario:
    """Its children are forked, since there are many."""
    for library in ("torch", "transformers", "accelerate", "peft"):
        pytest.importorskip(library)
    start()
    cluster = Cluster(gpu=card_of_device(cpu_here()))
    return resolve(model_from_config(dict(WIDE), name="wide"), cluster, "lora", {"seq_len": 64}, "plain")


def test_a_real_limit_under_a_cap(wide: Scenario) -> None:
    device = cpu_here()

    def run(scenario: Scenario) -> Measurement:
        return measure(scenario, "cpu", steps=1, warmup=0, cap_bytes=CAP)

    def trace(scenario: Scenario) -> Prediction:
        return predict(scenario, "cpu")

    limit = search_limit(wide, "micro_batch_size", device, predict=trace, measure=run, cap_bytes=CAP, repeat=False)

    found, predicted = limit.found, limit.predicted["traced"]
    assert found.exact, (found.stopped, found.probes)
    assert found.largest is not None
    assert predicted is not None
    assert found.failed == found.largest + 1
    # what the process takes beside tensors is not of the cap, but for a few MiB
    assert predicted - 2 <= found.largest <= predicted + 1
    peak = limit.best.peak if limit.best else None
    assert peak is not None
    assert 0.75 * CAP <= peak.allocated_bytes <= CAP
    assert limit_record(limit).outcome == "done"


def test_a_model_by_its_first_layers(wide: Scenario) -> None:
    def run(layers: int) -> Measurement:
        return measure(wide, "cpu", steps=2, layers=layers)

    found = measure_truncated(
        depth_of(wide), lambda layers: layers <= 4, run, lambda layers: predict(wide, "cpu", layers=layers)
    )
    whole = predict(wide, "cpu")

    assert [one.layers for one in found.runs] == [2, 3, 4]
    assert found.check.basis == "held out"
    assert abs(found.error) < 0.01
    assert found.whole.peak is not None
    assert found.whole.peak.allocated_bytes == pytest.approx(whole.peak_bytes, rel=0.01)
    measured = {peak.phase: peak.allocated_bytes for peak in found.whole.steps[-1].phases}
    assert measured == pytest.approx({phase: memory.total for phase, memory in whole.steady.items()}, rel=0.01)
