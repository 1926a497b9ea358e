"""What a rule is and what it may look at.

A rule sees results, never a model's insides: one candidate, its siblings, and an estimator that
answers "what if". It returns a ``Reason`` with a number from these estimates, or nothing.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from planner.estimators import Estimator
from planner.recommend.request import Ask, Setting
from planner.result import Candidate, Estimate, Memory, Reason, Way
from planner.spec import Scenario, TrainSpec

Scope = Literal["each", "choice"]

NOTEWORTHY = 0.05
"""A what-if that moves the requirement by less than this share is not worth a reader's line (ours)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One candidate under inspection.

    ``chosen`` is the recommended candidate, ``None`` when nothing fits; ``subject`` is the candidate
    that the rule judges; ``ways`` are the ways out, ``None`` where nobody had to look for any.
    """

    ask: Ask
    subject: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    estimate: Estimator
    ways: tuple[Way, ...] | None = None

    @property
    def train(self) -> TrainSpec:
        """The subject's settings."""
        return self.subject.scenario.train

    @property
    def scenario(self) -> Scenario:
        """The subject's scenario."""
        return self.subject.scenario

    @property
    def required(self) -> int:
        """Bytes that a card must have for the subject."""
        return self.subject.estimate.peak.required_bytes

    @property
    def usable(self) -> int:
        """Bytes that the subject's card offers."""
        return self.scenario.cluster.usable_bytes

    @property
    def is_choice(self) -> bool:
        """Whether the subject is the recommended candidate."""
        return self.chosen is self.subject

    def other(self, method: str) -> Candidate | None:
        """The first candidate of ``method``, on the settings that were asked for."""
        return next((one for one in self.candidates if one.method == method), None)

    def what_if(self, **changes: Setting) -> Estimate:
        """The subject re-estimated with some settings of ``TrainSpec`` replaced."""
        return self.estimate(replace(self.scenario, train=_changed(self.train, changes)))

    def saved_by(self, **changes: Setting) -> int:
        """Required bytes that the changes save; negative where they cost."""
        return self.required - self.what_if(**changes).peak.required_bytes

    def noteworthy(self, saved: int) -> bool:
        """Whether ``saved`` bytes are worth a line."""
        return saved >= NOTEWORTHY * self.required


def _changed(train: TrainSpec, changes: Mapping[str, Any]) -> TrainSpec:
    return replace(train, **changes)


class Rule(Protocol):
    """One rule: a code for machines, a slug for configuration files, a class for programmers.

    ``scope``: ``each`` is asked about every candidate, ``choice`` about the recommended one only (the
    nearest miss where nothing fits).
    """

    code: ClassVar[str]
    slug: ClassVar[str]
    scope: ClassVar[Scope]

    def check(self, case: Case) -> Reason | None:
        """The reason, with a number recomputed from the case; nothing when the rule does not apply."""


def title(rule: Rule) -> str:
    """What the rule says, without its code: the first line of its docstring."""
    return documentation(rule).splitlines()[0].removeprefix(f"{rule.code}: ")


def documentation(rule: Rule) -> str:
    """The rule's page: its docstring, unindented."""
    text = inspect.getdoc(type(rule))
    if not text:
        raise ValueError(f"{rule.code} has no docstring")
    return text


def largest_owner(memory: Memory) -> tuple[str, int]:
    """The owner with most bytes, and how many; the first of equals.

    >>> largest_owner(Memory(weights=3, activations=5))
    ('activations', 5)
    """
    return max(memory._asdict().items(), key=lambda item: item[1])


def percent(ratio: float) -> str:
    """A share in words.

    >>> percent(0.333), percent(0.0012), percent(2.5)
    ('33 %', '0.12 %', '250 %')
    """
    return f"{ratio * 100:.2g} %" if ratio < 0.1 else f"{ratio * 100:.0f} %"
