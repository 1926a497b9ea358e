"""The smallest changes on the hardware at hand that turn a verdict: alone, in pairs, then as few as possible."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.candidates import candidate, judged
from planner.recommend.request import Ask, Setting, command
from planner.result import Candidate, Verdict, Way
from planner.spec import METHODS, SHARDS_WEIGHTS, Gpu

RANKS: Mapping[Verdict, int] = {"does_not_fit": 0, "tight": 1, "fits": 2}

SHORTEST = 256
"""Tokens below which a shorter sequence is not offered."""
LENGTH_STEPS = 16
"""Lengths are offered in sixteenths of what was asked."""
LEAST_RANK = 8

NEUTRAL = frozenset(
    {
        "gradient_checkpointing",
        "loss",
        "kernels",
        "optimizer",
        "attention",
        "double_quant",
        "quant_storage",
        "micro_batch_size",
        "grad_accumulation",
        "sharding",
        "eval_batch_size",
        "eval_accumulation_steps",
    }
)
"""Settings that change how a step runs, not what is learned. 8-bit optimizer states count: they reach the loss of
32-bit ones (Dettmers et al. 2022, arXiv:2110.02861)."""

INFINITE = float("inf")

HOPELESS = 1.5
"""Times what is usable: where all changes together need more than that, none of them is tried alone (ours): a setting
may cost some bytes beside others, as a loss in chunks does on short sequences, but not half of the whole."""

Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Search:
    """One method of a question, as asked, and how to try it otherwise."""

    ask: Ask
    start: Candidate
    estimate: Estimator

    def attempt(self, settings: Settings) -> Candidate | None:
        """The judged candidate with ``settings`` over the user's own; ``None`` where that is unsupported."""
        method = self.start.scenario.train.method
        return judged(self.ask.using(method, settings), method, self.estimate)

    def turns(self, settings: Settings) -> bool:
        """Whether the verdict gets better."""
        tried = self.attempt(settings)
        return tried is not None and RANKS[tried.verdict] > RANKS[self.start.verdict]


def changes(ask: Ask, start: Candidate, estimate: Estimator) -> tuple[Way, ...]:
    """Ways to a better verdict for the method of ``start``, fewest and mildest changes first; empty when none helps."""
    search = Search(ask, start, estimate)
    steps = _supported(search)
    if not search.turns(_floor(start, steps)):
        return ()
    found = [settings for settings in _singles(search, steps) if search.turns(settings)]
    if not any(settings.keys() <= NEUTRAL for settings in found):
        found += _pairs(search, steps, found)
    if not found:
        found = [_together(search, steps)]
    ways = [way(ask, ask.using(start.scenario.train.method, settings), estimate) for settings in found]
    return tuple(_distinct(sorted(ways, key=lambda one: _order(start, one))))


def adapted(ask: Ask, start: Candidate, goal: Verdict, estimate: Estimator) -> Way | None:
    """``start`` with the mildest change that reaches ``goal``, judged alone: fewest settings, then fewest bytes."""
    method = start.scenario.train.method
    tries = mild(ask, start, estimate, near=True)
    reaching = ((tried, one) for tried, one in tries if RANKS[one.verdict] >= RANKS[goal])
    ways = [as_way(ask, ask.using(method, tried), one) for tried, one in reaching if tried]
    return min(ways, key=lambda one: _order(start, one), default=None)


def mild(
    ask: Ask, start: Candidate, estimate: Estimator, *, near: bool = False
) -> Iterator[tuple[Settings, Candidate]]:
    """``start``, and all that ``adapted`` may turn it into.

    All open changes together that learning does not feel, under each kind of sharding; then each, and each pair of
    them. Of what is ``near`` no more where all of them together miss the card by far.
    """
    search = Search(ask, start, estimate)
    steps = [step for step in _steps(start) if step.keys() <= NEUTRAL - ask.held]
    yield {}, start
    least, most = INFINITE, HOPELESS * start.scenario.cluster.usable_bytes
    for tried, last in _everything(steps):
        if (one := search.attempt(tried)) is not None:
            yield tried, one
            least = min(least, one.estimate.peak.required_bytes)
        if near and most < least < INFINITE and (last or _differs_by_buffers(start)):
            return
    pairs: list[Settings] = [{**one, **two} for one, two in combinations(steps, 2) if not one.keys() & two.keys()]
    yield from ((tried, one) for tried in [*steps, *pairs] if (one := search.attempt(tried)) is not None)


def _differs_by_buffers(start: Candidate) -> bool:
    """Whether another engine holds about the same: adapters' gradients are small, whole or divided."""
    train = start.scenario.train
    return train.uses_adapters and train.sharding in SHARDS_WEIGHTS


def _everything(steps: list[Settings]) -> Iterator[tuple[Settings, bool]]:
    """All changes at once, under the sharding that is there and under each other; with the batch in one piece too.

    Beside each whether it is the last. In single sequences a batch is accumulated, and gradients that FSDP sums only at
    the end stay whole until then.
    """
    kinds: list[Settings] = [{}, *(step for step in steps if "sharding" in step)]
    common = [step for step in steps if "sharding" not in step]
    whole = [step for step in common if "micro_batch_size" not in step]
    merged = [_merged(chosen) for chosen in ((common, whole) if len(whole) < len(common) else (common,))]
    found = [{**one, **kind} for kind in kinds for one in merged if one or kind]
    yield from ((one, place == len(found)) for place, one in enumerate(found, 1))


def _merged(steps: Iterable[Settings]) -> dict[str, Setting]:
    """The settings of all steps, of later ones where they name the same."""
    found: dict[str, Setting] = {}
    for step in steps:
        found |= step
    return found


def other_methods(ask: Ask, best: Candidate, estimate: Estimator) -> tuple[Way, ...]:
    """Methods that the user did not name and that do better than the best of those named."""
    found = []
    for method in () if "peft_config" in ask.request.settings else METHODS:
        if method not in ask.methods:
            try:
                tried = way(ask, ask.using(method, {}), estimate)
            except UnsupportedScenario:
                continue
            if RANKS[tried.candidate.verdict] > RANKS[best.verdict]:
                found.append(tried)
    return tuple(found)


def way(asked: Ask, variant: Ask, estimate: Estimator) -> Way:
    """``variant``, which names one method, as a way out of ``asked``; raise ``UnsupportedScenario``."""
    return as_way(asked, variant, candidate(variant, variant.methods[0], estimate))


def as_way(asked: Ask, variant: Ask, found: Candidate) -> Way:
    """``found``, the candidate of ``variant``, with the command that asks for it."""
    return Way(
        settings=differing(asked, variant),
        candidate=found,
        command=command(variant.request),
        usd_per_hour=hourly(variant.cluster.gpu, variant.cluster.world_size),
    )


def differing(asked: Ask, variant: Ask) -> dict[str, str | int | float | bool]:
    """What ``variant`` sets that ``asked`` did not: the method where several were open, and settings."""
    method = {} if variant.request.methods == asked.request.methods else {"method": variant.methods[0]}
    before, after = asked.request.settings, variant.request.settings
    return method | {
        name: value
        for name, value in after.items()
        if before.get(name) != value and not isinstance(value, list | tuple)
    }


def hourly(gpu: Gpu, count: int) -> tuple[float | None, float | None]:
    """Low and typical price of ``count`` cards together."""
    if gpu.price is None:
        return None, None
    low, typical = gpu.price.low_usd, gpu.price.typical_usd
    return None if low is None else round(low * count, 4), None if typical is None else round(typical * count, 4)


def _supported(search: Search) -> tuple[Settings, ...]:
    """The steps that this model, card and stack can take."""
    steps = tuple(_steps(search.start))
    if search.attempt(_floor(search.start, steps)) is not None:
        return steps
    return tuple(step for step in steps if search.attempt(step) is not None)


def _steps(start: Candidate) -> Iterator[Settings]:
    """Every single change that could lower the requirement, each stated as settings; strongest last within a kind."""
    train, cluster = start.scenario.train, start.scenario.cluster
    if not train.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    for loss in {"full": ("chunked", "fused"), "chunked": ("fused",)}.get(train.loss, ()):
        yield {"loss": loss}
    if train.kernels == "eager":
        yield {"kernels": "fused"}
    if train.optimizer.startswith("adamw_") and train.optimizer != "adamw_8bit":
        yield {"optimizer": "adamw_8bit"}
    if train.optimizer.startswith("adamw_"):
        yield {"optimizer": "paged_adamw_8bit"}
    for attention in {"eager": ("sdpa", "flash"), "sdpa": ("flash",)}.get(train.attention, ()):
        if attention == "sdpa" or cluster.gpu.supports_flash:
            yield {"attention": attention}
    if train.quantized and not train.double_quant and train.quant != "int8":
        yield {"double_quant": True}
    if train.micro_batch_size > 1:
        yield {"micro_batch_size": 1, "grad_accumulation": train.micro_batch_size * train.grad_accumulation}
    yield from _moment_steps(start)
    yield from _sharding_steps(start)
    yield from _rank_steps(start)


def _moment_steps(start: Candidate) -> Iterator[Settings]:
    """Gathered logits to the host after every batch, and smaller batches."""
    train = start.scenario.train
    if "evaluation" in train.moments and train.eval_logits and train.eval_accumulation_steps != 1:
        yield {"eval_accumulation_steps": 1}
    if {"evaluation", "generation"} & {*train.moments} and train.eval_batch_size > 1:
        yield {"eval_batch_size": 1}


def _sharding_steps(start: Candidate) -> Iterator[Settings]:
    train, cluster = start.scenario.train, start.scenario.cluster
    storage = "bf16" if cluster.gpu.supports_bf16 else "fp16"
    if cluster.world_size > 1:
        replicated = train.quantized and train.quant_storage == "uint8"
        for sharding in ("zero3", "fsdp"):
            if sharding != train.sharding:
                yield {"sharding": sharding, **({"quant_storage": storage} if replicated else {})}
        if replicated and train.sharding in SHARDS_WEIGHTS:
            yield {"quant_storage": storage}


def _rank_steps(start: Candidate) -> Iterator[Settings]:
    """Smaller adapters, where no file says what they are."""
    train = start.scenario.train
    rank = train.lora_rank // 2
    while train.uses_adapters and not train.peft_config and rank >= LEAST_RANK:
        yield {"lora_rank": rank}
        rank //= 2


def _floor(start: Candidate, steps: Iterable[Settings]) -> Settings:
    """Everything at once: what does not fit here fits with no fewer changes either."""
    merged = _merged(steps)
    if start.scenario.train.seq_len > SHORTEST:
        merged["seq_len"] = SHORTEST
    return merged


def _singles(search: Search, steps: Iterable[Settings]) -> list[Settings]:
    return [*steps, *_shorter(search, {})]


def _pairs(search: Search, steps: Iterable[Settings], singles: Iterable[Settings]) -> list[Settings]:
    """Pairs of changes that turn the verdict and of which neither does so alone."""
    enough = [settings.keys() for settings in singles]
    weak = [step for step in steps if not search.turns(step)]
    pairs: list[Settings] = [{**one, **two} for one, two in combinations(weak, 2) if not one.keys() & two.keys()]
    found = [pair for pair in pairs if search.turns(pair)]
    if {"seq_len"} not in enough:
        found += [{**step, **shorter} for step in weak for shorter in _shorter(search, step)]
    return found


def _shorter(search: Search, step: Settings) -> list[Settings]:
    """The longest of the shorter sequences that turns the verdict together with ``step``, if any."""
    asked = search.start.scenario.train.seq_len
    unit = max(asked // LENGTH_STEPS, 1)
    low, high = -(-SHORTEST // unit), -(-asked // unit) - 1
    if low > high or not search.turns({**step, "seq_len": low * unit}):
        return []
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if search.turns({**step, "seq_len": middle * unit}) else (low, middle - 1)
    return [{"seq_len": low * unit}]


def _together(search: Search, steps: Iterable[Settings]) -> Settings:
    """As few changes as turn the verdict when no pair does, with the longest sequence that they allow."""
    rest = {name: value for name, value in _floor(search.start, steps).items() if name != "seq_len"}
    shorter = [] if search.turns(rest) else _shorter(search, rest)
    return _pruned(search, {**rest, **(shorter[0] if shorter else {})})


def _pruned(search: Search, settings: Settings) -> Settings:
    """``settings`` without those that the verdict does not need."""
    kept = dict(settings)
    for name in settings:
        without = {key: value for key, value in kept.items() if key != name}
        if without and search.turns(without):
            kept = without
    return kept


def _order(start: Candidate, one: Way) -> tuple[int, bool, int, str]:
    """Fewest settings first, then those that leave learning alone, then the smallest move in bytes."""
    names = one.settings.keys() - {"method"}
    moved = abs(start.estimate.peak.required_bytes - one.candidate.estimate.peak.required_bytes)
    return len(names), not names <= NEUTRAL, moved, one.command


def _distinct(ways: Iterable[Way]) -> Iterator[Way]:
    """The first way of each set of settings: one loss kernel is enough."""
    seen: set[frozenset[str]] = set()
    for one in ways:
        names = frozenset(one.settings)
        if names not in seen:
            seen.add(names)
            yield one
