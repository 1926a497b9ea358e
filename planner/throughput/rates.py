"""How fast a card and a stack do their work: constants of ``rates.toml`` and of the profiles, for one scenario."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from planner.formulas.collectives import Axis, Exchange, Route, exchange_seconds
from planner.spec import Gpu, Scenario
from planner.throughput.constants import Constants, constants
from planner.throughput.links import routes_of

WIDE_SHARE = 0.8
"""Share of the fp32 peak that products without tensor cores reach: cuBLAS on square matrices of 4096 and more."""

WIDE_ELSEWHERE = 1 / 16
"""fp32 peak for each FLOP/s of the 16-bit one, where a profile has none: the A100's."""


class Rates(NamedTuple):
    """What seconds follow from, for one card and stack."""

    flops_per_s: float
    wide_flops_per_s: float
    attention_flops_per_s: float
    bytes_per_s: float
    dequant_bytes_per_s: float
    routes: Mapping[Axis, Route]
    exposed: float
    host_bytes_per_s: float
    bus_bytes_per_s: float
    dram_bytes_per_s: float
    drive_bytes_per_s: float
    kernel_s: float
    collective_s: float

    def exchanging(self, exchanges: Iterable[Exchange]) -> float:
        """Seconds of exchanges by themselves, each over the route of its ranks."""
        return sum(exchange_seconds(one, self.routes[one.axis]) for one in exchanges)


def peak_of(gpu: Gpu) -> float | None:
    """Dense 16-bit peak: bf16, or fp16 where the card has no bf16."""
    return gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s.get("fp16")


def rates_of(scenario: Scenario, known: Constants | None = None) -> Rates | None:
    """Rates of a scenario's card and stack; ``None`` where the card's 16-bit peak, or a link it needs, is unknown."""
    known = known or constants()
    gpu, peak = scenario.cluster.gpu, peak_of(scenario.cluster.gpu)
    routes = routes_of(scenario, known)
    if peak is None or routes is None:
        return None
    family, bandwidth = known.family(gpu), gpu.bandwidth_bytes_per_s
    bus = gpu.pcie_bytes_per_s or bandwidth
    return Rates(
        flops_per_s=peak * family.products.value,
        wide_flops_per_s=gpu.peak_flops_per_s.get("fp32", peak * WIDE_ELSEWHERE) * WIDE_SHARE,
        attention_flops_per_s=peak * family.attention.value,
        bytes_per_s=bandwidth * (family.memory or known.memory).value,
        dequant_bytes_per_s=bandwidth * known.dequantise.value,
        routes=routes,
        exposed=known.exposed.value,
        host_bytes_per_s=bus * known.host.value,
        bus_bytes_per_s=bus * (known.pinned if scenario.train.pin_memory else known.host).value,
        dram_bytes_per_s=known.dram.value,
        drive_bytes_per_s=known.drive.value,
        kernel_s=known.kernel.value,
        collective_s=known.collective.value,
    )
