"""The first Ctrl-C is a wish, the second one interrupts, and afterwards all is as it was."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from planner.cli.interruption import Interruption
from planner.errors import EXIT_INTERRUPTED


def test_the_first_is_a_wish_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) == before


def test_another_thread_works_uninterrupted() -> None:
    done: list[bool] = []

    def work() -> None:
        with Interruption() as interruption:
            done.append(interruption.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert done == [False]


@pytest.mark.parametrize("what", ["main", "app._run_body"], ids=["outside typer", "within typer"])
def test_an_interrupt_within_a_text_that_runs_keeps_our_exit_code(what: str, tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_WITHIN_A_TEXT.format(what=what))
    process = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (process.returncode, process.stdout, process.stderr) == (EXIT_INTERRUPTED, "", "")


INTERRUPTED_WITHIN_A_TEXT = """\
import sys
import planner.cli.app
planner.cli.{what} = lambda *arguments: exec("raise KeyboardInterrupt")
sys.argv = ["plan", "gpus"]
planner.cli.run()
"""
