"""The timeline: what is drawn where, and files that open anywhere."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from planner.allocator.curve import spans
from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.errors import UsageError
from planner.render.bars import NAMES
from planner.render.charts.look import COLOURS
from planner.render.charts.timeline import timeline as chart
from planner.render.picture import Picture, bands_of
from planner.render.timeline import check_picture, timeline
from planner.result import OWNERS
from planner.units import GIB

drawn = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("altair", "vl_convert")),
    reason="needs the pictures extra (altair, vl-convert-python)",
)

PHASES_OF_A_STEP = ("forward", "loss", "backward", "optimizer_step")


def steps(count: int = 2, layers: int = 20) -> Trace:
    """Weights of 10 GiB, then steps in which activations grow and go; logits of 2 GiB make the peak, in loss."""
    blocks = [Block(10 * GIB, "weights", "w")]
    events, marks = [0], [Mark(0, "load", 0)]
    for step in range(count):
        for phase in PHASES_OF_A_STEP:
            marks.append(Mark(len(events), phase, step))  # type: ignore[arg-type]
            first = len(blocks)
            if phase == "forward":
                kept = list(range(first, first + layers))
                blocks += [Block(GIB // 10, "activations", "a")] * layers
                events += kept
            elif phase == "loss":
                blocks.append(Block(2 * GIB, "logits", "l"))
                events += [first, ~first]
            elif phase == "backward":
                for layer in reversed(kept):
                    blocks.append(Block(GIB // 50, "temporaries", "t"))
                    events += [len(blocks) - 1, ~(len(blocks) - 1), ~layer]
            else:
                blocks.append(Block(GIB // 4, "temporaries", "t"))
                events += [first, ~first]
    return Trace(tuple(blocks), tuple(events), (OUTSIDE,) * len(events), tuple(marks))


def picture_of(trace: Trace, *, usable: int = 24 * GIB, context: int = 0, title: str = "a title") -> Picture:
    return Picture.of(trace, (), title, usable, context)


# ---------------------------------------------------------------- what is drawn


def test_the_peak_and_where_it_is() -> None:
    picture = picture_of(steps())

    assert picture.peak.memory.total == 10 * GIB + 20 * (GIB // 10) + 2 * GIB
    assert picture.peak_text == "peak 14.00 GiB in loss of the first step"
    assert picture.rows[[row["x"] for row in picture.rows].index(round(picture.peak_at, 7))]["logits"] == 2


def test_owners_come_in_the_terminals_order_and_only_those_that_are_there() -> None:
    assert picture_of(steps()).owners == ("weights", "activations", "logits", "temporaries")
    assert list(COLOURS) == list(NAMES) == [*OWNERS, "context"]


def test_rows_rise_from_left_to_right_and_sum_up() -> None:
    picture = picture_of(steps())
    places = [row["x"] for row in picture.rows]

    assert places[0] == 0
    assert places[-1] == pytest.approx(1)
    assert all(left < right for left, right in pairwise(places))
    for row in picture.rows:
        assert sum(row[owner] for owner in OWNERS) == pytest.approx(row["total"], abs=1e-4)


def test_every_phase_of_two_steps_has_room_for_its_name() -> None:
    bands = picture_of(steps()).bands

    assert [band.name for band in bands] == ["load", *[name.replace("_", " ") for name in PHASES_OF_A_STEP] * 2]
    assert bands[0].left == 0
    assert bands[-1].right == pytest.approx(1)


def test_names_are_left_out_where_there_are_too_many() -> None:
    trace = steps(60)
    bands = bands_of(spans(trace))

    assert bands[-1].right == pytest.approx(1)
    assert "" in {band.name for band in bands}
    assert len([name for _, name in picture_of(trace).steps if name]) < 60


def test_steps_have_names() -> None:
    assert [name for _, name in picture_of(steps()).steps] == ["first step", "steady step"]
    assert [name for _, name in picture_of(steps(3)).steps] == ["first step", "step 2", "step 3"]


def test_a_trace_without_marks_is_one_span() -> None:
    marked = steps()
    picture = picture_of(Trace(marked.blocks, marked.events, marked.layers, ()))

    assert picture.peak_text == "peak 14.00 GiB"
    assert picture.steps == ()


def test_an_empty_trace_is_drawn() -> None:
    assert picture_of(Trace((), (), (), ())).peak_text == "peak 0.00 GiB"


def test_the_cards_line_and_what_its_context_leaves() -> None:
    edges = picture_of(steps(), usable=24 * GIB, context=GIB // 2).edges

    assert [(edge.gib, edge.text) for edge in edges] == [
        (24, "24.0 GiB usable"),
        (23.5, "23.5 GiB without the CUDA context"),
    ]
    assert picture_of(steps(), usable=24 * GIB).top > 24


def test_a_card_that_is_far_too_small_still_has_its_line() -> None:
    picture = picture_of(steps(), usable=4 * GIB)

    assert picture.edges[0].drawn
    assert picture.top > 14


def test_a_card_that_is_far_larger_does_not_press_the_picture_flat() -> None:
    picture = picture_of(steps(), usable=80 * GIB)

    assert [(edge.text, edge.drawn) for edge in picture.edges] == [("80.0 GiB usable, far above", False)]
    assert picture.top < 20


def test_the_peaks_name_stands_above_a_line_that_is_close() -> None:
    def height(usable: int) -> float:
        layers = chart(picture_of(steps(), usable=usable))["layer"]
        found = {row["above"] for layer in layers for row in layer["data"].get("values", ()) if "above" in row}
        (only,) = found
        return float(round(only, 3))

    assert height(int(14.5 * GIB)) == 14.5
    assert height(24 * GIB) == height(13 * GIB) == 14


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["memory.pdf", "memory", "memory.html.gz", ".html"])
def test_an_unknown_ending_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"a timeline ends in \.html, \.png, \.svg") as caught:
        check_picture(tmp_path / name)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("absent", "named"), [(("altair",), "altair"), (("altair", "vl_convert"), "altair and vl-convert-python")]
)
def test_a_missing_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], named: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else object())
    expected = rf'^a timeline needs {named}: pip install "finetune-planner\[pictures\]"$'

    with pytest.raises(UsageError, match=expected):
        timeline(steps(), title="t", usable_bytes=GIB, out=tmp_path / "memory.png")

    assert list(tmp_path.iterdir()) == []


@drawn
def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder does not exist"):
        check_picture(tmp_path / "nowhere" / "memory.png")


@drawn
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "memory.html").mkdir()

    with pytest.raises(UsageError, match=r"cannot write .*memory\.html"):
        timeline(steps(), title="t", usable_bytes=GIB, out=tmp_path / "memory.html")

    assert [path.name for path in tmp_path.iterdir()] == ["memory.html"]


# ---------------------------------------------------------------- files

Draw = Callable[..., bytes]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    def run(name: str, title: str = "Example-8B, lora") -> bytes:
        out = tmp_path / name
        timeline(steps(), title=title, usable_bytes=16 * GIB, out=out, context_bytes=GIB // 2)
        return out.read_bytes()

    return run


@drawn
def test_a_png_is_1200_by_500_in_twice_the_pixels(draw: Draw) -> None:
    content = draw("memory.PNG")

    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20]) == 2 * 1200
    assert int.from_bytes(content[20:24]) == 2 * 500


@drawn
def test_an_svg_shows_the_peak_the_phases_and_the_card(draw: Draw) -> None:
    text = draw("memory.svg").decode()

    assert text.startswith("<svg")
    for words in ("peak 14.00 GiB in loss of the first step", "optimizer step", "steady step", "16.0 GiB usable"):
        assert words in text
    for owner in ("weights", "activations", "logits", "temporaries"):
        assert f'fill="{COLOURS[owner]}"' in text


class Loads(HTMLParser):
    """Tags, and every address that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]


@drawn
def test_a_page_loads_nothing(draw: Draw) -> None:
    text = draw("memory.html").decode()
    page = Loads()
    page.feed(text)

    assert page.found == []
    assert page.tags.count("script") == 2
    assert not re.search(r"""(\bfrom|\bimport)\s*\(?\s*["']https?:""", text)
    assert not re.search(r"@import|url\(\s*[\"']?https?:", text)


@drawn
def test_a_title_cannot_leave_its_place(draw: Draw) -> None:
    text = draw("memory.html", title="</script><script>alert(1)</script>\x1b[31m").decode()
    page = Loads()
    page.feed(text)

    assert page.tags.count("script") == 2
    assert "<script>alert" not in text
    assert "\x1b" not in text


@drawn
def test_the_page_is_a_chart_that_altair_knows(draw: Draw) -> None:
    import altair  # noqa: PLC0415  (an extra)

    altair.LayerChart.from_dict(chart(picture_of(steps()), interactive=True), validate=True)


def test_the_libraries_load_only_when_something_is_drawn() -> None:
    code = "import planner.render.timeline, sys; assert not {'altair', 'vl_convert'} & set(sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
