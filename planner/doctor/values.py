"""What an examination finds: facts with a judgement, and what can run here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

State = Literal["ok", "note", "warning", "bad"]
"""``note``: it bears on memory, or on what can run. ``warning``: it may go wrong. ``bad``: it goes wrong."""

Topic = Literal["software", "cards", "environment", "machine", "stored"]
Ability = Literal["local", "gpu", "traced", "measure", "hub", "pictures"]
ABILITIES: tuple[Ability, ...] = ("local", "gpu", "traced", "measure", "hub", "pictures")


class Fact(NamedTuple):
    """One thing that was looked at; ``advice`` is what to do about it."""

    topic: Topic
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Facts by topic, and for every ability why it is missing; ``""`` where it is there."""

    facts: tuple[Fact, ...]
    lacking: Mapping[Ability, str]

    def about(self, topic: Topic) -> tuple[Fact, ...]:
        """The facts of one topic."""
        return tuple(fact for fact in self.facts if fact.topic == topic)
