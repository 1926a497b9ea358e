"""The other commands, and what all commands share."""

import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

from planner import __version__
from planner.cli.app import COMMANDS
from planner.cli.options import REQUEST
from planner.render.lines import size

Run = Callable[..., Any]

MESSAGE = (
    "CUDA out of memory. Tried to allocate 1002.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which 395.00 MiB is "
    "free. Including non-PyTorch memory, this process has 23.25 GiB memory in use. Of the allocated memory 21.71 GiB "
    "is allocated by PyTorch, and 1.10 GiB is reserved by PyTorch but unallocated."
)
CALLS: dict[str, tuple[str, ...]] = {
    "gpus": ("gpus",),
    "models": ("models", "qwen3"),
    "rules": ("rules",),
    "compare": ("compare", "--model", "8b", "--gpu", "4090"),
    "rent": ("rent", "--model", "8b", "--dataset-tokens", "20M"),
    "what-if": ("what-if", "--model", "8b", "--gpu", "4090"),
    "frontier": ("frontier", "--model", "8b", "--gpu", "4090"),
    "sweep": ("sweep", "--model", "8b", "--gpu", "4090", "--method", "lora"),
    "explain memory": ("explain", "memory", "--model", "8b", "--gpu", "4090", "--method", "lora"),
    "explain rule": ("explain", "fit001"),
    "explain stack": ("explain", "stack"),
    "dataset": ("dataset", "docs/examples/conversions.jsonl"),
    "check": ("check", "fuzz/seeds/axolotl.yaml", "--gpu", "24gb"),
    "validate": ("validate",),
    "doctor": ("doctor",),
    "why": ("why", "--observed", "10.4GiB", "--model", "8b", "--gpu", "4090", "--method", "qlora"),
    "why a message": ("why", MESSAGE, "--model", "8b", "--gpu", "4090", "--method", "qlora"),
}

ELSEWHERE = {"export", "measure", "measurements", "report", "trace"}
"""Commands with tests of their own, since they take their time."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_text_is_never_wider_than_the_terminal(run: Run, name: str, columns: int) -> None:
    answer = run(*CALLS[name], columns=columns)

    assert (answer.code, answer.err) == (0, "")
    assert [line for line in answer.out.splitlines() if size(line) > columns] == []


@pytest.mark.parametrize("name", CALLS)
def test_json_is_one_object(run: Run, name: str) -> None:
    answer = run(*CALLS[name], "--format", "json")

    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["schema"] == 1


@pytest.mark.parametrize("name", CALLS)
def test_markdown_is_printed(run: Run, name: str) -> None:
    answer = run(*CALLS[name], "--format", "markdown")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(("#", "**"))


def test_every_command_has_a_call_here() -> None:
    assert {command.name for command in COMMANDS} == {name.split()[0] for name in CALLS} | ELSEWHERE


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help(run: Run, command: str) -> None:
    for flag in ("--help", "-h"):
        answer = run(*command.split(), flag)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith(f"Usage: plan {command}".strip())


def test_every_option_is_explained_with_its_default(run: Run) -> None:
    words = " ".join(run("--help").out.split())

    for option in REQUEST:
        assert f"{option.flag} " in words
        assert option.help
        assert f"[{option.default}]" in words.replace("all- linear", "all-linear") or not option.default


def test_gpus_are_found_by_part_of_their_name(run: Run) -> None:
    found = json.loads(run("gpus", "h100", "--format", "json").out)

    assert found["gpus"]
    assert all("h100" in gpu["id"] for gpu in found["gpus"])


def test_gpus_says_what_is_estimated(run: Run) -> None:
    assert "~ estimated" in run("gpus", "jetson").out


def test_explain_memory_sums_to_the_activations(run: Run) -> None:
    found = json.loads(run(*CALLS["explain memory"], "--format", "json").out)

    for method in found["methods"]:
        assert sum(item["bytes"] for item in method["kept"]) == method["kept_bytes"] > 0
        assert sum(item["bytes"] for item in method["recomputed"]) == method["recomputed_bytes"] > 0


def test_explain_memory_says_where_the_plan_puts_it(run: Run) -> None:
    """The owners of the peak are those of the plan itself."""
    (method,) = json.loads(run(*CALLS["explain memory"], "--format", "json").out)["methods"]
    job = CALLS["explain memory"][2:]
    candidate = json.loads(run(*job, "--format", "json").out)["candidates"][0]

    peak = next(phase for phase in candidate["phases"] if phase["name"] == candidate["peak"]["phase"])
    assert method["peak"] == {
        "phase": peak["name"],
        **{owner: peak["owners"][owner] for owner in ("activations", "logits", "temporaries")},
    }


def test_explain_memory_leaves_out_what_the_plan_leaves_out(run: Run) -> None:
    found = json.loads(
        run("explain", "memory", "--model", "8b", "--gpu", "4090", "--weights-dtype", "fp16", "--format", "json").out
    )

    assert [method["method"] for method in found["methods"]] == ["lora", "qlora"]
    assert [note[:16] for note in found["notes"]] == ["full is left out"]


def test_a_rule_is_found_by_code_and_by_name(run: Run) -> None:
    rules = json.loads(run("rules", "--format", "json").out)["rules"]

    for rule in rules:
        assert run("explain", rule["code"]).out == run("explain", rule["name"]).out


def test_version(run: Run) -> None:
    """Ours first, one name and its version a line: what a bug report needs."""
    lines = [line.split(" ") for line in run("--version").out.splitlines()]

    assert lines[:2] == [["plan", __version__], ["python", platform.python_version()]]
    assert all(len(line) == 2 for line in lines)
    assert dict(lines)["typer"] == version("typer")


def test_version_for_scripts(run: Run) -> None:
    found = json.loads(run("--version", "--format", "json").out)

    assert (found["schema"], found["version"], found["python"]) == (1, __version__, platform.python_version())
    assert all(text == version(name) for name, text in found["libraries"].items())
    assert run("--version", "--format", "markdown").code == 2


def test_a_library_that_is_absent_has_no_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.cli.version.installed", lambda name: "2.13.0+cu130" if name == "torch" else None)

    assert run("--version").out == f"plan {__version__}\npython {platform.python_version()}\ntorch 2.13.0+cu130\n"


def test_no_library_is_imported_for_its_version(shell: Run) -> None:
    program = (
        "import sys; from planner.cli import main; main(['--version']); "
        "print(sorted({'torch', 'transformers', 'pydantic', 'altair', 'yaml'} & set(sys.modules)), file=sys.stderr)"
    )
    assert shell(f'{sys.executable} -c "{program}"').err == "[]\n"
