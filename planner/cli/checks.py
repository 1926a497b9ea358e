"""What ``plan check`` and ``plan export`` take."""

from planner.cli.data import DATA
from planner.cli.options import REQUEST, Option

CHECKED = (
    Option(
        "files",
        "arguments",
        "a trainer's configuration, and the accelerate, DeepSpeed or PEFT files beside it",
        metavar="CONFIG...",
    ),
    Option("trainer", "text", "whose configuration it is", "what its keys tell", "TRAINER"),
    Option("ignore", "list", "go on without this key, though it changes the answer; may be repeated", metavar="KEY"),
    *REQUEST,
    *DATA,
)

EXPORTED = (
    Option(
        "target",
        "argument",
        "trl, axolotl, llamafactory, unsloth, torchtune, accelerate or deepspeed; sky, dstack, slurm or k8s",
        metavar="TARGET",
    ),
    Option("out", "path", "folder for the files, made where it is not there", metavar="DIR"),
    Option("trainer", "text", "sky, dstack, slurm, k8s: what the job runs", "trl", "TRAINER"),
    Option("force", "flag", "replace files that are there"),
    *REQUEST,
    *DATA,
)
