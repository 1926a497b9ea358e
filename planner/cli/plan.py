"""``plan --model M --gpu G``: the whole answer."""

from planner.cli.options import Values
from planner.cli.output import check_format, screen, write
from planner.cli.request import build_request
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS
from planner.planning import plan
from planner.result import Plan


def main(values: Values) -> int:
    """Plan, print, and say by the exit code whether anything fits."""
    format_name = check_format(values["format"])
    answer = plan(build_request(values, command="plan"))
    write(_rendered(answer, format_name))
    return EXIT_FITS if answer.fits else EXIT_NOTHING_FITS


def _rendered(answer: Plan, format_name: str) -> str:
    """Only the renderer that is asked for is loaded."""
    if format_name == "json":
        from planner.render.machine import plan_document, to_json  # noqa: PLC0415

        return to_json(plan_document(answer))
    if format_name == "markdown":
        from planner.render.markdown import plan_markdown  # noqa: PLC0415

        return plan_markdown(answer)
    from planner.render.draw import on_screen  # noqa: PLC0415  (rich is for text only)
    from planner.render.terminal import show_plan  # noqa: PLC0415

    return on_screen(screen(), lambda console: show_plan(answer, console))
