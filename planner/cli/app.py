"""The command: one table of subcommands, each of which loads its own module only when it runs."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import typer
import typer.core
import typer.main

from planner.cli.checks import CHECKED, EXPORTED
from planner.cli.data import DATA, TASK, TOKENIZER
from planner.cli.help import help_text
from planner.cli.options import COMPLETION, FORMAT, JOB, MODEL, PROFILES, REQUEST, VERSION, Option, Values, takes
from planner.cli.output import write
from planner.cli.rented import RENTED
from planner.cli.swept import SWEPT
from planner.errors import UsageError, option

SEARCH = Option("query", "argument", "words that the name must contain", metavar="QUERY")
CONFIRM = Option("confirm", "flag", "trace what is recommended, and its alternatives, before they are said")
TOPIC = Option("topic", "argument", "a rule's code; or memory, interval, time, recipe, stack", metavar="TOPIC")
HERE = (
    Option("gpu", "text", "the card that is here, by its name in `plan gpus`", "what torch finds", "GPU"),
    Option("method", "list", "full, lora or qlora: exactly one", "lora", "METHOD"),
    Option("steps", "integer", "optimizer steps to take", "3; with --lengths all", "N"),
    Option("warmup", "integer", "steps that the median leaves out", "1", "N"),
    Option("timeout", "integer", "seconds after which the run is stopped", "600", "N"),
    Option("layers", "text", "take the first N layers only; auto: extrapolate from some where not all fit", "all", "N"),
    Option("lengths", "path", "padded lengths of successive batches, one a line, or with a count", metavar="FILE"),
    Option("cap", "bytes", "pretend a smaller card: its memory, for instance 24GiB", metavar="SIZE"),
    Option("snapshot", "path", "write CUDA's memory history, for PyTorch's memory viewer", metavar="FILE"),
    Option("no_store", "flag", "do not remember the result (see plan measurements)"),
    Option("find_max_batch", "flag", "search the largest batch that runs, by real failures"),
    Option("find_max_seq", "flag", "search the longest sequence that runs, by real failures"),
    Option("seq_step", "integer", "search lengths in multiples of N", "64", "N"),
    Option("matrix", "text", "measure every case of a TOML file; or of card or tiny, which are here", metavar="FILE"),
    Option("out", "text", "matrix: add each finished case to this file, and go on where it stops", metavar="FILE"),
    Option("budget", "text", "matrix: begin no case after this time, as in 20min", metavar="TIME"),
    Option("retry", "flag", "matrix: run again what timed out, was killed or failed"),
    Option("anchors", "path", "matrix: write what was measured as anchors, to a file or a folder", metavar="PATH"),
)
VALIDATED = (
    Option(
        "against",
        "text",
        "published: what others measured; traced: a grid of traces; sharded: one of several GPUs; times: seconds",
        "published",
        "REFERENCE",
    ),
    Option("source", "list", "published: only this source; may be repeated", "all of them", "ID"),
    Option("evidence", "text", "published: predict by closed-form or traced", "closed-form", "KIND"),
    Option("model", "list", "traced, sharded: only this model of the grid; may be repeated", "all of them", "MODEL"),
    Option("quick", "flag", "traced: a few small models and settings, in less than a minute"),
    Option("out", "text", "traced, sharded: keep each trace in this file, and go on where it stops", metavar="FILE"),
    FORMAT,
)
MEASURED = (MODEL[0], *HERE, *(option for option in JOB if option.name not in ("method", "evidence")), PROFILES, FORMAT)

TRACE = (
    Option("all_layers", "flag", "run every layer, not a few that stand for all"),
    Option("lengths", "path", "padded lengths of successive batches, one a line, or with a count", metavar="FILE"),
    Option("alloc_conf", "text", "the allocator's settings, as in PYTORCH_ALLOC_CONF", metavar="TEXT"),
    Option("snapshot", "path", "write a memory snapshot for PyTorch's memory viewer", metavar="FILE"),
    Option("timeline", "path", "draw memory over the step: .html, .png or .svg", metavar="FILE"),
    Option("replay", "path", "instead: replay a memory snapshot that a device recorded", metavar="FILE"),
    Option("device", "integer", "replay: which device, of a snapshot of several", metavar="N"),
)

REPORTED = (
    Option("out", "text", "the page to write, for instance report.html", metavar="FILE"),
    *(option for option in REQUEST if option is not FORMAT),
    *DATA,
    CONFIRM,
)

NEEDS = Option(
    "needs", "list", "exit with 4 unless this can run: local, gpu, traced, measure, hub, pictures", metavar="NAME"
)

WONDERED = (
    Option(
        "text", "argument", "the out-of-memory message; without one, --message or standard input", metavar="[MESSAGE]"
    ),
    Option(
        "message", "path", "read the message, or the whole log, from this file; - is standard input", metavar="FILE"
    ),
    Option("observed", "bytes", "what the run took, in place of a message, for instance 22.3GiB", metavar="SIZE"),
    Option("metric", "text", "how that was counted: allocated, reserved or device (nvidia-smi)", "device", "METRIC"),
)

REMEMBERED = (
    Option("action", "argument", "list, show, export, import or forget", metavar="ACTION"),
    Option("what", "arguments", "show ID; export FILE [ID ...]; import FILE; forget ID ...", metavar="WHAT"),
    Option("model", "text", "list, export: only runs of this model", "all", "MODEL"),
    Option("device", "text", "list, export: only runs on this device, or its kind such as ada", "all", "DEVICE"),
    Option("anchors", "flag", "export: in the form of tests/anchors, for plan validate"),
    Option("all", "flag", "forget: every measurement"),
    Option("yes", "flag", "forget --all: without asking again"),
    FORMAT,
)

READ = (
    Option("file", "argument", "training data: .jsonl, .json, .parquet, .csv, .tsv or text", metavar="FILE"),
    Option("model", "text", "whose tokenizer and longest sequence count: as for plan", "none", "MODEL"),
    TOKENIZER,
    Option("seq_len", "integer", "tokens in a sequence", "what suits the data", "N"),
    Option("micro_batch_size", "integer", "sequences that are padded to the longest of them", "1", "N"),
    TASK,
    FORMAT,
)


class Subcommand(NamedTuple):
    """A command, which is also the name of its module in this folder; what it does; what it takes."""

    name: str
    summary: str
    options: tuple[Option, ...]


COMMANDS = (
    Subcommand(
        "gpus",
        "List GPUs: the memory that torch can see, speed, price.",
        (SEARCH, PROFILES, FORMAT),
    ),
    Subcommand("models", "List models of the catalogue.", (SEARCH, FORMAT)),
    Subcommand("rules", "List the rules behind every recommendation.", (FORMAT,)),
    Subcommand("compare", "Compare full fine-tuning, LoRA and QLoRA for one model.", REQUEST),
    Subcommand(
        "explain",
        "Explain a rule, a stack, or a job's memory, interval, time or recipe.",
        (TOPIC, *REQUEST, *DATA),
    ),
    Subcommand("dataset", "Count rows, tokens and lengths of a file of training data.", READ),
    Subcommand("rent", "Rank hardware to rent for a run: money, hours, memory, host RAM and disk.", RENTED),
    Subcommand(
        "what-if", "Show what each single change of the settings gains and costs, best first.", (*REQUEST, *DATA)
    ),
    Subcommand(
        "frontier",
        "Show the largest micro-batch at each length, and the longest length, by method.",
        (*REQUEST, *DATA),
    ),
    Subcommand("sweep", "Plan every combination of models, cards, methods and settings: one line each.", SWEPT),
    Subcommand(
        "check",
        "Plan a trainer's own configuration as it stands: does it fit? Without an option it is as the files say.",
        CHECKED,
    ),
    Subcommand("export", "Write what the plan recommends as a trainer's configuration or a scheduler's job.", EXPORTED),
    Subcommand("trace", "Run the real step on fake tensors: bytes of every owner at every moment.", (*REQUEST, *TRACE)),
    Subcommand("report", "Write the whole answer as one HTML page: charts, tables, reasons, sources.", REPORTED),
    Subcommand("measure", "Take a few real steps on the device that is here, beside their prediction.", MEASURED),
    Subcommand("doctor", "Examine what is here: libraries, cards, environment, and what can run.", (NEEDS, FORMAT)),
    Subcommand(
        "why",
        "Explain an out-of-memory message, or bytes that differ from the plan: what may have been different.",
        (*WONDERED, *REQUEST),
    ),
    Subcommand("measurements", "List, show, export, import or forget what was measured.", REMEMBERED),
    Subcommand("validate", "Hold predictions against published measurements, or against traces.", VALIDATED),
)


class _AsTyped:
    """Stands in for typer's converters: the text as it was typed, for the table of options to read."""

    def coerce(self, value: object, **_: object) -> object:
        return value


def as_typed(command: Any) -> Any:  # noqa: ANN401  (click's class, whose home differs by version of typer)
    """Spare typer a pydantic model for each of our options, which all are text: half of the time to start.

    The attribute is typer's own cache (0.29). Where a version has none, its converters give the same text, later.
    """
    for param in command.params:
        if hasattr(param, "_runtime_param"):
            param._runtime_param = _AsTyped()
    return command


class _Commands(Mapping[str, Any]):
    """Commands by name, each made when it is asked for: making all of them takes longer than most answers."""

    def __init__(self) -> None:
        self._named = {one.name: one for one in COMMANDS}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  (as above)
        if name not in self._made:
            self._made[name] = as_typed(_made(self._named[name]))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


class _Group(typer.core.TyperGroup):
    """The command with its subcommands, which are made on demand."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  (typer's own)
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]


app = typer.Typer(name="plan", cls=_Group, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@takes((*REQUEST, *DATA, CONFIRM, VERSION, *COMPLETION))
def _default(context: typer.Context, values: Values) -> None:
    """Plan the fine-tuning of a language model: memory, verdict, method and hardware.

    For instance: plan --model 8b --gpu 4090
    """
    if values["version"]:
        _aside("version", "show", values["format"])
    elif values["help"]:
        write(help_text(context))
    elif values["install_completion"] or values["show_completion"]:
        _aside("completion", "install" if values["install_completion"] else "show")
    elif context.invoked_subcommand is None:
        _run_body("plan", values)
    else:
        _refuse_leading_options(context.invoked_subcommand, values)
        return
    raise typer.Exit(0)


def _aside(module: str, action: str, *arguments: object) -> None:
    """What is no plan, and seldom asked for."""
    getattr(importlib.import_module(f"planner.cli.{module}"), action)(*arguments)


def _refuse_leading_options(command: str, values: Values) -> None:
    given = [name for name, value in values.items() if value not in (None, False, [], ())]
    if given:
        flag = option(given[0])
        raise UsageError(f"{flag} stands before the command {command}: write plan {command} {flag} ...")


def _run_body(name: str, values: Values) -> None:
    body: Callable[[Values], int] = importlib.import_module(f"planner.cli.{name.replace('-', '_')}").main
    raise typer.Exit(body(values))


def _made(command: Subcommand) -> Any:  # noqa: ANN401  (as above)
    """What typer makes of one command."""

    @takes(command.options)
    def body(context: typer.Context, values: Values) -> None:
        if values["help"]:
            write(help_text(context))
        else:
            _run_body(command.name, values)

    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(command.name, help=command.summary, add_help_option=False)(body)
    return typer.main.get_command(alone)
