"""Reports on docs/many-gpus.md are put as they say, and DeepSpeed's estimators say what their reader was told."""

import re
from pathlib import Path

import pytest

from docs.many_gpus import SETTINGS, TOLD, Told, answer, estimated, many_gpus_estimators
from planner.units import GIB

PAGE = Path(__file__).parents[2] / "docs" / "many-gpus.md"


@pytest.mark.parametrize("told", TOLD, ids=lambda told: str(told.run))
def test_a_report_has_a_place_a_date_and_an_answer(told: Told) -> None:
    assert re.fullmatch(r"\[.+\]\(https://.+\)", told.source)
    assert re.fullmatch(r"\d{4}-\d{2}", told.date)

    found = answer(told.question).scenario

    assert found.cluster.world_size == told.question.gpus
    assert all(getattr(found.train, name) == value for name, value in told.question.settings.items())


def test_every_question_shows_its_recommendation() -> None:
    """Blocks keep paragraphs by number: one that has moved would be left out in silence."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

    assert len(blocks) == 4
    assert all("\nRecommended: " in block for block in blocks)


def test_the_estimator_says_what_issue_4093_was_told() -> None:
    everything = SETTINGS[-1]
    assert (everything.stage, everything.offload) == ("zero3", ("optimizer", "parameters"))

    told = estimated(everything)

    assert round(told.gpu / GIB, 2) == 0.77
    assert "| 0.77 GiB |" in many_gpus_estimators()


def test_every_setting_of_the_estimators_is_shown() -> None:
    lines = many_gpus_estimators().splitlines()

    assert len(lines) == 2 + len(SETTINGS)
