"""NVML as it answers on real machines, without one: cards by facts, and refusals where a fact is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from planner.units import MIB

Fact = TypeVar("Fact")


class FakeError(Exception):
    """``pynvml.NVMLError`` and its like."""


@dataclass
class FakeCard:
    """A card's answers; ``None`` is NOT_SUPPORTED."""

    name: str
    total_mib: int | None
    reserved_mib: int | None = 0
    used_mib: int = 0
    capability: tuple[int, int] | None = (8, 9)
    uuid: str = "GPU-0"
    display: int | None = 0
    link: tuple[int, int] | None = (4, 16)
    computing: list[tuple[int, int | None]] | None = field(default_factory=list)
    drawing: list[tuple[int, int | None]] | None = field(default_factory=list)
    instances: list["FakeCard"] | None = None
    multiprocessors: int = 0


class FakeNvml:
    """The part of pynvml that we use; ``old`` has no second version of the memory question, ``mute`` no driver."""

    NVMLError = FakeError
    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(
        self, *cards: FakeCard, names: Mapping[int, str] | None = None, old: bool = False, mute: str = ""
    ) -> None:
        self.cards, self.names, self.old, self.mute = cards, names or {}, old, mute
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.mute:
            raise FakeError(self.mute)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "590.48.01"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 13010

    def nvmlSystemGetProcessName(self, pid: int) -> str:  # noqa: N802
        return _told(self.names.get(pid))

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetName(self, handle: FakeCard) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeCard) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: FakeCard, version: int | None = None) -> Any:  # noqa: N802
        total, reserved = _told(handle.total_mib) * MIB, (handle.reserved_mib or 0) * MIB
        if version is None:
            return SimpleNamespace(total=total, used=handle.used_mib * MIB + reserved)
        if self.old:
            raise FakeError("Function Not Found")
        return SimpleNamespace(total=total, reserved=reserved, used=handle.used_mib * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeCard) -> tuple[int, int]:  # noqa: N802
        return _told(handle.capability)

    def nvmlDeviceGetDisplayActive(self, handle: FakeCard) -> int:  # noqa: N802
        return _told(handle.display)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: FakeCard) -> int:  # noqa: N802
        return _told(handle.link)[0]

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: FakeCard) -> int:  # noqa: N802
        return _told(handle.link)[1]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeCard) -> list[Any]:  # noqa: N802
        return _processes(_told(handle.computing))

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: FakeCard) -> list[Any]:  # noqa: N802
        return _processes(_told(handle.drawing))

    def nvmlDeviceGetMigMode(self, handle: FakeCard) -> list[int]:  # noqa: N802
        if handle.instances is None:
            raise FakeError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeCard) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeCard, index: int) -> FakeCard:  # noqa: N802
        instances = device.instances or []
        if index >= len(instances):
            raise FakeError("Not Found")
        return instances[index]

    def nvmlDeviceGetAttributes_v2(self, device: FakeCard) -> Any:  # noqa: N802
        return SimpleNamespace(multiprocessorCount=device.multiprocessors)


def _told(fact: Fact | None) -> Fact:
    if fact is None:
        raise FakeError("Not Supported")
    return fact


def _processes(found: list[tuple[int, int | None]]) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=None if used is None else used * MIB) for pid, used in found]
