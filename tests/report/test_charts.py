"""What the charts of a report show, in Vega-Lite's own words; and that altair knows every one of them."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from planner.render import rent
from planner.render.charts.heat import heat
from planner.render.charts.look import COLOURS, NARROW, PAGE, PAPER, Look, Spec
from planner.render.charts.methods import methods
from planner.render.charts.offers import Scale, offers
from planner.render.charts.phases import phases
from planner.render.charts.stacks import segments, with_slack
from planner.render.plan_text import labels
from planner.render.report.figures import SIDES_OF
from planner.result import OWNERS
from planner.units import GIB
from tests.report.reading import CASES, drawn, report_of

EVERY = pytest.mark.parametrize("case", CASES)
WIDTHS = pytest.mark.parametrize("width", [760, 343])


def charts(case: str, look: Look, width: int) -> dict[str, Spec]:
    found = report_of(case)
    assert found.surface is not None
    assert found.offers is not None
    shown = [found.offers.offers[place] for place in rent.shown(found.offers)]
    sides = SIDES_OF[rent.has_run(found.offers)]
    return {
        "phases": phases(found.candidate, look, width, 340),
        "methods": methods(found.plan.candidates, labels(found.plan), found.candidate, look, width),
        "heat": heat(found.surface, look, width),
        "offers": offers(shown, found.offers.choice, sides, look, width),
    }


def data(spec: Spec, field: str) -> list[dict[str, Any]]:
    """Rows of the layers that have a field."""
    rows = [row for layer in spec["layer"] for row in layer["data"]["values"]]
    return [row for row in rows if field in row]


def words(spec: Spec) -> list[str]:
    return [row["text"] for row in data(spec, "text")]


@drawn
@WIDTHS
@EVERY
def test_altair_knows_every_chart(case: str, width: int) -> None:
    import altair  # noqa: PLC0415  (an extra)

    for look in (PAGE, PAPER):
        for spec in charts(case, look, width).values():
            altair.LayerChart.validate(spec)


@EVERY
def test_phases_are_stacked_to_their_bytes(case: str) -> None:
    one = report_of(case).candidate
    stacks: dict[str, float] = {}
    for row in data(charts(case, PAGE, 760)["phases"], "owner"):
        assert row["from"] == pytest.approx(stacks.get(row["stack"], 0.0))
        stacks[row["stack"]] = row["to"]

    assert list(stacks) == [name.replace("_", " ") for name in one.estimate.phases]
    for name, memory in one.estimate.phases.items():
        top = one.estimate.peak.required_bytes if name == one.estimate.peak.phase else memory.total
        assert stacks[name.replace("_", " ")] == pytest.approx(max(top, memory.total) / GIB)


@EVERY
def test_methods_are_stacked_to_what_they_need_on_one_scale(case: str) -> None:
    plan = report_of(case).plan
    spec = charts(case, PAGE, 760)["methods"]
    ends: dict[str, float] = {}
    for row in data(spec, "owner"):
        ends[row["stack"]] = row["to"]
    domains = {
        tuple(layer["encoding"]["x"]["scale"]["domain"]) for layer in spec["layer"] if "scale" in layer["encoding"]["x"]
    }

    for label, one in zip(labels(plan), plan.candidates, strict=True):
        assert ends[label] == pytest.approx(one.estimate.peak.required_bytes / GIB)
    assert len(domains) == 1
    assert max(one.estimate.peak.high_bytes for one in plan.candidates) / GIB < domains.pop()[1]


def test_the_cards_line_is_drawn_unless_it_is_far_above() -> None:
    for name in ("phases", "methods"):
        assert "23.5 GiB usable" in words(charts("fits", PAGE, 760)[name])
        assert "23.5 GiB usable" in words(charts("nothing", PAGE, 760)[name])
        assert not [text for text in words(charts("tiny", PAGE, 760)[name]) if "usable" in text]


def test_the_frontier_runs_along_the_edges_of_cells() -> None:
    surface = report_of("fits").surface
    assert surface is not None
    lines = [
        row for row in data(charts("fits", PAGE, 760)["heat"], "x2") if "kind" not in row and row["x"] in range(99)
    ]
    level = {row["x"]: row["y"] for row in lines if row["y"] == row["y2"]}

    for across, length in enumerate(surface.lengths):
        running = sum(
            point.verdict != "does_not_fit" for row in surface.rows for point in row if point.seq_len == length
        )
        assert level.get(across, 0) == running


def test_a_surface_on_which_nothing_runs_has_no_frontier() -> None:
    kinds = {row["kind"] for row in data(charts("nothing", PAGE, 760)["heat"], "kind")}

    assert kinds == {"over"}
    assert not [row for row in data(charts("nothing", PAGE, 760)["heat"], "x2") if row["x"] == row["x2"]]


@WIDTHS
def test_words_of_the_heat_map_are_short_enough_for_a_phone(width: int) -> None:
    assert max(len(text) for text in words(charts("many", PAGE, width)["heat"]) if text[0].isdigit()) <= 4


def test_offers_stand_where_their_money_and_hours_are() -> None:
    answer = report_of("many").offers
    assert answer is not None
    rows = data(charts("many", PAGE, 760)["offers"], "sure")
    shown = [answer.offers[place] for place in rent.shown(answer)]
    money = {row["y"]: row["x"] for row in rows if row["left"] == 0}
    hours = {row["y"]: row["x"] for row in rows if row["left"] > 0}

    assert all(row["low"] <= row["x"] <= row["high"] for row in rows)
    assert len(money) == len(hours) == len(shown)
    for places, amounts in ((money, [one.usd for one in shown]), (hours, [one.hours for one in shown])):
        across = [places[y] for y in sorted(places)]
        order = sorted(range(len(shown)), key=lambda place: amounts[place])
        assert [across[place] for place in order] == sorted(across)
        step = (math.log(max(amounts)) - math.log(min(amounts))) / (max(across) - min(across))
        logs = [math.log(amount / amounts[0]) for amount in amounts]
        assert [(x - across[0]) * step for x in across] == pytest.approx(logs)


def test_a_logarithmic_scale_holds_all_it_has_to() -> None:
    scale = Scale(2, 200)

    assert (scale.at(2), scale.at(20), scale.at(200)) == pytest.approx((0, 0.5, 1))


def test_segments_stand_on_each_other_and_none_is_empty() -> None:
    sizes = with_slack(report_of("fits").candidate)
    found = list(segments("x", sizes))

    assert [one.owner for one in found] == [owner for owner, count in sizes.items() if count]
    assert all(one.bytes > 0 for one in found)
    assert found[-1].start + found[-1].bytes == report_of("fits").candidate.estimate.peak.required_bytes


def test_every_owner_has_its_own_colour() -> None:
    assert list(COLOURS) == [*OWNERS, "context"]
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert NARROW > 375


CONES = {
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
"""Full severity, by Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113."""


def colour_blind(kind: str) -> Callable[[str], tuple[float, float, float]]:
    """A colour as it is seen with one kind of cone missing, in CIE L*a*b*."""
    matrix = CONES[kind]

    def seen(colour: str) -> tuple[float, float, float]:
        shades = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shades]
        r, g, b = (min(max(sum(m * v for m, v in zip(row, linear, strict=True)), 0), 1) for row in matrix)
        x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
        fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)

    return seen


@pytest.mark.parametrize("kind", CONES)
def test_colour_blind_people_tell_owners_apart(kind: str) -> None:
    seen = {owner: colour_blind(kind)(colour) for owner, colour in COLOURS.items()}
    pairs = [(one, other) for place, one in enumerate(seen) for other in list(seen)[place + 1 :]]

    for one, other in pairs:
        apart = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
        assert apart > 12, f"{one} and {other}: {apart:.0f}"
