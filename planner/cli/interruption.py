"""Ctrl-C: at once while libraries load, else as usual; and as a wish, for work that must not stop within a line."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from planner.errors import EXIT_INTERRUPTED

LIBRARIES = ("torch", "numpy", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "deepspeed")
"""Whose compiled parts turn an interrupt into an error of their own, or abort, while they are being loaded."""


def end_while_loading() -> None:
    """From now on SIGINT ends the process at once within a trace and where one of ``LIBRARIES`` is half loaded.

    Nothing of ours is at stake then: no file is open, nothing but temporary folders has been written, and torch's C++
    aborts where an interrupt reaches it. Elsewhere SIGINT interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_or_interrupt)


before_the_end: list[Callable[[], None]] = []
"""What else is done before the process ends at once."""


def _end_or_interrupt(number: int, frame: FrameType | None) -> None:
    if _tidied() or any(_is_half_loaded(name) for name in LIBRARIES):
        for action in before_the_end:
            with suppress(RuntimeError):  # the stream is being written to
                action()
        os._exit(EXIT_INTERRUPTED)
    signal.default_int_handler(number, frame)


def _tidied() -> bool:
    """Whether there was anything to tidy: within a trace, whose modules are loaded before it begins."""
    quiet = sys.modules.get("planner.build.quiet")
    return quiet is not None and quiet.tidy_now()


def _is_half_loaded(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def forget_interrupt() -> None:
    """Let the exit code of ``python -m planner`` be ours after an interrupt.

    CPython notes an interrupt that leaves ``exec`` of a text, as dataclasses and torch.fx run it, and under ``-m`` it
    kills itself with SIGINT at the end, whoever caught the interrupt since. The next such ``exec`` takes the note back
    (``run_eval_code_obj`` in CPython's ``Python/pythonrun.c``).
    """
    exec("")


class Interruption:
    """While it is entered, the first SIGINT sets ``asked``; the second one interrupts as usual."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        try:
            self._before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread, which alone is interrupted
            self._before = None
        return self

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
