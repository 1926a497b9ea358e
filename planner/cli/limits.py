"""``plan measure --find-max-batch`` and ``--find-max-seq``: the real limit of the device that is here."""

from planner.cli.measure import Asked, asked, exit_code, interruptible, take
from planner.cli.options import Values, integer
from planner.cli.output import check_format
from planner.cli.progress import Progress
from planner.cli.remember import remember
from planner.cli.show import show
from planner.errors import UsageError
from planner.measure import predict
from planner.measure.limit import Limit, limit_record, search_limit
from planner.measure.search import SEQUENCE_STEP, Dimension
from planner.render.limits import limit_document, limit_sheets


def run_search(values: Values) -> int:
    """Search one limit; the exit code is 0 when both sides of it are known, 4 when nothing runs at all."""
    format_name = check_format(values["format"])
    dimension = _dimension(values)
    step = SEQUENCE_STEP if values["seq_step"] is None else integer("--seq-step", values["seq_step"])
    with interruptible(), Progress() as progress:
        limit = _search(asked(values, progress), dimension, step, progress)
    record = limit_record(limit)
    remember(values, [record])
    show(format_name, lambda: limit_sheets(limit), lambda: limit_document(limit))
    nothing = limit.found.exact and limit.found.largest is None
    return exit_code("out_of_memory" if nothing else record.outcome)


def _dimension(values: Values) -> Dimension:
    """What is searched; raise ``UsageError`` for options that a search does not take."""
    if values["find_max_batch"] and values["find_max_seq"]:
        raise UsageError("--find-max-batch and --find-max-seq: search one of them at a time")
    for name in ("layers", "lengths", "snapshot"):
        if values[name] is not None:
            raise UsageError(f"--{name} is for one run, and a search takes several: leave it out")
    return "micro_batch_size" if values["find_max_batch"] else "seq_len"


def _search(one: Asked, dimension: Dimension, step: int, progress: Progress) -> Limit:
    scenario, run, device, _ = one
    return search_limit(
        scenario,
        dimension,
        device,
        predict=lambda asked_for: predict(asked_for, device.kind),
        measure=lambda asked_for: take(asked_for, run, device, progress),
        cap_bytes=run.cap_bytes,
        step=step,
        tell=progress,
    )
