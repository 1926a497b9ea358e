"""Boards as NVML knows them. It asks the driver, and never makes a CUDA context.

Cards differ in what they tell: every question may be answered with ``NVML_ERROR_NOT_SUPPORTED`` or
``NVML_ERROR_NO_PERMISSION``, and then the answer is ``None``. Source: NVML API Reference Guide; nvidia-ml-py 13.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from planner.local.values import Board, Holder, Link, Machine

Answer = TypeVar("Answer")


class Nvml(Protocol):
    """The part of ``pynvml`` that is used; a test checks that the real module has all of it."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802  (NVML's names)
    @property
    def nvmlMemory_v2(self) -> int: ...  # noqa: N802

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlSystemGetDriverVersion(self) -> str: ...  # noqa: N802
    def nvmlSystemGetCudaDriverVersion_v2(self) -> int: ...  # noqa: N802
    def nvmlSystemGetProcessName(self, pid: int) -> str: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802, ANN401
    def nvmlDeviceGetName(self, handle: Any) -> str: ...  # noqa: N802, ANN401
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any: ...  # noqa: N802, ANN401
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]: ...  # noqa: N802, ANN401
    def nvmlDeviceGetDisplayActive(self, handle: Any) -> int: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any) -> int: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any) -> int: ...  # noqa: N802, ANN401
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]: ...  # noqa: N802, ANN401
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Any) -> list[Any]: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: N802, ANN401
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int) -> Any: ...  # noqa: N802, ANN401
    def nvmlDeviceGetAttributes_v2(self, device: Any) -> Any: ...  # noqa: N802, ANN401


class NoAnswer(Exception):
    """NVML is there and cannot be used; the text is its own."""


def load() -> Nvml | None:
    """The installed ``pynvml``; ``None`` without the extra ``local``."""
    try:
        import pynvml  # noqa: PLC0415  (an extra, and needed by --gpu local only)
    except ImportError:
        return None
    found: Nvml = pynvml
    return found


def read(nvml: Nvml) -> Machine:
    """Every board of the machine; raise ``NoAnswer`` where the driver is missing or does not match its library."""
    with _session(nvml):
        ask = _Questions(nvml)
        cuda = ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
        boards = [board for place in range(nvml.nvmlDeviceGetCount()) for board in _boards(nvml, ask, place)]
        return Machine(
            source="nvml",
            boards=tuple(boards),
            driver=ask(nvml.nvmlSystemGetDriverVersion),
            cuda=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
        )


@contextmanager
def _session(nvml: Nvml) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoAnswer(str(error)) from error
    try:
        yield
    except nvml.NVMLError as error:
        raise NoAnswer(str(error)) from error
    finally:
        nvml.nvmlShutdown()


class _Questions:
    """Questions that a card may refuse to answer."""

    def __init__(self, nvml: Nvml) -> None:
        self._refusal = nvml.NVMLError

    def __call__(self, question: Callable[..., Answer], *about: Any) -> Answer | None:  # noqa: ANN401
        try:
            return question(*about)
        except self._refusal:
            return None


def _boards(nvml: Nvml, ask: _Questions, place: int) -> Iterator[Board]:
    """The card at ``place``, or its instances where it is partitioned."""
    handle = nvml.nvmlDeviceGetHandleByIndex(place)
    mode = ask(nvml.nvmlDeviceGetMigMode, handle)
    if not (mode and mode[0]):
        yield _board(nvml, ask, handle, place)
        return
    whole = _board(nvml, ask, handle, place)
    for number in range(ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if instance is not None:
            yield _instance(nvml, ask, instance, whole)


def _board(nvml: Nvml, ask: _Questions, handle: Any, place: int) -> Board:  # noqa: ANN401
    total, reserved, used = _memory(nvml, ask, handle)
    display = ask(nvml.nvmlDeviceGetDisplayActive, handle)
    return Board(
        index=place,
        uuid=ask(nvml.nvmlDeviceGetUUID, handle) or "",
        name=nvml.nvmlDeviceGetName(handle),
        total_bytes=total,
        reserved_bytes=reserved,
        used_bytes=used,
        capability=_pair(ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)),
        display=None if display is None else bool(display),
        link=_link(nvml, ask, handle),
        holders=_holders(nvml, ask, handle),
    )


def _instance(nvml: Nvml, ask: _Questions, handle: Any, whole: Board) -> Board:  # noqa: ANN401
    """A MIG instance: it has its own memory and processes, and the card's name, link and capability."""
    total, reserved, used = _memory(nvml, ask, handle)
    attributes = ask(nvml.nvmlDeviceGetAttributes_v2, handle)
    return Board(
        index=whole.index,
        uuid=ask(nvml.nvmlDeviceGetUUID, handle) or "",
        name=whole.name,
        total_bytes=total,
        reserved_bytes=reserved,
        used_bytes=used,
        capability=whole.capability,
        multiprocessors=None if attributes is None else int(attributes.multiprocessorCount),
        display=False,
        link=whole.link,
        holders=_holders(nvml, ask, handle),
        share=total / whole.total_bytes if total and whole.total_bytes else 1.0,
    )


def _memory(nvml: Nvml, ask: _Questions, handle: Any) -> tuple[int | None, int | None, int | None]:  # noqa: ANN401
    """Total, what the driver keeps, what others use; before driver 510 the driver's share counts as used."""
    found = ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    if found is not None:
        return int(found.total), int(found.reserved), int(found.used)
    older = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    return (None, None, None) if older is None else (int(older.total), None, int(older.used))


def _pair(found: Any) -> tuple[int, int] | None:  # noqa: ANN401
    return None if found is None else (int(found[0]), int(found[1]))


def _link(nvml: Nvml, ask: _Questions, handle: Any) -> Link | None:  # noqa: ANN401
    generation = ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    lanes = ask(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    return Link(generation, lanes) if generation and lanes else None


def _holders(nvml: Nvml, ask: _Questions, handle: Any) -> tuple[Holder, ...]:  # noqa: ANN401
    """Every process on the device once, computing or drawing, the largest first."""
    found: dict[int, Holder] = {}
    for question in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in ask(question, handle) or ():
            name = ask(nvml.nvmlSystemGetProcessName, process.pid) or ""
            used = process.usedGpuMemory
            found.setdefault(process.pid, Holder(process.pid, name, None if used is None else int(used)))
    return tuple(sorted(found.values(), key=lambda holder: (-(holder.used_bytes or 0), holder.pid)))
