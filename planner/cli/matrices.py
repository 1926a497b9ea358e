"""``plan measure --matrix FILE``: every case of a file, kept as it finishes, and gone on with after an interruption."""

import re
from pathlib import Path

from planner.build.installed import installed_versions
from planner.cli.files import check_target
from planner.cli.measure import device_here
from planner.cli.options import Values, profiles_dir
from planner.cli.output import EXIT_NOT_WRITTEN, check_format, complain
from planner.cli.progress import Progress
from planner.cli.remember import remember
from planner.cli.show import show
from planner.errors import EXIT_FITS, EXIT_INTERRUPTED, EXIT_NOTHING_FITS, PlannerError, UsageError, option
from planner.hardware import list_gpus
from planner.measure import Device
from planner.measure.cases import perform, plan_cases
from planner.measure.here import card_of_device
from planner.measure.ledger import Ledger
from planner.measure.matrix import Case, load_matrix
from planner.measure.series import Series, parse_seconds, run_series
from planner.render.matrix import matrix_document, matrix_sheets
from planner.render.saved import save

TAKEN = ("matrix", "out", "budget", "retry", "anchors", "format", "profiles", "no_store", "help")
"""Options that a matrix takes; everything else stands in its file."""


def run_matrix(values: Values) -> int:
    """Run what is not finished; the exit code is 0 when any case is, 130 after an interrupt, 4 when none is.

    It is 2 when results could not be written into their file; they are printed and remembered all the same.
    """
    format_name = check_format(values["format"])
    _refuse_others(values)
    cases = load_matrix(values["matrix"])
    ledger = Ledger(_out(values["out"]))
    budget = None if values["budget"] is None else parse_seconds(values["budget"])
    anchors = _anchors(values["anchors"])
    try:
        with Progress() as progress:
            series = _series(values, cases, ledger, budget, progress)
    except KeyboardInterrupt:
        complain("interrupted before any case had begun")
        return EXIT_INTERRUPTED
    remember(values, [record for one in series.rows if one.fresh for record in one.records])
    show(format_name, lambda: matrix_sheets(series, Path(values["matrix"]).name), lambda: matrix_document(series))
    if anchors is not None:
        _export(series, anchors)
    return _ended(series, values["out"])


def _refuse_others(values: Values) -> None:
    for name, value in values.items():
        if name not in TAKEN and value not in (None, False, [], ()):
            raise UsageError(f"{option(name)} says nothing beside --matrix: write it into a block of the file")


def _out(text: str | None) -> Path | None:
    if text is None:
        return None
    check_target("--out", text)
    return Path(text).expanduser().absolute()


def _series(
    values: Values, cases: tuple[Case, ...], ledger: Ledger, budget: float | None, progress: Progress
) -> Series:
    device, versions = device_here(progress), installed_versions()
    card = card_of_device(device, list_gpus(profiles_dir(values)) if device.kind == "cuda" else ())
    progress("predicting every case")
    planned, skipped = plan_cases(cases, card, device, versions, _snapshots(ledger, cases, device))
    return run_series(
        planned,
        ledger,
        lambda one: perform(one, device, versions),
        skipped=skipped,
        retry=values["retry"],
        budget=budget,
        tell=progress.bar,
    )


def _snapshots(ledger: Ledger, cases: tuple[Case, ...], device: Device) -> Path:
    """The folder for memory histories, beside the file of the results; it is made when it is needed."""
    folder = Path() if ledger.path is None else ledger.path.with_name(f"{ledger.path.stem}-snapshots")
    if device.kind == "cuda" and any(case.kind == "snapshot" for case in cases):
        folder.mkdir(exist_ok=True)
    return folder.absolute()


def _ended(series: Series, out: str | None) -> int:
    if series.stopped == "interrupted":
        kept = f"the same command goes on with the other {len(series.left)}" if out else "nothing is kept without --out"
        complain(f"interrupted: {len(series.rows)} cases are finished; {kept}")
        return EXIT_INTERRUPTED
    if series.unwritten:
        complain(series.stopped)
        return EXIT_NOT_WRITTEN
    return EXIT_FITS if series.rows else EXIT_NOTHING_FITS


# ---------------------------------------------------------------- anchors


def _anchors(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser()
    if not path.is_dir():
        check_target("--anchors", text)
    return path.absolute()


def _export(series: Series, path: Path) -> None:
    """Everything that was measured as one anchor file; that none of it can be an anchor spoils nothing else."""
    from planner.records.anchored import to_anchor_toml  # noqa: PLC0415  (only who asks for it)

    records = [record for one in series.rows for record in one.records]
    try:
        text = to_anchor_toml(records)
    except PlannerError as error:
        complain(f"--anchors: {error}")
        return
    name = re.sub(r"[^a-z0-9]+", "-", records[0].device.name.lower()).strip("-")
    save(path / f"own-{name}.toml" if path.is_dir() else path, text.encode())
