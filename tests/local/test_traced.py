"""On a machine without a card, the traced plan of ``--gpu local`` is what ``plan measure`` finds there."""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.closed_form import estimate as closed_form
from planner.families import model_from_config
from planner.local import processor_card
from planner.planning import estimate
from planner.spec import Cluster, Method
from planner.stacks import resolve
from tests.measure.conftest import TINY

pytest.importorskip("torch")

from planner.measure import measure

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_traced_plan_of_the_processor_is_what_is_measured(method: Method) -> None:
    model = model_from_config({**TINY, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 2048}, name="tiny")
    scenario = resolve(model, Cluster(gpu=processor_card()), method, {"seq_len": 64}, "plain")

    predicted = estimate(scenario, "traced")
    measured = measure(scenario, "cpu", steps=2)

    assert measured.outcome == "done"
    assert measured.peak is not None
    assert predicted.peak.allocated_bytes == pytest.approx(measured.peak.allocated_bytes, rel=0.01)
    assert predicted.peak.allocated_bytes == predicted.peak.reserved_bytes == predicted.peak.required_bytes


def test_no_workspace_of_cublas_is_in_either_estimate() -> None:
    scenario = resolve(
        model_from_config(dict(TINY), name="tiny"), Cluster(gpu=processor_card()), "lora", {"seq_len": 64}
    )

    assert all(memory.temporaries < 2**20 for memory in closed_form(scenario).phases.values())
    assert all(memory.temporaries < 2**20 for memory in estimate(scenario, "traced").phases.values())


def test_a_trace_of_the_processor_has_no_caching_allocator(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(TINY)), encoding="utf-8")

    code = main(["trace", "--model", str(tmp_path), "--gpu", "local", "--method", "lora", "--seq-len", "64"])

    printed = capfd.readouterr()
    assert (code, printed.err) == (0, "")
    assert "Alive at the peak" in printed.out
    assert "caching allocator" not in printed.out
