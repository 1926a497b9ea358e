"""What the fit leaves behind: bounds by kind of run, scores by source, and the constants in their files."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from planner.hardware import shipped_dir
from planner.throughput.constants import FILE as RATES
from planner.throughput.constants import Constants
from planner.throughput.record import FILE as RECORD
from planner.throughput.record import IN_WORDS, LEAST, Record, Regime
from planner.validation.time_fit import A100, H100, Fitted, bare
from planner.validation.timing import Score, Timed, score, timed

COVERED = 0.9
"""Share of held-out runs that bounds hold, each source weighing the same: the next one will be a new one."""

DIGITS = 3

MEASURED_CARDS: Mapping[str, str] = {"a100-40gb": A100, "a100-80gb": A100, "h100": H100}
"""Profiles that carry fitted figures, and the architecture behind each."""

PLAIN = ("memory", "dequantise", "kernel", "collective", "nvlink", "network", "exposed")
"""Fitted constants of ``rates.toml``."""


def record_of(name: Regime, ratios: Mapping[str, list[float]]) -> Record:
    """Bounds from measured / predicted by source; ``LEAST`` keeps those of hard kinds apart.

    >>> record_of("measured", {"one": [0.9, 1.0, 1.1]})
    Record(low=0.9, high=1.112, n=3, sources=('one',))
    >>> record_of("moe", {})
    Record(low=0.5, high=2.0, n=0, sources=())
    """
    weighed = sorted((ratio, 1 / len(found) / len(ratios)) for found in ratios.values() for ratio in found)
    low, high = (_end(weighed), _end(weighed[::-1])) if weighed else (1.0, 1.0)
    low, high = min(low, 1 / high), max(high, 1 / low)  # a source that is to come may err either way
    least = LEAST.get(name, 1.0)
    low, high = min(low, 1 / least), max(high, least)
    return Record(_outward(low, down=True), _outward(high, down=False), len(weighed), tuple(sorted(ratios)))


def _end(weighed: list[tuple[float, float]]) -> float:
    """The last ratio before more weight is left out than the coverage allows on one side."""
    left_out = 0.0
    for ratio, weight in weighed:
        left_out += weight
        if left_out > (1 - COVERED) / 2:
            return ratio
    return weighed[-1][0]


def _outward(value: float, *, down: bool) -> float:
    """Rounded so that bounds never shrink."""
    scaled = value * 10**DIGITS
    whole = math.floor(scaled + 1e-6) if down else math.ceil(scaled - 1e-6)
    return float(whole / 10**DIGITS)


def records_of(errors: Mapping[str, float], known: Constants) -> dict[Regime, Record]:
    """Bounds of every kind of run, as ``known`` tells kinds, from held-out errors by id."""
    ratios: dict[Regime, dict[str, list[float]]] = {name: {} for name in IN_WORDS}
    for one in timed():
        ratios[bare(one).regime(known)].setdefault(one.run.source, []).append(1 / (1 + errors[one.run.id]))
    return {name: record_of(name, found) for name, found in ratios.items()}


class Held(NamedTuple):
    """A group of runs under a fit that has not seen their source; ``held``: how many lie in the bounds."""

    score: Score
    held: int


def held_scores(
    records: Mapping[Regime, Record], errors: Mapping[str, float], known: Constants
) -> tuple[list[Held], list[Held]]:
    """By source, and by kind of run; the last of each is of all."""
    found: tuple[dict[str, list[Timed]], ...] = ({}, {})
    kinds = {one.run.id: bare(one).regime(known) for one in timed()}
    for one in timed():
        for groups, name in zip(found, (one.run.source, kinds[one.run.id]), strict=True):
            groups.setdefault(name, []).append(one)
    inside = {one.run.id: _inside(records[kinds[one.run.id]], errors[one.run.id]) for one in timed()}

    def held(name: str, runs: Iterable[Timed]) -> Held:
        ids = [one.run.id for one in runs]
        return Held(score(name, (errors[name] for name in ids)), sum(inside[name] for name in ids))

    tables = [[held(name, runs) for name, runs in sorted(groups.items())] for groups in found]
    return [*tables[0], held("all", timed())], tables[1]


def _inside(record: Record, error: float) -> bool:
    return record.low <= 1 / (1 + error) <= record.high


def record_text(records: Mapping[Regime, Record], errors: Mapping[str, float], known: Constants) -> str:
    """``published.json``: bounds by kind of run, and held-out scores by source and by kind."""
    sources, kinds = held_scores(records, errors, known)
    bounds = [f"  {json.dumps(name)}: {json.dumps(record._asdict())}" for name, record in records.items()]
    text = '{"bounds": {\n' + ",\n".join(bounds) + "\n },\n"
    rows = ('"held_out": [\n' + _rows(sources) + "\n ]", '"kinds": [\n' + _rows(kinds) + "\n ]")
    return text + " " + ",\n ".join(rows) + "}\n"


def _rows(found: list[Held]) -> str:
    return ",\n".join(f"  {json.dumps({**rounded(one.score)._asdict(), 'held': one.held})}" for one in found)


def stored(table: Literal["held_out", "kinds"], path: Path = RECORD) -> tuple[Held, ...]:
    """Held-out scores as the last fit left them."""
    rows = json.loads(path.read_text(encoding="utf-8"))[table]
    return tuple(Held(Score(**{name: row[name] for name in Score._fields}), row["held"]) for row in rows)


def rounded(score: Score) -> Score:
    """To a thousandth, as it is written."""
    return score._replace(**{name: round(getattr(score, name), DIGITS) for name in ("bias", "median", "p90")})


# ---------------------------------------------------------------- constants in their files


def figure(value: float) -> str:
    """Three significant digits, as TOML reads them.

    >>> figure(0.78254), figure(4.4312e-05)
    ('0.783', '4.43e-05')
    """
    return f"{value:.3g}"


def rates_text(fitted: Fitted) -> str:
    """``rates.toml`` with fitted values, their runs and sources."""
    text, runs = RATES.read_text(encoding="utf-8"), timed()
    for name in PLAIN:
        held = [one for one in runs if _speaks(one, name, fitted.constants)]
        row = f"value = {figure(fitted.values[name])}\nn = {len(held)}\nsources = {json.dumps(_sources(held))}\n"
        text = _put(rf"(?m)^(\[{name}\].*\n(?:#.*\n)*)value = .*\nn = .*\nsources = .*\n", rf"\g<1>{row}", text)
    return text


def _put(pattern: str, row: str, text: str) -> str:
    """``text`` with the one place of ``pattern`` replaced; raise ``ValueError`` where there is none, or several."""
    found, count = re.subn(pattern, row, text)
    if count != 1:
        raise ValueError(f"{pattern!r} stands in {count} places, not in one")
    return found


def _speaks(one: Timed, name: str, known: Constants) -> bool:
    """Whether a run has the work that a constant is about."""
    work, nodes = one.work, one.run.scenario.cluster.nodes
    return {
        "memory": True,
        "dequantise": work.dequantised > 0,
        "kernel": bare(one).regime(known) == "launch",
        "collective": work.collectives > 0,
        "nvlink": work.gathers and nodes == 1,
        "network": nodes > 1,
        "exposed": work.gathers,
    }[name]


def profile_texts(fitted: Fitted) -> dict[Path, str]:
    """Profiles of the cards that several sources measured, with their section ``[throughput]``."""
    found = {}
    for card, chip in MEASURED_CARDS.items():
        path = shipped_dir() / f"{card}.toml"
        text = path.read_text(encoding="utf-8")
        held = [one for one in timed() if one.run.scenario.cluster.gpu.architecture == chip]
        for what in ("products", "attention"):
            value = figure(fitted.values[f"{chip} {what}"])
            row = f"{what} = {{ value = {value}, n = {len(held)}, sources = {json.dumps(_sources(held))} }}"
            text = _put(rf"(?m)^{what} = \{{ value.*$", row, text)
        found[path] = text
    return found


def _sources(runs: Iterable[Timed]) -> list[str]:
    return sorted({one.run.source for one in runs})
