"""What a rule is and what it may look at.

A rule sees results, never a model's insides: one candidate, its siblings, and an estimator that
answers "what if". It returns a ``Reason`` with a number from these estimates, or nothing.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from planner.cost import load_of, steps_of
from planner.estimators import Estimator, timed
from planner.recommend.capacity import params_per_rank
from planner.recommend.request import Ask, Setting
from planner.result import Candidate, Estimate, Memory, Reason, StepTime, TimePart, Way
from planner.spec import Job, Scenario, TrainSpec

Scope = Literal["each", "choice"]

NOTEWORTHY = 0.05
"""A what-if that moves the requirement by less than this share is not worth a reader's line (ours)."""


WORTH_A_LINE = 0.1
"""Share of a step from which a part is worth naming: less is within the error of the time model (ours)."""


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
    def job(self) -> Job:
        """What is trained for, and on how much."""
        return self.ask.job

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 where nobody said how much there is to train on."""
        return steps_of(self.scenario, self.job)

    @property
    def per_rank(self) -> int:
        """Adapter parameters of each unit of rank; 0 where there is no LoRA or nobody knows the matrices."""
        if self.train.peft_type != "LORA":
            return 0
        return self.per_rank_of_targets

    @property
    def per_rank_of_targets(self) -> int:
        """As ``per_rank``, of the adapters that would be trained, whatever the subject trains."""
        model, fused = self.scenario.model, self.scenario.stack.fused_experts
        return params_per_rank(model, self.train.lora_targets, fused_experts=fused)

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

    @property
    def named(self) -> str:
        """The subject's method, told from the recommended candidate where that is the same on other settings."""
        method = self.subject.method
        again = self.chosen is not None and not self.is_choice and self.chosen.method == method
        return f"{method} as asked" if again else method

    @property
    def asked(self) -> Candidate:
        """The subject's method on the settings that were asked for, which is what other methods compare with."""
        return self.other(self.subject.method) or self.subject

    def other(self, method: str) -> Candidate | None:
        """The first candidate of ``method``, on the settings that were asked for."""
        return next((one for one in self.candidates if one.method == method), None)

    def what_if(self, **changes: Setting) -> Estimate:
        """The subject re-estimated with some settings of ``TrainSpec`` replaced."""
        return self.estimate(replace(self.scenario, train=_changed(self.train, changes)))

    def saved_by(self, **changes: Setting) -> int:
        """Required bytes that the changes save; negative where they cost."""
        return self.required - self.what_if(**changes).peak.required_bytes

    def step_if(self, **changes: Setting) -> StepTime | None:
        """The time of an optimizer step with some settings replaced, on the job's own load."""
        train = _changed(self.train, changes)
        changed = replace(self.scenario, train=train)
        return timed(changed, self.estimate(changed), load_of(train, self.job))

    def share(self, part: TimePart) -> float:
        """Seconds that a part would take by itself over those of the step; 0 where no time is known."""
        step = self.subject.step
        return step.parts[part] / step.seconds if step else 0.0

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


def graver(when: bool) -> Literal["info", "warning"]:
    """A warning ``when`` there is something to do, else a fact."""
    return "warning" if when else "info"


def seconds(count: float) -> str:
    """A time in words, with no more digits than anybody knows.

    >>> seconds(0.0304), seconds(1.26), seconds(48.2)
    ('0.03 s', '1.3 s', '48 s')
    """
    digits = 0 if count >= 10 else 1 if count >= 0.1 else 2
    return f"{count:.{digits}f} s"


def percent(ratio: float) -> str:
    """A share in words.

    >>> percent(0.333), percent(0.0012), percent(2.5)
    ('33 %', '0.12 %', '250 %')
    """
    return f"{ratio * 100:.2g} %" if ratio < 0.1 else f"{ratio * 100:.0f} %"
