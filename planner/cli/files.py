"""Files that an option names, before anything is written there."""

from pathlib import Path


def has_folder(text: str) -> bool:
    """Whether a file could stand there: a path without a name, home or folder is none."""
    try:
        path = Path(text).expanduser().absolute()
        return bool(text.strip()) and path.parent.is_dir()
    except (OSError, RuntimeError):
        return False
