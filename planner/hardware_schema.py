"""What a file in ``hardware_profiles/`` may say, and its conversion to base units.

Files hold what a source prints (MiB, GB/s, TFLOP/s, doubled sparse rates); ``read`` checks one and returns
plain facts under the field names of ``spec.Gpu``, in bytes, FLOP/s and bytes/s, ready for JSON.
"""

import re
import tomllib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from planner.errors import BrokenInput
from planner.hardware_sections import (
    TERA,
    Bandwidth,
    Compute,
    Context,
    Count,
    Figure,
    Id,
    Line,
    Link,
    Machine,
    Memory,
    Power,
    Source,
    Strict,
    Throughput,
)
from planner.price_schema import PriceList
from planner.units import GB, MIB

SECTIONS = ("memory", "compute", "bandwidth", "link", "power", "context")
SHOWN_FAULTS = 6

_Kind = TypeVar("_Kind", bound=Strict)


class Profile(Strict):
    """One accelerator."""

    id: Id
    name: Line
    vendor: Literal["nvidia", "amd", "intel", "other"]
    architecture: Line
    form_factor: Line
    aliases: list[Id] = Field(default_factory=list)
    meanings: dict[Id, Line] = Field(default_factory=dict)
    warnings: list[Line] = Field(default_factory=list)
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


class ClassProfile(Strict):
    """Cards of one advertised size; the name stands for the weakest of ``members``."""

    id: Id
    advertised_gb: Count
    members: Annotated[list[Id], Field(min_length=1)]
    aliases: list[Id] = Field(default_factory=list)


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
