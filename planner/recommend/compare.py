"""Full fine-tuning, LoRA and QLoRA side by side, for one model on one card, with this model's own numbers."""

from dataclasses import dataclass, replace
from pathlib import Path

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator, estimator_for
from planner.hardware import list_gpus
from planner.recommend.candidates import candidate
from planner.recommend.changes import RANKS, way
from planner.recommend.claims import Claim, Facts, check_claims
from planner.recommend.names import understand
from planner.recommend.offers import more_cards, servable, sharded
from planner.recommend.prose import Prose, describe
from planner.recommend.request import Ask, Request, Setting, request_of
from planner.result import Candidate, Memory, Way
from planner.spec import METHODS, Cluster, Gpu, Method, ModelSpec
from planner.throughput.ratios import Job, Range, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodView:
    """One method: what it is in words, and what it takes in numbers.

    Bytes are per GPU on the hardware that was asked for. ``single_card`` is the smallest card on which it
    fits alone, ``cluster`` the fewest of the cards that were asked for; ``None`` where nothing does.
    """

    method: Method
    prose: Prose
    candidate: Candidate
    trained_ratio: float
    """Trained parameters for each one of the base model."""
    weight_bytes: int
    weight_ratio: float
    """Bytes of base weights for each one of LoRA's, which are 16-bit by default."""
    optimizer_bytes: int
    gradient_bytes: int
    step_ratio: Range | None
    """Time of an optimizer step for each one of LoRA's."""
    single_card: Way | None
    cluster: Way | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The three methods for one model, and what its numbers say about the textbook."""

    model: ModelSpec
    cluster: Cluster
    methods: tuple[MethodView, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()


def compare(request: Request, *, estimator: Estimator | None = None) -> Comparison:
    """The comparison for a model, a card and settings; methods that were named play no part.

    Raise ``PlannerError``.
    """
    estimator = estimator or estimator_for("closed-form")
    ask, notes = understand(replace(request, methods=()))
    found = {method: candidate(ask, method, estimator) for method in METHODS}
    views = tuple(_view(ask, found, method, estimator) for method in METHODS)
    facts = Facts(ask=ask, candidates=found, step_ratio=views[2].step_ratio, estimate=estimator)
    return Comparison(model=ask.model, cluster=ask.cluster, methods=views, claims=check_claims(facts), notes=notes)


def compare_for(
    *,
    model: str,
    gpu: str,
    gpus: int = 1,
    nodes: int | None = None,
    stack: str = "trl",
    profiles_dir: str | Path | None = None,
    **settings: Setting,
) -> Comparison:
    """``planner.compare(model="8b", gpu="4090")``: arguments are named like the command's options."""
    request = request_of(
        model=model, gpu=gpu, gpus=gpus, nodes=nodes, settings=settings, stack=stack, profiles_dir=profiles_dir
    )
    return compare(request)


def _view(ask: Ask, found: dict[Method, Candidate], method: Method, estimate: Estimator) -> MethodView:
    one, lora = found[method], found["lora"]
    counts, states = one.estimate.parameters, one.estimate.phases["optimizer_step"]
    time = ratio(Job(one.scenario, one.estimate), Job(lora.scenario, lora.estimate))
    return MethodView(
        method=method,
        prose=describe(one, time),
        candidate=one,
        trained_ratio=counts.trainable / counts.total,
        weight_bytes=_loaded(one).weights,
        weight_ratio=_loaded(one).weights / _loaded(lora).weights,
        optimizer_bytes=states.optimizer + one.estimate.peak.managed_bytes,
        gradient_bytes=states.gradients,
        step_ratio=time,
        single_card=_single_card(ask, method, estimate),
        cluster=_cluster(ask, one, method, estimate),
    )


def _loaded(one: Candidate) -> Memory:
    return one.estimate.phases["optimizer_step"]


def _single_card(ask: Ask, method: Method, estimate: Estimator) -> Way | None:
    """The smallest card of the catalogue on which the method fits alone; of equal ones the cheapest."""
    gpus = [gpu for gpu in list_gpus(ask.request.profiles_dir) if servable(ask, gpu) and not gpu.unified_memory]
    for gpu in sorted(gpus, key=lambda gpu: (gpu.memory_bytes, _usd(gpu), gpu.id)):
        found = _tried(ask, sharded(ask, gpu, 1, "none", method), estimate)
        if found is not None and found.candidate.verdict == "fits":
            return found
    return None


def _cluster(ask: Ask, one: Candidate, method: Method, estimate: Estimator) -> Way | None:
    """The fewest of these cards: as asked where that fits, else more of them."""
    if one.verdict == "fits":
        return way(ask, ask.using(method, {}), estimate)
    return max(more_cards(ask, method, estimate), key=lambda more: RANKS[more.candidate.verdict], default=None)


def _tried(ask: Ask, variant: Ask, estimate: Estimator) -> Way | None:
    try:
        return way(ask, variant, estimate)
    except UnsupportedScenario:
        return None


def _usd(gpu: Gpu) -> float:
    return gpu.price.typical_usd or float("inf") if gpu.price else float("inf")
