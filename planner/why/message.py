"""Out-of-memory messages of torch and its companions, with every number as the range that its rounding leaves.

Sources: pytorch c10/cuda/CUDACachingAllocator.cpp (1.0 to 2.13: the sentence, ``format_size``),
c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDAException.h, ATen/cuda/Exceptions.h; bitsandbytes csrc/pythonInterface.cpp.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from planner.errors import UnsupportedScenario, UsageError
from planner.units import GIB, KIB, MIB, TIB

Kind = Literal["allocator", "cpu", "driver", "library", "managed"]
"""Who ran out: torch's caching allocator, its CPU allocator, the driver outside of both, a library's own handle or
buffer, or managed memory (bitsandbytes' paged states)."""

UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
AMOUNT = r"(?<![\d.])(\d{1,20}(?:\.\d{1,20})?) (bytes|KiB|MiB|GiB|TiB)"
"""No counter of 64 bits has more digits, and longer ones are no message of torch."""

LONGEST = 4_000_000
"""Characters of a pasted text that are looked at, from its end."""


class Amount(NamedTuple):
    """Bytes that a printed number may stand for, both ends included."""

    low: int
    high: int

    @property
    def middle(self) -> int:
        """The number as it was printed."""
        return (self.low + self.high) // 2

    def plus(self, other: "Amount") -> "Amount":
        """The range of the sum."""
        return Amount(self.low + other.low, self.high + other.high)

    def distance(self, count: int) -> int:
        """How far ``count`` lies above the range (or below it, negative); 0 within."""
        return min(count - self.low, 0) or max(count - self.high, 0)


def amount(number: str, unit: str) -> Amount:
    """The range behind ``2.00 GiB``: half of the last printed place on either side.

    >>> amount("2.00", "GiB"), amount("512", "bytes")
    (Amount(low=2142114939, high=2152852357), Amount(low=512, high=512))
    """
    size = UNITS[unit]
    if size == 1:
        return Amount(int(float(number)), int(float(number)))
    half = 0.5 * 10.0 ** -len(number.partition(".")[2])
    return Amount(round((float(number) - half) * size), round((float(number) + half) * size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One message. ``None`` where it does not say.

    ``process``: all that this process has on the device. ``reserved``: held by torch's allocator, ``unallocated`` of it
    in no tensor. ``others``: processes that the message names.
    """

    kind: Kind
    text: str
    source: str
    """Whose words these are."""
    device: int | None = None
    requested: Amount | None = None
    total: Amount | None = None
    free: Amount | None = None
    process: Amount | None = None
    allowed: Amount | None = None
    allocated: Amount | None = None
    unallocated: Amount | None = None
    others: tuple[tuple[int, Amount], ...] = field(default=())

    @property
    def reserved(self) -> Amount | None:
        """Bytes that torch's allocator held."""
        if self.allocated is None or self.unallocated is None:
            return None
        return self.allocated.plus(self.unallocated)

    @property
    def wanted(self) -> Amount | None:
        """Bytes of tensors that would have been there if the request had been met."""
        if self.allocated is None or self.requested is None:
            return None
        return self.allocated.plus(self.requested)


def parse(text: str) -> Failure:
    """The last out-of-memory message of a text.

    Raise ``UsageError`` where there is none, and ``UnsupportedScenario`` for another framework's.
    """
    flat = " ".join(text[-LONGEST:].split())
    found = max(_found(flat), key=lambda one: one[0], default=None)
    if found is None:
        _refuse_foreign(flat)
        raise UsageError(
            "no out-of-memory message is in this text: paste the end of the traceback, or give --observed 22.3GiB"
        )
    return found[1]


def _found(flat: str) -> Iterator[tuple[int, Failure]]:
    """Every message with its place; the one that names most is meant where two stand at one place."""
    for pattern, read in READERS:
        for match in pattern.finditer(flat):
            yield match.end(), read(match, flat)


# ---------------------------------------------------------------- torch's caching allocator

HEAD = re.compile(rf"(CUDA|HIP|NPU|XPU) out of memory\. Tried to allocate {AMOUNT}")
WITHIN = 2_000
"""Characters after its head that still belong to a message; named processes make it long."""


def _allocator(match: re.Match[str], flat: str) -> Failure:
    """Fields of either form: "(GPU 0; ... total capacity; ...)" until torch 2.0, sentences since 2.1."""
    if match[1] in ("NPU", "XPU"):
        raise UnsupportedScenario(
            f"memory of {match[1]} devices is not modelled: NVIDIA, AMD and CPU messages are read"
        )
    tail = flat[match.end() : match.end() + WITHIN]
    following = HEAD.search(tail)
    tail = tail[: following.start()] if following else tail

    def one(pattern: str) -> Amount | None:
        found = re.search(pattern.replace("AMOUNT", AMOUNT), tail)
        return amount(found[1], found[2]) if found else None

    total = one(r"AMOUNT total capacity") or one(r"total capac(?:i)?ty of AMOUNT")
    allocated = one(r"AMOUNT already allocated") or one(r"allocated memory AMOUNT is allocated by PyTorch")
    held, process = one(r"AMOUNT reserved in total by PyTorch"), one(r"this process has AMOUNT memory in use")
    unallocated = one(r"AMOUNT is reserved by PyTorch but unallocated") or one(r"AMOUNT cached\)")
    if held and allocated:
        unallocated = Amount(max(held.low - allocated.high, 0), max(held.high - allocated.low, 0))
    device = re.search(r"GPU (\d+)", tail)
    end = tail.find("by PyTorch but unallocated")
    return Failure(
        kind="allocator",
        text=(match[0] + (tail[: end + 26] if end >= 0 else tail.partition(") ")[0] + ")" * (")" in tail))).strip(),
        source=f"torch's caching allocator ({match[1]})",
        device=int(device[1]) if device else None,
        requested=amount(match[2], match[3]),
        total=total,
        free=one(r"AMOUNT free") or one(r"of which AMOUNT is free"),
        process=process if process and total and process.low <= total.high else None,
        allowed=one(r"AMOUNT allowed"),
        allocated=allocated,
        unallocated=unallocated,
        others=tuple(
            (int(pid), amount(number, unit))
            for pid, number, unit in re.findall(rf"Process (\d+) has {AMOUNT} memory in use", tail)
        ),
    )


# ---------------------------------------------------------------- others


def _cpu(match: re.Match[str], _flat: str) -> Failure:
    count = int(match[1])
    return Failure(kind="cpu", text=match[0], source="torch's CPU allocator", requested=Amount(count, count))


def _told(kind: Kind, source: str) -> Callable[[re.Match[str], str], Failure]:
    """A message without numbers."""

    def read(match: re.Match[str], _flat: str) -> Failure:
        return Failure(kind=kind, text=match[0], source=source)

    return read


READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], Failure]], ...] = (
    (HEAD, _allocator),
    (
        re.compile(
            r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory): you tried to allocate (\d{1,20}) bytes"
        ),
        _cpu,
    ),
    (
        re.compile(r"Error out of memory at line \d+ in file \S+"),
        _told("managed", "bitsandbytes, for paged optimizer states"),
    ),
    (
        re.compile(r"(?:CUDA|HIP) (?:driver )?error: out of memory|(?:cuda|hip)ErrorMemoryAllocation"),
        _told("driver", "the driver, outside torch's allocator"),
    ),
    (re.compile(r"CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"), _told("library", "cuBLAS")),
    (re.compile(r"HIPBLAS_STATUS_ALLOC_FAILED"), _told("library", "hipBLAS")),
    (re.compile(r"CUDNN_STATUS_ALLOC_FAILED"), _told("library", "cuDNN")),
    (
        re.compile(r"(?:NCCL[^\n]{0,200}?|Cuda failure (?:\d+ )?)'out of memory'"),
        _told("library", "NCCL"),
    ),
)

FOREIGN = (
    (r"RESOURCE_EXHAUSTED: (?:Out of memory|XLA:)", "JAX"),
    (r"OOM when allocating tensor|ResourceExhaustedError", "TensorFlow"),
    (r"MPS backend out of memory", "Apple's MPS backend"),
)


def _refuse_foreign(flat: str) -> None:
    for pattern, name in FOREIGN:
        if re.search(pattern, flat):
            raise UnsupportedScenario(f"this message is of {name}, whose memory is not modelled: torch's are read")
