"""What a file of training data holds: rows, tokens, lengths, and what truncation, padding and packing do to them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from planner.spec.job import NO_JOB, Job, Lengths, Task
from planner.spec.packing import packed_rows

Format = Literal["jsonl", "json", "parquet", "csv", "tsv", "text"]
Shape = Literal["chat", "prompt-completion", "preference", "prompt", "text"]
SHAPES: tuple[Shape, ...] = ("chat", "prompt-completion", "preference", "prompt", "text")

CONFIDENCE = 1.645
"""Standard errors on either side of an estimate that hold it 9 times of 10; the normal distribution's."""
TOKENS_LOST = 0.01
"""Share of tokens that a suggested sequence length may cut off. Ours: a length for the very longest row makes every
step's memory that row's."""
LEAST_SUGGESTED = 128


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason for which rows cannot be used, how many of those read, and where the first stand."""

    reason: str
    rows: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How text became tokens. ``error``: share by which that way may be wrong over a whole file, 9 times of 10."""

    kind: Literal["tokenizer", "ratio"]
    name: str
    template: str
    """How roles and turns were counted; empty where no row has any."""
    characters_per_token: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Truncated:
    """What a sequence length cuts off."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows after packing, and the share of their places that stays empty."""

    rows: int
    waste: float


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A file of training data. Counts are the whole file's; where only a part was read, scaled to it.

    ``rows`` can be used, ``bad_rows`` cannot; ``faults`` and ``duplicates`` count within the ``read_rows``.
    ``standard_error``: of ``lengths.tokens``, from sampling alone; ``None`` where a sample was not drawn at random.
    ``answer_tokens``: of completions and of the assistant's turns; ``supervised_tokens``: those that bear loss in
    ``task``; ``unique_tokens``: those of them that stand in rows not seen before.
    """

    path: str
    format: Format
    size_bytes: int
    task: Task
    shapes: tuple[tuple[Shape, int], ...]
    rows: int
    bad_rows: int
    read_rows: int
    read_share: float
    random: bool
    faults: tuple[Fault, ...]
    duplicates: int
    lengths: Lengths = field(repr=False)
    answer_tokens: int
    supervised_tokens: int | None
    unique_tokens: int | None
    standard_error: float | None
    counting: Counting
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, before truncation."""
        return self.lengths.tokens

    @property
    def whole(self) -> bool:
        """Whether every row was read."""
        return self.read_share >= 1.0

    @property
    def shape(self) -> Shape:
        """What most rows are."""
        return max(self.shapes, key=lambda pair: pair[1])[0]

    @property
    def relative_error(self) -> float:
        """Share by which ``tokens`` may be wrong, 9 times of 10: sampling and the way of counting, independent."""
        sampled = CONFIDENCE * (self.standard_error or 0.0) / self.tokens if self.tokens else 0.0
        return float((sampled**2 + self.counting.error**2) ** 0.5)

    @property
    def low_tokens(self) -> int:
        """Fewest tokens, 9 times of 10."""
        return round(self.tokens * (1 - min(self.relative_error, 1.0)))

    @property
    def high_tokens(self) -> int:
        """Most tokens, 9 times of 10."""
        return round(self.tokens * (1 + self.relative_error))

    def quantile(self, share: float) -> int:
        """Tokens that ``share`` of all sequences do not exceed."""
        return quantile(self.lengths, share)

    def truncated(self, seq_len: int) -> Truncated:
        """What ``seq_len`` cuts off."""
        return truncated(self.lengths, seq_len)

    def packed(self, seq_len: int) -> Packed:
        """Rows and empty places after packing into ``seq_len``."""
        rows = packed_rows(self.lengths, seq_len=seq_len)
        kept = self.tokens - self.truncated(seq_len).tokens
        return Packed(rows, max(0.0, 1 - kept / (rows * seq_len)) if rows else 0.0)

    def padding(self, seq_len: int, batch: int) -> float:
        """Share of tokens that are padding when ``batch`` sequences are padded to their longest."""
        cut = self.lengths.truncated(seq_len)
        return 1 - cut.mean / cut.padded(batch) if cut.tokens else 0.0

    def suggested_seq_len(self, limit: int | None = None) -> int:
        """A length for these sequences: see the function of this name."""
        return suggested_seq_len(self.lengths, limit)

    def job(self, said: Job = NO_JOB) -> Job:
        """A training run on this data: ``said``, with the task and the amounts of the file."""
        return replace(
            said,
            task=self.task,
            tokens=self.tokens,
            supervised_tokens=self.unique_tokens,
            sequences=self.lengths.sequences,
            lengths=self.lengths,
        )


def truncated(lengths: Lengths, seq_len: int) -> Truncated:
    """What ``seq_len`` cuts off.

    >>> truncated(Lengths(((10, 9), (20, 1))), 16)
    Truncated(sequences=1, tokens=4)
    """
    longer = [(length, count) for length, count in lengths.counts if length > seq_len]
    return Truncated(
        sequences=sum(count for _, count in longer), tokens=sum((length - seq_len) * count for length, count in longer)
    )


def suggested_seq_len(lengths: Lengths, limit: int | None = None) -> int:
    """The least of 128, 192, 256, 384, ... that cuts off no more than 1 % of the tokens, at most ``limit``.

    >>> suggested_seq_len(Lengths(((100, 9), (900, 1)))), suggested_seq_len(Lengths(((9000, 1),)), 4096)
    (1024, 4096)
    """
    best = LEAST_SUGGESTED
    while truncated(lengths, best).tokens > TOKENS_LOST * lengths.tokens:
        best = best * 3 // 2 if best & (best - 1) == 0 else best * 4 // 3
    return min(best, limit) if limit else best


def quantile(lengths: Lengths, share: float) -> int:
    """Tokens that ``share`` of all sequences do not exceed.

    >>> quantile(Lengths(((10, 9), (20, 1))), 0.9)
    10
    """
    below = 0
    for length, count in lengths.counts:
        below += count
        if below >= share * lengths.sequences:
            return length
    return lengths.longest
