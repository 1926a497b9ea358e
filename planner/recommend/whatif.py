"""What if: each single change from the settings at hand, with the bytes, seconds and money that it gains or costs."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from planner.errors import PlannerError, UnsupportedScenario
from planner.estimators import Estimator, remember
from planner.recommend.candidates import candidate, candidates
from planner.recommend.changes import RANKS, as_way
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.order import preference
from planner.recommend.request import DEFAULT_STACK, Ask, Request, Setting, request_of
from planner.recommend.rules import RULES, Case
from planner.recommend.shared import shared_estimator
from planner.recommend.single import Scalars, Single, singles
from planner.recommend.tally import usd_per_hour
from planner.result import Candidate, Reason, Way
from planner.spec import Job, Method

QUALITY = frozenset(
    {
        "QLT005",
        "QLT006",
        "QLT007",
        "QLT009",
        "QLT011",
        "QLT014",
        "QLT015",
        "QLT016",
        "QLT017",
        "QLT018",
        "QLT020",
        "QLT021",
        "QNT001",
        "QNT004",
    }
)
"""Rules that say what becomes of learning; others say why a method is taken, or what it does to memory."""

SAME_PACE = 0.01
"""Paces that differ by less are the same (ours): what is left is decided by memory."""

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A change and what it does. Differences are the change's less those at hand; ``None`` where either is unknown.

    ``turned``: steps of the verdict, above 0 for the better. ``pace_ratio``: tokens per second for each one at hand.
    ``usd``: of the run where somebody said how much there is to train on, else of a million tokens. ``reasons``: what
    the rules on quality say of it and did not say before; ``settled``: codes of what they no longer say.
    """

    way: Way
    moves: bool
    turned: int
    required_bytes: int
    seconds: float | None
    pace_ratio: float | None
    usd: float | None
    reasons: tuple[Reason, ...] = ()
    settled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A change that the model, the card or the stack cannot do, and why."""

    settings: Scalars
    method: Method
    gpu: str
    gpus: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The settings at hand and every single change of them, best first."""

    ask: Ask
    start: Candidate
    effects: tuple[Effect, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it fits as it is, or by any single change."""
        found = (self.start, *(one.way.candidate for one in self.effects))
        return any(one.verdict != "does_not_fit" for one in found)

    @property
    def usd(self) -> float | None:
        """Money as it is: of the run, else of a million tokens."""
        return money(self.start)


def what_if(request: Request, *, estimator: Estimator | None = None) -> WhatIf:
    """Every single change from the request's settings; where it names no method, from the one that a plan prefers.

    Raise ``PlannerError``: an unknown name, a setting without meaning, a scenario that we will not guess.
    """
    ask, notes = understand(request)
    ask = informed(ask)
    estimate = remember(estimator or shared_estimator())
    asked, _ = candidates(ask, estimate)
    start = _start(ask, asked)
    said = _said(Case(ask=ask, subject=start, candidates=asked, chosen=start, estimate=estimate))
    effects: list[Effect] = []
    refused: list[Refused] = []
    for one in singles(ask, start.scenario.train):
        try:
            found = candidate(one.ask, one.method, estimate)
        except PlannerError as error:
            refused.append(_refused(one, str(error)))
            continue
        if found.scenario != start.scenario:
            case = Case(ask=one.ask, subject=found, candidates=_beside(asked, found), chosen=found, estimate=estimate)
            effects.append(_effect(ask, start, one, found, said, _said(case)))
    return WhatIf(ask=ask, start=start, effects=ranked(effects), refused=tuple(refused), notes=notes)


def _start(ask: Ask, asked: tuple[Candidate, ...]) -> Candidate:
    """The settings at hand: of the first method in the plan's order with the best verdict, else the nearest to one."""
    if all(one.verdict == "does_not_fit" for one in asked):
        return min(asked, key=lambda one: one.estimate.peak.required_bytes)
    order = preference(ask, asked)
    ordered = sorted(asked, key=lambda one: order.index(one.scenario.train.method))
    return max(ordered, key=lambda one: RANKS[one.verdict])


def ranked(effects: list[Effect]) -> tuple[Effect, ...]:
    """Best first: what turns the verdict to the better, then what is faster, then what needs less; worse verdicts last.

    The pace is that of a token, since steps of a shorter sequence learn less. Of what does not fit the pace is idle.
    """

    def order(one: Effect) -> tuple[int, float, int]:
        idle = one.pace_ratio is None or one.way.candidate.verdict == "does_not_fit"
        return -one.turned, 0 if idle else -round((one.pace_ratio or 1.0) / SAME_PACE), one.required_bytes

    return tuple(sorted(effects, key=order))


def _effect(
    ask: Ask, start: Candidate, one: Single, found: Candidate, before: Mapping[str, Reason], after: Mapping[str, Reason]
) -> Effect:
    way = replace(as_way(ask, one.ask, found), settings=one.settings)
    new = tuple(reason for code, reason in after.items() if code not in before)
    return Effect(
        way=way,
        moves=one.moves,
        turned=RANKS[found.verdict] - RANKS[start.verdict],
        required_bytes=found.estimate.peak.required_bytes - start.estimate.peak.required_bytes,
        seconds=_less(_seconds(found), _seconds(start)),
        pace_ratio=_ratio(found, start),
        usd=_less(money(found), money(start)),
        reasons=new,
        settled=tuple(code for code in before if code not in after),
    )


def _said(case: Case) -> Mapping[str, Reason]:
    """What the rules on quality say, by code."""
    found: dict[str, Reason] = {}
    for rule in RULES:
        if rule.code in QUALITY:
            with suppress(UnsupportedScenario):  # what it would compare has no closed form
                if (reason := rule.check(case)) is not None:
                    found[reason.code] = reason
    return found


def _beside(asked: tuple[Candidate, ...], found: Candidate) -> tuple[Candidate, ...]:
    """The candidates of the request with ``found`` in place of its method's."""
    return (*(one for one in asked if one.method != found.method), found)


def _refused(one: Single, reason: str) -> Refused:
    cluster = one.ask.cluster
    return Refused(settings=one.settings, method=one.method, gpu=cluster.gpu.id, gpus=cluster.world_size, reason=reason)


# ---------------------------------------------------------------- seconds and money


def money(one: Candidate) -> float | None:
    """US dollars of the run at its typical price; where nobody said how long that is, of a million tokens.

    Formula:   price per hour / (3600 * tokens per second) * 10**6
    Source:    ``planner.cost`` for the run; prices of the profiles
    Valid:     rented by the hour, padding counted as tokens
    Excludes:  download and loading of the weights, for a million tokens
    """
    if one.cost is not None:
        return one.cost.usd
    hourly = usd_per_hour(one)
    if hourly is None or one.step is None:
        return None
    return hourly / 3600 / one.step.tokens_per_second * MILLION


def _seconds(one: Candidate) -> float | None:
    return None if one.step is None else one.step.seconds


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _ratio(one: Candidate, other: Candidate) -> float | None:
    if one.step is None or other.step is None:
        return None
    return one.step.tokens_per_second / other.step.tokens_per_second


def what_if_for(
    *,
    model: str,
    gpu: str,
    gpus: int = 1,
    nodes: int | None = None,
    method: Method | tuple[Method, ...] | list[Method] | None = None,
    stack: str = DEFAULT_STACK,
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    job: Job | None = None,
    **settings: Setting,
) -> WhatIf:
    """``planner.what_if(model="8b", gpu="4090", method="lora")``: arguments are named like the command's options."""
    request = request_of(
        model=model,
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        method=method,
        stack=stack,
        headroom=headroom,
        profiles_dir=profiles_dir,
        job=job,
        settings=settings,
    )
    return what_if(request)
