"""Everything that a report shows: the plan, how far its choice goes, what else could be rented, and on whose word."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

from planner.errors import UnsupportedScenario, UsageError
from planner.estimators import Estimator
from planner.planning import as_installed, plan
from planner.prices import today
from planner.recommend.frontier import VARIED, Frontier, frontier
from planner.recommend.rent import rent
from planner.recommend.rental import RentAnswer, RentRequest
from planner.recommend.request import Request, command
from planner.recommend.surface import Surface, surface
from planner.reporting.documents import Document, documents
from planner.result import Candidate, Plan
from planner.tracing import Tracing, trace_scenario

Part = TypeVar("Part")
Telling = Callable[[str], None]


def _silent(text: str) -> None:
    """For those who do not want to hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A plan with what surrounds it.

    ``candidate``: what is recommended; where nothing fits, what is nearest to it. ``tracing``: its recorded step, where
    the plan rests on traces. A part that cannot be had is ``None``, and ``absent`` says why. ``command``: asks for the
    plan again.
    """

    plan: Plan
    candidate: Candidate
    command: str
    made: date
    surface: Surface | None = None
    frontier: Frontier | None = None
    offers: RentAnswer | None = None
    tracing: Tracing | None = None
    documents: tuple[Document, ...] = ()
    absent: tuple[str, ...] = ()


def report(request: Request, *, estimator: Estimator | None = None, told: Telling = _silent) -> Report:
    """The report on ``request``; raise ``PlannerError`` where there is no plan. ``told`` hears what is being done."""
    told("planning")
    answer = plan(request, estimator=estimator)
    chosen = featured(answer)
    asked = replace(as_installed(request), evidence="closed-form", confirm=False)
    absent: list[str] = []
    told("looking at other batches and lengths")
    around = _part("how far it goes", absent, lambda: surface(chosen.scenario))
    reach = _part("every method's frontier", absent, lambda: frontier(_open(asked)))
    told("looking at what can be rented")
    offers = _part("offers to rent", absent, lambda: rent(RentRequest(request=replace(asked, gpus=1, nodes=None))))
    told("drawing")
    return Report(
        plan=answer,
        candidate=chosen,
        command=command(request),
        made=today(),
        surface=around,
        frontier=reach,
        offers=offers,
        tracing=_traced(chosen, absent),
        documents=tuple(documents(answer, request.profiles_dir)),
        absent=tuple(absent),
    )


def featured(answer: Plan) -> Candidate:
    """The recommended candidate, or the one that needs least where none is."""
    index = answer.recommendation.candidate
    if index is not None:
        return answer.candidates[index]
    return min(answer.candidates, key=lambda one: one.estimate.peak.required_bytes)


def _part(name: str, absent: list[str], made: Callable[[], Part]) -> Part | None:
    """A part of the report, or why there is none: the plan stands without it."""
    try:
        return made()
    except (UnsupportedScenario, UsageError) as error:
        absent.append(f"{name}: {error}")
        return None


def _open(request: Request) -> Request:
    """The request without what a frontier varies."""
    return replace(request, settings={name: value for name, value in request.settings.items() if name not in VARIED})


def _traced(chosen: Candidate, absent: list[str]) -> Tracing | None:
    """The step of the chosen candidate as it was recorded; a trace that is stored is not run again."""
    if chosen.estimate.evidence != "traced":
        return None
    return _part("the traced step", absent, lambda: trace_scenario(chosen.scenario))
