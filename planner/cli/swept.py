"""Options of ``plan sweep``: those of a job, each with as many alternatives as one likes."""

from planner.cli.data import DATA
from planner.cli.options import JOB, MODEL, PROFILES, Option

WHOLE = ("lora_targets", "modules_to_save", "moments", "offload", "stack", "peft_config")
"""Settings whose values hold commas themselves: another alternative is the option once more."""

ONE = ("headroom", "network_gbps", "host_memory", "evidence", "format")
"""Options that stand once for all rows; evidence is closed-form."""

HELP = {
    "model": "models: sizes, names, Hub ids; with commas, or repeated; all: the whole catalogue",
    "gpu": "GPUs of `plan gpus` or classes; with commas, or repeated; all: every card",
    "gpus": "cards in all, with commas; all: 1,2,4,8",
    "method": "full, lora or qlora; with commas, or repeated",
}


def _alternatives(option: Option) -> Option:
    if option.name in ONE:
        return option
    text = f"{option.help.partition('; may be')[0]}: on, off or on,off" if option.kind == "switch" else option.help
    return option._replace(kind="list", help=HELP.get(option.name, text), metavar=option.metavar or "WORD")


SETTINGS = tuple(option for option in JOB if option.name != "evidence")
SWEPT = (
    *(_alternatives(option) for option in (*MODEL, *SETTINGS)),
    *DATA,
    Option("out", "text", "write the rows to this file (.csv, else JSON Lines), and go on where it stops", "", "FILE"),
    PROFILES,
    Option("format", "text", "text: a table; json: a line for each row; csv; markdown", "text", "FORMAT"),
)
"""Every setting may be given more than once, or with commas where its value has none; data are the same for all."""
