"""Settings that the user left open, set so that the run is fast and still fits.

The user's own settings are never touched. Learning is not either: the sequences of an optimizer step stay those of
the recipe, whatever their division into micro-batches, accumulation and cards.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Literal

from planner.estimators import Estimator
from planner.recommend.batches import global_batch, largest_batch
from planner.recommend.candidates import judged, supported
from planner.recommend.changes import RANKS, Settings, adapted, as_way, differing, way
from planner.recommend.pareto import INFINITE, seconds_per_sequence
from planner.recommend.request import Ask
from planner.result import Candidate, Verdict, Way
from planner.spec import Cluster, Method
from planner.units import GIB

INDISTINCT = 0.05
"""Share of time within which we do not tell two settings apart (ours; the record of the time model is wider): of these
the one that needs least memory is taken."""

MICRO_BATCHES = tuple(2**power for power in range(10))

GOALS: tuple[Verdict, ...] = ("fits", "tight")

OFFLOADS: tuple[Settings, ...] = (
    {"sharding": "zero3", "offload": "optimizer"},
    {"sharding": "fsdp", "offload": "optimizer,parameters"},
    {"sharding": "zero3", "offload": "optimizer,parameters"},
)
"""FSDP has one policy for parameters, gradients and optimizer (torch 2.13 _fsdp_api.py, CPUOffloadPolicy); DeepSpeed
takes offload_optimizer and offload_param apart (0.19 runtime/zero/offload_config.py)."""

SHARING = ("tensor_parallel", "context_parallel", "ulysses_parallel", "pipeline_parallel")
"""Settings that let several ranks work on the same sequences."""

Batch = Literal["recipe", "asked"]
BATCHES: tuple[Batch, ...] = ("recipe", "asked")
"""Sequences of an optimizer step: those of the recipe; where nothing runs with them, as few as were asked for."""


def tuned(ask: Ask, method: Method, estimate: Estimator) -> Way | None:
    """``method`` with open settings set for speed; ``None`` where nothing runs."""
    return first_tuned(ask, (method,), estimate)


RAM_OF_A_CARD = 256 * GIB
"""RAM of a machine for each of its cards, beyond which offloading is not advised unasked: NVIDIA DGX H100 data sheet, 2
TB for eight; clouds' machines have about as much."""


def first_tuned(ask: Ask, methods: Iterable[Method], estimate: Estimator) -> Way | None:
    """The first of ``methods`` that fits, else the first that is tight, with open settings set for speed.

    With the recipe's batch, else with the one asked for. Settings that only make a method fit (smaller loss, paged
    states) are tried where it does not fit without them. ``None`` where nothing runs.
    """
    for batch, goal, method in product(BATCHES, GOALS, methods):
        asked = starts(ask, method, batch)
        for reaching, start in product((_as_it_is, _changed), asked):
            if (base := reaching(start, method, goal, estimate)) is not None:
                return _swept(ask, base, method, goal, estimate)
    return None


def offloaded(ask: Ask, methods: tuple[Method, ...], estimate: Estimator) -> Way | None:
    """What runs where states leave the cards for host memory; of several methods that do the fastest.

    The mildest kind that helps: the optimizer's states, then whole shards. ``None`` where none is open or helps. What
    has to travel in every step decides about the pace, so 4-bit weights come before 16-bit ones here.
    """
    for step in _offloads(ask):
        started = ask.planning(step)
        tried = (first_tuned(started, (one,), estimate) for one in methods)
        found = [way for way in tried if way is not None and _has_ram(ask.cluster, way.candidate)]
        if found:
            fastest = min(found, key=lambda one: seconds_per_sequence(one.candidate))
            return replace(fastest, settings={**differing(ask, started), **fastest.settings})
    return None


def _has_ram(cluster: Cluster, one: Candidate) -> bool:
    """Whether machines with such cards are let with the RAM; where the user limits it, the verdict has looked."""
    needed = one.estimate.host.required_on(one.scenario.cluster)
    return needed <= RAM_OF_A_CARD * cluster.gpus or cluster.host_memory_bytes is not None


def may_offload(ask: Ask) -> bool:
    """Whether states may go to host memory where nothing else runs."""
    return bool(_offloads(ask))


def _offloads(ask: Ask) -> tuple[Settings, ...]:
    """Kinds of offloading, mildest first: DeepSpeed moves the optimizer alone, FSDP everything that it shards."""
    settings = ask.request.settings
    if "offload" in settings or "peft_config" in settings or ask.cluster.world_size == 1:
        return ()
    held = settings.get("sharding") if "sharding" in ask.held else None
    return tuple(step for step in OFFLOADS if held in (None, step["sharding"]))


def starts(ask: Ask, method: Method, batch: Batch) -> tuple[Ask, ...]:
    """The question with the sequences of a step one by one, and on several cards also all at once.

    Accumulation keeps gradients, which FSDP does not divide meanwhile (``no_sync``): all at once may need less.
    """
    asked = ask.using(method, {})
    if batch == "asked" or "peft_config" in ask.request.settings:
        return (asked,)
    divisions = tuple(_batches(asked, method))
    several = ask.cluster.world_size > 1 and len(divisions) > 1
    return tuple(asked.planning(one) for one in (divisions[0], *divisions[-1:] * several))


def _swept(ask: Ask, start: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Way:
    """``start`` with open settings set for speed, at no worse a verdict than ``goal``."""
    found = () if "peft_config" in ask.request.settings else tuple(points(start, method, goal, estimate))
    return as_way(ask, *_fastest(found)) if found else way(ask, start, estimate)


def points(start: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Iterator[tuple[Ask, Candidate]]:
    """Every combination worth comparing that reaches ``goal``: checkpointing, sharding, micro-batch."""
    for settings in _divisions(start):
        last = INFINITE
        for batch in _batches(start, method):
            asked = start.planning({**settings, **batch})
            tried = supported(asked, method, estimate)
            if tried is not None and RANKS[tried.verdict] >= RANKS[goal]:
                yield asked, tried
                pace = seconds_per_sequence(tried)
                if not pace < last * (1 - INDISTINCT / 2):
                    break  # larger micro-batches no longer help
                last = pace
            elif start.cluster.world_size == 1 or tried is None:
                break  # larger ones need more


def _as_it_is(asked: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Ask | None:
    start = judged(asked, method, estimate)
    return asked if start is not None and RANKS[start.verdict] >= RANKS[goal] else None


def _changed(asked: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Ask | None:
    start = judged(asked, method, estimate)
    found = None if start is None else adapted(asked, start, goal, estimate)
    return None if found is None else asked.planning({n: v for n, v in found.settings.items() if n != "method"})


def _fastest(found: tuple[tuple[Ask, Candidate], ...]) -> tuple[Ask, Candidate]:
    """The least demanding of those that are about as fast as the fastest."""
    best = min(seconds_per_sequence(one) for _, one in found)
    close = [pair for pair in found if seconds_per_sequence(pair[1]) <= best * (1 + INDISTINCT)]
    return min(close, key=lambda pair: pair[1].estimate.peak.required_bytes)


def _divisions(start: Ask) -> Iterator[Settings]:
    """Checkpointing on and off, and kinds of sharding, as far as they are open."""
    for checkpointing in _checkpointing(start):
        for sharding in _sharding(start):
            yield {**checkpointing, **sharding}


def _checkpointing(base: Ask) -> tuple[Settings, ...]:
    if "gradient_checkpointing" in base.request.settings:
        return ({},)
    return {"gradient_checkpointing": True}, {"gradient_checkpointing": False}


def _sharding(base: Ask) -> tuple[Settings, ...]:
    """Whole copies where they fit are faster than shards; what has to be sharded, FSDP shards.

    Among machines also in every machine by itself: what fits so gathers over the faster links only.
    """
    if "sharding" in base.request.settings or base.cluster.world_size == 1:
        return ({},)
    hybrid: tuple[Settings, ...] = ({"sharding": "hsdp"},) if min(base.cluster.nodes, base.cluster.gpus) > 1 else ()
    return {"sharding": "fsdp"}, *hybrid, {"sharding": "ddp"}


def _batches(base: Ask, method: Method) -> Iterator[Mapping[str, int]]:
    """Micro-batches from 1 on, with as much accumulation as makes up the sequences of a step."""
    held, settings = base.held, base.request.settings
    sharing = prod(int(settings.get(name, 1)) for name in SHARING)  # type: ignore[arg-type, misc]
    world = max(base.cluster.world_size // sharing, 1)
    sizes = (int(settings["micro_batch_size"]),) if "micro_batch_size" in held else MICRO_BATCHES  # type: ignore[arg-type]
    accumulated = int(settings["grad_accumulation"]) if "grad_accumulation" in held else 1  # type: ignore[arg-type]
    wanted = global_batch(method, base.job.task)
    most = largest_batch(method, base.job.task) if "grad_accumulation" in held else wanted
    for size in sizes:
        if size > sizes[0] and size * world * accumulated > most:
            return
        found = {} if "micro_batch_size" in held else {"micro_batch_size": size}
        if "grad_accumulation" not in held:
            found["grad_accumulation"] = max(wanted // (size * world), 1)
        yield found
