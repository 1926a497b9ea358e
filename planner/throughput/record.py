"""How far published times lie from ours, by kind of run: what the bounds of a time are made of.

``published.json`` is written by ``python -m benchmarks.fit_times``: each residual comes from a fit that had not seen
its source.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from planner.closed_form.parallel import is_divided
from planner.result import TimePart
from planner.spec import Scenario
from planner.throughput.constants import Constants
from planner.throughput.work import Work

FILE = Path(__file__).with_name("published.json")

MANY_TOKENS = 4096
"""Tokens of a micro-step from which the device rather than the processor is what limits eager code."""

Regime = Literal["offload", "parallel", "nodes", "moe", "links", "launch", "prior", "few", "measured", "other"]

IN_WORDS: Mapping[Regime, str] = {
    "offload": "states paged or offloaded over the bus",
    "parallel": "models divided among ranks by more than their states",
    "nodes": "several machines",
    "moe": "mixtures of experts",
    "links": "weights gathered without NVLink",
    "launch": "bound by the processor that starts kernels",
    "prior": "cards that nobody measured",
    "few": "fewer than 4k tokens per micro-step",
    "measured": "A100 and H100, 4k or more tokens per micro-step",
    "other": "other cards, 4k or more tokens per micro-step",
}

MEASURED = ("Ampere GA100", "Hopper GH100")
"""Architectures with runs of several sources."""

LEAST: Mapping[Regime, float] = {
    "offload": 2.0,
    "parallel": 2.0,
    "nodes": 1.6,
    "moe": 2.0,
    "links": 2.5,
    "launch": 2.0,
    "prior": 2.0,
    "few": 1.6,
    "other": 1.6,
}
"""Factor below which no bound of a kind that is hard to know may fall, whatever few runs say (stated). Links: the same
job gathered at 2 GB/s on one board and at 5 on another (fsdp_qlora, two 3090 and two 4090)."""

SHARE_OF_LINKS = 0.25
"""Communication for each second of computing from which the links decide about the bounds."""


CROWDED = 1.5
"""How many times longer a step may take where memory is tight and the allocator gives back and asks again: full
fine-tuning of Llama-3-8B on 4 A100 at 81.1 GB ran at 2264 tokens a second, at 63.6 GB at 3342
(foundation-model-stack/fms-acceleration scripts/benchmarks/refs/a100_80gb_liger.csv)."""


class Record(NamedTuple):
    """Measured seconds for each of ours: lowest and highest that nine in ten runs keep to, and the runs behind it."""

    low: float
    high: float
    n: int = 0
    sources: tuple[str, ...] = ()


@cache
def records(path: Path = FILE) -> Mapping[Regime, Record]:
    """The record of every kind of run."""
    found = json.loads(path.read_text(encoding="utf-8"))["bounds"]
    return {name: Record(row["low"], row["high"], row["n"], tuple(row["sources"])) for name, row in found.items()}


def regime_of(scenario: Scenario, work: Work, parts: Mapping[TimePart, float], known: Constants) -> Regime:
    """The kind of run, hardest to know first; runs on several machines and of experts speak for timed cards only."""
    timed = known.family(scenario.cluster.gpu).products.n > 0
    if parts["offload"] > 0 or scenario.train.offload:
        return "offload"
    if is_divided(scenario.train):
        return "parallel"
    if scenario.cluster.nodes > 1 and timed:
        return "nodes"
    if scenario.model.is_moe and timed:
        return "moe"
    if _gathers_slowly(scenario, work, parts):
        return "links"
    if parts["launch"] > parts["compute"] + parts["dequantise"]:
        return "launch"
    if not timed:
        return "prior"
    if work.tokens < MANY_TOKENS:
        return "few"
    return "measured" if scenario.cluster.gpu.architecture in MEASURED else "other"


def _gathers_slowly(scenario: Scenario, work: Work, parts: Mapping[TimePart, float]) -> bool:
    device = parts["compute"] + parts["dequantise"]
    slow = scenario.cluster.gpu.nvlink_bytes_per_s is None
    return slow and work.gathers and parts["communicate"] > SHARE_OF_LINKS * device
