"""The whole command on the CPU: traced with CPU semantics within 1 % of measured, in every phase of every method."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.units import MIB
from tests.measure.conftest import TINY, Start

for library in ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(library)

pytestmark = pytest.mark.torch

TOLERANCE = 0.01
FAMILIES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the configuration of a model whose phases all take more than a MiB."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 2048, "num_hidden_layers": 2, "head_dim": 64}
    config = {**TINY, **sizes, "model_type": request.param, "architectures": [FAMILIES[request.param]]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}), encoding="utf-8")
    return tmp_path


def measured(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main(["measure", "--format", "json", "--no-store", *map(str, arguments)])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    return json.loads(printed.out)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_phase_is_within_a_hundredth(
    capsys: pytest.CaptureFixture[str], start: Start, family: Path, method: str
) -> None:
    started = start()
    found = measured(capsys, "--model", family, "--method", method, "--stack", "hf", "--seq-len", 128)
    rows = [row for row in found["comparison"] if row["measured_bytes"] > MIB]

    assert len(started) == 2  # one traced, one took the steps
    assert len(rows) == 9
    assert max(abs(row["difference"]) for row in rows) < TOLERANCE, rows
    assert (found["outcome"], len(found["steps"]), found["predicted"]["evidence"]) == ("done", 3, "traced")
    assert found["predicted"]["steady"][0]["owners"]["weights"] == found["owners"]["weights"]


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_ragged_lengths_are_predicted_and_measured_over_the_same_steps(
    capsys: pytest.CaptureFixture[str], start: Start, family: Path, tmp_path: Path
) -> None:
    lengths = tmp_path / "lengths"
    lengths.write_text("32\n128, 2\n64\n", encoding="utf-8")
    start()
    found = measured(capsys, "--model", family, "--method", "lora", "--stack", "trl", "--lengths", lengths)

    assert found["lengths"][0] == 128
    assert sorted(found["lengths"][1:]) == [32, 64, 128, 128]
    assert [step["tokens"] for step in found["steps"]] == found["lengths"]
    assert max(abs(row["difference"]) for row in found["comparison"]) < TOLERANCE
    assert {row["step"] for row in found["comparison"]} == {"", "first", "steady"}
