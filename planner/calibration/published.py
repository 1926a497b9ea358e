"""The table of published errors, as it ships: made from the anchors by ``docs/generate.py``, read without them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from planner.calibration.residuals import Kind, Spread, Table

FILE = Path(__file__).with_name("published.json")

DIGITS = 6
"""Of an error in the file: a millionth of a card is less than a page of its allocator."""


def table_text(table: Table) -> str:
    """The table as a file: one group a line, narrow groups after the wide ones that hold them."""
    lines = [json.dumps(_document(kind, table[kind])) for kind in sorted(table)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _document(kind: Kind, spread: Spread) -> Mapping[str, object]:
    errors = {name: round(getattr(spread, name), DIGITS) for name in ("low", "median", "high")}
    return {**kind._asdict(), "n": spread.n, "sources": spread.sources, **errors, "coverage": spread.coverage}


@cache
def published_table(path: Path = FILE) -> Table:
    """The table that ships with this version."""
    return dict(map(_group, json.loads(path.read_text(encoding="utf-8"))))


def _group(facts: Mapping[str, Any]) -> tuple[Kind, Spread]:
    kind = Kind(*(facts[name] for name in Kind._fields))
    return kind, Spread(**{**{name: facts[name] for name in Spread._fields}, "sources": tuple(facts["sources"])})
