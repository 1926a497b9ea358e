"""Settings that the user left open, set so that the run is fast and still fits.

The user's own settings are never touched. Learning is not either: the sequences of an optimizer step stay those of
the recipe, whatever their division into micro-batches, accumulation and cards.
"""

from collections.abc import Iterator, Mapping
from itertools import takewhile

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.candidates import candidate
from planner.recommend.changes import RANKS, Settings, adapted, way
from planner.recommend.pareto import seconds_per_sequence
from planner.recommend.recipe import global_batch, largest_batch
from planner.recommend.request import Ask
from planner.result import Candidate, Verdict, Way
from planner.spec import Method

INDISTINCT = 0.05
"""Share of time within which we do not tell two settings apart (ours; the record of the time model is wider): of these
the one that needs least memory is taken."""

MICRO_BATCHES = tuple(2**power for power in range(10))


def tuned(ask: Ask, method: Method, estimate: Estimator) -> Way | None:
    """``method`` with open settings set for speed among those that fit, else among those that are tight.

    ``None`` where neither is found. Settings that only make it fit (smaller loss, paged states) are tried where it does
    not fit without them.
    """
    goals: tuple[Verdict, ...] = ("fits", "tight")
    for goal in goals:
        base = _base(ask, method, goal, estimate)
        if base is not None:
            found = tuple(points(base, method, goal, estimate))
            return way(ask, _fastest(found) if found else base, estimate)
    return None


def points(base: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Iterator[tuple[Ask, Candidate]]:
    """Every combination worth comparing that reaches ``goal``: checkpointing, sharding, micro-batch."""
    for settings in _divisions(base, method):
        climbed = (_try(base, method, {**settings, **batch}, estimate) for batch in _batches(base, method))
        reaching = takewhile(lambda tried: tried is not None and RANKS[tried[1].verdict] >= RANKS[goal], climbed)
        last = float("inf")
        for tried in reaching:
            if tried is None:
                break
            yield tried
            pace = seconds_per_sequence(tried[1])
            if not pace < last * (1 - INDISTINCT / 2):
                break  # larger micro-batches no longer help
            last = pace


def _base(ask: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Ask | None:
    """The question with the recipe's sequences one by one, as it is or with the mildest changes that reach ``goal``.

    Where nothing does, the same with as few sequences as were asked for.
    """
    asked = ask.using(method, {})
    smallest = next(_batches(asked, method))
    starts = (asked.planning(smallest), asked)
    return next((one for start in starts if (one := _reaching(start, method, goal, estimate)) is not None), None)


def _reaching(asked: Ask, method: Method, goal: Verdict, estimate: Estimator) -> Ask | None:
    try:
        start = candidate(asked, method, estimate)
    except UnsupportedScenario:
        return None
    if RANKS[start.verdict] >= RANKS[goal]:
        return asked
    found = adapted(asked, start, goal, estimate)
    return None if found is None else asked.planning({n: v for n, v in found.settings.items() if n != "method"})


def _fastest(found: tuple[tuple[Ask, Candidate], ...]) -> Ask:
    """The least demanding of those that are about as fast as the fastest."""
    best = min(seconds_per_sequence(one) for _, one in found)
    close = [pair for pair in found if seconds_per_sequence(pair[1]) <= best * (1 + INDISTINCT)]
    return min(close, key=lambda pair: pair[1].estimate.peak.required_bytes)[0]


def _try(base: Ask, method: Method, settings: Settings, estimate: Estimator) -> tuple[Ask, Candidate] | None:
    asked = base.planning(settings)
    try:
        return asked, candidate(asked, method, estimate)
    except UnsupportedScenario:
        return None


def _divisions(base: Ask, method: Method) -> Iterator[Settings]:
    """Checkpointing on and off, and kinds of sharding, as far as they are open."""
    for checkpointing in _checkpointing(base):
        for sharding in _sharding(base, method):
            yield {**checkpointing, **sharding}


def _checkpointing(base: Ask) -> tuple[Settings, ...]:
    if "gradient_checkpointing" in base.request.settings:
        return ({},)
    return {"gradient_checkpointing": True}, {"gradient_checkpointing": False}


def _sharding(base: Ask, method: Method) -> tuple[Settings, ...]:
    """Whole copies where they fit are faster than shards; what has to be sharded, FSDP shards."""
    if "sharding" in base.request.settings or base.cluster.world_size == 1:
        return ({},)
    return {"sharding": "fsdp"}, {"sharding": "ddp"}


def _batches(base: Ask, method: Method) -> Iterator[Mapping[str, int]]:
    """Micro-batches from 1 on, with as much accumulation as makes up the sequences of a step."""
    held, world = base.held, base.cluster.world_size
    settings = base.request.settings
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
