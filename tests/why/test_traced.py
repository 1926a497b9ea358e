"""Against a trace: the plan is traced, the differences are added to it."""

import json
from pathlib import Path

import pytest

from planner.recommend.request import Request
from planner.why import Amount, Observation, diagnose
from tests.measure.conftest import TINY

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_differences_are_added_to_what_the_trace_predicts(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 8192, "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps({**TINY, **sizes}), encoding="utf-8")
    request = Request(
        model=str(tmp_path),
        gpu="4090",
        methods=("full",),
        settings={"seq_len": 256, "gradient_checkpointing": False},
        evidence="traced",
    )
    seen = Observation("allocated", Amount(2**30, 2**30))

    found = diagnose(request, observed=seen)

    assert found.candidate is not None
    assert found.expected is not None
    assert found.candidate.estimate.evidence == "traced"
    assert found.expected[0] == found.candidate.estimate.peak.allocated_bytes
    assert found.gap_bytes == 2**30 - found.expected[0]
    assert all(one.predicted_bytes == found.expected[0] + one.bytes for one in found.differences)
    assert "differences are closed-form estimates, added to what the trace predicts" in found.notes
