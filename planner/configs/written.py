"""What an export holds: files with comments that say why, for one chosen run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from textwrap import wrap
from typing import Any

from planner.recommend.recipe import Recipe
from planner.recommend.request import Request, Setting
from planner.result import Candidate
from planner.spec import Job, Scenario, TrainSpec

COMMENT_WIDTH = 100

REQUIREMENTS = "requirements.txt"
"""The file of the versions that a plan describes."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of an export: its name in the folder, and what it holds."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The run that is exported. ``model``: what the files call it, a Hub id or a path. ``dataset``: likewise, or empty.

    ``beside``: what of both has to lie where the run finds it, since it runs elsewhere. ``heading``: lines for the top
    of a file: what this is, what it takes, and the command that plans it.
    """

    candidate: Candidate
    job: Job
    request: Request
    recipe: Recipe
    model: str
    dataset: str
    heading: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @property
    def model_is_here(self) -> bool:
        """Whether the model is a folder of files, not a name of the Hub."""
        return self.model.startswith("./") or Path(self.model).is_absolute()

    @property
    def scenario(self) -> Scenario:
        """The whole run."""
        return self.candidate.scenario

    @property
    def train(self) -> TrainSpec:
        """Its settings."""
        return self.candidate.scenario.train

    @property
    def gpus(self) -> int:
        """Cards in all."""
        return self.candidate.scenario.cluster.world_size


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a trainer. ``configs``: those that ``plan check`` reads back, the trainer's own first.

    ``launch``: the command that starts the run in the folder of the files. ``setup``: commands that run there once
    before it, besides installing the requirements. ``gpus`` and ``nodes``: what the command alone says. ``packages``:
    those of the stack's that it needs; empty: all.
    """

    files: tuple[File, ...]
    configs: tuple[str, ...]
    launch: str
    setup: tuple[str, ...] = ()
    gpus: int = 1
    nodes: int | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Settings that only the command says, too."""
    packages: tuple[str, ...] = ()


class Null(Enum):
    """The value ``null``, where a trainer wants the key to be there."""

    NULL = "null"


NULL = Null.NULL


@dataclass(frozen=True, slots=True)
class Line:
    """A key with its value, and why it has it; ``None`` as value leaves the line out."""

    key: str
    value: Any
    why: str = ""


def yaml_text(heading: Sequence[str], lines: Iterable[Line], missing: Sequence[str] = ()) -> str:
    """YAML with a heading and a comment behind each line that has a reason; ``missing``: what the user has to say.

    >>> print(yaml_text(["a run"], [Line("lora_r", 16, "holds 2M tokens"), Line("targets", ["q_proj"])]), end="")
    # a run
    lora_r: 16  # holds 2M tokens
    targets: [q_proj]
    """
    body = [_yaml_line(line) for line in lines if line.value is not None]
    return "\n".join([*comments(heading), *body, *comments(missing)]) + "\n"


def comments(heading: Sequence[str], mark: str = "# ") -> list[str]:
    r"""The lines as comments, folded between words; an empty one parts two paragraphs.

    Names of files stand in them, and what ends a line for YAML would end the comment.

    >>> comments(["data\u2028lora_r: 64"])
    ['# data\\u2028lora_r: 64']
    """
    found: list[str] = []
    for line in heading:
        parts = wrap(line, COMMENT_WIDTH, break_on_hyphens=False, break_long_words=False)
        found += [mark + _visible(part) for part in parts] or [mark.rstrip()]
    return found


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _yaml_line(line: Line) -> str:
    why = f"  # {line.why}" if line.why else ""
    if isinstance(line.value, Mapping) and line.value:
        return f"{line.key}:{why}\n{_block(line.value)}"
    return f"{line.key}: {_flow(line.value)}{why}"


def _flow(value: object) -> str:
    import yaml  # noqa: PLC0415  (only exports need it)

    if value is NULL:
        return NULL.value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _block(value: Mapping[str, Any]) -> str:
    import yaml  # noqa: PLC0415

    text: str = yaml.safe_dump(dict(value), default_flow_style=False, sort_keys=False, allow_unicode=True)
    return "\n".join(f"  {line}" for line in text.splitlines())


def json_text(value: Mapping[str, Any]) -> str:
    """JSON, which has no comments: reasons stand in another file."""
    return json.dumps(value, indent=2) + "\n"
