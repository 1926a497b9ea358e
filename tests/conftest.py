"""Fixtures for all tests: golden files, and plans built by hand for the renderers."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from planner.render import machine
from planner.result import (
    Candidate,
    Estimate,
    Memory,
    Parameters,
    Peak,
    Phase,
    Plan,
    Reason,
    Recommendation,
    Verdict,
    Way,
)
from planner.spec import Behaviour, Cluster, Gpu, Linear, Method, ModelSpec, Price, Scenario, TrainSpec
from planner.units import GIB
from tests.docs.published import complaints, kind_of

os.environ["FINETUNE_PLANNER_CACHE"] = "off"  # tests test the code, and leave nothing behind
os.environ["SOURCE_DATE_EPOCH"] = "1795651200"  # the day of docs/generate.py: prices age, tests do not
os.environ["PLANNER_DATA_DIR"] = "off"  # nor do they read what the user has measured

settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("shared", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("shared")  # a busy machine is no fault of the code, nor is a draw that nobody else will see

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a job in the background, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with ``tests/golden/NAME``; ``--update-golden`` writes it, for review as a diff."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; review, then run with --update-golden"

    return check


class _Judging:
    """Stands in for ``json`` where answers are written: each that has a published schema must be what that says."""

    @staticmethod
    def dumps(document: Any, **options: Any) -> str:
        text = json.dumps(document, **options)
        kind = kind_of(document) if isinstance(document, dict) else None
        assert kind is None or complaints(kind, json.loads(text)) == []
        return text


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test has the program print as JSON is held against the schema."""
    monkeypatch.setattr(machine, "json", _Judging)


# ---------------------------------------------------------------- plans by hand

MODEL = ModelSpec(
    name="Example-70B",
    model_type="llama",
    hidden_size=8192,
    vocab_size=128256,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
    embeddings=(),
    blocks=(),
    layout=(),
    lm_head=Linear("lm_head", 8192, 128256),
    final_norm=None,
    hub_id="example/Example-70B",
)

CARD = Gpu(
    id="4090",
    name="GeForce RTX 4090",
    vendor="nvidia",
    architecture="Ada",
    memory_bytes=int(23.5 * GIB),
    driver_bytes=24 * GIB,
    context_bytes=GIB // 2,
    bandwidth_bytes_per_s=1.008e12,
    peak_flops_per_s=MappingProxyType({"bf16": 165.2e12}),
    compute_capability=(8, 9),
    pcie_bytes_per_s=32e9,
    nvlink_bytes_per_s=None,
    supports_bf16=True,
    supports_flash=True,
    price=Price(low_usd=0.29, typical_usd=0.44, hyperscaler_usd=None, as_of="2026-11-01"),
)

BIG_CARD = Gpu(
    id="h100-sxm",
    name="H100 80GB HBM3",
    vendor="nvidia",
    architecture="Hopper",
    memory_bytes=int(79.18 * GIB),
    driver_bytes=80 * GIB,
    context_bytes=GIB // 2,
    bandwidth_bytes_per_s=3.35e12,
    peak_flops_per_s=MappingProxyType({"bf16": 989e12}),
    compute_capability=(9, 0),
    pcie_bytes_per_s=64e9,
    nvlink_bytes_per_s=450e9,
    supports_bf16=True,
    supports_flash=True,
)

STACK = Behaviour(
    name="trl",
    versions=MappingProxyType({"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0"}),
    kbit_upcast="none",
    holds_logits=False,
    logits_upcast="copy",
    logits_shift_copy=False,
    fused_experts=True,
    repeats_kv=False,
)

MEMORIES: Mapping[Method, Memory] = {
    "full": Memory(int(131.4 * GIB), 0, int(131.4 * GIB), int(262.8 * GIB), int(1.3 * GIB), GIB, 2 * GIB),
    "lora": Memory(int(131.4 * GIB), int(0.39 * GIB), int(0.39 * GIB), int(0.77 * GIB), int(1.6 * GIB), GIB, GIB),
    "qlora": Memory(int(37.2 * GIB), int(0.39 * GIB), int(0.39 * GIB), int(0.77 * GIB), int(1.6 * GIB), GIB, GIB),
}


def candidate(
    method: Method,
    *,
    shrink: int = 1,
    verdict: Verdict = "does_not_fit",
    gpu: Gpu = CARD,
    gpus: int = 1,
    seq_len: int = 2048,
) -> Candidate:
    """A candidate whose bytes are a table's, divided by ``shrink``."""
    peak_memory = Memory(*(count // shrink for count in MEMORIES[method]))
    smaller = Memory(*(count // 2 for count in peak_memory))
    phase: Phase = "optimizer_step" if method == "full" else "backward"
    phases: dict[Phase, Memory] = {
        "load": Memory(weights=peak_memory.weights),
        "forward": smaller,
        "loss": smaller,
        "backward": smaller,
        "optimizer_step": smaller,
    }
    phases[phase] = peak_memory
    need = peak_memory.total + GIB
    peak = Peak(
        phase, peak_memory.total, peak_memory.total + GIB // 4, need + GIB // 8, need, need * 9 // 10, need * 11 // 10
    )
    parameters = Parameters(70_553_706_496, 70_553_706_496 if method == "full" else 207_093_760, 0)
    return Candidate(
        scenario=Scenario(
            model=MODEL,
            train=TrainSpec(
                method=method,
                sharding="fsdp" if gpus > 1 else "none",
                seq_len=seq_len,
                adapter_dtype="bf16" if method == "qlora" else "fp32",
            ),
            cluster=Cluster(gpu=gpu, gpus=gpus),
            stack=STACK,
            origins={
                "method": "user",
                "seq_len": "user",
                "lora_rank": "default",
                "lora_alpha": "default",
                "weights_dtype": "default",
                "gradient_checkpointing": "default",
                "attention": "default",
                "autocast": "stack",
                "adapter_dtype": "stack",
                "optimizer": "stack",
                "loss": "stack",
            },
        ),
        estimate=Estimate("closed-form", parameters, phases, peak),
        verdict=verdict,
    )


@pytest.fixture
def nothing_fits() -> Plan:
    """70B on one 24 GB card: three methods out of reach, and ways out."""
    smaller = candidate("qlora", shrink=2, verdict="tight", seq_len=512)
    two = candidate("qlora", shrink=2, verdict="fits", gpus=4)
    other = candidate("qlora", verdict="fits", gpu=BIG_CARD)
    base = "plan --model 70b"
    return Plan(
        model=MODEL,
        cluster=Cluster(gpu=CARD),
        candidates=(candidate("full"), candidate("lora"), candidate("qlora")),
        recommendation=Recommendation(
            candidate=None,
            reasons=(
                Reason(
                    code="FIT001",
                    text="the smallest of the three, qlora, needs 44.3 GiB, which is 20.8 GiB more than the card has",
                    number=20.8 * GIB,
                    unit="bytes",
                ),
                Reason(
                    code="QLT002",
                    text="4-bit base weights cost some quality",
                    number=4,
                    unit="ratio",
                    severity="warning",
                ),
            ),
            changes=(
                Way(
                    settings={"seq_len": 512},
                    candidate=smaller,
                    command=f"{base} --gpu 4090 --method qlora --seq-len 512",
                ),
            ),
            rent=(
                Way(
                    settings={"gpus": 4, "sharding": "fsdp"},
                    candidate=two,
                    command=f"{base} --gpu 4090 --gpus 4 --sharding fsdp --method qlora --quant-storage bf16",
                    usd_per_hour=(1.16, 1.76),
                ),
                Way(
                    settings={"gpu": "h100-sxm"},
                    candidate=other,
                    command=f"{base} --gpu h100-sxm",
                    usd_per_hour=(1.9, 2.7),
                ),
            ),
        ),
        notes=("70b is Example-70B (example/Example-70B)", "interval: 10 % either way until calibrated"),
    )


@pytest.fixture
def something_fits() -> Plan:
    """The same shapes, sixteen times smaller: QLoRA fits, LoRA is tight, and a better QLoRA is appended."""
    return Plan(
        model=MODEL,
        cluster=Cluster(gpu=CARD),
        candidates=(
            candidate("full", shrink=16),
            candidate("lora", shrink=6, verdict="tight"),
            candidate("qlora", shrink=6, verdict="fits"),
            candidate("qlora", shrink=3, verdict="fits", seq_len=4096),
        ),
        recommendation=Recommendation(
            candidate=3,
            reasons=(Reason(code="FIT002", text="the longest sequence that fits", number=4096, unit="tokens"),),
        ),
    )
