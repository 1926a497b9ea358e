"""Completion of commands, options and names in shells. Nothing here loads unless a shell asks, or somebody for it."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer

from planner.cli.options import COMPLETE_VARIABLE, Option
from planner.cli.output import FORMATS, PROGRAM, write
from planner.errors import PlannerError, UsageError

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
POWERSHELLS = ("powershell", "pwsh")


class Word(NamedTuple):
    """What may be typed, and what it means, for shells that show this."""

    text: str
    help: str = ""


class Asked(NamedTuple):
    """Where a word is being typed: the command, and the options before it."""

    command: str
    given: Mapping[str, Any]


# ---------------------------------------------------------------- words


def completer(option: Option) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """What typer asks for words that begin like ``incomplete``, of which the last of several is completed."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        before, comma, last = incomplete.rpartition(",")
        asked = Asked(ctx.info_name or "", ctx.params)
        return [(before + comma + word.text, word.help) for word in words(option, asked) if word.text.startswith(last)]

    return complete


def words(option: Option, asked: Asked) -> list[Word]:
    """Every word that the option takes, where these are few or have names; a shell's own are files."""
    if option.kind == "path":
        return []
    try:
        return [
            one if isinstance(one, Word) else Word(one) for one in _SOURCES.get(option.name, _settings)(option, asked)
        ]
    except PlannerError:  # profiles that cannot be read: the command itself will say so
        return []


def _settings(option: Option, _asked: Asked) -> Iterable[str]:
    from planner.stacks.values import choices  # noqa: PLC0415

    return choices(option.name)


def _models(_option: Option, _asked: Asked) -> Iterator[Word]:
    from planner.catalog import index, list_models  # noqa: PLC0415

    yield from (Word(size, model) for size, model in index().sizes.items())
    for row in list_models():
        yield Word(row.id, row.hub_id)
        yield Word(row.hub_id)


def _cards(_option: Option, asked: Asked) -> Iterator[Word]:
    from planner.hardware import list_classes, list_gpus  # noqa: PLC0415

    folder = Path(text) if (text := asked.given.get("profiles")) else None
    for gpu in list_gpus(folder):
        yield from (Word(name, gpu.name) for name in (gpu.id, *gpu.aliases))
    yield from (Word(gpu.id, f"at least a {gpu.name}") for gpu in list_classes(folder))
    yield Word("local", "what is here")


def _queried(option: Option, asked: Asked) -> Iterable[Word]:
    return (_models if asked.command == "models" else _cards)(option, asked)


def _methods(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.spec import METHODS  # noqa: PLC0415

    return METHODS


def _stacks(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.stacks import STACKS  # noqa: PLC0415

    return STACKS


def _topics(_option: Option, _asked: Asked) -> Iterator[Word]:
    from planner.cli.explain import TOPICS  # noqa: PLC0415
    from planner.recommend.rules import RULES  # noqa: PLC0415

    yield from map(Word, TOPICS)
    yield from (Word(rule.code, rule.slug) for rule in RULES)


def _targets(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.configs.targets import TARGETS  # noqa: PLC0415

    return TARGETS


def _trainers(_option: Option, asked: Asked) -> Iterable[str]:
    """Whose configuration a file is; of a job, whose files it runs."""
    from planner.configs.formats import BY_KIND, BY_NAME  # noqa: PLC0415
    from planner.configs.targets import TRAINERS  # noqa: PLC0415

    return TRAINERS if asked.command == "export" else (*BY_NAME, *BY_KIND)


def _tasks(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.spec.job import TASKS  # noqa: PLC0415

    return TASKS


def _abilities(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.doctor import ABILITIES  # noqa: PLC0415

    return ABILITIES


def _actions(_option: Option, _asked: Asked) -> Iterable[str]:
    from planner.cli.measurements import ACTIONS  # noqa: PLC0415

    return ACTIONS


def _formats(_option: Option, asked: Asked) -> Iterable[str]:
    from planner.cli.sweep import FORMATS as OF_SWEEP  # noqa: PLC0415

    return OF_SWEEP if asked.command == "sweep" else FORMATS


def _some(*names: str) -> Callable[[Option, Asked], Iterable[str]]:
    return lambda _option, _asked: names


_SOURCES: Mapping[str, Callable[[Option, Asked], Iterable[str | Word]]] = {
    "model": _models,
    "gpu": _cards,
    "query": _queried,
    "method": _methods,
    "stack": _stacks,
    "topic": _topics,
    "target": _targets,
    "trainer": _trainers,
    "task": _tasks,
    "needs": _abilities,
    "action": _actions,
    "format": _formats,
    "evidence": _some("closed-form", "traced"),
    "against": _some("published", "traced", "sharded", "times"),
    "metric": _some("allocated", "reserved", "device"),
    "prices": _some("snapshot", "live"),
}
"""Where the words of an option come from, by its name; of settings, from what they may be."""


# ---------------------------------------------------------------- scripts


def show() -> None:
    """Print the script of the shell that runs this."""
    write(_typer().get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=_shell()) + "\n")


def install() -> None:
    """Put the script where the shell that runs this finds it; a profile of PowerShell is the user's to change."""
    shell = _shell()
    if shell in POWERSHELLS:
        raise UsageError(f"--install-completion leaves {shell} alone: run {PROGRAM} --show-completion >> $PROFILE")
    try:
        _, path = _typer().install(shell=shell, prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--install-completion: {error}; put it where {shell} reads it: {PROGRAM} --show-completion"
        ) from None
    write(f"{shell} completes {PROGRAM} from its next start: {path}\n")


def _shell() -> str:
    """The shell that runs this, as shellingham tells it from the process tree."""
    from shellingham import ShellDetectionFailure, detect_shell  # noqa: PLC0415  (comes with typer)

    try:
        name = str(detect_shell()[0])
    except ShellDetectionFailure:
        name = ""
    if name in SHELLS:
        return name
    which = f"{name} has no completion here" if name else "the shell cannot be told"
    raise UsageError(f"{which}: for another run {COMPLETE_VARIABLE}=source_SHELL {PROGRAM}; SHELL: {', '.join(SHELLS)}")


def prepare() -> None:
    """Tell typer of its shells before one asks, which it does only for commands with completion options of its own."""
    _typer().completion_init()


def _typer() -> Any:  # noqa: ANN401  (typer's module, whose types do not name what it takes from elsewhere)
    return importlib.import_module("typer.completion")
