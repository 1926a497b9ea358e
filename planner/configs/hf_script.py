"""A file of TrainingArguments for a chosen run, and the script that runs it with transformers' Trainer."""

from importlib.resources import files

from planner.configs.hf_write import (
    dataset_file,
    launch_options,
    model_lines,
    recipe_lines,
    refuse,
    training_lines,
)
from planner.configs.written import Chosen, File, Line, comments, json_text
from planner.errors import UnsupportedScenario

SCRIPT, ARGUMENTS = "train.py", "training_args.json"

MISSING = "dataset_name: set it here or in training_args.json before you start; nobody named one"


def trainer_files(chosen: Chosen, target: str, *extra: Line) -> tuple[File, File]:
    """``training_args.json`` and the script that reads it; reasons stand in the script, as JSON has no comments."""
    refuse(chosen, target)
    if chosen.job.packing:
        raise UnsupportedScenario(f"{target} cannot express --packing: transformers' Trainer packs nothing; use trl")
    lines = [
        *_data_lines(chosen),
        *model_lines(chosen),
        Line("max_length", chosen.train.seq_len, "tokens of a sequence; longer ones are cut"),
        *training_lines(chosen),
        *recipe_lines(chosen),
        *extra,
        Line("output_dir", "output"),
        Line("report_to", "none"),
    ]
    whys = [f"{line.key}: {line.why}" for line in lines if line.why]
    missing = [] if chosen.dataset else [MISSING]
    why = "training_args.json, and why it says what it does:"
    heading = comments([*chosen.heading, "", why, *whys, *missing])
    values = {line.key: line.value for line in lines if line.value is not None}
    return File(ARGUMENTS, json_text(values)), File(SCRIPT, "\n".join(heading) + f"\n{script()}")


def script() -> str:
    """The script, which is shipped beside this package and is the same for every run."""
    return files("planner.configs").joinpath("shipped", SCRIPT).read_text(encoding="utf-8")


def _data_lines(chosen: Chosen) -> list[Line]:
    if found := dataset_file(chosen):
        builder, path = found
        return [Line("dataset_name", builder), Line("data_files", path)]
    return [Line("dataset_name", chosen.dataset or None)]


def script_options(chosen: Chosen) -> str:
    """How the script is called, behind its launcher."""
    return f"{launch_options(chosen)} {SCRIPT} {ARGUMENTS}"
