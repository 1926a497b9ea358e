"""Terminals of every kind: what they can show is what they get, and their width is kept."""

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from planner.cli import main
from planner.cli.app import COMMANDS
from planner.cli.progress import Progress
from planner.render.lines import Screen, in_ascii, pairs, plain, size, table
from planner.render.sheet import Cell, Column, Sheet, row
from tests.cli.test_commands import CALLS

ESCAPE = "\x1b"
COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "COLORTERM")
PLAN = ("--model", "8b", "--gpu", "4090")
EVERY: dict[str, tuple[str, ...]] = {
    **CALLS,
    "plan": PLAN,
    "plan that fits nowhere": ("--model", "70b", "--gpu", "4090"),
    "plan on many": ("--model", "8b", "--gpu", "h100-sxm", "--gpus", "16"),
    "plan with data": (*PLAN, "--dataset", "docs/examples/conversions.jsonl"),
    "version": ("--version",),
    "help": ("--help",),
    **{f"{command.name} --help": (command.name, "--help") for command in COMMANDS},
}


class _Screen(io.TextIOWrapper):
    """A stream that says whether it is a terminal."""

    def __init__(self, raw: io.BytesIO, encoding: str, terminal: bool) -> None:
        super().__init__(raw, encoding=encoding, errors="strict")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@dataclass(frozen=True)
class Shown:
    code: int
    out: bytes
    err: bytes


Show = Callable[..., Shown]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """What a command writes to a stream of that encoding, on a terminal or in a pipe."""

    def invoke(
        *arguments: str,
        columns: int = 80,
        encoding: str = "utf-8",
        terminal: bool = False,
        variables: Mapping[str, str] = {},
    ) -> Shown:
        for name in COLOURS:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"COLUMNS": str(columns), **variables}.items():
            monkeypatch.setenv(name, value)
        raw = io.BytesIO(), io.BytesIO()
        out, err = (_Screen(one, encoding, terminal) for one in raw)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main(arguments)
            out.flush()
            err.flush()
        return Shown(code, raw[0].getvalue(), raw[1].getvalue())

    return invoke


# ---------------------------------------------------------------- characters and escape codes


@pytest.mark.parametrize("name", EVERY)
def test_ascii_terminals_get_ascii_and_lose_nothing(show: Show, name: str) -> None:
    """Widths are those of UTF-8, and no question mark stands for a character of ours."""
    wide = show(*EVERY[name]).out.decode()
    narrow = show(*EVERY[name], encoding="ascii").out.decode("ascii")

    assert narrow.count("?") == wide.count("?")
    assert [size(line) for line in narrow.splitlines()] == [size(line) for line in wide.splitlines()]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_no_color_means_no_escape_code(show: Show, name: str, terminal: bool) -> None:
    shown = show(*EVERY[name], terminal=terminal, variables={"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm"})

    assert ESCAPE.encode() not in shown.out + shown.err


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "latin-1"])
def test_windows_code_pages(show: Show, encoding: str) -> None:
    shown = show(*PLAN, encoding=encoding)

    assert (shown.code, shown.err) == (0, b"")
    assert shown.out.decode("ascii").count("?") == show(*PLAN).out.decode().count("?")


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "FORCE_COLOR": ""}, False, False),
        ({"TERM": "xterm", "CLICOLOR_FORCE": "1"}, False, True),
        ({"TERM": "xterm", "CLICOLOR_FORCE": "0"}, False, False),
        ({"TERM": "xterm", "CLICOLOR": "0"}, True, False),
        ({"TERM": "xterm", "CLICOLOR": "1"}, True, True),
        ({"TERM": "xterm", "CLICOLOR": "1"}, False, False),
        ({"TERM": "xterm", "CLICOLOR": "0", "FORCE_COLOR": "1"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, True, False),
    ],
    ids=lambda value: " ".join(f"{key}={text}" for key, text in value.items()) if isinstance(value, dict) else None,
)
def test_who_gets_colours(show: Show, variables: dict[str, str], terminal: bool, coloured: bool) -> None:
    shown = show(*PLAN, terminal=terminal, variables=variables)

    assert (ESCAPE.encode() in shown.out) == coloured


def test_colours_on_an_ascii_terminal(show: Show) -> None:
    shown = show("what-if", *PLAN, encoding="ascii", terminal=True, variables={"TERM": "xterm"})

    assert ESCAPE.encode() in shown.out
    assert b"?" not in shown.out


def test_scripts_get_no_colours(show: Show) -> None:
    for kind in ("json", "markdown"):
        assert ESCAPE.encode() not in show(*PLAN, "--format", kind, variables={"FORCE_COLOR": "1", "TERM": "xterm"}).out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_an_error_is_one_line_everywhere(show: Show, encoding: str) -> None:
    shown = show("--model", "模型\n\x1b[31m/é", "--gpu", "4090", encoding=encoding, terminal=True)

    assert (shown.code, shown.out) == (2, b"")
    text = shown.err.decode(encoding)
    assert (text.startswith("error: unknown model"), text.count("\n"), ESCAPE in text) == (True, 1, False)


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("encoding", "variables", "drawn"),
    [
        ("utf-8", {"TERM": "xterm"}, "██████████··········"),
        ("ascii", {"TERM": "xterm"}, "##########.........."),
        ("utf-8", {"TERM": "dumb"}, ""),
    ],
)
def test_progress(monkeypatch: pytest.MonkeyPatch, encoding: str, variables: dict[str, str], drawn: str) -> None:
    raw = io.BytesIO()
    screen = _Screen(raw, encoding, terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with Progress() as progress:
        progress.bar(0.5, "half")
    screen.flush()

    text = raw.getvalue().decode(encoding)
    assert (drawn in text, bool(text)) == (True, bool(drawn))


# ---------------------------------------------------------------- narrow screens


@pytest.mark.parametrize("name", [name for name in EVERY if name not in CALLS])
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_text_is_never_wider_than_the_terminal(show: Show, name: str, columns: int) -> None:
    shown = show(*EVERY[name], columns=columns)

    assert [line for line in shown.out.decode().splitlines() if size(line) > columns and not is_path(line)] == []


def is_path(line: str) -> bool:
    """A word of a command to copy, which nothing may break."""
    return line.strip().removesuffix(" \\") == "docs/examples/conversions.jsonl"


def test_help_keeps_its_words_where_it_is_narrow(show: Show) -> None:
    wide, narrow = (show("sweep", "--help", columns=columns).out.decode().split() for columns in (80, 40))

    assert "".join(narrow) == "".join(wide)


SHEET = Sheet(
    "",
    (Column("source"), Column("needed", numeric=True), Column("seen", numeric=True), Column("what", wraps=True)),
    (row(("torch", "12.5", " 9.25", "a peak")), row(("peft", "2.25", "", "another peak"))),
)


def test_a_table_that_no_screen_holds_is_told_row_by_row() -> None:
    assert plain(table(SHEET, 40), Screen()).splitlines()[0] == "source  needed   seen  what"
    assert plain(table(SHEET, 24), Screen()).splitlines() == [
        "torch",
        "  needed  12.5",
        "  seen    9.25",
        "  what    a peak",
        "peft",
        "  needed  2.25",
        "  what    another peak",
    ]


def test_words_of_a_heading_stay_whole() -> None:
    sheet = Sheet("", (Column("settings", wraps=True), Column("verdict", wraps=True)), (row(("a b c d e", "it does")),))

    assert plain(table(sheet, 17), Screen()).splitlines()[0] == "settings  verdict"


def test_text_goes_below_a_label_that_leaves_no_room() -> None:
    lines = pairs([((Cell("a label of its own"),), Cell("words that wrap"))], 24)

    assert plain(lines, Screen()).splitlines() == ["a label of its own", "  words that wrap"]


def test_ascii_keeps_columns() -> None:
    line = "GiB    ±   ≥ 22.7  1–2 × 3"

    assert in_ascii(line) == "GiB   +-  >= 22.7  1-2 x 3"
    assert len(in_ascii(line)) == len(line)
