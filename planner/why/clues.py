"""What a message tells by itself: where its bytes were, and whether less fragmentation would have been enough."""

from collections.abc import Iterator

from planner.result import Candidate
from planner.spec import Cluster, Gpu
from planner.units import GIB, MIB, format_bytes
from planner.why.known import Known, matches
from planner.why.message import Amount, Failure
from planner.why.values import Clue

NOTEWORTHY = 0.02
"""Shares of the card below this are not worth a line (ours)."""

EXPANDABLE = "PYTORCH_ALLOC_CONF=expandable_segments:True"
CONTEXTS = GIB
"""What a process takes outside torch's allocator without NCCL: the largest CUDA context that is known is 0.7 GiB."""


SEGMENTS = {2 * MIB: "up to 1 MiB", 20 * MIB: "1 to 10 MiB"}
"""What is asked of the device for small tensors. See ``planner.allocator.constants``."""


def clues(failure: Failure, candidate: Candidate | None) -> tuple[Clue, ...]:
    """Everything that the numbers of a message say, the exact ones first."""
    gpu = candidate.scenario.cluster.gpu if candidate else None
    found = [
        *_request(failure, candidate),
        *_verdict(candidate),
        *_outside(failure, gpu),
        *_fragmentation(failure),
        *_others(failure, candidate.scenario.cluster if candidate else None),
        *_context(failure, gpu),
        *_limit(failure),
        *_other_card(failure, gpu),
    ]
    return tuple(found)


def _request(failure: Failure, candidate: Candidate | None) -> Iterator[Clue]:
    """WHY001, WHY002: the tensor that did not get its memory."""
    wanted = failure.requested
    if wanted is None:
        return
    if failure.kind != "cpu" and wanted.middle in SEGMENTS:
        text = (
            f"{format_bytes(wanted.middle)} is what torch takes for any tensor of {SEGMENTS[wanted.middle]}: "
            "the card was full, and the size of the request says nothing"
        )
        yield Clue(code="WHY002", text=text, bytes=wanted.middle)
        return
    if candidate is None:
        return
    found = matches(candidate.scenario, wanted, exact=failure.kind == "cpu")
    if found:
        yield Clue(code="WHY001", text=_sizes(wanted, found), bytes=found[0].bytes)


def _sizes(wanted: Amount, found: tuple[Known, ...]) -> str:
    named = "; or ".join(f"{one.name}{_batch(one)} ({one.formula} bytes{_unmade(one)})" for one in found[:3])
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"the request of {format_bytes(wanted.middle)} is the size of: {named}{more}"


def _batch(one: Known) -> str:
    return "" if one.times == 1 else f" of {one.times} times the planned batch"


def _unmade(one: Known) -> str:
    return f"; made with {one.made_with}, which was not planned" if one.made_with else ""


def _verdict(candidate: Candidate | None) -> Iterator[Clue]:
    """WHY003: the plan itself says that this does not fit."""
    if candidate is None or candidate.verdict == "fits":
        return
    peak, usable = candidate.estimate.peak, candidate.scenario.cluster.usable_bytes
    known = "does not fit" if candidate.verdict == "does_not_fit" else "is tight"
    text = (
        f"the plan says that this {known}: it needs {format_bytes(peak.required_bytes)} "
        f"({format_bytes(peak.low_bytes)} to {format_bytes(peak.high_bytes)}) of {format_bytes(usable)}"
    )
    yield Clue(code="WHY003", text=text, bytes=peak.required_bytes)


OUTSIDE = {
    "driver": "the driver itself had nothing left: what asked is outside of torch's allocator (a context, a kernel's "
    "stack, NCCL, another library), and torch's cache had taken the rest",
    "library": "a library found no memory for its own handle or buffer: torch's allocator had taken all of it; "
    "torch.cuda.empty_cache() before its first use, or a lower peak, leaves it some",
    "managed": "managed memory for paged states could not be had: it is backed by the host's RAM, so look there",
    "cpu": "the host's RAM ran out, not a card's: weights are loaded there, and offloaded and paged states live there",
}


def _outside(failure: Failure, gpu: Gpu | None) -> Iterator[Clue]:
    """WHY004: it was not torch's allocator of the device."""
    text = OUTSIDE.get(failure.kind)
    if text and not (failure.kind == "cpu" and gpu is not None and gpu.is_cpu):
        yield Clue(code="WHY004", text=text)


def _fragmentation(failure: Failure) -> Iterator[Clue]:
    """WHY005: what the allocator held and no tensor used."""
    idle, wanted, total = failure.unallocated, failure.requested, failure.total
    if idle is None or wanted is None or total is None or not idle.middle >= NOTEWORTHY * total.middle > 0:
        return
    free = failure.free.middle if failure.free else 0
    enough = idle.middle + free >= wanted.middle
    text = (
        f"torch held {format_bytes(idle.middle)} that were in no tensor, in pieces that were too small; {EXPANDABLE} "
        f"can give back up to that, which with {format_bytes(free)} free "
        + ("would have been enough for this request" if enough else "would still not have been enough")
    )
    yield Clue(code="WHY005", text=text, bytes=idle.middle)


def _others(failure: Failure, cluster: Cluster | None) -> Iterator[Clue]:
    """WHY006: what other processes and a display held; among several cards NCCL, too, where nobody counted it."""
    if failure.total is None or failure.free is None:
        return
    own = failure.process.middle if failure.process else _own(failure, cluster.gpu if cluster else None)
    if own is None:
        return
    held = failure.total.middle - failure.free.middle - own
    if held < NOTEWORTHY * failure.total.middle:
        return
    named = ", ".join(f"process {pid} {format_bytes(count.middle)}" for pid, count in failure.others)
    who = f" ({named})" if named else ""
    several = cluster is not None and cluster.world_size > 1 and failure.process is None
    whose = "other processes, a display or NCCL" if several else "other processes or a display"
    text = f"{whose} held {format_bytes(held)} of the card{who}: plan with --headroom, or end them"
    yield Clue(code="WHY006", text=text, bytes=held)


def _own(failure: Failure, gpu: Gpu | None) -> int | None:
    """What this process had, where the message does not say: torch's share and the usual context."""
    if failure.reserved is None:
        return None
    return failure.reserved.middle + (gpu.context_bytes if gpu else CONTEXTS)


def _context(failure: Failure, gpu: Gpu | None) -> Iterator[Clue]:
    """WHY007: what this process had outside of torch's allocator, where that is more than a context."""
    if failure.process is None or failure.reserved is None or failure.total is None:
        return
    usual = gpu.context_bytes if gpu else CONTEXTS
    extra = failure.process.middle - failure.reserved.middle - usual
    if extra < NOTEWORTHY * failure.total.middle:
        return
    text = (
        f"this process held {format_bytes(extra)} outside of torch's allocator beyond a CUDA context: NCCL, a second "
        "framework or library, or CUDA graphs"
    )
    yield Clue(code="WHY007", text=text, bytes=extra)


def _limit(failure: Failure) -> Iterator[Clue]:
    """WHY008: the process may not take the whole card."""
    if failure.allowed is not None and failure.total is not None and failure.allowed.high < failure.total.low:
        text = (
            f"the process may take {format_bytes(failure.allowed.middle)} only: set_per_process_memory_fraction or "
            "per_process_memory_fraction limits it"
        )
        yield Clue(code="WHY008", text=text, bytes=failure.allowed.middle)


def _other_card(failure: Failure, gpu: Gpu | None) -> Iterator[Clue]:
    """WHY009: the message is of another card than the one that is planned for."""
    if gpu is None or failure.total is None or gpu.is_cpu:
        return
    if abs(failure.total.middle - gpu.memory_bytes) > 2 * NOTEWORTHY * gpu.memory_bytes:
        text = (
            f"the card of the message has {format_bytes(failure.total.middle)}, and {gpu.name} has "
            f"{format_bytes(gpu.memory_bytes)}: name the one that it ran on with --gpu"
        )
        yield Clue(code="WHY009", text=text, bytes=failure.total.middle)


CODES = {
    "WHY001": "the request that failed is a tensor that is known by its size",
    "WHY002": "the request was for a small tensor, whose size is not printed",
    "WHY003": "the plan says, too, that it does not fit or is tight",
    "WHY004": "the memory that ran out is not that of torch's allocator on the device",
    "WHY005": "torch held memory that no tensor used: fragmentation",
    "WHY006": "other processes or a display held memory of the card",
    "WHY007": "this process held more outside of torch's allocator than a context takes",
    "WHY008": "a limit was set for this process",
    "WHY009": "the message is of another card than is planned for",
    "WHY010": "the traceback goes through a function that the planned run does not call",
}
"""What each code says."""
