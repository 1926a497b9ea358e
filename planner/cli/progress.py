"""One line on stderr that says what is going on, on a terminal only, and leaves no trace."""

import os
import sys
from types import TracebackType
from typing import Self

from planner.cli.interruption import before_the_end
from planner.cli.output import is_ascii

WIDTH = 20
"""Characters of a bar."""


class Progress:
    """Shows the latest text while it is entered."""

    def __init__(self) -> None:
        self._shown = 0
        able = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = sys.stderr if able else None
        self._marks = ("#", ".") if is_ascii(sys.stderr) else ("█", "·")

    def __call__(self, text: str) -> None:
        """Show ``text`` in place of what was shown before."""
        if self._stream is not None:
            self._stream.write(f"\r{text:<{self._shown}}")
            self._stream.flush()
            self._shown = len(text)

    def bar(self, done: float, text: str) -> None:
        """Show how much of 1 is done, and of what."""
        full = round(WIDTH * min(max(done, 0.0), 1.0))
        done_mark, other = self._marks
        self(f"{done_mark * full}{other * (WIDTH - full)} {text}")

    def __enter__(self) -> Self:
        before_the_end.append(self.clear)
        return self

    def clear(self) -> None:
        """Take away what is shown."""
        if self._stream is not None and self._shown:
            self._stream.write(f"\r{'':<{self._shown}}\r")
            self._stream.flush()
            self._shown = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before_the_end.remove(self.clear)
        self.clear()
