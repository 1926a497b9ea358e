"""Which boards CUDA would show, by ``CUDA_VISIBLE_DEVICES``."""

from collections.abc import Mapping, Sequence

from planner.local.values import Board

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible(boards: Sequence[Board], environ: Mapping[str, str]) -> tuple[Board, ...]:
    """The boards in the order that the variable gives; all of them where it is not set.

    Numbers count cards, text names them by the start of their UUID, and what follows an entry that names nothing
    counts as absent. Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    text = environ.get(VARIABLE)
    if text is None:
        return tuple(boards)
    found: list[Board] = []
    for entry in (part.strip() for part in text.split(",")):
        named = _named(boards, entry)
        if not named or named[0] in found:
            break
        found.extend(named)
    return tuple(found)


def _named(boards: Sequence[Board], entry: str) -> list[Board]:
    """A number stands for a card, and for the first instance of one that is partitioned."""
    if entry.isdigit():
        return [board for board in boards if board.index == int(entry)][:1]
    if entry.startswith(("GPU-", "MIG-")):
        matches = [board for board in boards if board.uuid.startswith(entry)]
        return matches if len(matches) == 1 else []
    return []
