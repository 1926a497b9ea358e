"""What a process can say of itself without torch: its memory, and the surroundings that a number depends on."""

import os
import platform
import sys
from pathlib import Path

from planner.units import KIB

STATUS = Path("/proc/self/status")

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The first one that is set holds. Source: pytorch c10/core/AllocatorConfig.cpp."""


def process_bytes(name: str) -> int | None:
    """A field of ``/proc/self/status``, such as ``VmData`` (private writable memory, what ``RLIMIT_DATA`` limits)."""
    try:
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            field, _, value = line.partition(":")
            if field == name:
                return int(value.split()[0]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    return None


def peak_resident_bytes() -> int | None:
    """The most main memory that this process has had; ``None`` on a system that does not say it.

    Linux keeps the number by address space (``VmHWM``). That of ``getrusage`` is taken only elsewhere: a process that
    was just started has its parent's there.
    """
    found = process_bytes("VmHWM")
    if found is not None:
        return found
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * KIB


def allocator_text() -> str:
    """The caching allocator's settings, as the environment writes them."""
    return next((text for name in ALLOCATOR_VARIABLES if (text := os.environ.get(name))), "")


def system_text() -> tuple[str, str]:
    """Operating system with its release and machine, and the version of Python."""
    return f"{platform.system()} {platform.release()} {platform.machine()}", platform.python_version()
