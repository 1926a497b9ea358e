"""The libraries of a trace: present, not too old, and named where they are too new to have been tried."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.build import installed
from planner.build.installed import LIBRARIES, OLDEST, naming_newer, needed, newer_than_tried, require
from planner.errors import UnsupportedScenario, UsageError
from planner.planning import scenario
from planner.spec import Scenario

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "accelerate": "1.15.0", "peft": "0.21.2", "trl": "1.16.0"}


def have(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(installed, "installed_versions", lambda: VERSIONS | versions)


def question(**settings: object) -> Scenario:
    given = {"model": "llama-3.2-1b", "gpu": "4090", "method": "lora", "stack": "hf"} | settings
    return scenario(**given)  # type: ignore[arg-type]  # names and values of its options


@pytest.mark.parametrize(("name", "least"), [(name, ".".join(map(str, least))) for name, least in OLDEST.items()])
def test_the_oldest_is_taken_and_an_older_one_refused(monkeypatch: pytest.MonkeyPatch, name: str, least: str) -> None:
    have(monkeypatch, **{name: least})
    assert require(name)[name] == least

    have(monkeypatch, **{name: "0.1"})
    with pytest.raises(UnsupportedScenario, match=f"{name} 0.1 is older than {least}, the oldest"):
        require(name)


def test_all_libraries_have_an_oldest_version() -> None:
    assert set(OLDEST) == set(LIBRARIES)


def test_what_is_missing_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)

    with pytest.raises(UsageError, match=r'^this needs bitsandbytes: pip install "finetune-planner\[trace\]"$'):
        require("torch", "bitsandbytes")


def test_a_trace_needs_what_it_runs_and_no_more() -> None:
    base = ("torch", "transformers", "accelerate", "peft")

    assert needed(question()) == base
    assert needed(question(method="qlora")) == (*base, "bitsandbytes")
    assert needed(question(optimizer="paged_adamw_8bit")) == (*base, "bitsandbytes")
    assert needed(question(stack="trl", loss="full")) == base
    assert needed(question(stack="trl", loss="fused")) == (*base, "trl")


def test_newer_libraries_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    assert newer_than_tried() == []

    have(monkeypatch, torch="2.14.1", transformers="6.0.0")
    assert newer_than_tried() == ["torch 2.14.1", "transformers 6.0.0"]
    with naming_newer():
        require("torch", "transformers")


def test_newer_libraries_are_named_where_the_trial_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, torch="3.0")

    with (
        pytest.raises(UnsupportedScenario, match=r"torch 3\.0, and this one fails: ImportError: no such name \("),
        naming_newer(),
    ):
        raise ImportError("no such name\nin torch")


def test_a_failure_of_tried_libraries_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)

    with pytest.raises(ImportError), naming_newer():
        raise ImportError


@pytest.mark.parametrize("command", [["trace"], ["--evidence", "traced"]])
def test_without_libraries_a_trace_is_one_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as found, sys\n"
        "real = found.version\n"
        "def version(name):\n"
        "    if name in ('torch', 'peft'):\n"
        "        raise found.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "found.version = version\n"
        "sys.modules['torch'] = sys.modules['peft'] = None\n",
        encoding="utf-8",
    )
    options = ["--model", "llama-3.2-1b", "--gpu", "4090", "--method", "full", "--stack", "hf"]

    done = subprocess.run(
        [sys.executable, "-m", "planner", *command, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "FINETUNE_PLANNER_CACHE": "off"},
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: this needs torch, peft: pip install "finetune-planner[trace]"\n'
