"""CSV and TSV with a header, whole or by blocks at random."""

import csv
import re
from collections.abc import Iterator, Mapping

from planner.datasets.files import Opened
from planner.datasets.lines import block_size, blockwise, density, drawn, is_large, sampled
from planner.datasets.rows import LEAST_CLUSTERS, LINE_LIMIT, Budget, Cluster, Raw, Source, broken, reason

BLOCK = 2**17
STRIDE = 1000
HEADER_LIMIT = 2**20
OVERHANG = 8 * 2**20
"""A record that begins in a block ends this near behind it, or else the block was read from inside quotes."""
_CLOSED = re.compile(rb'(?<!")(?:"")*"(?=[,;\t\r\n])')
"""A quote that ends a field."""


class Counted:
    """Lines of a stream as text, counting bytes, so that a parser's place in the file is known."""

    def __init__(self, file: Opened, start: int, end: int) -> None:
        file.stream.seek(start)
        self._stream = file.stream
        self._end = end
        self.at = start
        self.line = 0

    def __iter__(self) -> Iterator[str]:
        while self.at < self._end and (line := self._stream.readline(LINE_LIMIT)):
            self.at += len(line)
            self.line += 1
            yield line.decode("utf-8", errors="surrogateescape")


def table_rows(file: Opened, budget: Budget) -> Source:
    """Rows of a table by the names in its header."""
    delimiter = "\t" if file.format == "tsv" else _delimiter(file)
    csv.field_size_limit(LINE_LIMIT)
    header, body = _header(file, delimiter)
    large = is_large(file, body, budget)
    step = block_size(BLOCK, density(file, body), budget)
    found = (
        _at_random(file, header, body, delimiter, step, budget) if large else _in_order(file, header, body, delimiter)
    )
    return blockwise(file, body, step, found, sampled(BLOCK, budget) if large else None)


def _delimiter(file: Opened) -> str:
    """A comma, unless the header has none and has semicolons or tabs."""
    file.stream.seek(file.start)
    line = file.stream.readline(HEADER_LIMIT)
    if b"," in line:
        return ","
    return ";" if b";" in line else "\t" if b"\t" in line else ","


def _header(file: Opened, delimiter: str) -> tuple[list[str], int]:
    source = Counted(file, file.start, file.start + HEADER_LIMIT)
    try:
        names = next(csv.reader(iter(source), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise broken(file.path, f"has no header of column names: {reason(error)}") from None
    return [name.strip() for name in names], source.at


def _records(file: Opened, header: list[str], start: int, end: int, delimiter: str) -> Iterator[tuple[int, int, Raw]]:
    """Records that begin in ``[start, end)``: where, where the next begins, and the row."""
    source = Counted(file, start, end + OVERHANG)
    reader = csv.reader(iter(source), delimiter=delimiter)
    while source.at < end:
        begin, line = source.at, source.line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield begin, source.at, Raw(f"line {line + 1:,}", fault=f"not CSV: {reason(error)}")
            reader = csv.reader(iter(source), delimiter=delimiter)
            continue
        if cells:
            yield begin, source.at, Raw(f"line {line + 1:,}", *_row(header, cells))


def _row(header: list[str], cells: list[str]) -> tuple[Mapping[str, object] | None, str]:
    if len(cells) != len(header):
        return None, f"{len(cells)} cells under {len(header)} headings"
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        return None, "not UTF-8"
    return dict(zip(header, cells, strict=True)), ""


def _in_order(file: Opened, header: list[str], body: int, delimiter: str) -> Iterator[Cluster]:
    rows, size = list[Raw](), 0
    for begin, end, raw in _records(file, header, body, file.available, delimiter):
        rows.append(raw)
        size += end - begin
        if len(rows) == STRIDE:
            yield Cluster(size, rows)
            rows, size = [], 0
    if rows:
        yield Cluster(size, rows)


def _at_random(
    file: Opened, header: list[str], body: int, delimiter: str, step: int, budget: Budget
) -> Iterator[Cluster]:
    """Blocks in random order, each read from the first place in it where records have as many cells as the header."""
    read = rows = 0
    for count, offset in enumerate(drawn(range(body, file.available, step), budget, BLOCK)):
        if count >= LEAST_CLUSTERS and (read > budget.sample or rows > budget.rows):
            return
        cluster = _block(file, header, offset, min(offset + step, file.available), delimiter, first=offset == body)
        read, rows = read + cluster.size, rows + len(cluster.rows)
        yield cluster


def _block(file: Opened, header: list[str], begin: int, end: int, delimiter: str, *, first: bool) -> Cluster:
    """Records of one block. Whether it begins inside quotes is told by which reading gives whole records."""
    starts = [begin] if first else _starts(file, begin, end)
    readings = [list(_records(file, header, start, end, delimiter)) for start in starts]
    if not readings:
        return Cluster(0, [])
    best = max(readings, key=lambda reading: (_sound(reading), len(reading)))
    rows = [Raw(f"byte {at:,}", raw.row, raw.fault) for at, _, raw in best]
    return Cluster(sum(after - at for at, after, _ in best), rows)


def _starts(file: Opened, begin: int, end: int) -> list[int]:
    """Where a record may begin: behind the first line end, or behind the first line end after a closing quote."""
    file.stream.seek(begin - 1)
    data = file.stream.read(end - begin + 1)
    plain = data.find(b"\n") + 1
    closed = _CLOSED.search(data)
    quoted = data.find(b"\n", closed.end()) + 1 if closed else 0
    return [begin - 1 + place for place in dict.fromkeys((plain, quoted)) if place and begin - 1 + place < end]


def _sound(reading: list[tuple[int, int, Raw]]) -> float:
    return sum(raw.row is not None for _, _, raw in reading) / len(reading) if reading else 0.0
