"""Settings of the caching allocator, as ``PYTORCH_ALLOC_CONF`` (or ``PYTORCH_CUDA_ALLOC_CONF``) writes them.

Source: pytorch c10/core/AllocatorConfig.{h,cpp} and c10/cuda/CUDAAllocatorConfig.{h,cpp}.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from planner.errors import UnsupportedScenario, UsageError, nearest
from planner.units import MIB

INTERVALS = 16
"""Powers of two from 1 MiB to 32 GiB, each with its own divisions (kRoundUpPowerOfTwoIntervals)."""

VARIABLE = "PYTORCH_ALLOC_CONF"
BETWEEN_OPTIONS = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What changes bytes. ``None`` means that the option is not set."""

    expandable_segments: bool = False
    max_split_size: int | None = None
    """Larger blocks are never split (bytes)."""
    max_non_split_rounding: int | None = None
    """How much larger than an oversize request a block may be (bytes); by default the large segment's size."""
    garbage_collection_threshold: float | None = None
    """Share of the allowed memory above which cached blocks are given back by age. torch ignores it unless a memory
    fraction is set too."""
    memory_fraction: float | None = None
    """``per_process_memory_fraction``, or what the program gave to ``set_per_process_memory_fraction``."""
    large_segment: int | None = None
    """Bytes taken at a time for requests of 1 to 10 MiB."""
    divisions: tuple[int, ...] = ()
    """Steps between powers of two to which sizes are rounded, for each of 16 intervals; empty is off."""


def parse(text: str) -> Settings:
    """Settings from the text of the environment variable; what torch refuses is refused.

    >>> parse("expandable_segments:True,max_split_size_mb:64")
    ... # doctest: +ELLIPSIS
    Settings(expandable_segments=True, max_split_size=67108864, ...)
    """
    settings = Settings()
    for option in filter(None, BETWEEN_OPTIONS.split("".join(text.split()))):
        key, colon, value = option.partition(":")
        if not colon or not value:
            raise UsageError(f"{VARIABLE}: {option!r} is not a key:value pair, as in max_split_size_mb:128")
        settings = _with(settings, key, value)
    _check(settings)
    return settings


def _with(settings: Settings, key: str, value: str) -> Settings:
    if key == "backend" and value != "native":
        raise UnsupportedScenario(f"{VARIABLE}: backend {value[:80]!r} is not modelled, only native")
    if key in IRRELEVANT:
        return settings
    if key not in READERS:
        near = nearest(key, READERS)
        hint = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(READERS)})"
        raise UsageError(f"{VARIABLE}: unknown option {key[:80]!r}{hint}")
    name, reader = READERS[key]
    try:
        return replace(settings, **{name: reader(value)})
    except ValueError as error:
        raise UsageError(f"{VARIABLE}: {key} cannot be {value[:80]!r}: {error}") from error


def _check(settings: Settings) -> None:
    """Limits that depend on one another, as torch states them."""
    large = settings.large_segment or 20 * MIB
    if large <= 10 * MIB:
        raise UsageError(f"{VARIABLE}: large_segment_size_mb must be more than 10")
    for key, size in (
        ("max_split_size_mb", settings.max_split_size),
        ("max_non_split_rounding_mb", settings.max_non_split_rounding),
    ):
        if size is not None and size < large:
            raise UsageError(f"{VARIABLE}: {key} must be at least {large // MIB}, the size of a large segment")


# ---------------------------------------------------------------- values


def _switch(value: str) -> bool:
    if value not in ("True", "False"):
        raise ValueError("write True or False")
    return value == "True"


def _mebibytes(value: str) -> int:
    if not value.isdecimal():
        raise ValueError("write a whole number of MiB")
    return int(value) * MIB


def _share(value: str) -> float:
    share = float(value)
    if not 0 < share < 1:
        raise ValueError("write a number between 0 and 1")
    return share


def _fraction(value: str) -> float:
    return 1.0 if float(value) == 1 else _share(value)


def _divisions(value: str) -> tuple[int, ...]:
    """One number for all sizes, or a list such as ``[256:1,512:2,>:4]`` by size in MiB.

    A size names the interval that begins there; the first entry also covers what is smaller, ``>`` what is larger.
    """
    if not value.startswith("["):
        return (_power(value),) * INTERVALS
    if not value.endswith("]"):
        raise ValueError("the list has no end")
    found = [0] * INTERVALS
    last = 0
    for number, entry in enumerate(value[1:-1].split(",")):
        size, _, count = entry.partition(":")
        steps = 0 if count == "0" else _power(count)
        if size == ">":
            found[last + 1 :] = [steps] * (INTERVALS - last - 1)
            continue
        last = min(_power(size).bit_length() - 1, INTERVALS - 1)
        if number == 0:
            found[:last] = [steps] * last
        found[last] = steps
    return tuple(found)


def _power(value: str) -> int:
    number = int(value) if value.isdecimal() else 0
    if number < 1 or number & (number - 1):
        raise ValueError("sizes and divisions are powers of two")
    return number


Reader = Callable[[str], Any]

READERS: Mapping[str, tuple[str, Reader]] = MappingProxyType(
    {
        "expandable_segments": ("expandable_segments", _switch),
        "max_split_size_mb": ("max_split_size", _mebibytes),
        "max_non_split_rounding_mb": ("max_non_split_rounding", _mebibytes),
        "garbage_collection_threshold": ("garbage_collection_threshold", _share),
        "per_process_memory_fraction": ("memory_fraction", _fraction),
        "large_segment_size_mb": ("large_segment", _mebibytes),
        "roundup_power2_divisions": ("divisions", _divisions),
    }
)

IRRELEVANT = frozenset(
    {
        "backend",
        "release_lock_on_cudamalloc",
        "release_lock_on_hipmalloc",
        "pinned_use_cuda_host_register",
        "pinned_use_hip_host_register",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_free_catch_all",
        "graph_capture_record_stream_reuse",
        "throw_on_cudamalloc_oom",
    }
)
"""Options that move no bytes of the device."""
