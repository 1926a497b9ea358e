"""The only place that writes: the answer to stdout, everything else to stderr."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, cast

from planner.errors import UnknownName
from planner.render.lines import Line, Screen, plain

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
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    colours = _colours()
    width = max(get_terminal_size().columns, LEAST_WIDTH)
    screen = Screen(width=width, colour=colours is not None, ascii_only=not encoding.startswith("utf"))
    lines = make(screen)
    if colours is None:
        write(plain(lines, screen))
    else:
        from planner.render.paint import painted  # noqa: PLC0415  (a pipe needs no colours, so no rich)

        write(painted(lines, colours))


LEAST_WIDTH = 40
"""Narrower terminals wrap by themselves."""


def _colours() -> "ColorSystem | None":
    """What colours stdout has; ``NO_COLOR`` turns off every escape code, bold ones too."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if os.environ.get("NO_COLOR") or not (terminal or os.environ.get("FORCE_COLOR")):
        return None
    from rich.console import Console  # noqa: PLC0415  (knows terminals, and costs 15 ms)

    return cast("ColorSystem | None", Console(file=sys.stdout).color_system)


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that closing at exit cannot fail a second time."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
