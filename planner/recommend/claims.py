"""The textbook's numbers about LoRA and QLoRA, held against this very model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import PlannerError
from planner.estimators import Estimator
from planner.hardware import load_gpu
from planner.recommend.candidates import candidate
from planner.recommend.cards import MOST_CARDS
from planner.recommend.offers import more_cards, sharded
from planner.recommend.request import Ask
from planner.recommend.rules.base import percent
from planner.result import Candidate
from planner.spec import Gpu, Method
from planner.throughput.ratios import SOURCE, Range
from planner.units import format_bytes, span

Ruling = Literal["confirmed", "corrected", "not for this model"]

ADDED = Range(0.001, 0.01)
QUARTER = Range(0.20, 0.30)
"""What still counts as a quarter."""
CLASS_CARD = "24gb"
BIG_CARD = "a100-80gb"
BIG_COUNT = 8
SLOWER = Range(1.30, 1.40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One textbook sentence, the ruling for this model, and the computed number."""

    claim: str
    ruling: Ruling
    text: str
    number: float
    unit: Literal["ratio", "bytes", "gpus"]
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the claims are held against."""

    ask: Ask
    candidates: Mapping[Method, Candidate]
    step_ratio: Range | None
    estimate: Estimator


def check_claims(facts: Facts) -> tuple[Claim, ...]:
    """Every claim that can be computed for this model."""
    checks = (_added, _quarter, _one_card, _eight_cards, _slower)
    return tuple(claim for check in checks if (claim := check(facts)) is not None)


def _added(facts: Facts) -> Claim:
    lora = facts.candidates["lora"]
    counts = lora.estimate.parameters
    share = counts.trainable / counts.total
    inside = ADDED.low <= share <= ADDED.high
    train = lora.scenario.train
    return Claim(
        claim="LoRA adds 0.1 to 1 % parameters",
        ruling="confirmed" if inside else "corrected",
        text=f"{percent(share)} at rank {train.lora_rank} on {', '.join(train.lora_targets)}",
        number=share,
        unit="ratio",
        source="Hu et al. 2021, arXiv:2106.09685",
    )


def _quarter(facts: Facts) -> Claim:
    ours, theirs = (facts.candidates[method].estimate.phases["optimizer_step"].weights for method in ("qlora", "lora"))
    share = ours / theirs
    quantized = facts.candidates["qlora"].estimate.parameters
    reached = quantized.quantized / quantized.total
    missed = share > (1 + QUARTER.high) / 2
    ruling: Ruling = "confirmed" if QUARTER.low <= share <= QUARTER.high else "corrected"
    return Claim(
        claim="QLoRA's weights take a quarter of the 16-bit ones",
        ruling="not for this model" if missed else ruling,
        text=f"{percent(share)}: {format_bytes(ours)} against {format_bytes(theirs)}, since {percent(reached)} of the "
        "parameters are quantised",
        number=share,
        unit="ratio",
        source="Dettmers et al. 2023, arXiv:2305.14314",
    )


def _one_card(facts: Facts) -> Claim | None:
    gpu = _card(CLASS_CARD, facts)
    if gpu is None:
        return None
    try:
        variant = sharded(facts.ask, gpu, 1, "none", "lora")
        found = candidate(variant, "lora", facts.estimate)
    except PlannerError:
        return None
    required = found.estimate.peak.required_bytes
    words = {"fits": "fits", "tight": "is tight", "does_not_fit": "does not fit"}[found.verdict]
    ruling: Ruling = "not for this model" if found.verdict == "does_not_fit" else "confirmed"
    return Claim(
        claim="LoRA runs on one 24 GB card",
        ruling=ruling,
        text=f"needs {format_bytes(required)}: {words} on the smallest of them ({format_bytes(gpu.memory_bytes)})",
        number=required,
        unit="bytes",
        source="recomputed on the class profile 24gb",
    )


def _eight_cards(facts: Facts) -> Claim | None:
    """Full fine-tuning on 8x A100 80 GB: confirmed when it takes more than half of them."""
    gpu = _card(BIG_CARD, facts)
    if gpu is None:
        return None
    count = _fewest(facts, gpu)
    if count is None or count > BIG_COUNT:
        needs = f"more than {MOST_CARDS:,}" if count is None else str(count)
        return _cards_claim("not for this model", f"8 are not enough: it takes {needs}, states sharded", count or 0)
    if count == 1:
        return _cards_claim("corrected", "1 is enough", count)
    ruling: Ruling = "confirmed" if 2 * count > BIG_COUNT else "corrected"
    return _cards_claim(ruling, f"{count} are enough, states sharded", count)


def _cards_claim(ruling: Ruling, text: str, count: int) -> Claim:
    return Claim(
        claim="full fine-tuning takes 8x A100 80 GB",
        ruling=ruling,
        text=text,
        number=count,
        unit="gpus",
        source=f"recomputed with sharded states on 1 to {MOST_CARDS:,} cards",
    )


def _fewest(facts: Facts, gpu: Gpu) -> int | None:
    """Fewest cards of this kind on which full fine-tuning fits."""
    single = sharded(facts.ask, gpu, 1, "none", "full")
    try:
        if candidate(single, "full", facts.estimate).verdict == "fits":
            return 1
        ways = more_cards(single, "full", facts.estimate)
    except PlannerError:
        return None
    return next((one.gpus for one in ways if one.candidate.verdict == "fits"), None)


def _slower(facts: Facts) -> Claim | None:
    time = facts.step_ratio
    if time is None:
        return None
    train = facts.candidates["qlora"].scenario.train
    overlaps = time.low <= SLOWER.high and time.high >= SLOWER.low
    return Claim(
        claim="QLoRA is 30 to 40 % slower than LoRA",
        ruling="confirmed" if overlaps else "corrected",
        text=f"{_pace(time)} at {train.tokens} tokens per micro-step on this card; dequantisation is a fixed cost per "
        "micro-step, so larger ones pay less",
        number=(time.low + time.high) / 2,
        unit="ratio",
        source=SOURCE,
    )


def _pace(time: Range) -> str:
    """A range of ratios in words.

    >>> _pace(Range(1.1, 1.3)), _pace(Range(0.96, 0.98)), _pace(Range(0.98, 1.05))
    ('10 % to 30 % slower', '2 % to 4 % faster', '2 % faster to 5 % slower')
    """
    if time.low >= 1:
        return f"{span(time.low - 1, time.high - 1, percent)} slower"
    if time.high <= 1:
        return f"{span(1 - time.high, 1 - time.low, percent)} faster"
    return f"{percent(1 - time.low)} faster to {percent(time.high - 1)} slower"


def _card(name: str, facts: Facts) -> Gpu | None:
    try:
        return replace(load_gpu(name, facts.ask.request.profiles_dir), resolution=None)
    except PlannerError:
        return None
