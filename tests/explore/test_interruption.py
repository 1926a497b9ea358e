"""The first Ctrl-C is a wish, the second one interrupts, and afterwards all is as it was."""

import os
import signal
import threading

import pytest

from planner.cli.interruption import Interruption


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
