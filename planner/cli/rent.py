"""``plan rent --model M --dataset-tokens N``: which hardware to rent."""

from dataclasses import replace

from planner.cli.data import job_from
from planner.cli.options import Values, integer, number
from planner.cli.output import check_format, complain, write, write_lines
from planner.cli.request import build_request
from planner.cost import ASSUMED
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UsageError
from planner.prices.amounts import parse_hours, parse_usd
from planner.prices.source import is_live
from planner.recommend.rent import rent
from planner.recommend.rental import RentAnswer, RentRequest

EXAMPLE = "plan rent --model 70b --dataset-tokens 50M"


def main(values: Values) -> int:
    """Offers, the recommended one with its reasons; one line and exit code 4 where no offer keeps to the limits."""
    format_name = check_format(values["format"])
    answer = rent(_question(values))
    if answer.nearest is not None and format_name != "json":
        complain(answer.nearest)
        return EXIT_NOTHING_FITS
    _write(answer, format_name)
    return EXIT_FITS if answer.offers else EXIT_NOTHING_FITS


def _question(values: Values) -> RentRequest:
    if not (values.get("model") or "").strip():
        raise UsageError(
            f"--model is missing: name a size such as 8b, or a name of `plan models`; for instance: {EXAMPLE}"
        )
    request = build_request({**values, "gpu": "any"}, command="plan rent")
    job, data = job_from(values, request.model)
    budget, deadline, network = values.get("budget"), values.get("deadline"), values.get("download_gbps")
    return RentRequest(
        request=replace(request, job=job, dataset=data, tokenizer=values.get("tokenizer")),
        budget_usd=None if budget is None else parse_usd(budget),
        deadline_hours=None if deadline is None else parse_hours(deadline),
        max_gpus=8 if values.get("max_gpus") is None else integer("--max-gpus", values["max_gpus"]),
        live=is_live(values.get("prices")),
        spot=bool(values.get("spot")),
        assumed=ASSUMED if network is None else replace(ASSUMED, download_gbps=number("--download-gbps", network)),
    )


def _write(answer: RentAnswer, format_name: str) -> None:
    """Only the renderer that is asked for is loaded."""
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415
        from planner.render.rent_document import rent_document  # noqa: PLC0415

        write(to_json(rent_document(answer)))
        return
    from planner.render.rent import rent_lines, rent_markdown  # noqa: PLC0415

    if format_name == "markdown":
        write(rent_markdown(answer))
    else:
        write_lines(lambda screen: rent_lines(answer, screen))
