"""What an export wrote, and how to run it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from planner.configs.exporting import Exported
from planner.render.config_document import ExportDocument
from planner.render.machine import plan_document
from planner.render.sheet import Cell, Column, Sheet, printable, row


def exported_sheets(found: Exported, folder: Path) -> Sequence[Sheet]:
    """The files with their sizes, then the command that runs them; where nothing fits, that."""
    if not found.files:
        notes = [*(way.command for way in (*found.plan.recommendation.changes, *found.plan.recommendation.rent))]
        return (
            Sheet(
                title="nothing fits, so nothing was written; what would:",
                columns=(Column("command", wraps=True),),
                rows=tuple(row([Cell(one, "code")]) for one in notes),
            ),
        )
    written = tuple(row([printable(str(folder / file.name)), f"{len(file.text.encode()):,}"]) for file in found.files)
    return (
        Sheet(
            title=f"{found.target.name}: {len(found.files)} files",
            columns=(Column("file", wraps=True), Column("bytes", numeric=True)),
            rows=written,
            notes=(
                f"run in {printable(str(folder))}: {found.launch}",
                *(f"once before it: {command}" for command in found.setup),
                f"check it again: {printable(check_command(found, folder))}",
            ),
        ),
    )


def check_command(found: Exported, folder: Path) -> str:
    """The command that reads the written files as the run that was planned, from where they were written."""
    return shlex.join(["plan", "check", *(str(folder / name) for name in found.configs), *found.check])


def exported_document(found: Exported, folder: Path) -> ExportDocument:
    """The same as JSON, with the plan that was written."""
    return {
        "schema": 1,
        "target": found.target.name,
        "folder": str(folder),
        "files": [file.name for file in found.files],
        "configs": list(found.configs),
        "launch": found.launch,
        "setup": list(found.setup),
        "check": check_command(found, folder) if found.files else "",
        "plan": plan_document(found.plan),
    }
