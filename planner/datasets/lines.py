"""Lines of a file, whole or by blocks at random: JSON Lines and plain text."""

import json
from collections.abc import Callable, Iterator
from random import Random

from planner.datasets.files import Opened
from planner.datasets.rows import LEAST_CLUSTERS, LINE_LIMIT, SEED, Budget, Cluster, Raw, Source

BLOCK = 2**16
"""Bytes of a block. A line belongs to the block in which it begins, so every line belongs to exactly one."""
SMALLEST = 2**11
"""Bytes of the smallest block, of a file with very short lines."""
STRIDE = 2**20
"""Bytes of a block of a file that is read whole: only the steps of its progress."""

Line = tuple[str, bytes | None]
"""The place of a line, and its bytes without the end; ``None``: too long."""


def json_lines(file: Opened, budget: Budget) -> Source:
    """Rows of JSON Lines."""
    return lines(file, budget, json_row)


def text_lines(file: Opened, budget: Budget) -> Source:
    """Every line a row, as ``datasets`` reads text. datasets 5.2 packaged_modules/text/text.py, sample_by."""
    return lines(file, budget, text_row)


def json_row(place: str, line: bytes) -> Raw:
    """One object of JSON Lines, or what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Raw(place, fault="not UTF-8")
    except json.JSONDecodeError as error:
        return Raw(place, fault=f"not JSON: {error.msg[:60]}")
    except (ValueError, RecursionError):
        return Raw(place, fault="not JSON that Python can hold: nested too deeply, or a number of thousands of digits")
    if not isinstance(row, dict):
        return Raw(place, fault=f"a JSON {_JSON_NAMES.get(type(row), 'number')} where an object is expected")
    return Raw(place, row)


_JSON_NAMES = {list: "array", str: "string", bool: "true or false", type(None): "null"}


def text_row(place: str, line: bytes) -> Raw:
    """One line of text as the row that ``datasets`` makes of it."""
    try:
        return Raw(place, {"text": line.decode("utf-8")})
    except UnicodeDecodeError:
        return Raw(place, fault="not UTF-8")


def lines(file: Opened, budget: Budget, parse: Callable[[str, bytes], Raw]) -> Source:
    """Clusters of what ``parse`` makes of each line that is not blank."""

    def found(blocks: Iterator[tuple[int, list[Line]]]) -> Iterator[Cluster]:
        for size, block in blocks:
            yield Cluster(size, [_raw(place, line, parse) for place, line in block if line is None or line.strip()])

    large = is_large(file, file.start, budget)
    step = block_size(BLOCK, density(file, file.start), budget) if large else STRIDE
    blocks = _at_random(file, step, budget) if large else _in_order(file)
    return blockwise(file, file.start, step, found(blocks), sampled(BLOCK, budget) if large else None)


def blockwise(file: Opened, start: int, step: int, found: Iterator[Cluster], drawn: int | None) -> Source:
    """Rows from ``start`` on in blocks of ``step`` bytes, of which ``drawn`` are read, or all in their order."""
    size = file.size - start
    return Source(
        format=file.format,
        size=size,
        clusters=-(-size // step),
        whole=file.whole and drawn is None,
        random=file.whole and drawn is not None,
        found=found,
        planned=file.available - start if drawn is None else min(step * drawn, size),
    )


def _raw(place: str, line: bytes | None, parse: Callable[[str, bytes], Raw]) -> Raw:
    return Raw(place, fault=f"longer than {LINE_LIMIT // 2**20} MiB") if line is None else parse(place, line)


def is_large(file: Opened, start: int, budget: Budget) -> bool:
    """Whether a file has more bytes, or by the lines at its beginning more rows, than are read whole."""
    size = file.available - start
    return size > budget.whole or density(file, start) * size > budget.rows


def density(file: Opened, start: int) -> float:
    """Lines in a byte, at the beginning."""
    file.stream.seek(start)
    head = file.stream.read(STRIDE)
    return head.count(b"\n") / max(len(head), 1)


def block_size(largest: int, lines_per_byte: float, budget: Budget) -> int:
    """Bytes of a block: so many that the sample's bytes are used up, but fewer where lines are so short that rows are.

    >>> block_size(2**16, 0.001, Budget(whole=2**26, sample=2**25, rows=200_000))
    65536
    >>> block_size(2**16, 0.05, Budget(whole=2**26, sample=2**25, rows=200_000))
    7812
    """
    rows = budget.rows / sampled(largest, budget)
    return min(largest, max(SMALLEST, round(rows / max(lines_per_byte, 1e-9))))


def _in_order(file: Opened) -> Iterator[tuple[int, list[Line]]]:
    number = 0
    for offset in range(file.start, file.available, STRIDE):
        block = block_lines(file, offset, min(offset + STRIDE, file.available))
        yield (
            sum(size for _, _, size in block),
            [(f"line {number + index:,}", line) for index, (_, line, _) in enumerate(block, 1)],
        )
        number += len(block)


def _at_random(file: Opened, step: int, budget: Budget) -> Iterator[tuple[int, list[Line]]]:
    """Blocks in random order until about enough was read; long lines make it fewer blocks."""
    read = rows = 0
    for count, offset in enumerate(drawn(range(file.start, file.available, step), budget, BLOCK)):
        if count >= LEAST_CLUSTERS and (read > budget.sample or rows > budget.rows):
            return
        block = block_lines(file, offset, min(offset + step, file.available))
        size = sum(one for _, _, one in block)
        read, rows = read + size, rows + len(block)
        yield size, [(f"byte {start:,}", line) for start, line, _ in block]


def drawn(offsets: range, budget: Budget, largest: int) -> list[int]:
    """Beginnings of blocks at random, as many as the budget has room for."""
    return Random(SEED).sample(offsets, min(sampled(largest, budget), len(offsets)))


def sampled(largest: int, budget: Budget) -> int:
    """Blocks of a sample."""
    return max(budget.sample // largest, LEAST_CLUSTERS)


def block_lines(file: Opened, begin: int, end: int) -> list[tuple[int, bytes | None, int]]:
    """Lines that begin in ``[begin, end)``: where, their bytes (``None``: too long), their size with its end."""
    lead = 1 if begin > file.start else 0
    file.stream.seek(begin - lead)
    data = file.stream.read(end - begin + lead)
    first = data.find(b"\n") + 1 if lead else 0
    if lead and not first:
        return []
    start = begin - lead + first
    found: list[tuple[int, bytes | None, int]] = []
    parts = data[first:].split(b"\n")
    for part in parts[:-1]:
        found.append((start, part, len(part) + 1))
        start += len(part) + 1
    if parts[-1]:
        rest = file.stream.readline(LINE_LIMIT)
        whole = parts[-1] + rest
        ended = rest.endswith(b"\n") or end - start + len(rest) < LINE_LIMIT
        found.append((start, whole.removesuffix(b"\n") if ended else None, len(whole)))
    return found
