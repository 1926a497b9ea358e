"""What a file in ``hardware_profiles/`` may say, and its conversion to base units.

Files hold what a source prints (MiB, GB/s, TFLOP/s, doubled sparse rates); ``read`` checks one and returns
plain facts under the field names of ``spec.Gpu``, in bytes, FLOP/s and bytes/s, ready for JSON.
"""

import re
import tomllib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from planner.errors import BrokenInput
from planner.units import GB, MIB

TERA = 10**12
SECTIONS = ("memory", "compute", "bandwidth", "link", "power", "context")
SHOWN_FAULTS = 6

PCIE_BYTES_PER_LANE = {
    3: 8e9 / 8 * 128 / 130,
    4: 16e9 / 8 * 128 / 130,
    5: 32e9 / 8 * 128 / 130,
    6: 64e9 / 8 * 242 / 256,
}
"""One way, before packet headers: transfers per second, less the line code (128b/130b; FLIT mode from generation 6)."""

FLASH_CAPABILITY = (8, 0)
"""flash-attention 2 runs from Ampere on (Dao-AILab/flash-attention, README, "NVIDIA CUDA Support")."""
FLASH_GFX = ("gfx90a", "gfx942", "gfx950")
"""AMD chips that flash-attention 2 serves (same README, "AMD ROCm Support")."""

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**6)]
Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Kind = TypeVar("_Kind", bound=_Strict)


class Figure(_Strict):
    """A number, or ``{ value = 62874, estimated = true }`` where nobody has measured it."""

    value: Positive
    estimated: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: object) -> object:
        return {"value": given} if isinstance(given, int | float) else given


class Peak(_Strict):
    """A peak rate as printed; two flags say which doubled figure the source prints."""

    printed: Positive
    sparse: bool = False
    fp16_accumulate: bool = False
    estimated: bool = False

    @property
    def dense_flops_per_s(self) -> float:
        """The rate on dense matrices with fp32 accumulation, which is what training runs at."""
        return self.printed * TERA / (2 if self.sparse else 1) / (2 if self.fp16_accumulate else 1)


class Memory(_Strict):
    advertised_gb: Count
    driver_total_mib: Figure
    torch_total_mib: Figure
    torch_seen_mib: list[Count] = []
    unified: bool = False
    system_mib: Figure | None = None


class Compute(_Strict):
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


class Bandwidth(_Strict):
    memory_gb_per_s: Figure


class Nvlink(_Strict):
    """NVLink (AMD: Infinity Fabric) per GPU; ``bridge`` joins two cards, a fabric joins all of a machine."""

    printed_gb_per_s: Positive
    bidirectional: bool
    bridge: bool = False

    @property
    def one_way_bytes_per_s(self) -> float:
        """What one GPU can send while it receives as much."""
        return self.printed_gb_per_s * GB / (2 if self.bidirectional else 1)


class Link(_Strict):
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


class ShareOf(_Strict):
    """A share of a nominal rate; ``n`` counts the published runs behind it, 0 says that it is a prior."""

    value: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    n: Annotated[int, Field(ge=0)] = 0
    sources: Annotated[list[Line], Field(min_length=1)]


class Throughput(_Strict):
    """Shares of the dense 16-bit peak that training reaches on this card."""

    products: ShareOf
    attention: ShareOf


class Power(_Strict):
    tdp_w: Figure


class Context(_Strict):
    mib: Figure


class Machine(_Strict):
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


class Source(_Strict):
    sections: list[Literal["memory", "compute", "bandwidth", "link", "power", "context", "machine"]]
    document: Line
    url: Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=300)] | None = None
    note: Line | None = None


class Profile(_Strict):
    """One accelerator."""

    id: Id
    name: Line
    vendor: Literal["nvidia", "amd", "intel", "other"]
    architecture: Line
    form_factor: Line
    aliases: list[Id] = []
    meanings: dict[Id, Line] = {}
    warnings: list[Line] = []
    memory: Memory
    compute: Compute
    bandwidth: Bandwidth
    link: Link
    power: Power
    context: Context
    throughput: Throughput | None = None
    machine: Machine | None = None
    source: list[Source]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.memory.torch_total_mib.value > self.memory.driver_total_mib.value:
            raise ValueError("memory.torch_total_mib is above memory.driver_total_mib")
        covered = {section for source in self.source for section in source.sections}
        needed = (*SECTIONS, "machine") if self.machine else SECTIONS
        if missing := [section for section in needed if section not in covered]:
            raise ValueError(f"no [[source]] covers {', '.join(missing)}")
        if strange := sorted(set(self.meanings) - {self.id, *self.aliases}):
            raise ValueError(f"meanings.{strange[0]} is not one of the aliases")
        return self

    def facts(self) -> dict[str, Any]:
        """Return the fields of ``spec.Gpu`` in base units."""
        nvlink = self.link.nvlink
        one_way = nvlink.one_way_bytes_per_s if nvlink else None
        bridged = nvlink is not None and nvlink.bridge
        measured = self.compute.measured_bf16_tflops
        return {
            "id": self.id,
            "name": self.name,
            "vendor": self.vendor,
            "architecture": self.architecture,
            "form_factor": self.form_factor,
            "advertised_gb": self.memory.advertised_gb,
            "memory_bytes": _mib(self.memory.torch_total_mib),
            "driver_bytes": _mib(self.memory.driver_total_mib),
            "context_bytes": _mib(self.context.mib),
            "system_bytes": _mib(self.memory.system_mib),
            "bandwidth_bytes_per_s": self.bandwidth.memory_gb_per_s.value * GB,
            "peak_flops_per_s": {name: peak.dense_flops_per_s for name, peak in self.compute.peak_tflops.items()},
            "measured_bf16_flops_per_s": measured.value * TERA if measured else None,
            "compute_capability": self.compute.cuda_capability,
            "sm_count": self.compute.sm_count,
            "pcie_bytes_per_s": self.link.pcie_bytes_per_s,
            "nvlink_bytes_per_s": None if bridged else one_way,
            "bridge_bytes_per_s": one_way if bridged else None,
            "tdp_w": self.power.tdp_w.value,
            "products": self.throughput.products.model_dump() if self.throughput else None,
            "attention": self.throughput.attention.model_dump() if self.throughput else None,
            "supports_bf16": "bf16" in self.compute.peak_tflops,
            "supports_flash": self.compute.flash,
            "unified_memory": self.memory.unified,
            "estimated": self._estimated(),
            "warnings": self.warnings,
            "aliases": self.aliases,
            **self._machine(),
        }

    def _machine(self) -> dict[str, Any]:
        """Facts of the machine; a card without any stands in machines of eight without a network."""
        if self.machine is None:
            return {}
        return {
            "gpus_per_node": self.machine.gpus,
            "network_bytes_per_s": self.machine.network_bytes_per_s,
            "nvlink_gpus": self.machine.nvlink_gpus,
        }

    def _estimated(self) -> list[str]:
        figures = {
            "memory_bytes": self.memory.torch_total_mib,
            "driver_bytes": self.memory.driver_total_mib,
            "context_bytes": self.context.mib,
            "system_bytes": self.memory.system_mib,
            "bandwidth_bytes_per_s": self.bandwidth.memory_gb_per_s,
            "measured_bf16_flops_per_s": self.compute.measured_bf16_tflops,
            "tdp_w": self.power.tdp_w,
        }
        found = [name for name, figure in figures.items() if figure and figure.estimated]
        if any(peak.estimated for peak in self.compute.peak_tflops.values()):
            found.append("peak_flops_per_s")
        return found


class ClassProfile(_Strict):
    """Cards of one advertised size; the name stands for the weakest of ``members``."""

    id: Id
    advertised_gb: Count
    members: Annotated[list[Id], Field(min_length=1)]
    aliases: list[Id] = []


class Offer(_Strict):
    """Prices of one GPU in USD per GPU-hour, on demand: at least two, in order."""

    low: Positive | None = None
    typical: Positive | None = None
    hyperscaler: Positive | None = None
    basis: Line
    sources: Annotated[list[Id], Field(min_length=1)]
    estimated: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [price for price in (self.low, self.typical, self.hyperscaler) if price is not None]
        if len(given) < 2:
            raise ValueError("a price is a range: give two of low, typical and hyperscaler")
        if given != sorted(given):
            raise ValueError("prices must satisfy low <= typical <= hyperscaler")
        return self


class PriceSource(_Strict):
    id: Id
    document: Line
    url: Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=300)] | None = None
    note: Line | None = None


class PriceList(_Strict):
    as_of: Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")]
    source: list[PriceSource]
    gpus: dict[Id, Offer]

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        known = {source.id for source in self.source}
        for gpu, offer in self.gpus.items():
            if unknown := [name for name in offer.sources if name not in known]:
                raise ValueError(f"gpus.{gpu}.sources names {unknown[0]}, which no [[source]] describes")
        return self


def read(where: str, stem: str, content: bytes) -> dict[str, Any]:
    """Return the checked facts of one file: a GPU, a class of GPUs, or (``stem`` is ``prices``) the prices."""
    raw = _toml(where, content)
    if stem == "prices":
        return {"prices": _checked(where, PriceList, raw).model_dump(exclude={"source"})}
    if "members" in raw:
        group = _checked(where, ClassProfile, raw)
        _same_id(where, group.id, stem)
        return {"class": group.model_dump()}
    profile = _checked(where, Profile, raw)
    _same_id(where, profile.id, stem)
    return {"gpu": profile.facts(), "meanings": profile.meanings}


def _toml(where: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BrokenInput(f"{where}: not a text file in UTF-8") from None
    except RecursionError:
        raise BrokenInput(f"{where}: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise BrokenInput(f"{where}: not TOML: {_clean(str(error), 120)}") from None
    except ValueError:
        raise BrokenInput(f"{where}: a number with too many digits") from None


def _checked(where: str, kind: type[_Kind], raw: dict[str, Any]) -> _Kind:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors(include_url=False, include_input=False)]
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise BrokenInput(f"{where}: {'; '.join(faults[:SHOWN_FAULTS])}{more}") from None


def _fault(item: ErrorDetails) -> str:
    """``power.tdp_w: should be greater than 0``: the key as it stands in the file, and what is wrong with it."""
    parts = [str(part) for part in item["loc"] if part != "[key]"]
    if parts[-1:] == ["value"]:
        parts.pop()
    key = _clean(".".join(parts), 80)
    text = _complaint(item)
    return f"{key}: {text}" if key else text


def _complaint(item: ErrorDetails) -> str:
    match item["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "missing"
        case "model_type":
            return "should be a number" if item["ctx"]["class_name"] == "Figure" else "should be a table"
    return re.sub(r"^(Value error,|Input|String|List|Dictionary) ", "", item["msg"])


def _same_id(where: str, found: str, stem: str) -> None:
    if found != stem:
        raise BrokenInput(f"{where}: id: {found!r} must equal the file's name, {_clean(stem, 60)!r}")


def _clean(text: str, length: int) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:length]


def _mib(figure: Figure | None) -> int:
    return round(figure.value * MIB) if figure else 0
