"""One JSON document: an array of rows, or an object that holds one."""

import json
import re
from collections.abc import Iterator, Mapping
from random import Random

from planner.datasets.files import Opened
from planner.datasets.rows import SEED, WHOLE_BYTES, Budget, Cluster, Raw, Source, broken

STRIDE = 100
"""Rows of a cluster: the steps of the progress."""
_BETWEEN = re.compile(r"[\s,]*")


def json_document(file: Opened, budget: Budget) -> Source:
    """Rows of a document; of a large array the head, since objects inside objects hide where a row begins."""
    size = file.size - file.start
    file.stream.seek(file.start)
    if file.whole and size <= WHOLE_BYTES:
        return _array(_rows(file, _parsed(file, file.stream.read())), size, budget)
    text = file.stream.read(budget.sample).decode("utf-8", errors="ignore")
    found = _head(file, text)
    return Source(
        format="json",
        size=size,
        clusters=max(size // STRIDE, 1),
        whole=False,
        random=False,
        found=found,
        planned=min(budget.sample, size),
    )


def _array(rows: list[object], size: int, budget: Budget) -> Source:
    """Rows that are in memory; of very many, or of more text than there is time for, some at random."""
    strides = range(0, len(rows), STRIDE)
    share = min(budget.rows / max(len(rows), 1), 1.0 if size <= budget.whole else budget.sample / size)
    chosen = list(strides)
    if share < 1:
        chosen = Random(SEED).sample(strides, max(1, round(share * len(strides))))
    return Source(
        format="json",
        size=len(rows),
        clusters=len(strides),
        whole=share >= 1,
        random=len(chosen) > 1,
        found=_strides(rows, chosen),
        planned=min(len(chosen) * STRIDE, len(rows)),
    )


def _parsed(file: Opened, data: bytes) -> object:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"not text in UTF-8 (byte {error.start:,}): convert it first: iconv -f latin1 -t utf-8"
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg[:60]} (line {error.lineno:,})"
    except (ValueError, RecursionError):
        problem = "not JSON that Python can hold: nested too deeply, or a number of thousands of digits"
    raise broken(file.path, problem)


def _rows(file: Opened, document: object) -> list[object]:
    """The array itself, the longest array of objects in an object, or the object as the only row."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise broken(file.path, "holds one JSON value where rows are expected")
    lists = [value for value in document.values() if isinstance(value, list) and _is_rows(value)]
    if lists and not {"messages", "conversations", "prompt", "chosen"} & document.keys():
        return max(lists, key=lambda rows: len(rows))
    return [document]


def _is_rows(value: list[object]) -> bool:
    return any(isinstance(one, dict) for one in value[:10])


def _strides(rows: list[object], chosen: list[int]) -> Iterator[Cluster]:
    for begin in chosen:
        part = rows[begin : begin + STRIDE]
        yield Cluster(len(part), [_raw(begin + index, row) for index, row in enumerate(part, 1)])


def _raw(number: int, row: object) -> Raw:
    place = f"row {number:,}"
    return Raw(place, row) if isinstance(row, Mapping) else Raw(place, fault="a JSON value where an object is expected")


def _head(file: Opened, text: str) -> Iterator[Cluster]:
    """Rows of the head of an array, one after the other, up to the first that the head cuts."""
    decoder = json.JSONDecoder()
    if not text.lstrip().startswith("["):
        raise broken(
            file.path,
            f"is one JSON object of more than {WHOLE_BYTES // 2**20} MiB: write one row on each line (.jsonl)",
        )
    at, number, rows, begin = text.index("[") + 1, 0, list[Raw](), 0
    while True:
        at = _after(text, at)
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError, IndexError):
            break
        number += 1
        rows.append(_raw(number, row))
        if len(rows) == STRIDE:
            yield Cluster(len(text[begin:at].encode("utf-8", errors="replace")), rows)
            rows, begin = [], at
    if rows:
        yield Cluster(len(text[begin:at].encode("utf-8", errors="replace")), rows)


def _after(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at
