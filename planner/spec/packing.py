"""How whole sequences fill rows of a fixed length."""

from bisect import bisect_left, insort
from collections.abc import Iterable

from planner.spec.job import Lengths

PACKED_TOGETHER = 1000
"""Rows among which TRL packs: the batch size of ``Dataset.map``. trl 1.16 data_utils.py, pack_dataset; datasets 5.2
arrow_dataset.py, map."""
DRAWS = 16
"""Batches that stand for all: their rows per token differ by less than 1 %."""
SEED = 20_240_229


def best_fit_decreasing(lengths: Iterable[tuple[int, int]], *, seq_len: int) -> int:
    """Rows of ``seq_len`` that whole sequences fill, the longest first, each where it leaves the least space.

    Shapes:    lengths: pairs of tokens, at most seq_len, and how many sequences have them
    Formula:   a row with the least space s >= l takes floor(s / l) sequences of length l: after each, it still is the
               row with the least space, until it has less than l
    Source:    Ding et al. 2024, arXiv:2404.10830, algorithm 1; trl 1.16 data_utils.py, _pack_bfd
    Valid:     no sequence longer than a row, which TRL's ``bfd`` cuts first

    >>> best_fit_decreasing([(5, 2), (3, 2), (2, 1)], seq_len=8)
    3
    """
    spaces: dict[int, int] = {}
    order: list[int] = []
    rows = 0
    for length, count in sorted(lengths, reverse=True):
        left = count if length > 0 else 0
        while left:
            at = bisect_left(order, length)
            space = order[at] if at < len(order) else seq_len
            each = space // length
            used = min(spaces[space], -(-left // each)) if at < len(order) else -(-left // each)
            if at < len(order):
                _take(spaces, order, space, used)
            else:
                rows += used
            full = min(used, left // each)
            _put(spaces, order, space - each * length, full)
            if used > full:
                _put(spaces, order, space - (left - full * each) * length, used - full)
            left -= min(left, used * each)
    return rows


def _take(spaces: dict[int, int], order: list[int], space: int, count: int) -> None:
    spaces[space] -= count
    if not spaces[space]:
        del spaces[space]
        order.pop(bisect_left(order, space))


def _put(spaces: dict[int, int], order: list[int], space: int, count: int) -> None:
    if not count or not space:
        return
    if space not in spaces:
        insort(order, space)
    spaces[space] = spaces.get(space, 0) + count


def packed_rows(lengths: Lengths, *, seq_len: int) -> int:
    """Rows of ``seq_len`` after TRL's packing, which packs a thousand sequences at a time.

    Formula:   tokens times rows per token, over draws of 1000 sequences that are packed by best fit decreasing
    Source:    trl 1.16 trainer/sft_trainer.py: pack_dataset by Dataset.map, in batches of 1000
    Valid:     sequences in no order of length
    Excludes:  tokens beyond seq_len, which ``bfd`` drops

    >>> packed_rows(Lengths(((512, 4000),)), seq_len=2048)
    1000
    """
    cut = lengths.truncated(seq_len)
    if cut.sequences <= PACKED_TOGETHER:
        return best_fit_decreasing(cut.counts, seq_len=seq_len)
    from random import Random  # noqa: PLC0415  (loads hashlib, which the quick path has no use for)

    random = Random(SEED)
    tokens, weights = [length for length, _ in cut.counts], [count for _, count in cut.counts]
    total = held = 0
    for _ in range(DRAWS):
        drawn = random.choices(tokens, weights, k=PACKED_TOGETHER)
        counts: dict[int, int] = {}
        for length in drawn:
            counts[length] = counts.get(length, 0) + 1
        total += best_fit_decreasing(counts.items(), seq_len=seq_len)
        held += sum(drawn)
    return min(-(-total * cut.tokens // held), cut.sequences)
