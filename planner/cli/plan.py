"""``plan --model M --gpu G``: the whole answer."""

from dataclasses import replace

from planner.cli.data import job_from
from planner.cli.options import Values
from planner.cli.output import check_format, write, write_lines
from planner.cli.request import build_request
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS
from planner.planning import plan
from planner.recommend.request import Request
from planner.result import Plan


def main(values: Values) -> int:
    """Plan, print, and say by the exit code whether anything fits."""
    format_name = check_format(values["format"])
    answer = _answer(request_from(values, command="plan"))
    _write(answer, format_name)
    return EXIT_FITS if answer.fits else EXIT_NOTHING_FITS


def request_from(values: Values, *, command: str) -> Request:
    """The request with its job; a file of training data is read."""
    request = build_request(values, command=command)
    job, data = job_from(values, request.model)
    return replace(request, job=job, dataset=data, tokenizer=values["tokenizer"], confirm=bool(values.get("confirm")))


def _answer(request: Request) -> Plan:
    """The plan; where it takes seconds, a terminal sees how far it has come."""
    if request.evidence == "closed-form" and not request.confirm:
        return plan(request)
    from planner.cli.progress import Progress  # noqa: PLC0415  (closed forms need none)
    from planner.trace.told import telling  # noqa: PLC0415

    with Progress() as progress, telling(progress.bar):
        progress("loading the libraries")
        return plan(request)


def _write(answer: Plan, format_name: str) -> None:
    """Only the renderer that is asked for is loaded."""
    if format_name == "json":
        from planner.render.machine import plan_document, to_json  # noqa: PLC0415

        write(to_json(plan_document(answer)))
    elif format_name == "markdown":
        from planner.render.markdown import plan_markdown  # noqa: PLC0415

        write(plan_markdown(answer))
    else:
        from planner.render.terminal import plan_lines  # noqa: PLC0415

        write_lines(lambda screen: plan_lines(answer, screen))
