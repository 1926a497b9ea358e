"""What the driver says of itself and of its devices before this process has a context; nothing of it is required."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from planner.errors import PlannerError
from planner.local import look

VERSION_FILE = Path("/proc/driver/nvidia/version")
NOTHING: Mapping[str, int] = MappingProxyType({})


class Driver(NamedTuple):
    """The driver's version, ``""`` where nobody says it, and bytes in use by the UUID of each device.

    What the driver keeps for itself is not among them, as in ``cudaMemGetInfo``.
    """

    version: str = ""
    used: Mapping[str, int] = NOTHING

    def used_on(self, uuid: str) -> int | None:
        """Bytes in use on a device as torch names it, without NVML's prefix; ``None`` where nobody says it."""
        return next((count for name, count in self.used.items() if name.endswith(f"-{uuid}")), None) if uuid else None


def ask_driver() -> Driver:
    """What is known now: through NVML or nvidia-smi, else from the kernel's own file."""
    try:
        machine = look()
    except PlannerError:
        return Driver(kernel_version())
    used = {board.uuid: board.used_bytes for board in machine.boards if board.used_bytes is not None}
    return Driver(machine.driver or kernel_version(), MappingProxyType(used))


def kernel_version() -> str:
    """The version in ``NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08  ...``."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", VERSION_FILE.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""
