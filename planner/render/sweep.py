"""A sweep for scripts, one line for each row, and for people, as a table of what was found."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from io import StringIO

from planner._version import __version__
from planner.recommend.sweep import Asked, Grid, Row
from planner.recommend.tally import Best, Count, Tally, usd_per_hour
from planner.render import words
from planner.render.document import SCHEMA
from planner.render.explore_document import RowDocument
from planner.render.machine import candidate_document, settings_document
from planner.render.sheet import Cell, Column, Sheet, row
from planner.render.time_text import brief
from planner.result import Candidate

KEY_BYTES = 8
"""Of the digest that tells a row from all others: among a million rows two agree once in some 37 million sweeps."""

KEY = re.compile(r'(?:\{"key": ")?([0-9a-f]{16})"?,(?: "schema": \d+, "version": ")?([^",]*)')
"""Both kinds of line begin with their row's key; the version that wrote it follows."""


class KeyMaker:
    """What tells a row from every other, and from the same row for another job: 16 hexadecimal digits."""

    def __init__(self, grid: Grid) -> None:
        shared = [grid.headroom_bytes, str(grid.profiles_dir or ""), asdict(grid.job)]
        self._shared = blake2b(json.dumps(shared).encode(), digest_size=KEY_BYTES)

    def __call__(self, asked: Asked) -> str:
        """The key of one row."""
        digest = self._shared.copy()
        digest.update(json.dumps(asked).encode())
        return digest.hexdigest()


# ---------------------------------------------------------------- lines


def json_line(found: Row, key: str) -> str:
    """One row as one JSON object on a line; ``candidate`` is that of ``plan --format json``."""
    asked, one = found.asked, found.candidate
    document: RowDocument = {
        "key": key,
        "schema": SCHEMA,
        "version": __version__,
        "model": asked.model,
        "gpu": asked.gpu,
        "gpus": asked.gpus,
        "nodes": asked.nodes,
        "method": asked.method,
        "stack": asked.stack,
        "settings": settings_document(dict(asked.settings)),
        "usable_bytes": None if one is None else one.scenario.cluster.usable_bytes,
        "usd_per_hour": None if one is None else usd_per_hour(one),
        "candidate": None if one is None else candidate_document(one),
        "reason": found.reason,
    }
    return json.dumps(document, allow_nan=False) + "\n"


COLUMNS = (
    "key",
    "version",
    "model",
    "gpu",
    "gpus",
    "nodes",
    "method",
    "stack",
    "settings",
    "verdict",
    "required_bytes",
    "low_bytes",
    "high_bytes",
    "usable_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "device_bytes",
    "phase",
    "parameters",
    "trainable",
    "step_seconds",
    "step_seconds_low",
    "step_seconds_high",
    "tokens_per_second",
    "usd_per_hour",
    "steps",
    "hours",
    "usd",
    "usd_low",
    "usd_high",
    "reason",
)
"""Of a row in CSV. ``settings`` are those that the sweep sets, as words that no other column says."""


def csv_head() -> str:
    """The first line of a CSV file."""
    return _csv(COLUMNS)


def csv_line(found: Row, key: str) -> str:
    """One row in the order of ``COLUMNS``; what nobody knows is empty."""
    asked = found.asked
    settings = " ".join(f"{words.option(name)}={words.value(value)}" for name, value in asked.settings)
    first = (key, __version__, *asked[:6], settings)
    numbers = _numbers(found.candidate) if found.candidate else ("",) * (len(COLUMNS) - len(first) - 1)
    return _csv((*first, *numbers, found.reason))


def _numbers(one: Candidate) -> tuple[object, ...]:
    peak, counts, step, cost = one.estimate.peak, one.estimate.parameters, one.step, one.cost
    paced = (step.seconds, step.low, step.high, step.tokens_per_second) if step else ("",) * 4
    return (
        one.verdict,
        peak.required_bytes,
        peak.low_bytes,
        peak.high_bytes,
        one.scenario.cluster.usable_bytes,
        peak.allocated_bytes,
        peak.reserved_bytes,
        peak.device_bytes,
        peak.phase,
        counts.total,
        counts.trainable,
        *paced,
        usd_per_hour(one),
        *((cost.steps, cost.hours, cost.usd, cost.usd_low, cost.usd_high) if cost else ("",) * 5),
    )


def _csv(cells: Iterable[object]) -> str:
    page = StringIO()
    csv.writer(page, lineterminator="\n").writerow(cells)
    return page.getvalue()


# ---------------------------------------------------------------- tables


def sweep_sheets(found: Tally) -> list[Sheet]:
    """Row by row where there are few, else what each model and method came to."""
    return [_rows(found.kept) if found.few else _summary(found)]


def _rows(rows: Sequence[Row]) -> Sheet:
    varied = _varied(rows)
    priced = any(one.candidate and one.candidate.cost for one in rows)
    columns = (
        Column("model"),
        Column("cards"),
        Column("method"),
        *((Column("settings", wraps=True),) if varied else ()),
        Column("verdict"),
        Column("GiB", numeric=True),
        Column("of", numeric=True),
        Column("s a step", numeric=True, optional=True),
        Column("tokens/s", numeric=True, optional=True),
        *((Column("hours", numeric=True), Column("US$", numeric=True)) if priced else ()),
    )
    cells = tuple(_row(one, varied, priced=priced) for one in rows)
    return Sheet(_scenarios(len(rows)), columns, cells, notes=_reasons(rows))


def _scenarios(count: int) -> str:
    return f"{count:,} scenario{'' if count == 1 else 's'}"


def _reasons(rows: Sequence[Row]) -> tuple[str, ...]:
    """Why rows are unsupported, each reason once, with the number of rows where there are several."""
    counts = Counter(one.reason for one in rows if one.reason)
    return tuple(f"unsupported{f', {count} rows' if count > 1 else ''}: {reason}" for reason, count in counts.items())


def _varied(rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings that are not the same in all rows, the stack among them."""
    names = ("stack", *(name for name, _ in rows[0].asked.settings)) if rows else ()
    return tuple(name for name in names if len({_setting(one.asked, name) for one in rows}) > 1)


def _setting(asked: Asked, name: str) -> object:
    return asked.stack if name == "stack" else dict(asked.settings)[name]


def _row(found: Row, varied: Sequence[str], *, priced: bool) -> tuple[Cell, ...]:
    asked, one = found.asked, found.candidate
    settings = words.settings({name: _setting(asked, name) for name in varied})
    head = (asked.model, _cards(asked), asked.method, *((settings,) if varied else ()))
    if one is None:
        return row((*head, Cell("unsupported", "faint"), *(("–",) * (6 if priced else 4))))
    step, cost = one.step, one.cost
    return row(
        (
            *head,
            words.verdict(one.verdict),
            words.gib(one.estimate.peak.required_bytes),
            words.usable(one.scenario.cluster),
            "–" if step is None else brief(step.seconds),
            "–" if step is None else f"{step.tokens_per_second:,.0f}",
            *((brief(cost.hours), _usd(cost.usd)) if priced and cost else ("–", "–") if priced else ()),
        )
    )


def _summary(found: Tally) -> Sheet:
    whole = any(count.cheapest and count.cheapest.candidate.cost for count in found.counts.values())
    columns = (
        Column("model"),
        Column("method"),
        Column("fits", numeric=True),
        Column("tight", numeric=True),
        Column("not", numeric=True),
        Column("unsupported", numeric=True, optional=True),
        Column("cheapest that fits"),
        Column("US$" if whole else "US$/h", numeric=True),
        Column("fastest that fits", optional=True),
        Column("tokens/s", numeric=True, optional=True),
    )
    cells = tuple(_count(model, method, count) for (model, method), count in found.counts.items())
    refused = sum(count.refused for count in found.counts.values())
    notes = (f"why {refused:,} are unsupported stands in their rows: --format json",) if refused else ()
    return Sheet(_scenarios(found.rows), columns, cells, notes=notes)


def _count(model: str, method: str, count: Count) -> tuple[Cell, ...]:
    verdicts = count.verdicts
    return row(
        (
            model,
            method,
            Cell(_many(verdicts["fits"]), "good" if verdicts["fits"] else ""),
            _many(verdicts["tight"]),
            _many(verdicts["does_not_fit"]),
            _many(count.refused),
            _hardware(count.cheapest),
            "–" if count.cheapest is None else _usd(count.cheapest.value),
            _hardware(count.fastest),
            "–" if count.fastest is None else f"{1 / count.fastest.value:,.0f}",
        )
    )


def _many(count: int) -> str:
    return f"{count:,}" if count else "–"


def _hardware(best: Best | None) -> str:
    if best is None:
        return "–"
    cluster = best.candidate.scenario.cluster
    return f"{cluster.world_size} × {cluster.gpu.id}"


def _cards(asked: Asked) -> str:
    where = f" on {asked.nodes} nodes" if asked.nodes is not None and asked.nodes > 1 else ""
    return f"{asked.gpus} × {asked.gpu}{where}"


def _usd(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
