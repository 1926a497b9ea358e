"""Plans as text: exact at 60, 80 and 120 columns, and in every kind of terminal."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from planner.render import plan_text
from planner.render.lines import Screen, fold, plain
from planner.render.markdown import plan_markdown
from planner.render.paint import painted
from planner.render.terminal import plan_lines
from planner.result import Plan, Recommendation

Golden = Callable[[str, str], None]


def terminal(plan: Plan, width: int, *, colour: bool = False, encoding: str = "utf-8") -> str:
    screen = Screen(width=width, colour=colour, ascii_only=encoding == "ascii")
    lines = plan_lines(plan, screen)
    return painted(lines, "standard") if colour else plain(lines, screen)


@pytest.fixture(params=["nothing_fits", "something_fits"])
def named_plan(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    return request.param, request.getfixturevalue(request.param)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_text(named_plan: tuple[str, Plan], width: int, golden: Golden) -> None:
    name, plan = named_plan

    golden(f"render_{name}_{width}.txt", terminal(plan, width))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(named_plan: tuple[str, Plan], width: int, encoding: str) -> None:
    lines = terminal(named_plan[1], width, encoding=encoding).splitlines()

    assert [line for line in lines if len(line) > width] == []


def test_markdown_text(named_plan: tuple[str, Plan], golden: Golden) -> None:
    name, plan = named_plan

    golden(f"render_{name}.md", plan_markdown(plan))


def test_without_colour_there_are_no_escape_codes(nothing_fits: Plan) -> None:
    assert "\x1b" not in terminal(nothing_fits, 80)


def test_colour_changes_nothing_but_colour(something_fits: Plan) -> None:
    """Bars apart, which take a shade for a colour."""
    plain = terminal(something_fits, 80).splitlines()
    coloured = re.sub(r"\x1b\[[0-9;]*m", "", terminal(something_fits, 80, colour=True)).splitlines()

    assert len(plain) == len(coloured)
    assert [line.rstrip() for line in coloured if "█" not in line] == [line for line in plain if "█" not in line]


def test_an_ascii_terminal_gets_letters_for_bars(something_fits: Plan) -> None:
    text = terminal(something_fits, 80, encoding="ascii")

    assert "W weights" in text.replace("\u00a0", " ")
    assert not set(text) & set("█▓▒░│▶─")


def test_a_bar_shows_the_cards_edge_only_once_per_row(nothing_fits: Plan) -> None:
    rows = [line for line in terminal(nothing_fits, 80).splitlines() if "does not fit" in line]

    assert [row.count("│") for row in rows] == [1, 1, 1]
    assert all(row.endswith("▶") for row in rows)


def test_hostile_names_stay_visible_text(nothing_fits: Plan) -> None:
    """A config.json may call itself anything."""
    plan = replace(nothing_fits, model=replace(nothing_fits.model, name="evil\x1b[2J[bold]|<b>`\n"))

    for text in (terminal(plan, 80), plan_markdown(plan)):
        assert "\x1b" not in text
    assert "evil\\x1b[2J[bold]" in terminal(plan, 80)
    assert "&lt;b&gt;" in plan_markdown(plan)


def test_several_cards_and_nodes_are_named(nothing_fits: Plan) -> None:
    plan = replace(nothing_fits, cluster=replace(nothing_fits.cluster, gpus=8, nodes=2))

    assert plan_text.subject(plan)[1] == "16 × GeForce RTX 4090 on 2 nodes, 23.5 GiB usable each"


def test_a_plan_without_advice_still_prints(something_fits: Plan) -> None:
    bare = replace(something_fits, recommendation=Recommendation(candidate=None, reasons=()), notes=())

    assert "Recommended: none" in terminal(bare, 80)
    assert "Recommended: none" in plan_markdown(bare)


def test_a_folded_command_is_still_one_command() -> None:
    command = "plan --model 'my model' --gpu 4090 --method qlora --seq-len 512"
    folded = fold(command, 30)

    assert "\n".join(folded).replace(" \\\n", " ").split() == command.split()
    assert max(map(len, folded)) <= 30


def test_markdown_says_what_the_terminal_says(named_plan: tuple[str, Plan]) -> None:
    """Every figure in GiB and every code stands in both."""
    plan = named_plan[1]
    markdown, text = plan_markdown(plan), terminal(plan, 120)
    figures = re.findall(r"\d+\.\d|[A-Z]{3}\d{3}", text)

    assert [figure for figure in figures if figure not in markdown] == []
