"""Learning rates: TRL's table by task and method, and the model-aware formula of tinker as a second opinion."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.formulas.params import model_params
from planner.recommend.sourced import Advice
from planner.spec import Job, Method, ModelSpec, Task

SHORT_RUN = 100
"""Optimizer steps below which a run is short (tinker's LoRA primer: 100 and more, best 1,000 and more)."""
LONG_RUN = 1000
"""Optimizer steps from which nothing is left to gain by more (as above)."""

SHORT_FACTOR = 1.5
"""By how much a short run's LoRA rate is raised: 15 instead of 10 times that of full fine-tuning ("LoRA Without
Regret", Thinking Machines 2025)."""

LORA_FACTOR = 10
"""LoRA's best rate over that of full fine-tuning: tinker-cookbook hyperparam_utils.py, and each row of TRL's table."""

LARGE_FULL = 13_000_000_000
"""Parameters from which full fine-tuning takes half the rate (Stanford Alpaca's README: 2e-5 at 7B, 1e-5 at 13B)."""
LARGE_QLORA = 33_000_000_000
"""Parameters from which QLoRA takes half the rate (Dettmers et al. 2023, arXiv:2305.14314, appendix B.2)."""

NEARLY = 0.95
"""A model counts as of a size class from this share of its number on: a "33B" model has 32.5 B parameters."""


class Row(NamedTuple):
    """Full fine-tuning's rate for a task, and who says so; LoRA's is ten times that."""

    full: float
    source: str


_TRL = "TRL docs, peft_integration.md"

TABLE: Mapping[Task, Row] = MappingProxyType(
    {
        "sft": Row(2e-5, f"{_TRL}: 2e-5 full, 2e-4 LoRA"),
        "cpt": Row(2e-5, f"{_TRL}, its row for supervised fine-tuning: the loss is the same"),
        "dpo": Row(5e-7, f"{_TRL}: 5e-7 full, 5e-6 LoRA"),
        "rl": Row(1e-6, f"{_TRL}: 1e-6 full, 1e-5 LoRA (GRPO)"),
    }
)

FAMILIES: Mapping[str, float] = MappingProxyType({"llama": 0.781, "qwen": 0.0775})
"""Exponents by a word of the model's name: tinker-cookbook hyperparam_utils.py, get_lr; others were not calibrated."""

BASE_RATE, BASE_WIDTH = 5e-5, 2000
"""Of the same formula."""


def learning_rate(model: ModelSpec, method: Method, job: Job, steps: int | None) -> Advice:
    """Where to start: the table's rate; lower for large models and where old skills matter, higher for a short run.

    The range of a factor of two on either side is ours: the two tables and the formula below lie within it or near.
    """
    row = TABLE[job.task]
    base = row.full * (1 if method == "full" else LORA_FACTOR)
    supervised = job.task in ("sft", "cpt")
    if supervised and job.keep_skills:
        value, why = base / 2, "half, so that less is forgotten (PEFT method_comparison/MetaMathQA)"
    elif supervised and (source := _halved(method, model_params(model))):
        value, why = base / 2, f"half for a model of this size ({source})"
    elif supervised and method != "full" and steps is not None and steps < SHORT_RUN:
        value, why = base * SHORT_FACTOR, f"half as much again for a run of {steps} steps (LoRA Without Regret)"
    else:
        value, why = base, ""
    return Advice(_rounded(value), row.source, why, _rounded(base / 2), _rounded(base * 2))


def model_aware_rate(model: ModelSpec, method: Method, task: Task) -> Advice | None:
    """The rate that width implies, for families in which that was fitted.

    Formula:   5e-5 * (2000 / h)^P, ten times that for LoRA
    Source:    tinker-cookbook hyperparam_utils.py, get_lr: P = 0.781 for Llama, 0.0775 for Qwen
    Valid:     supervised fine-tuning
    Excludes:  batch size, with whose root the best rate grows
    """
    exponent = next((power for word, power in FAMILIES.items() if word in model.name.lower()), None)
    if exponent is None or task not in ("sft", "cpt"):
        return None
    rate = width_rate(model.hidden_size, exponent) * (1 if method == "full" else LORA_FACTOR)
    return Advice(_rounded(rate), "tinker-cookbook hyperparam_utils.py, get_lr", f"from width {model.hidden_size}")


def width_rate(h: int, exponent: float) -> float:
    """Full fine-tuning's rate at width ``h``.

    >>> round(10 * width_rate(4096, 0.781), 5), round(10 * width_rate(8192, 0.781), 5)
    (0.00029, 0.00017)
    >>> round(10 * width_rate(4096, 0.0775), 5)
    0.00047
    """
    return BASE_RATE * float((BASE_WIDTH / h) ** exponent)


def _halved(method: Method, parameters: int) -> str:
    """Who halves the rate for a model of this size, if anybody."""
    if method == "full" and parameters >= NEARLY * LARGE_FULL:
        return "Stanford Alpaca's README"
    if method == "qlora" and parameters >= NEARLY * LARGE_QLORA:
        return "arXiv:2305.14314, appendix B.2"
    return ""


def _rounded(rate: float) -> float:
    """A rate with two digits, which is more than anybody knows.

    >>> _rounded(0.00028563)
    0.00029
    """
    return float(f"{rate:.2g}")
