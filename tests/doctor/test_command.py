"""``plan doctor`` as it is typed."""

import json

import pytest

from planner.cli import main
from planner.doctor import ABILITIES
from planner.render.doctor import ABILITIES as WORDS


def test_every_topic_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    assert main(["doctor"]) == 0

    printed = capsys.readouterr().out
    for title in ("Software", "Cards", "Environment", "This machine", "What is kept", "What can run here"):
        assert title in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--format", "json"])

    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["abilities"]] == list(ABILITIES)
    assert all(one["able"] == (one["why"] is None) for one in found["abilities"])
    assert {fact["topic"] for fact in found["facts"]} == {"software", "cards", "environment", "machine", "stored"}


def test_markdown_is_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--format", "markdown"])

    assert "| software |" in capsys.readouterr().out


def test_the_exit_code_says_whether_what_is_needed_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.doctor.lacking", lambda *_facts: dict.fromkeys(ABILITIES, "") | {"gpu": "no card"})

    assert main(["doctor"]) == 0
    assert main(["doctor", "--needs", "traced", "--needs", "measure"]) == 0
    assert main(["doctor", "--needs", "traced", "--needs", "gpu"]) == 4


def test_what_nobody_can_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--needs", "mesure"]) == 2
    assert "did you mean measure?" in capsys.readouterr().err


def test_every_ability_has_words() -> None:
    assert tuple(WORDS) == ABILITIES
