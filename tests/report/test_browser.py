"""Pages in a real Chromium: opened from a file, they draw every chart, complain of nothing and fetch nothing."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.render.timeline import timeline
from planner.units import GIB
from tests.report.browser import Browser, executable, started
from tests.report.reading import CASES, drawn, page_of
from tests.unit.test_timeline import steps

PROGRAM = executable()
pytestmark = [drawn, pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome here")]

PHONE = 375


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with started(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {case: folder / f"{case}.html" for case in CASES}
    for case, path in found.items():
        path.write_text(page_of(case), encoding="utf-8")
    return found


CHARTS = """[...document.querySelectorAll('figure .chart')].map(chart => {
  const seen = [...chart.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width > 0);
  return seen.map(svg => [Math.round(svg.getBoundingClientRect().width), svg.getBoundingClientRect().height > 50,
    [...svg.querySelectorAll('path')].filter(path => path.getBBox().width > 0).length > 1,
    [...svg.querySelectorAll('text')].some(text => text.textContent.includes('GiB') || text.textContent.length > 3)]);
})"""
"""For each figure, the drawings that are shown: how wide, whether tall enough, whether they hold shapes and words."""


@pytest.mark.parametrize("case", CASES)
def test_it_opens_draws_and_asks_nobody(browser: Browser, files: dict[str, Path], case: str) -> None:
    browser.open(files[case])

    charts = browser.run(CHARTS)

    assert len(charts) == 4
    assert all(len(shown) == 1 and shown[0][1:] == [True, True, True] for shown in charts), charts
    assert browser.complaints() == []
    assert browser.requests() == [files[case].as_uri()]


@pytest.mark.parametrize("case", CASES)
def test_on_a_phone_nothing_reaches_beyond_its_side(browser: Browser, files: dict[str, Path], case: str) -> None:
    browser.open(files[case], width=PHONE, phone=True)

    wide = browser.run(
        f"[...document.body.querySelectorAll('*')].filter(one => !one.closest('.wide, pre, .skip')"
        f" && one.getBoundingClientRect().right > {PHONE} + 0.5).map(one => one.tagName + one.className)"
    )

    assert browser.run("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [PHONE, PHONE]
    assert browser.run("window.scrollTo(500, 0), window.scrollX") == 0
    assert wide == []
    assert [[width for width, *_ in shown] for shown in browser.run(CHARTS)] == [[PHONE - 32]] * 4


LEGIBLE = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = one => { for (let at = one; at; at = at.parentElement) {
    const c = rgb(getComputedStyle(at).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const low = [];
  for (const one of document.querySelectorAll('body *:not(svg):not(svg *)')) {
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([one.tagName, one.className, one.textContent.slice(0, 30), ratio]);
  }
  return low;
})()"""
"""Words that stand out from what is behind them by less than 4.5 to 1 (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("case", ["nothing", "many"])
def test_words_stand_out_in_both_schemes(browser: Browser, files: dict[str, Path], case: str, dark: bool) -> None:
    browser.open(files[case], dark=dark)

    assert browser.run(LEGIBLE) == []


def test_the_schemes_differ_and_paper_is_white(browser: Browser, files: dict[str, Path]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    found = {}
    for name, dark, media in (("light", False, ""), ("dark", True, ""), ("printed from dark", True, "print")):
        browser.open(files["fits"], dark=dark, media=media)
        found[name] = browser.run(f"[{paper}, {ink}]")

    assert found["light"] != found["dark"]
    assert found["printed from dark"][0] == "rgb(255, 255, 255)"
    assert found["printed from dark"][1] != found["dark"][1]
    assert len(set(found["dark"])) == 2


def test_it_prints(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["many"])

    content = base64.b64decode(browser.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") + content.count(b"/Type/Page/") >= 4


def test_on_paper_no_table_is_cut(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["many"], width=673, media="print")

    cut = "[...document.querySelectorAll('table')].filter(one => one.getBoundingClientRect().right > 674).length"

    assert browser.run(cut) == 0
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_keyboard_skips_to_the_reasons_and_reaches_tables(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["fits"])
    browser.press("Tab")
    first = browser.run("[document.activeElement.className, document.activeElement.getBoundingClientRect().left >= 0]")
    browser.press("Enter")
    after = browser.run("document.activeElement.id")
    places = []
    for _ in range(40):
        browser.press("Tab")
        places.append(browser.run("document.activeElement.className || document.activeElement.tagName"))
    ring = browser.run("getComputedStyle(document.activeElement).outlineStyle")

    assert first == ["skip", True]
    assert after == "main"
    assert {"wide", "A", "PRE"} <= set(places)
    assert ring == "solid"


def test_who_listens_hears_landmarks_headings_and_charts(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["fits"])
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    heard = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and "role" in node
    ]

    def by_role(role: str) -> list[str]:
        return [name for known, name in heard if known == role]

    assert {"banner", "main", "contentinfo", "navigation"} <= {role for role, _ in heard}
    assert len(by_role("figure")) == 4
    assert all(by_role("figure"))
    images = by_role("image") or by_role("img")
    assert len(images) == 4
    assert all(len(name) > 80 and any(char.isdigit() for char in name) for name in images)
    assert all(by_role("table"))
    assert all(by_role("region"))


def test_a_mark_says_its_bytes_under_the_pointer(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["fits"])

    titles = "document.querySelectorAll('#over-the-step .on-page path > title')"
    said = browser.run(f"[...{titles}].map(one => one.textContent)")

    assert "weights in backward: 14.96 GiB" in said


DRAWN = """new Promise(done => {
  const look = () => document.querySelector('svg') ? done(true) : setTimeout(look, 50);
  look();
})"""
"""Waits for Vega, which draws after the page has loaded."""


def test_a_timeline_opens_and_draws(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "memory.html"
    timeline(steps(), title="a <title>", usable_bytes=16 * GIB, out=out, context_bytes=GIB // 2)
    browser.open(out)
    browser.run(DRAWN)

    assert browser.run("document.querySelectorAll('#timeline svg path').length") > 4
    assert browser.complaints() == []
    assert browser.requests() == [out.as_uri()]
