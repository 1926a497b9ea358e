"""Real processes: pipes that close, disks that are full, terminals of every kind."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
PLAN = "$PLAN --model 8b --gpu 4090"


def test_a_reader_that_leaves_is_no_error(shell: Shell) -> None:
    answer = shell("$PLAN gpus | head -1")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "GPUs\n"


@pytest.mark.parametrize("command", ["$PLAN gpus", "$PLAN --help", "$PLAN --version", "$PLAN models --format json"])
def test_a_reader_that_never_reads_is_no_error(shell: Shell, command: str) -> None:
    answer = shell(f"{command} | true")

    assert (answer.code, answer.err) == (0, "")


@pytest.mark.parametrize("command", ["$PLAN gpus", PLAN, f"{PLAN} --format json", "$PLAN --help", "$PLAN --version"])
@pytest.mark.parametrize("target", [">&-", ">/dev/full"])
def test_an_answer_that_reaches_nobody_is_an_error(shell: Shell, command: str, target: str) -> None:
    if target == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    answer = shell(f"{command} {target}")

    assert answer.code == 2
    assert answer.err.startswith("error: cannot write the answer: ")
    assert answer.err.count("\n") == 1


def test_a_closed_stderr_is_survived(shell: Shell) -> None:
    assert shell("$PLAN gpuz 2>&-").code == 2
    assert shell("$PLAN gpuz >&- 2>&-").code == 2


def test_piped_output_has_no_escape_codes(shell: Shell) -> None:
    assert "\x1b" not in shell(f"{PLAN} | cat").out


def test_no_color_is_respected_where_colour_is_forced(shell: Shell) -> None:
    assert "\x1b" in shell(PLAN, {"FORCE_COLOR": "1"}).out
    assert "\x1b" not in shell(PLAN, {"FORCE_COLOR": "1", "NO_COLOR": "1"}).out


def test_an_ascii_terminal_is_survived(shell: Shell) -> None:
    answer = shell(PLAN, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})

    assert answer.code == 0
    assert answer.out.isascii()


@pytest.mark.parametrize("when", ["planner.cli.app", "planner.planning"])
def test_an_interruption_is_quiet(shell: Shell, when: str) -> None:
    """While the command is read, and while the plan is made; 130 is what shells call it."""
    program = (
        "import sys, signal, os; from planner.cli import run; sys.argv = ['plan', '--model', '8b', '--gpu', '4090']\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {when!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "run()"
    )
    answer = shell(f'{sys.executable} -c "{program}"')

    assert (answer.code, answer.out, answer.err.strip()) == (130, "", "")


def test_python_dash_m_is_the_same_command(shell: Shell) -> None:
    answer = shell(f"{sys.executable} -m planner --version")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("plan ")


@pytest.mark.parametrize("format_name", ["text", "json", "markdown"])
def test_a_plan_loads_nothing_heavy(shell: Shell, format_name: str) -> None:
    """Not even what draws colours or validates files: a pipe and a closed form need neither."""
    program = (
        "import sys; from planner.cli import main; "
        f"main(['--model', '8b', '--gpu', '4090', '--format', '{format_name}']); "
        "heavy = {'torch', 'transformers', 'accelerate', 'peft', 'numpy', 'pydantic', 'rich', 'huggingface_hub'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    answer = shell(f'{sys.executable} -c "{program}"')

    assert (answer.code, answer.err) == (0, "[]\n")
