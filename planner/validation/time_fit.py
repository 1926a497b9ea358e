"""Fits the constants of the time model to published times, and holds each source out in turn.

Few constants, each with a meaning and a starting value that says what was known before: coordinate descent in their
logarithms on absolute logarithmic errors, every source weighing the root of its runs, drawn to the starting values.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from planner.spec import Share
from planner.throughput.constants import Constants, Family, constants
from planner.throughput.record import MEASURED
from planner.validation.timing import Timed, timed

A100, H100 = MEASURED

START: Mapping[str, float] = MappingProxyType(
    {
        "memory": 0.8,
        "dequantise": 0.2,
        "kernel": 45e-6,
        "collective": 1.5e-3,
        "nvlink": 0.4,
        "network": 0.5,
        "exposed": 0.5,
        f"{A100} products": 0.74,
        f"{A100} attention": 0.6,
        f"{H100} products": 0.68,
        f"{H100} attention": 0.34,
    }
)
"""memory: what a copy reaches. dequantise: LitGPT's and fms' tables. kernel: 5.2 ms a layer with checkpoints and 115
kernels, collective: 11.6 ms under ZeRO-3 (both Qwen's tables). products: 0.85 of the best matrix product that somebody
measured (271 and 794 TFLOP/s, stas00/ml-engineering). attention: FlashAttention-2, arXiv:2307.08691, section 4.1, on
A100 and H100. nvlink, network, exposed: guesses."""

DRAW = 0.3
"""Weight of the squared logarithm of a constant's distance from its start, against a loss of about 1."""

SWEEPS = 3
STEPS = 11
REACH = math.log(1.8)
GOLDEN = (math.sqrt(5) - 1) / 2


class Fitted(NamedTuple):
    """Constants by name."""

    values: Mapping[str, float]

    @property
    def constants(self) -> Constants:
        """As the model takes them."""
        return put(self.values)


def put(values: Mapping[str, float]) -> Constants:
    """The shipped constants with some of them replaced; no profile's own figures count."""
    known = constants()
    plain = {name: Share(value) for name, value in values.items() if " " not in name}
    families = dict(known.families)
    for chip in (A100, H100):
        pair = (Share(values[f"{chip} {what}"], n=1) for what in ("products", "attention"))
        families = {chip: Family(*pair), **{name: old for name, old in families.items() if name != chip}}
    return known._replace(**plain, families=families)


def bare(one: Timed) -> Timed:
    """A run on its card without the profile's own figures, which are what is to be fitted."""
    scenario = one.run.scenario
    gpu = scenario.cluster.gpu
    if gpu.architecture in (A100, H100):
        gpu = replace(gpu, products=None, attention=None)
    return one._replace(run=replace(one.run, scenario=replace(scenario, cluster=replace(scenario.cluster, gpu=gpu))))


def fit(runs: Iterable[Timed]) -> Fitted:
    """Constants that fit some runs."""
    kept = [bare(one) for one in runs]
    weights = _weights(kept)
    values = dict(START)

    def loss(name: str, value: float) -> float:
        return _loss(kept, weights, {**values, name: value})

    for _ in range(SWEEPS):
        for name in START:
            values[name] = _best(values[name], lambda value, name=name: loss(name, value))  # type: ignore[misc]
    return Fitted(MappingProxyType(values))


def _weights(runs: list[Timed]) -> list[float]:
    counts = Counter(one.run.source for one in runs)
    total = sum(math.sqrt(count) for count in counts.values())
    return [1 / math.sqrt(counts[one.run.source]) / total for one in runs]


def _loss(runs: list[Timed], weights: list[float], values: Mapping[str, float]) -> float:
    known = put(values)
    errors = (weight * abs(math.log1p(one.error(known))) for one, weight in zip(runs, weights, strict=True))
    drawn = sum(math.log(values[name] / start) ** 2 for name, start in START.items())
    return sum(errors) + DRAW * drawn / len(START)


def _best(value: float, loss: Callable[[float], float]) -> float:
    """Golden section around a value, in its logarithm."""
    low, high = math.log(value) - REACH / 2, math.log(value) + REACH / 2
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(math.exp(left)) < loss(math.exp(right)):
            high = right
        else:
            low = left
    middle = math.exp((low + high) / 2)
    return middle if loss(middle) < loss(value) else value


def held_out() -> dict[str, float]:
    """Error of every run under constants fitted to all other sources."""
    runs = timed()
    errors: dict[str, float] = {}
    for source in sorted({one.run.source for one in runs}):
        known = fit(one for one in runs if one.run.source != source).constants
        errors |= {one.run.id: bare(one).error(known) for one in runs if one.run.source == source}
    return errors
