"""Moments on the CPU against the same moments on fake tensors: the profiler counts every allocation of the real ones.

Both take what the other takes: the machine's own kernels, two layers, a few sequences of 32 tokens.
"""

import gc
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import pytest

from planner.families import model_from_config
from planner.measure.here import card_of_device, cpu_here
from planner.measure.step import without_kernels_hub
from planner.measure.task import Task
from planner.spec import MOMENTS, Cluster, Method, Moment, Scenario
from planner.stacks import resolve

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(library)
without_kernels_hub()

from planner.measure import work  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.01

SIZES: Mapping[str, object] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "llama": {},
    "qwen3": {"head_dim": 48, "tie_word_embeddings": True},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma3_text": {"head_dim": 32, "sliding_window": 16, "sliding_window_pattern": 2},
}


class Case(NamedTuple):
    """One job with its moments."""

    family: str
    stack: str
    method: Method
    moments: tuple[Moment, ...]
    more: tuple[tuple[str, object], ...] = ()

    @property
    def title(self) -> str:
        """A short id for pytest."""
        told = [f"{name}={value}" for name, value in self.more]
        return "-".join([self.family, self.stack, self.method, *self.moments, *told])


CASES = [
    Case("llama", "hf", "lora", MOMENTS),
    Case("llama", "plain", "full", MOMENTS[:-1]),
    Case("qwen3", "trl", "lora", MOMENTS, (("adapter_dtype", "bf16"),)),
    Case("qwen3", "hf", "full", MOMENTS[:-1], (("optimizer", "adafactor"),)),
    Case("llama", "trl", "full", ("evaluation",), (("eval_logits", False),)),
    Case("llama", "hf", "lora", ("evaluation",), (("eval_accumulation_steps", 2),)),
    Case("qwen3", "plain", "lora", ("evaluation",), (("eval_accumulation_steps", 4), ("eval_samples", 11))),
    Case("llama", "plain", "lora", ("evaluation", "generation"), (("attention", "eager"),)),
    Case("gemma3_text", "hf", "lora", ("generation", "save"), (("new_tokens", 24),)),
    Case("mixtral", "hf", "full", ("generation", "save")),
    Case("llama", "hf", "qlora", ("save", "resume", "merge")),
    Case("qwen3", "trl", "qlora", ("merge",), (("double_quant", False),)),
]


def scenario_of(case: Case) -> Scenario:
    config = {**SIZES, **FAMILIES[case.family], "model_type": case.family}
    settings = {
        "seq_len": 32,
        "lora_rank": 4,
        "optimizer": "adamw_foreach",
        "eval_batch_size": 2,
        "eval_samples": 12,
        "new_tokens": 9,
        "moments": ",".join(case.moments),
        **dict(case.more),
    }
    cluster = Cluster(gpu=card_of_device(cpu_here()))
    return resolve(model_from_config(config, name=case.title), cluster, case.method, settings, case.stack)


@cache
def both(case: Case) -> Mapping[str, tuple[int, int]]:
    """Bytes on fake and on real tensors, by moment."""
    told: list[dict[str, Any]] = []

    def report(event: str, **facts: Any) -> None:
        told.append({"event": event, **facts})

    scenario = scenario_of(case)
    work.predict(Task(kind="predict", scenario=scenario), report)
    work.measure(Task(kind="measure", scenario=scenario, steps=2), report)
    (predicted,) = (line for line in told if line["event"] == "predicted")
    real = {peak.phase: peak.allocated_bytes for line in told if line["event"] == "moment" for peak in line["phases"]}
    return {phase: (predicted["later"][-1][phase].total, size) for phase, size in real.items()}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Products as small as these wait longer for their threads than they take, and so do collections of garbage."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_peaks_of_moments_are_those_of_real_ones(case: Case) -> None:
    found = both(case)
    table = "\n".join(f"{name:12} {fake:>10} {real:>10} {fake / real - 1:+.3%}" for name, (fake, real) in found.items())

    assert tuple(found) == case.moments
    assert [name for name, (fake, real) in found.items() if abs(fake / real - 1) > TOLERANCE] == [], table


def test_every_moment_is_measured_by_adapters_and_by_full_fine_tuning() -> None:
    for method in ("lora", "full"):
        measured = {moment for case in CASES if case.method == method for moment in case.moments}
        assert measured == {*MOMENTS} - ({"merge"} if method == "full" else set())
