"""``plan check CONFIG``: a trainer's own configuration, planned as it stands; the exit code makes it a guard."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from planner.cli.data import job_from
from planner.cli.options import Values
from planner.cli.output import check_format, write, write_lines
from planner.cli.request import build_request
from planner.configs.checking import Checked, check, judged_somewhere, understand_files
from planner.configs.understood import Understood
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UsageError
from planner.recommend.request import Request


def main(values: Values) -> int:
    """Read, plan, print; 0 fits, 4 does not, 3 where a key changes the answer in a way that we do not model."""
    format_name = check_format(values["format"])
    files: Sequence[str] = values["files"] or ()
    if not files:
        raise UsageError("name a configuration: plan check sft.yaml --gpu 4090")
    understood, documents = understand_files([Path(one).expanduser() for one in files], values["trainer"])
    understood = _under(understood, values)
    request = _request(values)
    ignore = tuple(values["ignore"] or ())
    if request.gpu:
        found = check(understood, documents, request, ignore)
    else:
        found = judged_somewhere(understood, documents, request, ignore)
    _write(found, format_name)
    return EXIT_NOTHING_FITS if found.candidate.verdict == "does_not_fit" else EXIT_FITS


def _under(understood: Understood, values: Values) -> Understood:
    """What the files say, without what the command says of cards and data: a request cannot tell that from silence."""
    job = {name: one for name, one in understood.job.items() if values.get(name) is None}
    if values["gpus"] is None:
        return replace(understood, job=job)
    return replace(understood, job=job, gpus=None, nodes=None)


def _request(values: Values) -> Request:
    """What the command says; model, card and stack are empty where it says nothing of them."""
    blank = "-"
    filled = {**values, "model": values["model"] or blank, "gpu": values["gpu"] or blank}
    request = build_request(filled, command="plan check CONFIG")
    job, data = job_from(values, values["model"])
    return replace(
        request,
        model=values["model"] or "",
        gpu=values["gpu"] or "",
        stack=values["stack"] or "",
        job=job,
        dataset=data,
        tokenizer=values["tokenizer"],
    )


def _write(found: Checked, format_name: str) -> None:
    """Only the renderer that is asked for is loaded."""
    if format_name == "json":
        from planner.render.checked import checked_document  # noqa: PLC0415
        from planner.render.machine import to_json  # noqa: PLC0415

        write(to_json(checked_document(found)))
    elif format_name == "markdown":
        from planner.render.checked import checked_markdown  # noqa: PLC0415

        write(checked_markdown(found))
    else:
        from planner.render.checked import checked_lines  # noqa: PLC0415

        write_lines(lambda screen: checked_lines(found, screen))
