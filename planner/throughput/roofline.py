"""Seconds of a step from its work and the rates: each term by itself, and how they overlap."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.result import TimePart
from planner.throughput.rates import Rates
from planner.throughput.work import Work


def computing_seconds(work: Work, rates: Rates) -> float:
    """One micro-step on the device: products, attention, and everything that only moves bytes.

    Formula:   max(products / F, weights / B) + wide / F32 + attention / F_a + moved / B
    Source:    Williams 2009, doi:10.1145/1498765.1498785, for the maximum; kernels of one stream run one after another
    Valid:     one stream
    Excludes:  dequantisation (``dequantise``)
    """
    products = max(work.products / rates.flops_per_s, work.weights / rates.bytes_per_s)
    wide = work.wide_products / rates.wide_flops_per_s
    return products + wide + work.attention / rates.attention_flops_per_s + work.moved / rates.bytes_per_s


def parts_of(work: Work, rates: Rates) -> Mapping[TimePart, float]:
    """Seconds that each term of one optimizer step would take by itself."""
    launching = work.kernels * rates.kernel_s + work.gathers * rates.gather_s
    update = work.updated / rates.bytes_per_s + work.update_products / rates.flops_per_s
    again = rates.retried if work.squeezed else 1.0
    return MappingProxyType(
        {
            "compute": work.micro_steps * computing_seconds(work, rates) * again,
            "dequantise": work.micro_steps * work.dequantised / rates.dequant_bytes_per_s,
            "launch": work.micro_steps * launching,
            "communicate": (work.micro_steps * work.gathered + work.reduced) / rates.link_bytes_per_s,
            "optimizer": update + work.update_kernels * rates.kernel_s,
            "offload": work.paged / rates.host_bytes_per_s,
        }
    )


def seconds_of(parts: Mapping[TimePart, float]) -> float:
    """The step: kernels of the device run behind one another, launches and links beside them, the update after.

    Formula:   (((compute + dequantise)^3 + launch^3)^(4/3) + communicate^4)^(1/4) + optimizer + offload
    Source:    smooth maxima of what overlaps; powers of 3 and 4 leave a tenth to a fifth where two terms are equal
    """
    device = ((parts["compute"] + parts["dequantise"]) ** 3 + parts["launch"] ** 3) ** (1 / 3)
    joined = (device**4 + parts["communicate"] ** 4) ** 0.25
    return float(joined + parts["optimizer"] + parts["offload"])
