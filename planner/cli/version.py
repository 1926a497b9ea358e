"""``plan --version``: ours first, then that of every library that is here, by its metadata: none is imported."""

import platform

from planner._version import __version__
from planner.build.installed import LIBRARIES
from planner.cli.output import FORMATS, PROGRAM, check_format, write
from planner.doctor.software import OPTIONAL, installed
from planner.errors import UnknownName

OWN = ("pydantic", "rich", "typer", "platformdirs", "PyYAML")
"""What every installation has."""
TRAINERS = ("axolotl", "llamafactory", "unsloth", "torchtune")
DATA = ("pyarrow", "tokenizers", "jinja2", "gpuhunt")


def show(format_name: str | None) -> None:
    """One name and its version a line, always in this order; or one JSON object."""
    kind = check_format(format_name)
    if kind == "markdown":
        raise UnknownName("format of --version", kind, [name for name in FORMATS if name != "markdown"])
    found = versions()
    if kind == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (lines need no JSON)

        write(to_json({"schema": 1, "version": __version__, "python": platform.python_version(), "libraries": found}))
    else:
        rows = {PROGRAM: __version__, "python": platform.python_version(), **found}
        write("".join(f"{name} {version}\n" for name, version in rows.items()))


def versions() -> dict[str, str]:
    """Libraries that are installed, those that a trace runs first."""
    names = (*LIBRARIES, *OPTIONAL, *TRAINERS, *DATA, *OWN)
    return {name: version for name in names if (version := installed(name)) is not None}
