"""``plan validate --against times``."""

import json

import pytest

from planner.cli import main
from planner.validation.timed_rows import timed_rows


def test_errors_by_source_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["validate", "--against", "times", "--format", "json"])

    answer = json.loads(capsys.readouterr().out)
    runs, left = timed_rows()
    assert code == 0
    assert answer["sources"][-1]["name"] == "all"
    assert answer["sources"][-1]["n"] == len(runs)
    assert [one["name"] for one in answer["sources"]] == [one["name"] for one in answer["held_out"]]
    assert sum(one["rows"] for one in answer["left_out"]) == len(left)


@pytest.mark.parametrize("format_name", ["text", "markdown"])
def test_errors_by_source_for_people(capsys: pytest.CaptureFixture[str], format_name: str) -> None:
    code = main(["validate", "--against", "times", "--format", format_name])

    out = capsys.readouterr().out
    assert code == 0
    assert "fms-a100" in out
    assert "GPTQ" in out


@pytest.mark.parametrize("option", ["--source=fms-a100", "--evidence=traced", "--model=llama-3.1-8b", "--quick"])
def test_options_of_memory_are_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    code = main(["validate", "--against", "times", option])

    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert option.partition("=")[0] in error
