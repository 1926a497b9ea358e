"""The only place that writes: the answer to stdout, everything else to stderr."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, TextIO, cast

from planner.errors import UnknownName
from planner.render.lines import Line, Screen, in_ascii, plain

if TYPE_CHECKING:
    from planner.render.paint import ColorSystem

PROGRAM = "plan"
FORMATS = ("text", "json", "markdown")
EXIT_NOT_WRITTEN = 2
"""The answer could not be delivered: stdout is closed, or the disk is full."""


def check_format(text: str | None) -> str:
    """One of ``FORMATS``; text when nothing was asked."""
    if text is None:
        return "text"
    if text.lower() not in FORMATS:
        raise UnknownName("format", text, FORMATS)
    return text.lower()


def write(text: str, *, flush: bool = True) -> bool:
    """Text to stdout, at once and whole, and whether anybody still reads; pieces of a long answer need no ``flush``.

    A reader who has seen enough (``plan gpus | head -1``) is no error. An answer that reaches nobody is one.
    """
    if sys.stdout is None:
        stop("cannot write the answer: standard output is closed")
    try:
        sys.stdout.write(text)
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return False
    except (OSError, ValueError) as error:
        _discard_stdout()
        stop(f"cannot write the answer: {getattr(error, 'strerror', None) or error}")
    return True


def stop(message: str, code: int = EXIT_NOT_WRITTEN) -> None:
    """Say why in one line on stderr and leave."""
    complain(message)
    raise SystemExit(code)


def prepare_streams() -> None:
    """Let a terminal without our characters show question marks instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")


def misuse_text(error: Exception) -> str:
    """The parser's own complaint in our form: what is wrong, then what to run next."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", PROGRAM)
    return f"{text[:1].lower()}{text[1:].rstrip('.')} (see: {where} --help)"


def complain(message: str) -> None:
    """One line on stderr, with control characters made visible."""
    _say("error", message)


def note(message: str) -> None:
    """The same for what a user must know although all went on."""
    _say("note", message)


def _say(kind: str, message: str) -> None:
    line = " ".join(message.split())
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{kind}: {clean}\n")
            sys.stderr.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF, errno.ENOSPC):
                raise


def write_lines(make: Callable[[Screen], Sequence[Line]]) -> None:
    """Lines to stdout, as wide and as colourful as it is."""
    colours = _colours()
    screen = Screen(width=screen_width(), colour=colours is not None, ascii_only=is_ascii(sys.stdout))
    lines = make(screen)
    if colours is None:
        write(plain(lines, screen))
    else:
        from planner.render.paint import painted  # noqa: PLC0415  (a pipe needs no colours, so no rich)

        text = painted(lines, colours)
        write(in_ascii(text) if screen.ascii_only else text)


LEAST_WIDTH = 40
"""Narrower terminals wrap by themselves."""


def screen_width() -> int:
    """Columns of the terminal, or of ``COLUMNS``."""
    return max(get_terminal_size().columns, LEAST_WIDTH)


def is_ascii(stream: TextIO | None) -> bool:
    """Whether our own characters cannot be written there: to be sure, wherever it is no UTF."""
    return not (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def _colours() -> "ColorSystem | None":
    """What colours stdout has: none where it is dumb or ``NO_COLOR`` is set, which turns off bold text too.

    ``FORCE_COLOR`` and ``CLICOLOR_FORCE`` want them in a pipe, ``CLICOLOR=0`` not even on a terminal.
    """
    asked = os.environ.get
    forced = bool(asked("FORCE_COLOR")) or asked("CLICOLOR_FORCE", "0") not in ("", "0")
    terminal = sys.stdout is not None and sys.stdout.isatty() and asked("CLICOLOR") != "0"
    if asked("NO_COLOR") or not (forced or terminal):
        return None
    from rich.console import Console  # noqa: PLC0415  (knows terminals, and costs 15 ms)

    return cast("ColorSystem | None", Console(file=sys.stdout, force_terminal=True).color_system)


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that closing at exit cannot fail a second time."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
