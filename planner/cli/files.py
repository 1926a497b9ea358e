"""Files that an option names, before anything is written there."""

import os
from pathlib import Path, PureWindowsPath

from planner.errors import UsageError, show

DEVICES = frozenset(
    ("con", "prn", "aux", "nul", "conin$", "conout$", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))
)
"""Names that Windows keeps, with any ending and in any folder. Microsoft, Naming Files, Paths, and Namespaces."""


def check_target(flag: str, text: str, *, windows: bool = os.name == "nt") -> None:
    """Raise ``UsageError`` where no file of that name could be written."""
    if windows and is_device(text):
        raise UsageError(f"{flag} {show(text)}: Windows keeps this name for a device, take another")
    if not has_folder(text):
        raise UsageError(f"{flag} {show(text)}: no such folder")


def has_folder(text: str) -> bool:
    """Whether a file could stand there: a path without a name, home or folder is none."""
    try:
        path = Path(text).expanduser().absolute()
        return bool(text.strip()) and path.parent.is_dir()
    except (OSError, RuntimeError):
        return False


def is_device(text: str) -> bool:
    r"""Whether Windows would write to a device instead of a file.

    >>> is_device(r"C:\runs\Nul.jsonl"), is_device("aux .txt"), is_device(r"C:\aux\rows.csv"), is_device("null.csv")
    (True, True, False, False)
    """
    return PureWindowsPath(text).name.partition(".")[0].rstrip().lower() in DEVICES
