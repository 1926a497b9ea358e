"""``plan report --model M --gpu G --out report.html``: the answer as a page to look at."""

from pathlib import Path

from planner.cli.files import check_target
from planner.cli.options import Values
from planner.cli.output import write
from planner.cli.plan import request_from
from planner.cli.progress import Progress
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UsageError
from planner.errors import show as shown

SUFFIXES = (".html", ".htm")


def main(values: Values) -> int:
    """Plan, write the page, say in one line what it says; the exit code is that of ``plan``."""
    out = _out(values["out"])
    request = request_from(values, command="plan report")
    from planner.render.report import page  # noqa: PLC0415  (a refusal needs no page)
    from planner.render.report.answer import headline  # noqa: PLC0415
    from planner.render.saved import save  # noqa: PLC0415
    from planner.reporting import report  # noqa: PLC0415
    from planner.trace.told import telling  # noqa: PLC0415

    with Progress() as progress, telling(progress.bar):
        found = report(request, told=progress)
        content = page(found).encode()
    save(out, content)
    write(f"{headline(found)}: {out}\n")
    return EXIT_FITS if found.plan.fits else EXIT_NOTHING_FITS


def _out(text: str | None) -> Path:
    """Where the page goes; refused before a long plan where it could not be written."""
    if text is None:
        raise UsageError("--out is missing: name the file to write, for instance --out report.html")
    if Path(text).suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {shown(text)}: a report is one HTML file: name it for instance report.html")
    check_target("--out", text)
    return Path(text)
