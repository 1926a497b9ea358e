"""``plan export TARGET --out DIR``: what the plan recommends, as files that run."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.plan import request_from
from planner.cli.show import show
from planner.configs.exporting import Exported, export
from planner.configs.targets import TARGETS
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UnknownName, UsageError
from planner.errors import show as shown
from planner.render.exported import exported_document, exported_sheets
from planner.render.saved import save_all


def main(values: Values) -> int:
    """Plan, write the files and say how to run them; nothing is written where nothing fits."""
    format_name = check_format(values["format"])
    target = values["target"]
    if not target:
        raise UsageError(f"name a target: plan export trl --out DIR; one of {', '.join(TARGETS)}")
    if target not in TARGETS:
        raise UnknownName("target", target, TARGETS)
    if not values["out"]:
        raise UsageError(f"--out is missing: name a folder, as in plan export {target} --out run")
    folder = _folder(values["out"])
    request = request_from(values, command=f"plan export {target} --out {values['out']}")
    request = replace(request, stack=values["stack"] or "")
    found = export(target, request, dataset=values["dataset"] or "", trainer=values["trainer"] or "")
    if found.files:
        _save(found, folder, force=bool(values["force"]))
    show(format_name, lambda: exported_sheets(found, folder), lambda: exported_document(found, folder))
    return EXIT_FITS if found.files else EXIT_NOTHING_FITS


def _folder(text: str) -> Path:
    """The folder of ``--out``, which need not be there yet; raise ``UsageError`` where none can be."""
    try:
        folder = Path(text).expanduser()
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--out {shown(text)} is no usable name: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not above.is_dir():
        raise UsageError(f"--out {shown(text)}: {shown(str(above))} is a file: name a folder")
    return folder


def _save(found: Exported, folder: Path, *, force: bool) -> None:
    """All files, or none where one of them is there already or cannot be written."""
    there = [file.name for file in found.files if (folder / file.name).exists()]
    if there and not force:
        raise UsageError(f"{shown(str(folder))} holds {', '.join(there)} already: name another folder, or add --force")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_all({folder / file.name: file.text.encode() for file in found.files})
    except (OSError, UsageError) as error:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot make the folder {shown(str(folder))}: {error.strerror or error}") from None
