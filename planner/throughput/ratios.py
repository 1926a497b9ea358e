"""How many times longer one job's step takes than another's, as a range: what is unsure of both mostly cancels."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from planner.result import Estimate
from planner.spec import Scenario, Share
from planner.throughput.constants import Constants, constants
from planner.throughput.rates import Rates, rates_of
from planner.throughput.roofline import parts_of, seconds_of
from planner.throughput.work import Work, work_of

DEQUANTISE = (0.13, 0.25)
"""Lowest and highest share of the bandwidth in published runs: LitGPT on A100 with bitsandbytes 0.41 at one sample;
0.24 on a 4090 (fsdp_qlora), and 0.21 to 0.26 from the same tables when launches are taken to add."""

KERNEL_S = (30e-6, 60e-6)
"""Seconds per kernel on a fast and a slow processor: 36 in PEFT's benchmark, 44 to 48 in LitGPT's and Qwen's tables."""

PRODUCTS = (0.8, 1.25)
"""Around the card's share of its peak: what published runs on A100 and H100 leave open (``published.json``)."""

SOURCE = (
    "the time model's work and rates, from published runs of fms-acceleration, LitGPT, llm-foundry, PEFT and torchtune"
)


class Range(NamedTuple):
    """Lowest and highest value that the evidence allows."""

    low: float
    high: float


class Job(NamedTuple):
    """A scenario with its estimate."""

    scenario: Scenario
    estimate: Estimate


def ratio(of: Job, to: Job) -> Range | None:
    """Seconds of a step of ``of`` for each one of ``to``; ``None`` where a card has no 16-bit peak or no link."""
    if rates_of(of.scenario) is None or rates_of(to.scenario) is None:
        return None
    works = [work_of(job.scenario, job.estimate) for job in (of, to)]
    found = []
    for known, products in _corners():
        one, other = (
            _seconds(work, rates_of(job.scenario, known), products) for work, job in zip(works, (of, to), strict=True)
        )
        found.append(one / other)
    return Range(min(found), max(found))


def _corners() -> Iterator[tuple[Constants, float]]:
    """Every combination of the ends of what is unsure."""
    known = constants()
    for dequantise, kernel, products in product(DEQUANTISE, KERNEL_S, PRODUCTS):
        yield known._replace(dequantise=Share(dequantise), kernel=Share(kernel)), products


def _seconds(work: Work, rates: Rates | None, products: float) -> float:
    assert rates is not None, "asked for jobs whose rates are known"
    rates = rates._replace(flops_per_s=rates.flops_per_s * products)
    return seconds_of(work, rates, parts_of(work, rates))
