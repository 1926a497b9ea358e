"""Seconds of a step from its work and the rates: each term by itself, and how they overlap."""

from collections.abc import Mapping
from types import MappingProxyType

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


def parts_of(work: Work, rates: Rates) -> Mapping[TimePart, float]:
    """Seconds that each term of one optimizer step would take by itself."""
    update = work.updated / rates.bytes_per_s + work.update_products / rates.flops_per_s
    return MappingProxyType(
        {
            "compute": work.micro_steps * computing_seconds(work, rates),
            "dequantise": work.micro_steps * work.dequantised / rates.dequant_bytes_per_s,
            "launch": work.micro_steps * (work.kernels * rates.kernel_s + work.collectives * rates.collective_s),
            "communicate": (work.micro_steps * work.gathered + work.reduced) / rates.link_bytes_per_s,
            "optimizer": update + work.update_kernels * rates.kernel_s,
            "offload": work.paged / rates.host_bytes_per_s,
        }
    )


def seconds_of(parts: Mapping[TimePart, float], exposed: float) -> float:
    """The step: kernels run behind one another, launches beside them; links partly; the update after.

    Shapes:    seconds of each term; exposed: share of the shorter that the longer does not hide
    Formula:   device = ((compute + dequantise)^3 + launch^3)^(1/3)
               max(device, communicate) + exposed * min(device, communicate) + optimizer + offload
    Source:    a smooth maximum of device and processor; overlap of links as measured (``rates.toml``, exposed)
    Valid:     prefetching engines (FSDP, ZeRO-3), bucketed all-reduce (DDP)
    Excludes:  pipeline parallelism, input pipelines that cannot keep up

    >>> parts = {"compute": 3.0, "dequantise": 1.0, "launch": 0.0, "communicate": 1.0, "optimizer": 0.5, "offload": 0.0}
    >>> seconds_of(parts, exposed=0.5)
    5.0
    """
    device = ((parts["compute"] + parts["dequantise"]) ** SHARPNESS + parts["launch"] ** SHARPNESS) ** (1 / SHARPNESS)
    longer, shorter = max(device, parts["communicate"]), min(device, parts["communicate"])
    return float(longer + exposed * shorter + parts["optimizer"] + parts["offload"])
