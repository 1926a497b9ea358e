"""A file of training data as neutral tables and as a document."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Literal

from typing_extensions import TypedDict

from planner.render.sheet import Cell, Column, Sheet, row
from planner.spec.dataset import Dataset, Format, Shape
from planner.spec.job import Lengths, Task
from planner.units import counted, format_bytes, format_count

FORMAT_WORDS: Mapping[Format, str] = MappingProxyType(
    {"jsonl": "JSON Lines", "json": "JSON", "parquet": "Parquet", "csv": "CSV", "tsv": "TSV", "text": "lines of text"}
)
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = ".:-=+*#%"
BINS = 24


@dataclass(frozen=True, slots=True)
class Setting:
    """The sequence length and the micro-batch at which waste is shown; ``limit``: the model's longest sequence."""

    seq_len: int
    micro_batch_size: int = 1
    limit: int | None = None


# ---------------------------------------------------------------- tables


def dataset_sheets(data: Dataset, at: Setting, *, ascii_only: bool = False) -> list[Sheet]:
    """The file, what a sequence length does to it, and the rows that cannot be used."""
    found = [_file(data, ascii_only=ascii_only), _waste(data, at)]
    return [*found, *([_faults(data)] if data.faults else [])]


def dataset_line(data: Dataset) -> str:
    """The file in one line, for the head of a plan.

    ``train.jsonl: 52,002 rows (chat), 10.2M tokens, p50 180, p99 801, longest 5,120``
    """
    lengths = ", ".join(f"{name} {data.quantile(share):,}" for name, share in QUANTILES if name != "p90")
    return (
        f"{PurePath(data.path).name}: {_rows(data)}, {_tokens(data)} tokens a pass, {lengths},"
        f" longest {data.lengths.longest:,}"
    )


def _file(data: Dataset, *, ascii_only: bool) -> Sheet:
    title = f"{PurePath(data.path).name}: {FORMAT_WORDS[data.format]}, {format_bytes(data.size_bytes)}"
    pairs = [
        ("rows", _rows(data)),
        ("read", _read(data)),
        ("tokens", f"{_tokens(data)}{_range(data)}, {data.counting.characters_per_token:.2f} characters each"),
        ("counted by", _counted(data)),
        ("learned", _learned(data)),
        ("lengths", _lengths(data, ascii_only=ascii_only)),
    ]
    return Sheet(title, _PAIR, tuple(_pair(*pair) for pair in pairs), notes=data.notes)


_PAIR = (Column("data"), Column("", wraps=True))


def _pair(name: str, text: str) -> tuple[Cell, ...]:
    return row((Cell(name, "strong"), text))


def _rows(data: Dataset) -> str:
    about = "" if data.whole else "about "
    others = f" and {len(data.shapes) - 1} other shapes" if len(data.shapes) > 1 else ""
    bad = f", {about}{data.bad_rows:,} more that cannot be used" if data.bad_rows else ""
    return f"{about}{counted(data.rows, 'row')} ({data.shape}{others}){bad}"


def _read(data: Dataset) -> str:
    rows = counted(data.read_rows, "row")
    if data.whole:
        return f"whole, {counted(data.duplicates, 'row')} seen before" if data.duplicates else "whole, no row twice"
    how = "at random" if data.random else "from its head"
    twins = f", {data.duplicates:,} of them seen before" if data.duplicates else ""
    return f"{_percent(data.read_share)} of it {how}, {rows}{twins}"


def _tokens(data: Dataset) -> str:
    exact = data.whole and data.counting.kind == "tokenizer"
    return f"{data.tokens:,}" if exact else format_count(data.tokens)


def _range(data: Dataset) -> str:
    if not data.relative_error:
        return ""
    share = data.standard_error / data.tokens if data.standard_error and data.tokens else 0.0
    sampling = f", standard error of sampling {_percent(share)}" if share else ""
    return f" ({format_count(data.low_tokens)} to {format_count(data.high_tokens)}{sampling})"


def _counted(data: Dataset) -> str:
    error = f", within {data.counting.error:.0%} 9 times of 10" if data.counting.error else ""
    template = f"; roles and turns: {data.counting.template}" if data.counting.template else ""
    return f"{data.counting.name}{error}{template}"


def _learned(data: Dataset) -> str:
    if data.supervised_tokens is None or data.unique_tokens is None:
        return f"what the model writes itself; prompts alone are here (task {data.task})"
    share = _percent(data.supervised_tokens / data.tokens) if data.tokens else "0%"
    answers = f"; answers alone are {format_count(data.answer_tokens)}" if _differs(data) else ""
    most = "" if data.whole else "at most "
    new = f", {most}{format_count(data.unique_tokens)} of them in rows not seen before"
    unique = new if data.unique_tokens != data.supervised_tokens else ""
    return f"{format_count(data.supervised_tokens)} tokens bear loss in {data.task}, {share}{unique}{answers}"


def _differs(data: Dataset) -> bool:
    return data.shape == "chat" and data.answer_tokens != data.supervised_tokens


def _lengths(data: Dataset, *, ascii_only: bool) -> str:
    marks = ", ".join(f"{name} {data.quantile(share):,}" for name, share in QUANTILES)
    bar = histogram(data.lengths, ASCII_BARS if ascii_only else BARS)
    seen = "" if data.whole else " seen"
    return f"{bar} {marks}, longest{seen} {data.lengths.longest:,}, mean {data.lengths.mean:,.0f}"


def histogram(lengths: Lengths, bars: str = BARS) -> str:
    """Sequences by length, from the shortest to the longest in equal ratios, as one character each.

    >>> histogram(Lengths(((10, 4), (100, 1))), ".#")
    '10 #                      . 100'
    """
    shortest, longest = lengths.counts[0][0], lengths.longest
    if shortest == longest:
        return f"{longest:,} {bars[-1]}"
    heights = [0] * BINS
    for length, count in lengths.counts:
        heights[_bin(length, shortest, longest)] += count
    top = max(heights)
    drawn = "".join(" " if not height else bars[(height * len(bars) - 1) // top] for height in heights)
    return f"{shortest:,} {drawn} {longest:,}"


def _bin(length: int, shortest: int, longest: int) -> int:
    """Place of a length among bins whose ends have equal ratios."""
    from math import log  # noqa: PLC0415  (a plan without a file has no use for it)

    return min(BINS - 1, int(BINS * log(length / shortest) / log(longest / shortest)))


def _waste(data: Dataset, at: Setting) -> Sheet:
    cut, packed = data.truncated(at.seq_len), data.packed(at.seq_len)
    share = cut.tokens / data.tokens if data.tokens else 0.0
    suggested = data.suggested_seq_len(at.limit)
    pairs = [
        ("truncation", f"{counted(cut.sequences, 'sequence')} cut, {_percent(share)} of all tokens lost"),
        (
            "padding",
            f"{_percent(data.padding(at.seq_len, at.micro_batch_size))} of places at micro-batch {at.micro_batch_size}",
        ),
        (
            "packing",
            f"{packed.rows:,} sequences of {data.lengths.sequences:,}, {_percent(packed.waste)} of places empty",
        ),
        ("suggested", f"--seq-len {suggested} cuts off {_percent(_cut(data, suggested))} of all tokens"),
    ]
    title = f"At sequence length {at.seq_len:,}"
    return Sheet(title, (Column("waste"), Column("", wraps=True)), tuple(_pair(*pair) for pair in pairs))


def _cut(data: Dataset, seq_len: int) -> float:
    return data.truncated(seq_len).tokens / data.tokens if data.tokens else 0.0


def _percent(share: float) -> str:
    """A share as people read it.

    >>> _percent(0.4312), _percent(0.0042), _percent(0.00001), _percent(0)
    ('43%', '0.42%', '<0.01%', '0%')
    """
    if share <= 0:
        return "0%"
    if share < 0.0001:
        return "<0.01%"
    return f"{share:.0%}" if share >= 0.1 else f"{share * 100:.2g}%"


def _faults(data: Dataset) -> Sheet:
    columns = (Column("rows", numeric=True), Column("why", wraps=True), Column("the first", wraps=True))
    rows = tuple(row((f"{one.rows:,}", one.reason, ", ".join(one.places))) for one in data.faults)
    total = sum(one.rows for one in data.faults)
    return Sheet(f"{total:,} of {data.read_rows:,} rows read cannot be used", columns, rows)


# ---------------------------------------------------------------- document


class FaultDocument(TypedDict):
    """A reason for which rows that were read cannot be used, how many, and where the first stand."""

    reason: str
    rows: int
    places: list[str]


class ReadDocument(TypedDict):
    """How much was read: rows, their share of the file, and whether at random."""

    rows: int
    share: float
    random: bool


class LengthsDocument(TypedDict):
    """Tokens of sequences before truncation; ``counts`` are pairs of tokens and how many sequences have them."""

    sequences: int
    mean: float
    p50: int
    p90: int
    p99: int
    longest: int
    counts: list[list[int]]


class CountingDocument(TypedDict):
    """How text became tokens; ``error``: share by which that may be wrong, 9 times of 10."""

    kind: Literal["tokenizer", "ratio"]
    name: str
    template: str
    characters_per_token: float
    error: float


class WasteDocument(TypedDict):
    """What a sequence length and a micro-batch do: ``padding`` and ``packing_waste`` are shares of places."""

    seq_len: int
    micro_batch_size: int
    truncated_sequences: int
    truncated_tokens: int
    padding: float
    packed_sequences: int
    packing_waste: float


class DatasetDocument(TypedDict):
    """A file of training data; counts are the whole file's, ``faults`` and ``duplicates`` those of what was read."""

    path: str
    format: Format
    size_bytes: int
    task: Task
    shapes: dict[Shape, int]
    rows: int
    bad_rows: int
    read: ReadDocument
    faults: list[FaultDocument]
    duplicates: int
    tokens: int
    low_tokens: int
    high_tokens: int
    standard_error: float | None
    supervised_tokens: int | None
    unique_tokens: int | None
    answer_tokens: int
    lengths: LengthsDocument
    counting: CountingDocument
    waste: WasteDocument
    suggested_seq_len: int
    notes: list[str]


class DatasetAnswer(DatasetDocument):
    """What ``plan dataset --format json`` prints."""

    schema: Literal[1]


def dataset_answer(data: Dataset, at: Setting) -> DatasetAnswer:
    """The file as the answer of a command."""
    return {"schema": 1, **dataset_document(data, at)}


def dataset_document(data: Dataset, at: Setting) -> DatasetDocument:
    """The file as JSON has it."""
    return {
        "path": data.path,
        "format": data.format,
        "size_bytes": data.size_bytes,
        "task": data.task,
        "shapes": dict(data.shapes),
        "rows": data.rows,
        "bad_rows": data.bad_rows,
        "read": {"rows": data.read_rows, "share": data.read_share, "random": data.random},
        "faults": [{"reason": one.reason, "rows": one.rows, "places": list(one.places)} for one in data.faults],
        "duplicates": data.duplicates,
        "tokens": data.tokens,
        "low_tokens": data.low_tokens,
        "high_tokens": data.high_tokens,
        "standard_error": data.standard_error,
        "supervised_tokens": data.supervised_tokens,
        "unique_tokens": data.unique_tokens,
        "answer_tokens": data.answer_tokens,
        "lengths": _lengths_document(data),
        "counting": {
            "kind": data.counting.kind,
            "name": data.counting.name,
            "template": data.counting.template,
            "characters_per_token": data.counting.characters_per_token,
            "error": data.counting.error,
        },
        "waste": _waste_document(data, at),
        "suggested_seq_len": data.suggested_seq_len(at.limit),
        "notes": list(data.notes),
    }


def _lengths_document(data: Dataset) -> LengthsDocument:
    return {
        "sequences": data.lengths.sequences,
        "mean": data.lengths.mean,
        "p50": data.quantile(0.5),
        "p90": data.quantile(0.9),
        "p99": data.quantile(0.99),
        "longest": data.lengths.longest,
        "counts": [list(pair) for pair in data.lengths.counts],
    }


def _waste_document(data: Dataset, at: Setting) -> WasteDocument:
    cut, packed = data.truncated(at.seq_len), data.packed(at.seq_len)
    return {
        "seq_len": at.seq_len,
        "micro_batch_size": at.micro_batch_size,
        "truncated_sequences": cut.sequences,
        "truncated_tokens": cut.tokens,
        "padding": data.padding(at.seq_len, at.micro_batch_size),
        "packed_sequences": packed.rows,
        "packing_waste": packed.waste,
    }
