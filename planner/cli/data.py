"""Options that say what is trained for and on how much, and the ``Job`` that they describe."""

from dataclasses import replace

from planner.cli.options import Option, Values, integer, number
from planner.errors import UnknownName, UnsupportedScenario, UsageError, option
from planner.spec.dataset import Dataset
from planner.spec.job import OBJECTIVE_OF, OTHER_TRAINERS, TASK_NAMES, TASKS, Job, Task, check_job
from planner.units import parse_count

DATASET = Option("dataset", "path", "training data: .jsonl, .json, .parquet, .csv, .tsv or text", metavar="FILE")
TOKENIZER = Option(
    "tokenizer", "text", "tokenizer.json, a folder with one, or a cached Hub id", "the model's, if here", "PATH"
)
TASK = Option("task", "text", "sft, cpt (continued pretraining), dpo or rl", "sft", "TASK")

DATA = (
    DATASET,
    Option("dataset_tokens", "text", "without a file: tokens of one epoch, for instance 50M", metavar="N"),
    Option("dataset_sequences", "text", "without a file: sequences of one epoch, for instance 52K", metavar="N"),
    Option("epochs", "number", "times that the data is seen", "1", "X"),
    TASK,
    Option("packing", "switch", "fill each sequence with several rows", "off"),
    TOKENIZER,
    Option("adapters", "integer", "variants of one base model that are to be served", "1", "N"),
    Option("new_vocabulary", "flag", "the data needs tokens that the model has not, as a new language does"),
    Option("keep_skills", "flag", "what the model can do now must not suffer"),
)
"""What ``plan``, ``plan rent`` and their like take besides the scenario."""


def job_from(values: Values, model: str | None) -> tuple[Job, Dataset | None]:
    """The job that the options describe, and the file that was read.

    ``model``: as the user named it; its tokenizer counts the tokens where it is on this machine.
    """
    _refuse_other_trainers(values)
    task, epochs, adapters = task_from(values.get("task")), values.get("epochs"), values.get("adapters")
    job = Job(
        task=task or "sft",
        epochs=1.0 if epochs is None else number("--epochs", epochs),
        packing=bool(values.get("packing")),
        adapters=1 if adapters is None else integer("--adapters", adapters),
        new_vocabulary=bool(values.get("new_vocabulary")),
        keep_skills=bool(values.get("keep_skills")),
    )
    check_job(job)  # before a file is read
    data = dataset_from(values, model, task)
    if data is not None:
        return data.job(job), data
    tokens, sequences = _count(values, "dataset_tokens"), _count(values, "dataset_sequences")
    if tokens is not None and sequences is not None and sequences > tokens:
        raise UsageError(
            f"--dataset-sequences {sequences:,} is more than --dataset-tokens {tokens:,}: one of them is off"
        )
    return replace(job, tokens=tokens, sequences=sequences), None


def task_from(text: str | None) -> Task | None:
    """One of ``TASKS``, by any of the names that people give it."""
    if text is None:
        return None
    name = text.strip().lower()
    for task in TASKS:
        if name == task:
            return task
    if name in TASK_NAMES:
        return TASK_NAMES[name]
    raise UnknownName("task", text, (*TASKS, *TASK_NAMES))


def _refuse_other_trainers(values: Values) -> None:
    """A trainer that steps otherwise than DPO and GRPO is not taken for one of them unasked."""
    name = (values.get("task") or "").strip().lower()
    if name in OTHER_TRAINERS and values.get("objective") is None:
        kind = TASK_NAMES[name]
        raise UnsupportedScenario(
            f"--task {name} is not planned ({OTHER_TRAINERS[name]}): "
            f"for the nearest add --objective {OBJECTIVE_OF[kind]}, or --objective sft for one sequence a sample"
        )


def dataset_from(values: Values, model: str | None, task: Task | None) -> Dataset | None:
    """The file of ``--dataset``, read; a terminal sees how far."""
    path = values.get("dataset")
    if path is None:
        if values.get("tokenizer") is not None:
            raise UsageError("--tokenizer counts the tokens of a file: name one with --dataset FILE")
        return None
    for name in ("dataset_tokens", "dataset_sequences"):
        if values.get(name) is not None:
            raise UsageError(f"--dataset and {option(name)} both say how much there is: give one of them")
    return read_with_progress(path, model, values.get("tokenizer"), task)


def read_with_progress(path: str, model: str | None, tokenizer: str | None, task: Task | None) -> Dataset:
    """A file, read while a bar shows how far."""
    from planner.cli.progress import Progress  # noqa: PLC0415  (a plan without a file needs neither)
    from planner.datasets import read  # noqa: PLC0415

    with Progress() as progress:
        return read(path, model=model, tokenizer=tokenizer, task=task, told=progress.bar)


def _count(values: Values, name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    try:
        return parse_count(text)
    except UsageError as error:
        raise UsageError(f"{option(name)} {error}") from None
