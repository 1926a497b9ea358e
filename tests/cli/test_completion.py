"""Completion: a real bash asks for words; other shells by the variables that their scripts set."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shellingham

from planner.catalog import list_models
from planner.cli import completion
from planner.cli.app import COMMANDS
from planner.errors import UsageError
from planner.hardware import list_gpus
from planner.stacks.values import choices

ROOT = Path(__file__).parents[2]
Ask = Callable[..., list[str]]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An empty home, and a ``plan`` on the path."""
    home = tmp_path_factory.mktemp("home with a space")
    command = home / "bin" / "plan"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m planner "$@"\n')
    command.chmod(0o755)
    return {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
    }


def bash(line: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "--norc", "-c", line], env=environment, cwd=environment["HOME"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode()


@pytest.fixture(scope="module")
def ask(environment: dict[str, str]) -> Ask:
    """What bash would show after these words, the last of which is being typed."""
    script = bash('x=$(plan --show-completion); printf %s "$x"', environment)

    def words(*typed: str) -> list[str]:
        line = f"{script}\nCOMP_WORDS=({shlex.join(['plan', *typed])}); COMP_CWORD={len(typed)}\n"
        return bash(line + "_plan_completion plan; printf '%s\\n' \"${COMPREPLY[@]}\"", environment).split()

    return words


if shutil.which("bash") is None:
    pytest.skip("there is no bash here", allow_module_level=True)


# ---------------------------------------------------------------- bash


def test_commands(ask: Ask) -> None:
    assert ask("") == [command.name for command in COMMANDS]
    assert ask("sw") == ["sweep"]


def test_options_of_a_command(ask: Ask) -> None:
    assert "--seq-len" in ask("--seq")
    assert ask("sweep", "--ou") == ["--out"]


def test_models(ask: Ask) -> None:
    found = ask("--model", "")

    assert {row.id for row in list_models()} | {row.hub_id for row in list_models()} <= set(found)
    assert {"8b", "70b"} <= set(found)
    assert all(name.startswith("Qwen/") for name in ask("--model", "Qwen/Q"))
    assert ask("models", "qwen3-0") == ["qwen3-0.6b"]


def test_cards(ask: Ask) -> None:
    assert {gpu.id for gpu in list_gpus()} | {"24gb", "local", "4090"} <= set(ask("--gpu", ""))
    assert "4090" in ask("--gpu", "40")
    assert "h100-nvl" in ask("gpus", "h100")


def test_cards_of_ones_own(ask: Ask, tmp_path: Path) -> None:
    source = (ROOT / "hardware_profiles" / "rtx4090.toml").read_text(encoding="utf-8")
    own = tomllib.loads(source)
    assert own["id"] == "rtx4090"
    lines = [line for line in source.splitlines() if not line.startswith("aliases")]
    text = "\n".join(lines).replace('id = "rtx4090"', 'id = "our-own-card"', 1)
    (tmp_path / "our-own-card.toml").write_text(text, encoding="utf-8")

    assert ask("--profiles", str(tmp_path), "--gpu", "our") == ["our-own-card"]
    assert ask("--profiles", "/nowhere/at/all", "--gpu", "our") == []


def test_targets_and_trainers(ask: Ask) -> None:
    assert ask("export", "s") == ["sky", "slurm"]
    assert {"llamafactory", "grpo", "peft"} <= set(ask("check", "--trainer", ""))
    assert ask("export", "sky", "--trainer", "a") == ["axolotl", "accelerate"]


def test_settings_are_what_the_library_allows(ask: Ask) -> None:
    for name in ("optimizer", "sharding", "weights_dtype", "loss"):
        assert ask(f"--{name.replace('_', '-')}", "") == list(choices(name))
        assert choices(name)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("--method", ""), ["full", "lora", "qlora"]),
        (("sweep", "--method", "lora,q"), ["lora,qlora"]),
        (("--offload", "optimizer,par"), ["optimizer,parameters"]),
        (("sweep", "--format", "c"), ["csv"]),
        (("compare", "--format", "c"), []),
        (("explain", "FIT00"), ["FIT001", "FIT002", "FIT003", "FIT004", "FIT005", "FIT006", "FIT007"]),
        (("explain", "mem"), ["memory"]),
        (("--stack", "tr"), ["trl"]),
        (("--evidence", ""), ["closed-form", "traced"]),
        (("--task", "d"), ["dpo"]),
        (("doctor", "--needs", "g"), ["gpu"]),
        (("measurements", "ex"), ["export"]),
        (("validate", "--against", "s"), ["sharded"]),
        (("why", "--metric", ""), ["allocated", "reserved", "device"]),
        (("rent", "--prices", ""), ["snapshot", "live"]),
        (("--peft-config", ""), []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words(ask: Ask, typed: tuple[str, ...], found: list[str]) -> None:
    assert ask(*typed) == found


def test_where_nothing_is_known_files_are_offered(ask: Ask, environment: dict[str, str]) -> None:
    """What bash does with an empty answer, as the script tells it."""
    assert "complete -o default" in bash("plan --show-completion | cat", environment)


def test_it_is_installed_for_bash(environment: dict[str, str]) -> None:
    said = bash('x=$(plan --install-completion); printf %s "$x"', environment)
    home = Path(environment["HOME"])

    assert said == f"bash completes plan from its next start: {home}/.bash_completions/plan.sh"
    assert "_plan_completion" in bash('source "$HOME/.bashrc"; complete -p plan', environment)


# ---------------------------------------------------------------- other shells


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (
            {"_PLAN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "plan --method q"},
            "_arguments '*: :((\"qlora\"))'",
        ),
        (
            {
                "_PLAN_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_TYPER_COMPLETE_ARGS": "plan --method q",
            },
            "qlora",
        ),
        (
            {
                "_PLAN_COMPLETE": "complete_powershell",
                "_TYPER_COMPLETE_ARGS": "plan --method q",
                "_TYPER_COMPLETE_WORD_TO_COMPLETE": "q",
            },
            "qlora::: ",
        ),
    ],
    ids=["zsh", "fish", "powershell"],
)
def test_other_shells(variables: dict[str, str], found: str, environment: dict[str, str]) -> None:
    assert bash("plan", {**environment, **variables}) == found + "\n"


@pytest.mark.parametrize("name", completion.SHELLS)
def test_every_shell_has_its_script(name: str, environment: dict[str, str]) -> None:
    script = bash("plan", {**environment, "_PLAN_COMPLETE": f"source_{name}"})

    kind = "powershell" if name in completion.POWERSHELLS else name
    assert f"complete_{kind}" in script
    if name in ("zsh", "fish") and shutil.which(name):
        subprocess.run([name, "--no-execute"], input=script.encode(), check=True)


@pytest.mark.parametrize("action", ["show", "install"])
def test_a_shell_that_cannot_be_told(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> tuple[str, str]:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", nobody)
    with pytest.raises(UsageError, match="cannot be told: for another run _PLAN_COMPLETE=source_SHELL plan"):
        getattr(completion, action)()

    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    with pytest.raises(UsageError, match="tcsh has no completion here"):
        getattr(completion, action)()


def test_a_profile_of_powershell_is_left_alone(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("pwsh", "pwsh"))

    answer = run("--install-completion")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == ("error: --install-completion leaves pwsh alone: run plan --show-completion >> $PROFILE\n")
    assert "Register-ArgumentCompleter -Native -CommandName plan" in run("--show-completion").out


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "bash"))

    answer = run("--install-completion")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "plan --show-completion" in answer.err


# ---------------------------------------------------------------- nobody else pays


def test_a_command_that_runs_loads_none_of_it(shell: Run) -> None:
    program = (
        "import sys; from planner.cli import main; main(['gpus', '4090']); "
        "print(sorted({'planner.cli.completion', 'planner.catalog'} & set(sys.modules)), file=sys.stderr)"
    )
    answer = shell(f'{sys.executable} -c "{program}"')

    assert (answer.code, answer.err) == (0, "[]\n")
