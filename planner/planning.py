"""The whole answer: names resolved, candidates estimated and judged, one of them recommended."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from planner.estimators import Estimator, estimate, estimator_for, measured_here, remember
from planner.recommend.candidates import candidates
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.choice import recommend
from planner.recommend.confirm import confirm
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.remarks import remarks
from planner.recommend.request import Request, Setting, on_dataset, request_of
from planner.recommend.shared import shared_estimator
from planner.result import Evidence, Plan
from planner.spec import Job, Method, Scenario

__all__ = ["Request", "estimate", "plan", "plan_for", "scenario"]

NOTHING: Mapping[str, Setting] = MappingProxyType({})


def plan(
    request: Request,
    *,
    estimator: Estimator | None = None,
    within: Callable[[Estimator], Estimator] | None = None,
    planned: Mapping[str, Setting] = NOTHING,
) -> Plan:
    """The plan for ``request``; ``estimator`` stands in for the evidence that it names.

    ``within`` lays bounds around every estimator: what one of them then refuses is not recommended. ``planned``:
    settings that the user left open, as the plan starts from them.
    Raise ``PlannerError``: an unknown name, a setting without meaning, a scenario that we will not guess.
    """
    question, notes = understand(as_installed(request))
    question = informed(question.planning(planned))
    bounded = within or _unbounded
    closed = remember(bounded(estimator or shared_estimator()))
    by_evidence = request.evidence != "closed-form"
    asking = remember(bounded(estimator or estimator_for(request.evidence))) if by_evidence else closed
    if request.dataset is not None:
        notes = (*notes, *request.dataset.notes)
    asked, missing = candidates(question, asking)
    shown, recommendation = recommend(asked, question, closed)
    if request.confirm and request.evidence == "closed-form":
        asking = remember(bounded(estimator or estimator_for("traced")))
    if asking is not closed:
        shown, recommendation, confirmed = confirm(shown, recommendation, asking)
        notes = (*notes, *confirmed)
    absent = tuple(f"{method} is left out: {why}" for method, why in missing.items())
    if request.evidence != "closed-form" and (recommendation.changes or recommendation.rent):
        notes = (*notes, "candidates are traced; changes and other cards are closed-form estimates")
    return Plan(
        model=question.model,
        cluster=question.cluster,
        candidates=shown,
        recommendation=recommendation,
        named=request.methods,
        job=question.job,
        dataset=request.dataset,
        notes=(*notes, *absent, *remarks(asked, request.settings, question.cluster), *measured_here().notices),
    )


def _unbounded(estimator: Estimator) -> Estimator:
    return estimator


def plan_for(
    *,
    model: str,
    gpu: str,
    gpus: int = 1,
    nodes: int | None = None,
    method: Method | tuple[Method, ...] | list[Method] | None = None,
    stack: str = "trl",
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    evidence: Evidence = "closed-form",
    confirm: bool = False,
    job: Job | None = None,
    dataset: str | Path | None = None,
    tokenizer: str | None = None,
    **settings: Setting,
) -> Plan:
    """``planner.plan(model="8b", gpu="4090", seq_len=4096)``: arguments are named like the command's options.

    ``job``: what is trained for, and how much; ``dataset``: a file that says how much.
    """
    request = request_of(
        model=model,
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        method=method,
        stack=stack,
        headroom=headroom,
        profiles_dir=profiles_dir,
        evidence=evidence,
        confirm=confirm,
        job=job,
        settings=settings,
    )
    return plan(request if dataset is None else on_dataset(request, dataset, tokenizer))


def scenario(
    *,
    model: str,
    gpu: str,
    method: Method,
    gpus: int = 1,
    nodes: int | None = None,
    stack: str = "trl",
    profiles_dir: str | Path | None = None,
    **settings: Setting,
) -> Scenario:
    """One complete scenario, its open settings filled from stack, model and defaults."""
    request = request_of(
        model=model,
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        method=method,
        stack=stack,
        profiles_dir=profiles_dir,
        settings=settings,
    )
    question, _ = understand(request)
    return scenario_of(question, method)


def as_installed(request: Request) -> Request:
    """The request; for a trace, which runs what is there, on the installed versions where the user names none."""
    if request.evidence != "traced" and not request.confirm:
        return request
    from planner.build.installed import with_installed  # noqa: PLC0415  (the door to torch)

    return replace(request, stack=with_installed(request.stack))
