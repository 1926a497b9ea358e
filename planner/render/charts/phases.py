"""Memory over the step: one stack for each phase."""

from planner.render import words
from planner.render.charts.look import NARROW, Look, Spec, by_owner, haloed, layered, rules, texts, told, up
from planner.render.charts.stacks import drawn, owners_of, segments, with_slack
from planner.render.picture import ROOM
from planner.result import ALL_PHASES, Candidate
from planner.units import GIB

TITLE = "GiB on one card"


def phases(candidate: Candidate, look: Look, width: int, height: int) -> Spec:
    """One stack for each phase; the peak's has on top what the card needs besides."""
    estimate, usable = candidate.estimate, candidate.scenario.cluster.usable_bytes
    names = [name for name in ALL_PHASES if name in estimate.phases]
    needed = max(*(memory.total for memory in estimate.phases.values()), estimate.peak.required_bytes)
    line = drawn(usable, needed)
    top = max(needed, usable if line else 0, 1) / GIB * ROOM
    across = _stacks([words.phase(name) for name in names], look, width)
    sums = {"x": across, "y": up(look, "gib", top, TITLE)}
    plain, peak = _sums(candidate)
    layers = [
        _bars(candidate, look, across, top),
        *(_card(usable, top, look, first=estimate.phases[names[0]].total) if line else []),
        texts(plain, sums, look.soft, dy=-9),
        *haloed([peak], sums, look, dy=-9),
    ]
    return layered(look, layers, width, height, {"left": 0, "right": 4, "top": 4, "bottom": 2})


def _bars(candidate: Candidate, look: Look, across: Spec, top: float) -> Spec:
    rows: list[Spec] = []
    for name, memory in candidate.estimate.phases.items():
        sizes = with_slack(candidate) if name == candidate.estimate.peak.phase else memory._asdict()
        rows += [part.row(f" in {words.phase(name)}") for part in segments(words.phase(name), sizes)]
    return {
        "data": {"values": rows},
        "mark": {"type": "bar", "stroke": look.paper, "strokeWidth": 0.7, "aria": True},
        "encoding": {
            "x": across,
            "y": up(look, "from", top, TITLE),
            "y2": {"field": "to"},
            "color": by_owner(look, owners_of([candidate])),
            "description": told(),
        },
    }


def _sums(candidate: Candidate) -> tuple[list[Spec], Spec]:
    """What stands above each stack: allocated bytes, and at the peak the bytes that a card must have."""
    peak = candidate.estimate.peak
    plain = [
        {"stack": words.phase(name), "gib": memory.total / GIB, "text": words.gib(memory.total)}
        for name, memory in candidate.estimate.phases.items()
        if name != peak.phase
    ]
    text = f"{words.gib(peak.required_bytes)} needed"
    return plain, {"stack": words.phase(peak.phase), "gib": peak.required_bytes / GIB, "text": text}


CLOSE = 0.12
"""Two things nearer than this share of the picture's height have no room for the words of both."""


def _stacks(names: list[str], look: Look, width: int) -> Spec:
    """Phases from left to right; where there is little room their words stand below each other, or at a slant."""
    crowded = width / len(names) < CROWDED
    axis: Spec = {
        "title": None,
        "labelFontSize": 12 if width >= NARROW else 11,
        "labelColor": look.ink,
        "labelAngle": -45 if crowded else 0,
        "labelPadding": 8,
        "labelLimit": 200,
        "domain": True,
        "domainColor": look.soft,
        "ticks": False,
    }
    if not crowded:
        axis["labelExpr"] = "split(datum.label, ' ')"
    scale = {"domain": names, "paddingInner": 0.35, "paddingOuter": 0.18}
    return {"field": "stack", "type": "ordinal", "sort": None, "scale": scale, "axis": axis}


CROWDED = 55
"""Pixels of a phase below which its name is set at a slant."""


def _card(usable: int, top: float, look: Look, *, first: int) -> list[Spec]:
    """The card's line across, named at its left end where the sum of the ``first`` stack does not stand there."""
    row = {"gib": usable / GIB, "text": f"{words.gib(usable)} GiB usable"}
    place = {"y": up(look, "gib", top, TITLE)}
    line = rules([row], place, look.edge, 1.5)
    if abs(usable - first) / GIB < CLOSE * top:
        return [line]
    return [
        line,
        *haloed([row], {**place, "x": {"value": 4}}, look, look.edge, align="left", dy=-9),
    ]
