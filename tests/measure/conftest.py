"""A tiny model on disk, its scenario, and results made by hand."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from planner.families import model_from_config
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks, child, ranks
from planner.measure.here import card_of_device, cpu_here
from planner.measure.task import Task
from planner.result import Memory, Phase
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from tests.measure.forked import Forked, starter

TINY: Mapping[str, object] = MappingProxyType(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
)

PEAKS: Mapping[Phase, int] = {"forward": 2000, "loss": 4000, "backward": 5000, "optimizer_step": 3000}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a ``config.json``."""
    (tmp_path / "config.json").write_text(json.dumps(dict(TINY)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def scenario() -> Scenario:
    """LoRA on the tiny model, on this machine's processor, in a bare loop."""
    cluster = Cluster(gpu=card_of_device(cpu_here()))
    settings = {"seq_len": 16, "gradient_checkpointing": False}
    return resolve(model_from_config(dict(TINY), name="tiny"), cluster, "lora", settings, "plain")


@pytest.fixture
def prediction() -> Prediction:
    """1 % below what ``measured`` finds, in every phase."""
    phases = {phase: Memory(weights=count * 99 // 100) for phase, count in PEAKS.items()}
    return Prediction("traced", Memory(weights=990), phases, phases)


@pytest.fixture
def measured(scenario: Scenario) -> Callable[..., Measurement]:
    """A measurement of two steps with changes."""

    def make(**changes: Any) -> Measurement:
        phases = tuple(PhasePeak(phase, count) for phase, count in PEAKS.items())
        facts: dict[str, Any] = {
            "scenario": scenario,
            "layers": None,
            "outcome": "done",
            "device": Device("cpu", "A processor", 2**34),
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "owners": {"weights": 900, "adapters": 100, "optimizer": 200, "gradients": 100},
            "load": PhasePeak("load", 1000),
            "steps": (StepPeaks(0, 0.5, phases), StepPeaks(1, 0.25, phases)),
        }
        return Measurement(**{**facts, **changes})

    return make


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Hours pass at once for those who watch children: a busy machine reaches any place that a test waits for."""
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    for module in (child, ranks):
        monkeypatch.setattr(module, "time", clock)

    def pass_now() -> None:
        passed[0] += 3600

    return pass_now


Start = Callable[..., list[Forked]]
"""Lets children be forked; its arguments are those of ``starter``, its result the processes that will be started."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Real children that start in a moment; the first one waits until the libraries are loaded."""
    for name, value in {**child.QUIET, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)

    def use(*arguments: Any) -> list[Forked]:
        monkeypatch.setattr(child, "_start", starter([]))
        child.run_child(Task(kind="look"), timeout=300, tell=lambda _line: None)
        started: list[Forked] = []
        monkeypatch.setattr(child, "_start", starter(started, *arguments))
        return started

    return use
