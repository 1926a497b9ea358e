"""``plan why``: an out-of-memory message, or observed bytes, held against the plan of the run."""

import re
import sys
from pathlib import Path

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.request import build_request
from planner.cli.show import show
from planner.errors import EXIT_FITS, BrokenInput, UnknownName, UsageError
from planner.errors import show as shown
from planner.hardware import list_gpus
from planner.recommend.request import Request
from planner.render.why import why_document, why_sheets
from planner.units import format_bytes, parse_bytes
from planner.why import Amount, Diagnosis, Observation, diagnose, hints, parse, place, read
from planner.why.message import LONGEST

METRICS = ("allocated", "reserved", "device")
EXAMPLE = "plan why --observed 22.3GiB --model 8b --gpu 4090 --method qlora"


def main(values: Values) -> int:
    """Read what was observed, compare, print."""
    format_name = check_format(values["format"])
    found = _found(values)
    show(format_name, lambda: why_sheets(found), lambda: why_document(found))
    return EXIT_FITS


def _found(values: Values) -> Diagnosis:
    observed = _observed(values)
    if observed is not None:
        if values["text"] is not None or values["message"] is not None:
            raise UsageError("give a message or --observed, not both: the message has its own numbers")
        return diagnose(_request(values), observed=observed)
    if values["metric"] is not None:
        raise UsageError("--metric says how --observed was counted: give both")
    text = _text(values)
    failure, where = parse(text), place(text)
    if not values["model"]:
        return read(failure, where)
    if not values["gpu"] and failure.total is not None:
        _suggest(failure.total)
    return diagnose(_request(values), failure=failure, place=where, hints=hints(text))


LIKE = 0.02
"""What drivers and their versions keep for themselves differs by this share."""
MOST_SUGGESTED = 5


def _suggest(total: Amount) -> None:
    """Raise ``UsageError`` that names the cards of the message's size, where there are any."""
    fitting = [gpu.id for gpu in list_gpus() if abs(gpu.memory_bytes - total.middle) <= LIKE * total.middle]
    if fitting:
        named = ", ".join(fitting[:MOST_SUGGESTED])
        raise UsageError(f"--gpu is missing: {format_bytes(total.middle)} in all, as the message says, have {named}")


def _request(values: Values) -> Request:
    return build_request(values, command="plan why --observed 22.3GiB")


def _observed(values: Values) -> Observation | None:
    if values["observed"] is None:
        return None
    metric = (values["metric"] or "device").lower()
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    try:
        amount = rounded(values["observed"])
    except UsageError as error:
        raise UsageError(f"--observed {error}") from None
    return Observation(metric, amount)  # type: ignore[arg-type]  # one of METRICS


def rounded(text: str) -> Amount:
    """The bytes that a number as it was typed may stand for: half of its last place either way.

    >>> rounded("22.3GiB").middle == parse_bytes("22.3GiB"), rounded("5B")
    (True, Amount(low=5, high=5))
    """
    middle = parse_bytes(text)
    number = re.match(r"\s*([\d.]+)", text)
    digits = len(number[1].partition(".")[2]) if number else 0
    unit = parse_bytes("1" + text.strip().lstrip("0123456789. ")) if middle else 1
    half = int(unit / 10**digits / 2)
    return Amount(middle - half, middle + half)


def _text(values: Values) -> str:
    """The message: as an argument, from a file, or from standard input."""
    if values["text"] is not None and values["message"] is not None:
        raise UsageError("the message is given twice: as an argument and by --message")
    if values["text"] is not None:
        return str(values["text"])
    if values["message"] not in (None, "-"):
        if not values["message"]:
            raise UsageError("--message is empty: name a file, or - for standard input")
        return _read(Path(values["message"]))
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"what happened? paste the out-of-memory message, or give bytes; for instance: {EXAMPLE}")
    return sys.stdin.read()


def _read(path: Path) -> str:
    """The end of a log, which may be long."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - LONGEST, 0))
            return file.read().decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise BrokenInput(f"--message {shown(str(path))}: {getattr(error, 'strerror', None) or error}") from None
