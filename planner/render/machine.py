"""Results as JSON: one object, ints for bytes, no NaN."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from planner.recommend.recipe import recipe
from planner.recommend.request import DEFAULT_STACK
from planner.render.dataset import DatasetDocument, dataset_document
from planner.render.dataset import Setting as Shown
from planner.render.document import (
    SCHEMA,
    AdviceDocument,
    AlternativeDocument,
    CandidateDocument,
    CostDocument,
    GpuDocument,
    HostDocument,
    IntervalDocument,
    JobDocument,
    ModelDocument,
    OwnersDocument,
    PeakDocument,
    PhaseDocument,
    PlanDocument,
    ReasonDocument,
    RecommendationDocument,
    Setting,
    StepDocument,
    ThresholdDocument,
    Value,
    WayDocument,
)
from planner.render.plan_text import labels, requested
from planner.render.recipe import document as recipe_document
from planner.result import ALL_PHASES, Alternative, Basis, Candidate, Cost, Host, Plan, Reason, StepTime, Way
from planner.spec import METHODS, Cluster, Job, Origin, Sharding, TrainSpec


def settings_of(train: TrainSpec) -> tuple[str, ...]:
    """Names of the settings that a document holds."""
    return tuple(name for name in train.settings if name != "method")


def to_json(document: object) -> str:
    """One JSON object as text; a number that is not finite is a bug, not output."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def plan_document(plan: Plan) -> PlanDocument:
    """The whole answer; ``planner.render.document`` describes every key."""
    return {
        "schema": SCHEMA,
        "scenario": _scenario(plan),
        "model": _model(plan),
        "gpu": _gpu(plan.cluster),
        "job": job_document(plan.job),
        "dataset": _dataset(plan),
        "candidates": [candidate_document(candidate) for candidate in plan.candidates],
        "recommendation": _recommendation(plan),
        "notes": list(plan.notes),
    }


def _scenario(plan: Plan) -> dict[str, Setting]:
    """The request itself, then every training setting; one that differs between methods is given for each of them."""
    return {
        **_request(plan),
        **{name: _shared(requested(plan), name) for name in settings_of(plan.candidates[0].scenario.train)},
    }


def _shared(candidates: Sequence[Candidate], name: str) -> Setting:
    values = {candidate.method: getattr(candidate.scenario.train, name) for candidate in candidates}
    first, *others = values.values()
    if all(value == first for value in others):
        return _setting(first, _origin(candidates[0], name))
    return _setting({method: _value(value) for method, value in values.items()}, _origin(candidates[0], name))


def _request(plan: Plan) -> dict[str, Setting]:
    cluster, first = plan.cluster, plan.candidates[0]
    stack, given, evidence = first.scenario.stack, first.scenario.origins, first.estimate.evidence
    amounts: dict[str, tuple[float | None, int | None]] = {
        "gpus": (cluster.world_size, 1),
        "nodes": (cluster.nodes, 1),
        "headroom_bytes": (cluster.headroom_bytes, 0),
        "network_gbps": (cluster.network_gbps, None),
        "host_memory_bytes": (cluster.host_memory_bytes, None),
    }
    return {
        "model": _setting(plan.model.name, "user"),
        "gpu": _setting(cluster.gpu.id, "user"),
        **{
            name: _setting(amount, given.get(name, "default" if amount == usual else "user"))
            for name, (amount, usual) in amounts.items()
            if amount is not None
        },
        "method": _setting(plan.named or METHODS, "user" if plan.named else "default"),
        "stack": _setting(stack.name, given.get("stack", "default" if stack.name == DEFAULT_STACK else "user")),
        "versions": _setting(dict(stack.versions), "stack"),
        "evidence": _setting(evidence, "default" if evidence == "closed-form" else "user"),
    }


def _setting(value: object, origin: Origin) -> Setting:
    return {"value": _value(value), "from": origin}


def _origin(candidate: Candidate, name: str) -> Origin:
    return candidate.scenario.origins.get(name, "default")


def _value(value: Any) -> Value:  # noqa: ANN401  (no cast: a sweep asks for millions)
    return list(value) if isinstance(value, tuple) else value


def _model(plan: Plan) -> ModelDocument:
    model = plan.model
    return {"name": model.name, "hub_id": model.hub_id, "model_type": model.model_type, "license": model.license}


def _gpu(cluster: Cluster) -> GpuDocument:
    return {
        "id": cluster.gpu.id,
        "name": cluster.gpu.name,
        "count": cluster.world_size,
        "nodes": cluster.nodes,
        "total_bytes": cluster.gpu.memory_bytes,
        "usable_bytes": cluster.usable_bytes,
    }


def candidate_document(candidate: Candidate) -> CandidateDocument:
    estimate, train, given = candidate.estimate, candidate.scenario.train, candidate.scenario.origins
    names = settings_of(train)
    return {
        "method": candidate.method,
        "peft_type": train.peft_type,
        "settings": {name: _value(getattr(train, name)) for name in names},
        "from": {name: given.get(name, "default") for name in names},
        "evidence": estimate.evidence,
        "parameters": {
            "total": estimate.parameters.total,
            "trainable": estimate.parameters.trainable,
            "quantized": estimate.parameters.quantized,
        },
        "peak": _peak(candidate),
        "interval": None if estimate.basis is None else basis_document(estimate.basis),
        "host": host_document(estimate.host, candidate.scenario.cluster),
        "phases": _phases(candidate),
        "verdict": candidate.verdict,
        "step": step_document(candidate.step),
        "cost": cost_document(candidate.cost),
    }


def host_document(host: Host, cluster: Cluster) -> HostDocument:
    """RAM of one machine, by what lies there."""
    return {
        "required_bytes": host.required_on(cluster),
        "steady_bytes": host.steady_bytes,
        "load_bytes": host.loading_on(cluster),
        "pinned_bytes": host.pinned,
        "nvme_bytes": host.nvme,
        "owners": {
            "parameters": host.parameters,
            "gradients": host.gradients,
            "optimizer": host.optimizer,
            "activations": host.activations,
            "buffers": host.buffers,
        },
    }


def step_document(step: StepTime | None) -> StepDocument | None:
    """The time of a step and what it rests on."""
    if step is None:
        return None
    basis = step.basis
    return {
        "seconds": step.seconds,
        "low": step.low,
        "high": step.high,
        "tokens_per_second": step.tokens_per_second,
        "parts": dict(step.parts),
        "bound": step.bound,
        "exchanges": dict(step.exchanges),
        "basis": {"basis": basis.kind, "n": basis.n, "sources": list(basis.sources), "group": basis.group},
    }


def times_document(plan: Plan) -> dict[str, object]:
    """The step of every candidate, as ``plan explain time`` has it."""
    return {
        "schema": 1,
        "candidates": [
            {"candidate": label, "step": step_document(one.step)}
            for label, one in zip(labels(plan), plan.candidates, strict=True)
        ],
    }


def cost_document(cost: Cost | None) -> CostDocument | None:
    """Hours and money of a run."""
    return None if cost is None else cast("CostDocument", asdict(cost))


def _peak(candidate: Candidate) -> PeakDocument:
    peak = candidate.estimate.peak
    return cast("PeakDocument", {field.name: getattr(peak, field.name) for field in fields(peak)})


def basis_document(basis: Basis) -> IntervalDocument:
    """What an interval rests on."""
    facts = basis._asdict()
    return cast("IntervalDocument", {"basis": facts.pop("kind"), **facts, "sources": list(basis.sources)})


def _phases(candidate: Candidate) -> list[PhaseDocument]:
    memories = candidate.estimate.phases
    return [
        {
            "name": name,
            "allocated_bytes": memories[name].total,
            "owners": cast("OwnersDocument", memories[name]._asdict()),
        }
        for name in ALL_PHASES
        if name in memories
    ]


def _recommendation(plan: Plan) -> RecommendationDocument:
    advice = plan.recommendation
    return {
        "candidate": advice.candidate,
        "command": advice.command,
        "alternatives": [_alternative(one) for one in advice.alternatives],
        "thresholds": [cast("ThresholdDocument", asdict(one)) for one in advice.thresholds],
        "reasons": [reason_document(reason) for reason in advice.reasons],
        "recipe": _recipe(plan),
        "changes": [way_document(way) for way in advice.changes],
        "rent": [way_document(way) for way in advice.rent],
    }


def _recipe(plan: Plan) -> dict[str, AdviceDocument] | None:
    """The recipe of the recommended candidate."""
    index = plan.recommendation.candidate
    if index is None:
        return None
    found = recipe(plan.candidates[index].scenario, plan.job)
    return cast("dict[str, AdviceDocument]", recipe_document(found))


def _dataset(plan: Plan) -> DatasetDocument | None:
    """The file of training data, with what the recommended length and micro-batch make of it."""
    if plan.dataset is None:
        return None
    train = plan.candidates[plan.recommendation.candidate or 0].scenario.train
    limit = plan.model.max_position_embeddings
    return dataset_document(plan.dataset, Shown(train.seq_len, train.micro_batch_size, limit))


def _alternative(one: Alternative) -> AlternativeDocument:
    return {
        "way": way_document(one.way),
        "required_bytes": one.required_bytes,
        "time_ratio": one.time_ratio,
        "usd": one.usd,
        "text": one.text,
    }


def job_document(job: Job) -> JobDocument:
    """What is trained for, without the histogram of lengths."""
    return cast("JobDocument", {name: getattr(job, name) for name in JobDocument.__annotations__})


def reason_document(reason: Reason) -> ReasonDocument:
    """One reason."""
    return {
        "code": reason.code,
        "text": reason.text,
        "number": reason.number,
        "unit": reason.unit,
        "severity": reason.severity,
    }


def way_document(way: Way) -> WayDocument:
    low, typical = way.usd_per_hour
    return {
        "settings": settings_document(way.settings),
        "gpu": way.gpu,
        "gpus": way.gpus,
        "sharding": cast("Sharding", way.sharding),
        "candidate": candidate_document(way.candidate),
        "command": way.command,
        "usd_per_hour": {"low": low, "typical": typical},
    }


def settings_document(settings: Mapping[str, object]) -> dict[str, Value]:
    """Settings as JSON has them."""
    return {name: _value(value) for name, value in settings.items()}
