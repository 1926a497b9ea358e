"""The libraries that a job really runs on: present, in versions that we know, and the ones that the user named."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from planner.errors import PlannerError, UnsupportedScenario, UsageError
from planner.spec import Behaviour, Scenario
from planner.stacks import load_stack

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "deepspeed")
INSTALL = 'pip install "finetune-planner[trace]"'
INSTALL_ZERO = 'pip install "finetune-planner[trace,zero]"'

OLDEST: Mapping[str, tuple[int, ...]] = {
    "torch": (2, 9),
    "transformers": (5, 0),
    "accelerate": (1, 10),
    "peft": (0, 18),
    "trl": (1, 0),
    "bitsandbytes": (0, 48),
    "deepspeed": (0, 19),
}
"""What the builder and the recorder have been run with; anything older is refused."""

NEWEST: Mapping[str, tuple[int, ...]] = {"torch": (2, 13), "transformers": (5,)}
"""The newest of those whose insides a trace touches; anything newer is tried, and named where the trial fails."""

BITSANDBYTES = ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion", "lion_8bit")
"""Optimizers of ours that are its."""


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that are there."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def needed(scenario: Scenario) -> tuple[str, ...]:
    """The libraries that a trace of this scenario runs."""
    train = scenario.train
    names = ["torch", "transformers", "accelerate", "peft"]
    if train.quantized or train.optimizer in BITSANDBYTES:
        names.append("bitsandbytes")
    if scenario.stack.name == "trl" and train.loss == "fused":
        names.append("trl")
    if train.sharding.startswith("zero"):
        names.append("deepspeed")
    return tuple(names)


def newer_than_tried() -> list[str]:
    """Name and version of every installed library that is newer than what a trace has been run with."""
    found = installed_versions()
    return [
        f"{name} {found[name]}" for name, most in NEWEST.items() if numbers(found.get(name, ""))[: len(most)] > most
    ]


@contextmanager
def naming_newer() -> Iterator[None]:
    """What fails with libraries too new to have been tried is refused by their names; anything else is a bug."""
    try:
        yield
    except PlannerError:
        raise
    except Exception as error:
        newer = newer_than_tried()
        if not newer:
            raise
        words = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise UnsupportedScenario(
            f"traces have not been tried with {' and '.join(newer)}, and this one fails: {words} "
            f"(install torch up to {'.'.join(map(str, NEWEST['torch']))}, or use --evidence closed-form)"
        ) from error


def require(*names: str) -> dict[str, str]:
    """The versions of the named libraries; raise ``UsageError`` that says what to install."""
    found = installed_versions()
    missing = [name for name in names if name not in found]
    if missing:
        install = INSTALL_ZERO if "deepspeed" in missing else INSTALL
        raise UsageError(f"this needs {', '.join(missing)}: {install}")
    for name, least in OLDEST.items():
        if name in names and numbers(found[name]) < least:
            wanted = ".".join(map(str, least))
            raise UnsupportedScenario(
                f"{name} {found[name]} is older than {wanted}, the oldest that we trace: {INSTALL}"
            )
    return found


BUILT = ("plain", "hf", "trl")
"""Stacks whose step is built here."""


def check_versions(stack: Behaviour) -> None:
    """Raise ``UnsupportedScenario`` for a stack that is not built here, or that is of other versions than would run."""
    if stack.name not in BUILT:
        raise UnsupportedScenario(
            f"the step of stack {stack.name} is not built here: use --evidence closed-form, or --stack hf or trl"
        )
    found = installed_versions()
    for name, wanted in stack.versions.items():
        have = found.get(name)
        if have is not None and numbers(have)[: len(numbers(wanted))] != numbers(wanted):
            raise UnsupportedScenario(
                f"{name} {wanted} is asked for and {have} is installed: a trace runs what is installed "
                f"(install that version, or use --evidence closed-form)"
            )


def with_installed(stack: str) -> str:
    """A stack as the user wrote it, with the version of every library that differs from the newest that we describe."""
    named = {part.partition("=")[0].strip() for part in stack.split(",")[1:]}
    found, known = installed_versions(), load_stack(stack).behaviour.versions
    extra = [
        f"{name}={found[name]}"
        for name in known
        if name in found and name not in named and numbers(found[name])[:2] != numbers(known[name])[:2]
    ]
    return ",".join([stack, *extra])


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> numbers("2.13.0"), numbers("5.24.0.dev0")
    ((2, 13, 0), (5, 24, 0))
    """
    found = []
    for part in text.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
