"""The page without a browser: sound HTML, every number that of the plan, every word in its place."""

import importlib.util
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from planner.recommend.request import request_of
from planner.recommend.rules import documentation, find
from planner.render.explained import rule_parts
from planner.render.report import page
from planner.render.report.page import style
from planner.reporting import report
from planner.result import OWNERS, PHASES, Candidate, Reason
from planner.stacks import describe_stack
from planner.units import GIB
from tests.families.tiny import tiny
from tests.report.reading import CASES, Element, drawn, page_of, read, report_of, rows

EVERY = pytest.mark.parametrize("case", CASES)


def gib(count: int) -> str:
    """GiB as every table shows them."""
    if count == 0:
        return "–"
    return "<0.1" if count < GIB // 20 else f"{count / GIB:,.1f}" if count < 1000 * GIB else f"{count / GIB:,.0f}"


# ---------------------------------------------------------------- sound HTML


@EVERY
def test_every_element_is_closed_and_every_id_stands_once(case: str) -> None:
    root = read(page_of(case))
    ids = [one.attributes["id"] for one in root.all() if "id" in one.attributes]

    assert len(ids) == len(set(ids))
    for one in root.all():
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(one.attributes.get(name, "").split()) <= set(ids)
    assert {href for href in addresses(root) if href.startswith("#")} <= {f"#{identity}" for identity in ids}


def addresses(root: Element) -> list[str]:
    return [value for one in root.all() for name, value in one.attributes.items() if name in ("href", "src")]


@EVERY
def test_nothing_is_loaded_and_nothing_runs(case: str) -> None:
    text = page_of(case)
    root = read(text)

    assert not root.all("script", "link", "img", "iframe", "object", "embed", "form", "video", "audio", "base", "use")
    for one in root.all():
        assert not {"src", "srcset", "style", "action", "data"} & one.attributes.keys()
        assert not [name for name in one.attributes if name.startswith("on")]
        assert "href" not in one.attributes or one.name == "a"
    assert not re.search(r"url\((?!#)|@import", text)
    (policy,) = [one for one in root.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")


@EVERY
def test_links_lead_to_sources_or_to_parts_of_the_page(case: str) -> None:
    assert all(re.fullmatch(r"#[\w-]+|https?://[^\s\"<>]+", href) for href in addresses(read(page_of(case))))


@EVERY
def test_it_is_small(case: str) -> None:
    assert len(page_of(case).encode()) < 500_000


def test_the_same_question_makes_the_same_page() -> None:
    assert page(report(request_of(settings={}, **CASES["tiny"]))) == page_of("tiny")


# ---------------------------------------------------------------- for every reader


@EVERY
def test_landmarks_language_and_headings_in_order(case: str) -> None:
    root = read(page_of(case))
    levels = [int(one.name[1]) for one in root.all("h1", "h2", "h3", "h4")]

    assert root.one("html").attributes["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert root.one(landmark).text
    assert root.one("head").one("title").text.replace("\xa0", " ") == root.one("h1").text.replace("\xa0", " ")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    body = [child for child in root.one("body").children if isinstance(child, Element)]
    assert (body[0].name, body[0].attributes["href"]) == ("a", "#main")


@drawn
@EVERY
def test_every_figure_says_in_words_what_it_shows(case: str) -> None:
    root = read(page_of(case))
    figures = root.all("figure")

    assert len(figures) == 4
    for figure in figures:
        (image,) = [one for one in figure.all("div") if one.attributes.get("role") == "img"]
        assert len(image.attributes["aria-label"]) > 80
        assert re.search(r"\d", image.attributes["aria-label"])
        assert figure.one("figcaption").text
        assert root.id(figure.attributes["aria-labelledby"]).text
        for drawing in image.all("svg"):
            assert drawing.attributes["aria-hidden"] == "true"
            assert not [one for one in drawing.all() if "role" in one.attributes or "tabindex" in one.attributes]


@EVERY
def test_every_table_has_a_caption_and_heads_of_rows_and_columns(case: str) -> None:
    for table in read(page_of(case)).all("table"):
        assert table.one("caption").text
        head, *body = table.all("tr")
        assert {one.attributes["scope"] for one in head.all("th")} == {"col"}
        assert len(body) >= 1
        for row in body:
            assert [one.attributes["scope"] for one in row.all("th")] == ["row"]
            assert len(row.all("th", "td")) == len(head.all("th"))


@EVERY
def test_what_may_scroll_can_be_reached_and_has_a_name(case: str) -> None:
    root = read(page_of(case))

    for one in root.all("div"):
        if one.attributes.get("class") == "wide":
            assert (one.attributes["role"], one.attributes["tabindex"]) == ("region", "0")
            assert root.id(one.attributes["aria-labelledby"]).text
    assert all(one.attributes["tabindex"] == "0" for one in root.all("pre"))


def schemes() -> list[dict[str, str]]:
    """The variables of the light scheme, and of the dark one laid over it."""
    blocks = re.findall(r":root \{(.*?)\}", style(), re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in blocks[:2])
    return [light, light | dark]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def light(colour: str) -> float:
        shades = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shades)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", schemes(), ids=["light", "dark"])
def test_numbers_in_cells_and_words_in_charts_stand_out(colours: dict[str, str]) -> None:
    for cell in ("fits-1", "fits-2", "fits-3", "fits-4", "tight"):
        assert contrast(colours["on-cells"], colours[cell]) >= 4.5, cell
    assert contrast(colours["soft"], colours["over"]) >= 4.5
    for words in ("ink", "soft", "edge", "accent", "good", "warn", "bad"):
        assert contrast(colours[words], colours["paper"]) >= 4.5, words


@drawn
def test_every_colour_of_a_chart_is_one_of_the_style_sheet() -> None:
    light, dark = schemes()
    used = set(re.findall(r"var\(--([\w-]+)\)", "".join(page_of(case) for case in CASES)))

    assert used <= light.keys()
    assert {name for name in used if dark[name] == light[name]} == set()


# ---------------------------------------------------------------- the plan's numbers


@EVERY
def test_the_answer_comes_first_and_is_the_plans(case: str) -> None:
    found = report_of(case)
    header = read(page_of(case)).one("header")
    sentence = header.one("h1").text
    index = found.plan.recommendation.candidate

    assert found.plan.model.name in sentence
    assert found.plan.cluster.gpu.name in sentence.replace("\xa0", " ")
    assert ("does not fit" in sentence) == (index is None)
    assert gib(found.candidate.estimate.peak.required_bytes) in header.text
    assert gib(found.candidate.estimate.peak.high_bytes) in header.text
    if index is not None:
        assert header.one("pre").text.replace("\\\n  ", "") == found.plan.recommendation.command


@EVERY
def test_tables_of_memory_hold_the_plans_bytes(case: str) -> None:
    plan, one = report_of(case).plan, report_of(case).candidate
    root = read(page_of(case))
    phases, peaks = rows(root, "table-phases"), rows(root, "table-peaks")
    words = dict(zip(OWNERS, list(phases)[1 : len(OWNERS) + 1], strict=True))

    assert words["optimizer"] == "optimizer states"
    for owner, name in words.items():
        assert phases[name] == [gib(getattr(one.estimate.phases[phase], owner)) for phase in PHASES]
        assert peaks[name] == [gib(getattr(each.estimate.peak_memory, owner)) for each in plan.candidates]
    assert phases["allocated"] == [gib(one.estimate.phases[phase].total) for phase in PHASES]
    for name, field in (("allocated", "allocated_bytes"), ("reserved", "reserved_bytes"), ("needed", "required_bytes")):
        assert peaks[name] == [gib(getattr(each.estimate.peak, field)) for each in plan.candidates]


@EVERY
def test_verdicts_and_intervals_are_the_plans(case: str) -> None:
    plan = report_of(case).plan
    root = read(page_of(case))
    verdicts, rests = list(rows(root, "table-verdicts").values())[1:], list(rows(root, "table-evidence").values())[1:]

    for one, row, rest in zip(plan.candidates, verdicts, rests, strict=True):
        peak, basis = one.estimate.peak, one.estimate.basis
        bounds = f"{gib(peak.low_bytes)}–{gib(peak.high_bytes)}"
        assert row == [one.verdict.replace("_", " "), gib(peak.required_bytes), bounds, peak.phase.replace("_", " ")]
        assert rest[:3] == [one.estimate.evidence, gib(peak.required_bytes), bounds]
        assert basis is not None
        assert all(source in rest[3] for source in basis.sources)
        assert rest[4] == f"{basis.coverage:.0%}"


@EVERY
def test_cells_of_batch_and_length_are_the_surfaces(case: str) -> None:
    surface = report_of(case).surface
    assert surface is not None
    found = rows(read(page_of(case)), "table-reach")

    assert found[""][1:] == [f"{length:,}" for length in surface.lengths]
    for points in surface.rows:
        shown = {"fits": "{}", "tight": "({})", "does_not_fit": "[{}]"}
        expected = [shown[point.verdict].format(gib(point.required_bytes)) for point in points]
        assert found[f"{points[0].micro_batch_size:,}"] == expected


@EVERY
def test_offers_are_those_of_rent(case: str) -> None:
    offers = report_of(case).offers
    assert offers is not None
    assert offers.choice is not None
    root = read(page_of(case))
    table = next(one for one in root.all("table") if one.one("caption").attributes["id"] == "table-offers")
    shown = [[cell.text.replace("\xa0", " ") for cell in row.all("th", "td")] for row in table.all("tr")[1:]]

    for row in shown:
        assert any(
            row[:2] == [one.named, one.method] and f"{one.usd_per_hour:,.2f}" == row[4] for one in offers.offers
        ), row
    assert offers.choice.command in root.id("money").text.replace("\\\n  ", "")


@EVERY
def test_every_reason_has_its_code_and_source(case: str) -> None:
    found = report_of(case)
    said = [one.text for one in read(page_of(case)).id("why").all("li")]

    for reason, text in zip(found.plan.recommendation.reasons, said, strict=True):
        assert text.startswith(reason.code)
        assert reason.text in text.replace("\xa0", " ")
        assert dict(rule_parts(documentation(find(reason.code)))[1])["Source"] in text


@EVERY
def test_every_acting_setting_is_there_with_who_chose_it(case: str) -> None:
    one = report_of(case).candidate
    found = rows(read(page_of(case)), "table-settings")
    who = {"stack": "the stack", "default": "this planner", "plan": "this plan", "user": "you", "model": "the model"}

    assert {"seq-len", "optimizer", "gradient-checkpointing", "weights-dtype", "loss"} <= found.keys()
    assert ("lora-rank" in found) == one.scenario.train.uses_adapters
    assert ("double-quant" in found) == one.scenario.train.quantized
    for name, (_, chosen_by) in list(found.items())[1:]:
        assert chosen_by == who[one.scenario.origins[name.replace("-", "_")]], name


def test_what_the_user_set_is_said_to_be_the_users() -> None:
    found = report(request_of(model="8b", gpu="4090", settings={"seq_len": 1024, "optimizer": "lion"}))
    settings = rows(read(page(found)), "table-settings")

    assert settings["seq-len"] == ["1024", "you"]
    assert settings["optimizer"] == ["lion", "you"]


@EVERY
def test_sources_of_stack_card_price_and_data_are_there(case: str) -> None:
    found = report_of(case)
    text = read(page_of(case)).id("assumptions").text.replace("\xa0", " ")
    price = found.plan.cluster.gpu.price
    assert price is not None

    assert all(source in text for _, source in describe_stack(found.candidate.scenario.stack.name))
    assert len(found.documents) >= 5
    assert all(one.document in text and one.url in text for one in found.documents)
    assert price.as_of in text
    assert price.basis in text
    assert all(note in text for note in found.plan.notes)


# ---------------------------------------------------------------- what may be missing


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Element:
    """The page where the libraries for charts are not installed."""
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vl_convert" else spec(name))
    return read(page(report_of("fits")))


def test_without_the_libraries_the_tables_are_all_there_and_the_page_says_what_is_missing(bare: Element) -> None:
    captions = [one.text for one in bare.all("caption")]

    assert bare.all("figure", "svg") == []
    assert "they need vl-convert-python" in bare.one("main").text
    assert 'pip install "finetune-planner[pictures]"' in bare.one("main").text
    assert captions == [one.text for one in read(page_of("fits")).all("caption")]


def test_a_part_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    found = replace(report_of("fits"), offers=None, surface=None, frontier=None, absent=("offers to rent: no price",))
    root = read(page(found))

    assert "offers to rent: no price" in root.id("assumptions").text
    assert "how-far" not in {one.attributes.get("id") for one in root.all("section")}


# ---------------------------------------------------------------- hostile words

HOSTILE = "<script>alert(1)</script>&\"'<b>\x1b[31m"


def test_words_of_others_stay_words(tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<b>&\"'"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny("llama", {})), encoding="utf-8")
    text = page(report(request_of(model=str(folder), gpu="4090", settings={"seq_len": 128})))
    root = read(text)

    assert root.all("script", "b") == []
    assert "<script>alert(1)<b>&\"'" in root.one("footer").text
    assert "<script>" not in text


def test_whatever_a_plan_says_is_escaped() -> None:
    found = report_of("fits")
    reason = Reason(code="FIT001", text=HOSTILE, number=1.0, unit="bytes")
    advice = replace(found.plan.recommendation, reasons=(reason,), command=f"plan {HOSTILE}")
    plan = replace(found.plan, model=replace(found.plan.model, name=HOSTILE), notes=(HOSTILE,), recommendation=advice)
    text = page(replace(found, plan=plan, command=HOSTILE, absent=(HOSTILE,)))
    root = read(text)

    assert root.all("script", "b") == []
    assert "\x1b" not in text
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert shown in root.one("head").one("title").text
    assert shown in root.one("h1").text
    assert shown in root.one("footer").text
    assert sum(shown in one.text for one in root.all("li")) == 3


def test_a_candidate_without_a_basis_is_shown() -> None:
    found = report_of("fits")
    bare: Candidate = replace(found.candidate, estimate=replace(found.candidate.estimate, basis=None), step=None)
    plan = replace(found.plan, candidates=(bare,), recommendation=replace(found.plan.recommendation, candidate=0))
    root = read(page(replace(found, plan=plan, candidate=bare)))

    assert "How long it takes is not known" in root.one("header").text
    assert "no time is known" in root.id("money").text.lower()
