"""One closed form for all cards between which a step makes no difference.

What a step allocates depends on the settings, the number of ranks and four facts of the card; the rest of a card says
whether that fits. So a question about many cards is worked out once for each kind of them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.estimator import estimate
from planner.errors import PlannerError
from planner.formulas.overhead import cublas_workspace
from planner.result import Estimate
from planner.spec import Behaviour, Gpu, ModelSpec, Scenario, TrainSpec


class CardKind(NamedTuple):
    """What of a card enters the closed form, besides its context, which is added outside the allocator."""

    flash_kernel: bool
    is_cpu: bool
    workspace: int
    unified_memory: bool


class Question(NamedTuple):
    """A scenario without what makes no difference."""

    model: ModelSpec
    train: TrainSpec
    stack: Behaviour
    gpus: int
    nodes: int
    kind: CardKind


@lru_cache(maxsize=256)
def kind_of_card(gpu: Gpu) -> CardKind:
    """The kind of a card: two of one kind differ in a closed form by their contexts alone."""
    return CardKind(
        flash_kernel=gpu.supports_flash,
        is_cpu=gpu.is_cpu,
        workspace=cublas_workspace(gpu.compute_capability),
        unified_memory=gpu.unified_memory,
    )


def question_of(scenario: Scenario) -> Question:
    """What decides the closed form of a scenario, but for the card's context."""
    cluster = scenario.cluster
    kind = kind_of_card(cluster.gpu)
    return Question(scenario.model, scenario.train, scenario.stack, cluster.gpus, cluster.nodes, kind)


def shared() -> Callable[[Scenario], Estimate]:
    """The closed form, worked out once for each kind of card; what it refuses it refuses once, in the same words.

    It remembers every question for as long as it lives: make one for each batch of questions.
    """
    known: dict[Question, dict[int, Estimate] | PlannerError] = {}

    def sharing(scenario: Scenario) -> Estimate:
        question, context = question_of(scenario), scenario.cluster.gpu.context_bytes
        found = known.get(question)
        if found is None:
            found = known[question] = _answer(scenario)
        if isinstance(found, PlannerError):
            raise found.with_traceback(None)
        if context not in found:
            its_context, first = next(iter(found.items()))
            found[context] = on_another_context(first, context - its_context)
        return found[context]

    return sharing


def _answer(scenario: Scenario) -> dict[int, Estimate] | PlannerError:
    """The closed form by the context of the card, or why there is none."""
    try:
        return {scenario.cluster.gpu.context_bytes: estimate(scenario)}
    except PlannerError as error:
        return error


def on_another_context(found: Estimate, more: int) -> Estimate:
    """The estimate where the CUDA context takes ``more`` bytes.

    Shapes:    bytes outside the allocator
    Formula:   device and required bytes, and their bounds, grow by ``more``; phases stay
    Source:    ``planner.closed_form.estimator``: the context is a summand of these and of nothing else
    Valid:     closed forms before calibration
    """
    peak = found.peak
    moved = {name: getattr(peak, name) + more for name in OUTSIDE}
    return replace(found, peak=replace(peak, **moved))


OUTSIDE = ("device_bytes", "required_bytes", "low_bytes", "high_bytes")
"""Bytes of a peak that count what lies outside the allocator."""
