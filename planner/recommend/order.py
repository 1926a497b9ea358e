"""The order in which methods are taken: what the data and the task ask for first, then what costs least.

Gates and capacity make the order, and the first method in it that fits is chosen: there are no weights.
"""

from planner.recommend.informed import beyond_adapters
from planner.recommend.quality import SMALL_MODEL
from planner.recommend.request import Ask
from planner.recommend.rules.qnt import MOSTLY
from planner.result import Candidate
from planner.spec import Method

ADAPTERS_FIRST: tuple[Method, ...] = ("lora", "peft", "qlora", "full")
SIXTEEN_BITS_FIRST: tuple[Method, ...] = ("lora", "peft", "full", "qlora")
EVERY_WEIGHT_FIRST: tuple[Method, ...] = ("full", "lora", "peft", "qlora")


def preference(ask: Ask, candidates: tuple[Candidate, ...]) -> tuple[Method, ...]:
    """Methods in the order in which the first that fits is taken.

    Full fine-tuning where the data outgrows adapters (C2, C3). Else LoRA before QLoRA (G2), and full last, since
    adapters match it on small and medium data, but before QLoRA where the model is small (P6) or 4 bits hardly reach it
    (G4).
    """
    if beyond_adapters(ask):
        return EVERY_WEIGHT_FIRST
    small = any(one.estimate.parameters.total <= SMALL_MODEL for one in candidates)
    return SIXTEEN_BITS_FIRST if small or any(misses_four_bit(one) for one in candidates) else ADAPTERS_FIRST


def worth(ask: Ask, candidates: tuple[Candidate, ...], order: tuple[Method, ...]) -> tuple[Method, ...]:
    """Methods worth looking for hardware: those named, else adapters, and full where it is affordable or asked for."""
    known = {one.scenario.train.method for one in candidates}
    small = candidates[0].estimate.parameters.total <= SMALL_MODEL
    missing = {one.scenario.train.method for one in candidates if misses_four_bit(one)}
    if ask.request.methods:
        return tuple(method for method in order if method in known)
    skipped = missing if small or order is EVERY_WEIGHT_FIRST else {"full", *missing}
    return tuple(method for method in order if method in (known - skipped or known))


def misses_four_bit(candidate: Candidate) -> bool:
    """Whether quantisation leaves most parameters as they are: fused experts under bitsandbytes."""
    counts = candidate.estimate.parameters
    return candidate.scenario.train.quantized and counts.quantized < MOSTLY * counts.total
