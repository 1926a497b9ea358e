"""The only place that writes: the answer to stdout, everything else to stderr."""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, cast

from planner.errors import UnknownName

if TYPE_CHECKING:
    from planner.render.draw import Screen

PROGRAM = "plan"
FORMATS = ("text", "json", "markdown")
EXIT_NOT_WRITTEN = 2
"""The answer could not be delivered: stdout is closed, or the disk is full."""


def check_format(text: str | None) -> str:
    """One of ``FORMATS``; text when nothing was asked."""
    if text is None:
        return "text"
    if text.lower() not in FORMATS:
        raise UnknownName("format", text, FORMATS, listing="plan --help")
    return text.lower()


def write(text: str) -> None:
    """Text to stdout, at once and whole.

    A reader who has seen enough (``plan gpus | head -1``) is no error. An answer that reaches nobody is one.
    """
    if sys.stdout is None:
        stop("cannot write the answer: standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    except (OSError, ValueError) as error:
        _discard_stdout()
        stop(f"cannot write the answer: {getattr(error, 'strerror', None) or error}")


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
    line = " ".join(message.split())
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"error: {clean}\n")
            sys.stderr.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF, errno.ENOSPC):
                raise


def screen() -> "Screen":
    """As wide and as colourful as stdout is; ``NO_COLOR`` turns off every escape code, bold ones too."""
    from rich.console import Console  # noqa: PLC0415  (only text output draws)

    from planner.render.draw import ColorSystem, Screen  # noqa: PLC0415

    found = Console(file=sys.stdout)
    colours = None if os.environ.get("NO_COLOR") else cast("ColorSystem | None", found.color_system)
    return Screen(width=found.width, color_system=colours, encoding=found.encoding)


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that closing at exit cannot fail a second time."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
