"""What a configuration says about a run, and what became of each of its keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from planner.recommend.request import Setting
from planner.spec import Method

Fate = Literal["used", "ignored", "unknown", "unmodelled"]
"""``used``: it decides a setting; ``ignored``: memory and time do not feel it; ``unknown``: no key that we know of this
trainer; ``unmodelled``: it changes the answer, and we cannot say how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One key of a configuration and what became of it.

    ``sets``: what it decides, by ``TrainSpec`` field, or one of ``model method gpus nodes stack`` and ``Job``'s fields.
    ``why``: why it is ignored or not modelled, or which key is nearest to an unknown one.
    """

    key: str
    value: Any
    fate: Fate
    sets: str = ""
    why: str = ""
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What one file, or several together, say. ``None`` and absent settings: not said.

    ``format``: whose configuration it is. ``stack``: the trainer that runs it, with the versions that the file names;
    ``None`` for a companion (accelerate, DeepSpeed, PEFT) that any trainer may take. ``settings``: by ``TrainSpec``
    field, ``job``: by ``Job`` field. ``files``: other files that it names, as it names them, by the key that does.
    ``fallbacks``: settings of a companion that hold where the trainer's own file is silent or says ``none``.
    ``fsdp``: the version of FSDP, where the stack could take either.
    """

    format: str
    stack: str | None = None
    model: str | None = None
    method: Method | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    gpus: int | None = None
    nodes: int | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    fallbacks: Mapping[str, Setting] = field(default_factory=dict)
    fsdp: Literal[1, 2] | None = None
    paths: tuple[str, ...] = ()
    """How the user named the files."""
    trainer: str | None = None
    """Whose configuration it is, where the user said so."""

    @property
    def words(self) -> tuple[str, ...]:
        """What the command says of the files."""
        return (*self.paths, *(("--trainer", self.trainer) if self.trainer else ()))

    def of(self, fate: Fate) -> tuple[Reading, ...]:
        """The keys with this fate, in the order of the files."""
        return tuple(one for one in self.readings if one.fate == fate)

    def says(self, what: str) -> bool:
        """Whether it decides a setting, or one of ``model method gpus nodes``."""
        return (
            any(what in one for one in (self.settings, self.fallbacks, self.job))
            or getattr(self, what, None) is not None
        )

    def value_of(self, what: str) -> object:
        """What it says of a setting, or of one of ``model method gpus nodes``."""
        return {**self.job, **self.fallbacks, **self.settings}.get(what, getattr(self, what, None))

    def key_of(self, what: str) -> Reading | None:
        """The key that decided a setting, or one of ``model method gpus nodes``; ``None`` where no key did.

        Where several have a part in it, that which holds the value itself; else the first.
        """
        found = [one for one in self.readings if one.fate == "used" and one.sets == what]
        value = self.value_of(what)
        return next((one for one in found if one.value == value), found[0] if found else None)


def with_fallbacks(settings: Mapping[str, Setting], fallbacks: Mapping[str, Setting]) -> dict[str, Setting]:
    """``settings``, and the fallbacks where they are silent or say ``none``.

    >>> with_fallbacks({"autocast": "none", "optimizer": "lion"}, {"autocast": "bf16", "optimizer": "adamw_fused"})
    {'autocast': 'bf16', 'optimizer': 'lion'}
    """
    return {**settings, **{name: one for name, one in fallbacks.items() if settings.get(name, "none") == "none"}}
