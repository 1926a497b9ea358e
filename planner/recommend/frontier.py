"""How far a card goes: for each method the largest micro-batch at each length, and the longest length at batch 1.

Every entry is a pair of estimates: what it says fits, and one more that does not. So it is true of these two whatever
lies between them. The micro-batches of GRPO are searched by kinds of equal accumulation, since it is only among these
that a larger one needs more: three sequences in eight micro-steps need more than four in two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from planner.errors import UnsupportedScenario, UsageError, option
from planner.estimators import Estimator, timed
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.changes import RANKS
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.request import DEFAULT_STACK, Ask, Request, Setting, request_of
from planner.recommend.shared import shared_estimator
from planner.recommend.verdict import judge
from planner.result import Verdict
from planner.spec import Cluster, Method, ModelSpec, Scenario, TrainSpec
from planner.stacks.objectives import settle_objective, whole_groups
from planner.stacks.values import MAX_MICRO_BATCH

SHORTEST = 256
"""Tokens of the first length; each further one is twice as long."""

LENGTH_STEP = 64
"""Lengths of one sequence are found to so many tokens; kernels like such multiples."""

UNLIMITED = 2**17
"""Tokens of the longest length that is looked at where a model names no limit: positions that it computes (ALiBi)."""

GOALS: tuple[Verdict, ...] = ("fits", "tight")

VARIED = ("seq_len", "micro_batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One length: the largest micro-batch that fits with its margin, and the largest that fits without; 0: none.

    ``tokens_per_second``: of all cards together at the larger of the two that is not 0, ``fits`` first.
    """

    seq_len: int
    fits: int
    tight: int
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One method, with activations recomputed or kept. ``longest``: tokens of one sequence, 0 where none fits.

    ``least_bytes``: what the smallest entry needs: one sequence of the shortest length.
    """

    method: Method
    checkpointing: bool
    cells: tuple[Cell, ...]
    longest_fits: int
    longest_tight: int
    least_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """All lanes over the same ``lengths``, up to ``limit``, the positions of the model.

    ``missing``: why methods that cannot be planned have no lane.
    """

    model: ModelSpec
    cluster: Cluster
    stack: str
    lengths: tuple[int, ...]
    limit: int
    lanes: tuple[Lane, ...]
    missing: tuple[tuple[Method, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether any entry fits, with its margin or without."""
        return any(lane.longest_tight for lane in self.lanes)


def frontier(request: Request, *, estimator: Estimator | None = None) -> Frontier:
    """The frontier of a request; raise ``PlannerError``, also where it sets what is varied here."""
    for name in VARIED:
        if name in request.settings:
            raise UsageError(f"{option(name)} is what a frontier varies: leave it out, or ask plan itself")
    ask, notes = understand(request)
    ask = informed(ask)
    limit = ask.model.max_position_embeddings or UNLIMITED
    _refuse_completions(ask, limit)
    estimate = estimator or shared_estimator()
    lanes: list[Lane] = []
    missing: list[tuple[Method, str]] = []
    for method in ask.methods:
        try:
            lanes += [lane_of(one, lengths_of(one, limit), limit, estimate) for one in _scenarios(ask, method)]
        except UnsupportedScenario as error:
            missing.append((method, str(error)))
    if not lanes:
        raise UnsupportedScenario(missing[0][1])
    return Frontier(
        model=ask.model,
        cluster=ask.cluster,
        stack=request.stack,
        lengths=tuple(cell.seq_len for cell in lanes[0].cells),
        limit=limit,
        lanes=tuple(lanes),
        missing=tuple(missing),
        notes=notes,
    )


def _refuse_completions(ask: Ask, limit: int) -> None:
    """Completions beside which no sequence of the model has room for a prompt."""
    completion = ask.request.settings.get("completion_len")
    if isinstance(completion, int) and completion >= limit:
        raise UsageError(
            f"--completion-len {completion} leaves no prompt in the {limit:,} positions of {ask.model.name}: "
            f"name fewer tokens than that"
        )


def lane_of(scenario: Scenario, lengths: tuple[int, ...], limit: int, estimate: Estimator) -> Lane:
    """How far one scenario goes, whatever its own length and micro-batch are."""
    return _Search(scenario, limit, estimate).lane(lengths)


def lengths_to(limit: int) -> tuple[int, ...]:
    """Lengths from the shortest on, doubling, with the limit as the last.

    >>> lengths_to(1024), lengths_to(1000), lengths_to(100)
    ((256, 512, 1024), (256, 512, 1000), (100,))
    """
    found = [SHORTEST]
    while found[-1] < limit:
        found.append(2 * found[-1])
    return (*found[:-1], limit)


def lengths_of(scenario: Scenario, limit: int) -> tuple[int, ...]:
    """Those of ``lengths_to`` that leave room for a prompt before the completions that the user asks for."""
    return tuple(length for length in lengths_to(limit) if length > _completion(scenario))


def _completion(scenario: Scenario) -> int:
    """Tokens of a sequence that are sampled whatever its length is."""
    train = scenario.train
    asked = train.objective == "grpo" and scenario.origins.get("completion_len") == "user"
    return train.completion_len if asked else 0


def largest(reaches: Callable[[int], bool], most: int, guess: int = 1) -> int:
    """The largest number up to ``most`` that ``reaches`` holds for, 0 for none: it holds, and for one more it does not.

    From ``guess`` in growing strides to where it changes, then by halves. Where it changes more than once, one of the
    places is found.

    >>> largest(lambda n: n <= 37, 100), largest(lambda n: n <= 37, 20, 9), largest(lambda n: False, 100, 50)
    (37, 20, 0)
    """
    low, high = 0, most + 1  # holds for the one, not for the other
    place, stride = min(max(guess, 1), most), 1
    while low < place < high:
        if reaches(place):
            low, place = place, place + stride
        else:
            high, place = place, place - stride
        stride *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low


def _scenarios(ask: Ask, method: Method) -> Iterator[Scenario]:
    """The method with activations recomputed and kept, as far as the user left that open; long enough for a prompt."""
    held, completion = (ask.request.settings.get(name) for name in ("gradient_checkpointing", "completion_len"))
    room: dict[str, Setting] = {"seq_len": completion + 1} if isinstance(completion, int) else {}
    for checkpointing in (True, False) if held is None else (bool(held),):
        yield scenario_of(ask.using(method, {"gradient_checkpointing": checkpointing, **room}), method)


class Batches(NamedTuple):
    """Micro-batches in steps of equal accumulation, of which a larger one needs more; they repeat with the group.

    >>> some = Batches((2, 6), 8)
    >>> [some.at(place) for place in (1, 2, 3, 4)], some.up_to(9), some.up_to(10)
    ([2, 6, 10, 14], 2, 3)
    """

    first: tuple[int, ...] = (1,)
    period: int = 1

    def at(self, place: int) -> int:
        """The micro-batch in this place, the first being in place 1."""
        rounds, one = divmod(place - 1, len(self.first))
        return rounds * self.period + self.first[one]

    def up_to(self, most: int) -> int:
        """How many there are up to ``most``."""
        rounds, rest = divmod(most, self.period)
        return rounds * len(self.first) + sum(one <= rest for one in self.first)


def batches_of(scenario: Scenario) -> tuple[Batches, ...]:
    """Every micro-batch by the accumulation that makes whole groups of it, fewest micro-steps first."""
    train = scenario.train
    if train.objective != "grpo" or scenario.origins.get("grad_accumulation", "user") == "user":
        return (Batches(),)
    group, kinds = train.num_generations, dict[int, list[int]]()
    for batch in range(1, group + 1):
        chosen = {"num_generations": group, "micro_batch_size": batch}
        kinds.setdefault(whole_groups(chosen, scenario.cluster), []).append(batch)
    return tuple(Batches(tuple(kinds[count]), group) for count in sorted(kinds))


def shaped(scenario: Scenario, seq_len: int, micro_batch_size: int) -> Scenario:
    """The scenario at another length and micro-batch, with what GRPO settles by these where it was left open."""
    changes: dict[str, Any] = {"seq_len": seq_len, "micro_batch_size": micro_batch_size}
    train = replace(scenario.train, **changes)
    if train.objective == "grpo" and scenario.origins:
        chosen = {name: getattr(train, name) for name in (*train.settings, "method")}
        if scenario.origins["completion_len"] != "user":
            chosen["completion_len"] = TrainSpec.completion_len
        settle_objective(chosen, dict(scenario.origins), scenario.cluster, scenario.stack)
        train = replace(train, **{name: chosen[name] for name in ("completion_len", "grad_accumulation")})
    return replace(scenario, train=train)


@dataclass(frozen=True, slots=True)
class _Search:
    """One lane's scenario at any length and micro-batch."""

    scenario: Scenario
    limit: int
    estimate: Estimator

    def reaches(self, goal: Verdict, seq_len: int, batch: int) -> bool:
        """Whether the verdict is ``goal`` or better."""
        if seq_len <= _completion(self.scenario):
            return False
        verdict = judge(self.estimate(shaped(self.scenario, seq_len, batch)), self.scenario.cluster)
        return RANKS[verdict] >= RANKS[goal]

    def lane(self, lengths: tuple[int, ...]) -> Lane:
        """Every length, and the longest; what fits at one length is near half of what fits at half of it."""
        cells: list[Cell] = []
        for seq_len in lengths:
            guess = cells[-1].fits * cells[-1].seq_len // seq_len if cells else 1
            cells.append(self._cell(seq_len, guess))
        near = max((cell.seq_len for cell in cells if cell.fits), default=LENGTH_STEP)
        fits = self._longest("fits", near)
        return Lane(
            method=self.scenario.train.method,
            checkpointing=self.scenario.train.gradient_checkpointing,
            cells=tuple(cells),
            longest_fits=fits,
            longest_tight=max(fits, self._longest("tight", fits or near)),
            least_bytes=self.estimate(shaped(self.scenario, lengths[0], 1)).peak.required_bytes,
        )

    def _cell(self, seq_len: int, guess: int) -> Cell:
        fits, tight = (self._largest(goal, seq_len, guess) for goal in GOALS)
        return Cell(
            seq_len=seq_len, fits=fits, tight=max(fits, tight), tokens_per_second=self._pace(seq_len, fits or tight)
        )

    def _largest(self, goal: Verdict, seq_len: int, guess: int) -> int:
        """The largest micro-batch of any kind: of each further kind only those above what was found are looked at."""
        found = 0
        for kind in batches_of(self.scenario):
            passed = kind.up_to(found)
            reaches = partial(self._reaches_place, goal, seq_len, kind, passed)
            more = largest(reaches, kind.up_to(MAX_MICRO_BATCH) - passed, 1 if found else kind.up_to(guess))
            found = kind.at(passed + more) if more else found
        return found

    def _reaches_place(self, goal: Verdict, seq_len: int, kind: Batches, passed: int, place: int) -> bool:
        return self.reaches(goal, seq_len, kind.at(passed + place))

    def _longest(self, goal: Verdict, near: int) -> int:
        """Tokens of the longest single sequence: the limit itself, or a multiple of the step with room for a prompt."""
        if self.reaches(goal, self.limit, 1):
            return self.limit
        passed = _completion(self.scenario) // LENGTH_STEP
        steps = largest(
            lambda count: self.reaches(goal, (passed + count) * LENGTH_STEP, 1),
            self.limit // LENGTH_STEP - passed,
            near // LENGTH_STEP - passed,
        )
        return (passed + steps) * LENGTH_STEP if steps else 0

    def _pace(self, seq_len: int, batch: int) -> float | None:
        if not batch:
            return None
        shape = shaped(self.scenario, seq_len, batch)
        step = timed(shape, self.estimate(shape))
        return None if step is None else step.tokens_per_second


def frontier_for(
    *,
    model: str,
    gpu: str,
    gpus: int = 1,
    nodes: int | None = None,
    method: Method | tuple[Method, ...] | list[Method] | None = None,
    stack: str = DEFAULT_STACK,
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    **settings: Setting,
) -> Frontier:
    """``planner.frontier(model="8b", gpu="4090")``: arguments are named like the command's options."""
    request = request_of(
        model=model,
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        method=method,
        stack=stack,
        headroom=headroom,
        profiles_dir=profiles_dir,
        settings=settings,
    )
    return frontier(request)
