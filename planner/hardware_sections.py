"""The sections of a profile in ``hardware_profiles/``, as its sources print them, and what they say in base units."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planner.spec.hardware import FLASH_CAPABILITY, FLASH_GFX, PCIE_BYTES_PER_LANE
from planner.units import GB

TERA = 10**12

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**6)]
Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Url = Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=300)]


class Strict(BaseModel):
    """A table that takes no key beside its own, and no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Figure(Strict):
    """A number, or ``{ value = 62874, estimated = true }`` where nobody has measured it."""

    value: Positive
    estimated: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: object) -> object:
        return {"value": given} if isinstance(given, int | float) else given


class Peak(Strict):
    """A peak rate as printed; two flags say which doubled figure the source prints."""

    printed: Positive
    sparse: bool = False
    fp16_accumulate: bool = False
    estimated: bool = False

    @property
    def dense_flops_per_s(self) -> float:
        """The rate on dense matrices with fp32 accumulation, which is what training runs at."""
        return self.printed * TERA / (2 if self.sparse else 1) / (2 if self.fp16_accumulate else 1)


class Memory(Strict):
    advertised_gb: Count
    driver_total_mib: Figure
    torch_total_mib: Figure
    torch_seen_mib: list[Count] = []
    unified: bool = False
    system_mib: Figure | None = None


class Compute(Strict):
    capability: Annotated[str, Field(pattern=r"^(\d{1,2}\.\d|gfx[0-9a-f]{3,4})$")]
    peak_tflops: Annotated[dict[Dtype, Peak], Field(min_length=1)]
    sm_count: Count | None = None
    boost_mhz: Count | None = None
    flop_per_clock_per_sm: Count | None = None
    measured_bf16_tflops: Figure | None = None

    @property
    def cuda_capability(self) -> list[int] | None:
        """Major and minor number; AMD chips have none."""
        if self.capability.startswith("gfx"):
            return None
        return [int(part) for part in self.capability.split(".")]

    @property
    def flash(self) -> bool:
        """Whether flash-attention 2 has kernels for this chip."""
        capability = self.cuda_capability
        return tuple(capability) >= FLASH_CAPABILITY if capability else self.capability in FLASH_GFX


class Bandwidth(Strict):
    memory_gb_per_s: Figure


class Nvlink(Strict):
    """NVLink (AMD: Infinity Fabric) per GPU; ``bridge`` joins two cards, a fabric joins all of a machine."""

    printed_gb_per_s: Positive
    bidirectional: bool
    bridge: bool = False

    @property
    def one_way_bytes_per_s(self) -> float:
        """What one GPU can send while it receives as much."""
        return self.printed_gb_per_s * GB / (2 if self.bidirectional else 1)


class Link(Strict):
    pcie_gen: Annotated[int, Field(ge=3, le=6)] | None = None
    pcie_lanes: Literal[1, 2, 4, 8, 16] | None = None
    nvlink: Nvlink | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.pcie_gen is None) != (self.pcie_lanes is None):
            raise ValueError("pcie_gen and pcie_lanes come together")
        return self

    @property
    def pcie_bytes_per_s(self) -> float | None:
        """One way, raw; none where CPU and GPU share their memory."""
        if self.pcie_gen is None or self.pcie_lanes is None:
            return None
        return PCIE_BYTES_PER_LANE[self.pcie_gen] * self.pcie_lanes


class ShareOf(Strict):
    """A share of a nominal rate; ``n`` counts the published runs behind it, 0 says that it is a prior."""

    value: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    n: Annotated[int, Field(ge=0)] = 0
    sources: Annotated[list[Line], Field(min_length=1)]


class Throughput(Strict):
    """Shares of the dense 16-bit peak that training reaches on this card."""

    products: ShareOf
    attention: ShareOf


class Power(Strict):
    tdp_w: Figure


class Context(Strict):
    mib: Figure


class Machine(Strict):
    """The largest machine of this card that is commonly let: a full one, whose network is its adapters together."""

    gpus: Annotated[int, Field(ge=1, le=64)]
    adapters: Annotated[int, Field(ge=1, le=64)] | None = None
    adapter_gbps: Positive | None = None
    nvlink_gpus: Annotated[int, Field(ge=2, le=1024)] | None = None
    """Cards that one NVLink fabric joins, where it reaches beyond the machine."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.adapters is None) != (self.adapter_gbps is None):
            raise ValueError("adapters and adapter_gbps come together")
        if self.nvlink_gpus is not None and self.nvlink_gpus <= self.gpus:
            raise ValueError("nvlink_gpus is only for a fabric that joins more cards than a machine has")
        return self

    @property
    def network_bytes_per_s(self) -> float | None:
        """Of all adapters together, one way."""
        if self.adapters is None or self.adapter_gbps is None:
            return None
        return self.adapters * self.adapter_gbps * GB / 8


class Source(Strict):
    sections: list[Literal["memory", "compute", "bandwidth", "link", "power", "context", "machine"]]
    document: Line
    url: Url | None = None
    note: Line | None = None
