"""What ``plan check`` and ``plan export`` print as JSON."""

from typing import Any, Literal

from typing_extensions import TypedDict

from planner.configs.understood import Fate
from planner.render.document import PlanDocument


class KeyDocument(TypedDict):
    """One key of a configuration and what became of it.

    ``sets``: the setting that it decides, empty for others; ``why``: why it is ignored, not modelled or not known.
    """

    key: str
    file: str
    value: Any
    fate: Fate
    sets: str
    why: str


class ConfigDocument(TypedDict):
    """How the files were understood. ``unset``: what the trainer takes where they are silent; ``overridden``: settings
    that the command laid over them.
    """

    format: str
    files: list[str]
    keys: list[KeyDocument]
    unset: dict[str, Any]
    overridden: list[str]
    notes: list[str]


class CheckDocument(PlanDocument):
    """What ``plan check --format json`` prints: the plan of exactly the run that the files describe, and the files."""

    config: ConfigDocument


class ExportDocument(TypedDict):
    """What ``plan export --format json`` prints. ``files`` is empty where nothing fits, so that nothing was written.

    ``configs``: those that ``plan check`` reads back; ``setup``: commands before the first launch, in the folder, and
    ``launch``: the command that runs them there. ``check``: the command that plans them again, with versions and with
    what no file says; it and ``launch`` are empty where nothing was written.
    """

    schema: Literal[1]
    target: str
    folder: str
    files: list[str]
    configs: list[str]
    setup: list[str]
    launch: str
    check: str
    plan: PlanDocument
