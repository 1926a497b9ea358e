"""Several ranks of one run side by side: where they differ, it shows."""

from collections.abc import Mapping, Sequence

from planner.render import words
from planner.render.sheet import Cell, Column, Sheet, row

Rank = tuple[int, Sequence[int | None], Mapping[str, int], float | None]
"""Number, peaks (allocated, reserved, device), bytes by owner, and seconds of a steady step."""

PEAKS = ("allocated", "reserved", "device")
OWNERS = ("weights", "adapters", "gradients", "optimizer")


def ranks_sheet(ranks: Sequence[Rank]) -> Sheet:
    """One row a rank; only what some of them have."""
    peaks = [place for place, _ in enumerate(PEAKS) if any(rank[1][place] is not None for rank in ranks)]
    owners = [name for name in OWNERS if any(rank[2].get(name) for rank in ranks)]
    names = [*(PEAKS[place] for place in peaks), *owners, "step"]
    columns = (Column("rank", numeric=True), *(Column(name, numeric=True) for name in names))
    rows = tuple(
        row(
            (
                Cell(str(number), "strong"),
                *(words.amount(counts[place]) for place in peaks),
                *(words.amount(held.get(name)) for name in owners),
                "–" if seconds is None else f"{seconds:.3f} s",
            )
        )
        for number, counts, held, seconds in ranks
    )
    return Sheet("Peaks of each rank, and what stands between its steps", columns, rows, notes=tuple(_spread(ranks)))


def _spread(ranks: Sequence[Rank]) -> list[str]:
    """By how much peaks differ."""
    known = [count for _, (count, *_), _, _ in ranks if count is not None]
    if len(known) < 2:
        return []
    apart = max(known) - min(known)
    return [
        f"Ranks differ by {words.amount(apart)} in what they allocate." if apart else "All ranks allocate the same."
    ]
