"""Several ranks as one measurement: the fullest of them when all went well, else the one that ended the run."""

from collections.abc import Sequence
from dataclasses import replace

from planner.measure.child import Ended
from planner.measure.values import Measurement

LOST = ("onnection closed", "onnection reset", "onnection refused", "Broken pipe", "NCCL", "recvValue failed")
"""What gloo, NCCL and torch's store say on a rank whose neighbour is gone."""


def gathered(parts: Sequence[Measurement], ends: Sequence[Ended]) -> Measurement:
    """What the ranks of one run amount to; ``parts`` and ``ends`` are theirs, in order."""
    guilty = culprit(parts, ends)
    rank = fullest(parts) if guilty is None else guilty
    chosen = parts[rank]
    detail = f"rank {rank}: {chosen.detail}" if chosen.detail and chosen.outcome != "timed_out" else chosen.detail
    return replace(chosen, detail=detail, rank=rank, ranks=tuple(parts))


def fullest(parts: Sequence[Measurement]) -> int:
    """The rank with the highest peak; the first of those that are alike."""
    return max(range(len(parts)), key=lambda rank: (_peak(parts[rank]), -rank))


def _peak(part: Measurement) -> int:
    return part.peak.allocated_bytes if part.peak else 0


def culprit(parts: Sequence[Measurement], ends: Sequence[Ended]) -> int | None:
    """The rank that ended the run, if any did before all were done or the time was up.

    Others fail in its wake: memory that ran out comes before a signal, that before an error, and what only tells that
    a neighbour is gone comes last. Of several alike it is the first rank.
    """
    bad = [rank for rank, part in enumerate(parts) if part.outcome not in ("done", "timed_out")]
    return min(bad, key=lambda rank: (_weight(parts[rank], ends[rank]), rank), default=None)


def _weight(part: Measurement, ended: Ended) -> int:
    if ended.stopped:
        return 4
    if part.outcome == "failed":
        return 3 if any(words in part.detail for words in LOST) else 2
    return ("out_of_memory", "killed").index(part.outcome)
