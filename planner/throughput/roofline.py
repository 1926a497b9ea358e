"""Seconds of a step from its work and the rates: each term by itself, and how they overlap."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.result import TimePart
from planner.throughput.rates import Rates
from planner.throughput.work import Work


def parts_of(work: Work, rates: Rates) -> Mapping[TimePart, float]:
    """Seconds that each term of one optimizer step would take by itself."""
    computing = (work.products + work.attention) / rates.flops_per_s * (1 + rates.adapted * work.adapted)
    return MappingProxyType(
        {
            "compute": work.micro_steps * computing,
            "dequantise": work.micro_steps * work.dequantised / rates.dequant_bytes_per_s,
            "launch": work.micro_steps * work.layers * rates.launch_s,
            "communicate": (work.micro_steps * work.gathered + work.reduced) / rates.link_bytes_per_s,
            "optimizer": work.updated * rates.update_bytes / rates.memory_bytes_per_s,
            "offload": work.paged / rates.host_bytes_per_s,
        }
    )


def seconds_of(parts: Mapping[TimePart, float]) -> float:
    """The step: kernels run behind one another, launches and links beside them, the update after.

    Formula:   ((compute + dequantise)^3 + launch^3)^(1/3), with communicate by a fourth power, + optimizer + offload
    Source:    smooth maxima of terms that overlap
    """
    device = ((parts["compute"] + parts["dequantise"]) ** 3 + parts["launch"] ** 3) ** (1 / 3)
    joined = (device**4 + parts["communicate"] ** 4) ** 0.25
    return float(joined + parts["optimizer"] + parts["offload"])
