"""The ``plan`` command: parse, call one library function, render, exit code."""

import gc
import os
import sys
from collections.abc import Sequence

from planner.cli.interruption import end_while_loading, forget_interrupt
from planner.errors import EXIT_INTERRUPTED, EXIT_USAGE, PlannerError


def run() -> None:
    """Entry point of the console command and of ``python -m planner``."""
    gc.set_threshold(FEW_COLLECTIONS)
    end_while_loading()
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    forget_interrupt()
    raise SystemExit(code)


FEW_COLLECTIONS = 100_000
"""Objects between two garbage collections: a plan makes little garbage, and collecting takes a tenth of its time."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; expected failures become one line on stderr, bugs keep their traceback."""
    import typer  # noqa: PLC0415  (``import planner.cli`` stays free)
    from typer.main import get_command  # noqa: PLC0415

    from planner.cli.app import app, as_typed  # noqa: PLC0415
    from planner.cli.options import COMPLETE_VARIABLE  # noqa: PLC0415
    from planner.cli.output import PROGRAM, complain, misuse_text, prepare_streams  # noqa: PLC0415

    misuse: type[Exception] = typer.BadParameter.__bases__[0]
    prepare_streams()
    if COMPLETE_VARIABLE in os.environ:
        from planner.cli.completion import prepare  # noqa: PLC0415  (only where a shell asks)

        prepare()
    try:
        code = as_typed(get_command(app)).main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except PlannerError as error:
        complain(str(error))
        return error.exit_code
    except misuse as error:
        complain(misuse_text(error))
        return EXIT_USAGE
    except typer.Abort:
        return EXIT_INTERRUPTED
    return int(code or 0)
