"""``plan dataset FILE``: what a file of training data holds, without planning anything."""

import sys

from planner.catalog import load_model
from planner.cli.data import read_with_progress, task_from
from planner.cli.options import Values, integer
from planner.cli.output import check_format, is_ascii
from planner.cli.show import show
from planner.errors import EXIT_FITS, UsageError, option
from planner.render.dataset import Setting, dataset_answer, dataset_sheets


def main(values: Values) -> int:
    """Read, count and show one file."""
    format_name = check_format(values["format"])
    path, name = values["file"], values["model"]
    if not path:
        raise UsageError("a file is missing: plan dataset train.jsonl --model 8b")
    task = task_from(values["task"])
    seq_len = _positive(values, "seq_len")
    batch = _positive(values, "micro_batch_size") or 1
    limit = load_model(name).model.max_position_embeddings if name else None
    data = read_with_progress(path, name, values["tokenizer"], task)
    at = Setting(seq_len or data.suggested_seq_len(limit), batch, limit)
    show(
        format_name,
        lambda: dataset_sheets(data, at, ascii_only=is_ascii(sys.stdout)),
        lambda: dataset_answer(data, at),
    )
    return EXIT_FITS


def _positive(values: Values, name: str) -> int | None:
    text = values[name]
    if text is None:
        return None
    flag = option(name)
    count = integer(flag, text)
    if count < 1:
        raise UsageError(f"{flag} {text} is not a whole number of 1 or more")
    return count
