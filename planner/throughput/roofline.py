"""Seconds of a step from its work and the rates: each term by itself, and how they overlap."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.formulas.collectives import Axis
from planner.result import TimePart
from planner.throughput.rates import Rates
from planner.throughput.work import Work

SHARPNESS = 3
"""Power of the smooth maximum of computing and launching: where both are equal the step takes a quarter longer."""


def computing_seconds(work: Work, rates: Rates) -> float:
    """One micro-step on the device: products, attention, and everything that only moves bytes.

    Shapes:    products, attention, wide: FLOPs; weights, moved: bytes
    Formula:   max(products / F, weights / B) + wide / F32 + attention / F_a + moved / B
    Source:    Williams 2009, doi:10.1145/1498765.1498785, for the maximum; kernels of one stream run one after another
    Valid:     one stream
    Excludes:  dequantisation, which is a term of its own
    """
    products = max(work.products / rates.flops_per_s, work.weights / rates.bytes_per_s)
    wide = work.wide_products / rates.wide_flops_per_s
    return products + wide + work.attention / rates.attention_flops_per_s + work.moved / rates.bytes_per_s


def seconds_by_axis(work: Work, rates: Rates) -> Mapping[Axis, float]:
    """Seconds that the ranks of each group would exchange by themselves."""
    found: dict[Axis, float] = {}
    for one in work.exchanges:
        found[one.axis] = found.get(one.axis, 0.0) + rates.exchanging([one])
    return MappingProxyType(found)


def waiting_seconds(work: Work, rates: Rates) -> float:
    """Seconds of exchanges that nothing runs beside: the next operation needs what they bring."""
    return rates.exchanging(one for one in work.exchanges if not one.hidden)


def parts_of(work: Work, rates: Rates) -> Mapping[TimePart, float]:
    """Seconds that each term of one optimizer step would take by itself."""
    update = work.updated / rates.bytes_per_s + work.update_products / rates.flops_per_s
    parts: dict[TimePart, float] = {
        "compute": work.micro_steps * computing_seconds(work, rates),
        "dequantise": work.micro_steps * work.dequantised / rates.dequant_bytes_per_s,
        "launch": work.micro_steps * (work.kernels * rates.kernel_s + work.collectives * rates.collective_s),
        "communicate": sum(seconds_by_axis(work, rates).values()),
        "bubble": 0.0,
        "optimizer": update + work.update_kernels * rates.kernel_s,
        "offload": work.paged / rates.host_bytes_per_s + streaming_seconds(work, rates) + _returning(work, rates),
    }
    if work.bubble:
        parts["bubble"] = work.bubble * _micro(work, rates, parts)
    return MappingProxyType(parts)


def streaming_seconds(work: Work, rates: Rates) -> float:
    """Seconds of PCIe that computing runs beside: shards on their way up, gradients and activations on theirs down."""
    return work.offloading.streamed / rates.bus_bytes_per_s


def _returning(work: Work, rates: Rates) -> float:
    """Seconds in which the card waits: for the processor's update, the drive, and the weights that come back."""
    away, drive = work.offloading, rates.drive_bytes_per_s
    return away.waited / rates.bus_bytes_per_s + away.updated / rates.dram_bytes_per_s + away.drive / drive


def _micro(work: Work, rates: Rates, parts: Mapping[TimePart, float]) -> float:
    return micro_seconds(parts, rates.exposed, waiting_seconds(work, rates), streaming_seconds(work, rates))


def micro_seconds(
    parts: Mapping[TimePart, float], exposed: float, waiting: float = 0.0, streaming: float = 0.0
) -> float:
    """All micro-steps: kernels run behind one another, launches beside them; links and bus partly.

    Shapes:    seconds of each term; waiting: those of communicate that nothing hides; streaming: of the bus to the host
               beside computing; exposed: share of the shorter that the longer does not hide
    Formula:   device = ((compute + dequantise)^3 + launch^3)^(1/3) + waiting
               links = communicate - waiting + streaming
               max(device, links) + exposed * min(device, links)
    Source:    a smooth maximum of device and processor; overlap of links as measured (``rates.toml``, exposed); two
               4090s gather through host memory, so links and bus are one there
    Valid:     prefetching engines (FSDP, ZeRO-3), bucketed all-reduce (DDP)
    Excludes:  input pipelines that cannot keep up

    >>> parts = {"compute": 3.0, "dequantise": 1.0, "launch": 0.0, "communicate": 2.0}
    >>> micro_seconds(parts, exposed=0.5, waiting=1.0, streaming=1.0)
    6.0
    """
    busy = (parts["compute"] + parts["dequantise"]) ** SHARPNESS + parts["launch"] ** SHARPNESS
    device, links = float(busy ** (1 / SHARPNESS)) + waiting, parts["communicate"] - waiting + streaming
    return max(device, links) + exposed * min(device, links)


def seconds_of(work: Work, rates: Rates, parts: Mapping[TimePart, float]) -> float:
    """The step: its micro-steps, the bubble of its pipeline, then the update and what waits for the bus."""
    after = parts["bubble"] + parts["optimizer"] + parts["offload"] - streaming_seconds(work, rates)
    return _micro(work, rates, parts) + after
