"""Taking the keys of a configuration: each is taken once, and whatever is left over is told.

A reader takes what decides memory (``take``, ``plain``), names what does not (``ignore``) and what it cannot answer for
(``unmodelled``); ``readings`` then tells the fate of every key that is in the file.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from planner.configs.document import Document
from planner.configs.understood import Fate, Reading
from planner.errors import BrokenInput, UnsupportedScenario, nearest, option, show
from planner.recommend.request import Setting

Kind = Literal["text", "whole", "number", "flag", "names", "section", "any"]
"""``whole`` and ``number`` take numbers written as text too, ``names`` one name or a list of them, as trainers do."""

NO_TOUCH = "neither memory nor time feels it"


@dataclass(frozen=True, slots=True)
class Key:
    """A key that says one setting of ours in the trainer's words, in both directions.

    ``name``: its dotted path. ``setting``: the ``TrainSpec`` field. ``words``: the trainer's value for each of ours,
    where they differ; a value of the file that is none of them is unmodelled.
    """

    name: str
    setting: str
    kind: Kind = "text"
    words: Mapping[Any, Setting] = field(default_factory=dict)

    def read(self, value: Any) -> Setting | None:  # noqa: ANN401  (a file's value)
        """Our value for the trainer's; ``None`` where it has none."""
        if not self.words:
            return tuple(value) if isinstance(value, list) else value
        return self.words.get(value.lower() if isinstance(value, str) else value)

    def write(self, value: Setting) -> Any:  # noqa: ANN401
        """The trainer's value for ours, the first where several mean it; raise ``UnsupportedScenario`` without one."""
        if not self.words:
            return list(value) if isinstance(value, tuple) else value
        for theirs, ours in self.words.items():
            if ours == value:
                return theirs
        raise UnsupportedScenario(f"{self.name} has no word for {option(self.setting)} {show(value)}")


def listed(names: str) -> tuple[str, ...]:
    """Names of keys, written as one text with spaces.

    >>> listed("lora_r lora_alpha")
    ('lora_r', 'lora_alpha')
    """
    return tuple(names.split())


class Keys:
    """The keys of one file, or of a section of it, and what became of each."""

    def __init__(self, document: Document) -> None:
        """Of a whole file; ``section`` gives those of a part of it."""
        self.file = document.name
        self._data: Mapping[str, Any] = document.data
        self._prefix = ""
        self._told: dict[str, Reading] = {}
        self._known: set[str] = set()

    def section(self, name: str) -> "Keys":
        """The keys of a mapping in the file; none where it is absent or empty. They are told by their dotted path."""
        found = Keys.__new__(Keys)
        found.file, found._told, found._known = self.file, self._told, self._known
        found._prefix = f"{self._prefix}{name}."
        value = self._data.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self._broken(name, value, "a section with keys of its own")
        found._data = value or {}
        if value is not None and not value:
            self.tell(name, "ignored", why="it is empty")
        return found

    def __contains__(self, name: str) -> bool:
        """Whether the key is there and says something: ``key:`` without a value says nothing."""
        return self._data.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the key is there without a value, which to some trainers says something."""
        return name in self._data and self._data[name] is None

    def peek(self, name: str) -> Any:  # noqa: ANN401
        """A value without taking it."""
        return self._data.get(name)

    def take(self, name: str, kind: Kind, sets: str, absent: Any = None) -> Any:  # noqa: ANN401  (typed by ``kind``)
        """The value of a key that decides ``sets``, or ``absent``; raise ``BrokenInput`` where its type is wrong."""
        if name not in self:
            return absent
        value = _CONVERT[kind](self._data[name])
        if value is None:
            raise self._broken(name, self._data[name], _KINDS[kind])
        self.tell(name, "used", sets=sets)
        return value

    def plain(self, table: Iterable[Key]) -> dict[str, Setting]:
        """The settings of all keys of ``table`` that are in the file; values without a word of ours are unmodelled."""
        found: dict[str, Setting] = {}
        for key in table:
            if key.name not in self:
                continue
            value = key.read(self.take(key.name, key.kind, key.setting))
            if value is None:
                known = ", ".join(str(word) for word in key.words)
                self.tell(key.name, "unmodelled", sets=key.setting, why=f"of this key we model {known}")
            else:
                found[key.setting] = value
        return found

    def tell(self, name: str, fate: Fate, *, sets: str = "", why: str = "") -> None:
        """Say what became of a key; the last word counts."""
        path = self._prefix + name
        self._told[path] = Reading(key=path, value=self._data.get(name), fate=fate, sets=sets, why=why, file=self.file)

    def ignore(self, *patterns: str, why: str = NO_TOUCH) -> None:
        """Keys that do not matter here, by name or by pattern (``wandb_*``); what was told before stays."""
        self._known.update(patterns)
        for name in self._left():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                self.tell(name, "ignored", why=why)

    def unmodelled(
        self, reasons: Mapping[str, str], *, off: Sequence[Any] = (None, False, 0, "", "none", [], {})
    ) -> None:
        """Keys that change the answer in a way that we do not model, unless their value is one of ``off``."""
        for name in self._left():
            why = next((why for pattern, why in reasons.items() if fnmatchcase(name, pattern)), None)
            if why is not None:
                switched_off = any(self._data[name] == one and type(self._data[name]) is type(one) for one in off)
                self.tell(name, "ignored" if switched_off else "unmodelled", why="it is off" if switched_off else why)

    def readings(self, matter: Iterable[str] = ()) -> tuple[Reading, ...]:
        """What became of every key of the file; the rest is unknown, or unmodelled where it is nearly one that matters.

        ``matter``: names of all keys that decide memory. Empty values say nothing, whatever the key.
        """
        for name in self._left():
            if self._data[name] is None:
                self.tell(name, "ignored", why="it is empty")
            elif not any(told.startswith(f"{self._prefix}{name}.") for told in self._told):
                near = nearest(name, matter, count=1)
                meant = near or nearest(name, self._known, count=1)
                slip = bool(meant) and meant[0] != name  # the same name: a key of another of this trainer's runs
                why = f"did you mean {meant[0]}?" if slip else "no key of this trainer that we know"
                self.tell(name, "unmodelled" if near else "unknown", why=why)
        order = {key: place for place, key in enumerate(self._data)}
        return tuple(sorted(self._told.values(), key=lambda one: order.get(one.key.partition(".")[0], len(order))))

    def _left(self) -> list[str]:
        return [name for name in self._data if self._prefix + name not in self._told]

    def _broken(self, name: str, value: object, what: str) -> BrokenInput:
        return BrokenInput(f"{self.file}: {self._prefix}{name} {show(value)} is not {what}")


_KINDS: Mapping[Kind, str] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "names": "a name or a list of names",
    "section": "a section with keys of its own",
    "any": "a value",
}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    """A whole number, also written as text or as 2.0."""
    found = _number(value)
    return int(found) if found is not None and found == int(found) else None


_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)


def _number(value: object) -> float | None:
    """A finite number, also written as text: YAML takes ``2e-4`` for text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return value if abs(found) < float("inf") else None


def _flag(value: object) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False, "yes": True, "no": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def _names(value: object) -> list[str] | None:
    if isinstance(value, str):
        return [name for name in re.split(r"[\s,]+", value.strip()) if name]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    return None


def _section(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


_CONVERT: Mapping[Kind, Callable[[object], Any]] = {
    "text": _text,
    "whole": _whole,
    "number": _number,
    "flag": _flag,
    "names": _names,
    "section": _section,
    "any": lambda value: value,
}
