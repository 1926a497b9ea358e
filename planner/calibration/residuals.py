"""One prediction beside its measurement (``Residual``), and the groups in which such pairs resemble each other."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from planner.calibration.conformal import COVERAGE, balanced, bounds, median
from planner.result import Estimate, Evidence
from planner.spec import Cluster, Gpu, Scenario

Metric = Literal["allocated", "reserved", "device", "capacity"]
"""``capacity``: what the allocator must be given beyond allocated bytes, relative to our share for it; replays tell."""

METRICS: tuple[Metric, ...] = ("allocated", "reserved", "device")
"""What a run shows of itself."""

Cards = Literal["one", "several"]


class Kind(NamedTuple):
    """What sort of run: evidence and metric always; cards, stack and GPU architecture where the group is that narrow.

    An empty word stands for all.
    """

    evidence: Evidence
    metric: Metric
    cards: Cards | Literal[""] = ""
    stack: str = ""
    architecture: str = ""

    def wider(self) -> Iterator["Kind"]:
        """The kind itself and all that hold it, narrowest first."""
        of_stack = self._replace(architecture="")
        of_cards = of_stack._replace(stack="")
        yield from dict.fromkeys((self, of_stack, of_cards, of_cards._replace(cards="")))

    @property
    def words(self) -> str:
        """The group for people, without its evidence."""
        cards = {"one": "one GPU", "several": "several GPUs", "": ""}[self.cards]
        named = " on ".join(word for word in (self.stack, self.architecture.capitalize()) if word)
        return ", ".join(word for word in (named or "all stacks", cards) if word)


class Residual(NamedTuple):
    """A signed relative error: measured / predicted - 1."""

    kind: Kind
    source: str
    error: float


class Spread(NamedTuple):
    """How the errors of a group lie: ``low`` to ``high`` holds the next one with probability ``coverage``."""

    n: int
    sources: tuple[str, ...]
    low: float
    median: float
    high: float
    coverage: float = COVERAGE


Table = Mapping[Kind, Spread]
"""Spread of every group that has enough rows."""


def fit(residuals: Iterable[Residual], coverage: float = COVERAGE) -> Table:
    """The table of all groups, wide ones too, that have rows enough for an interval."""
    groups: dict[Kind, list[Residual]] = {}
    for residual in residuals:
        for kind in residual.kind.wider():
            groups.setdefault(kind, []).append(residual)
    found = {kind: spread(rows, coverage) for kind, rows in groups.items()}
    return {kind: one for kind, one in found.items() if one is not None}


def spread(rows: Iterable[Residual], coverage: float = COVERAGE) -> Spread | None:
    """How errors lie, or ``None`` for too few."""
    kept = tuple(rows)
    weighted = balanced((row.source, row.error) for row in kept)
    found = bounds(weighted, coverage)
    if found is None:
        return None
    sources = tuple(sorted({row.source for row in kept}))
    return Spread(len(kept), sources, found[0], median(weighted), found[1], coverage)


def look_up(table: Table, kind: Kind) -> tuple[Kind, Spread] | None:
    """The narrowest group of ``kind`` that the table has."""
    return next(((one, table[one]) for one in kind.wider() if one in table), None)


def kind_of(scenario: Scenario, evidence: Evidence, metric: Metric = "allocated") -> Kind:
    """The narrowest group of a scenario."""
    return Kind(evidence, metric, cards_of(scenario.cluster), scenario.stack.name, architecture(scenario.cluster.gpu))


def cards_of(cluster: Cluster) -> Cards:
    """Whether others take part."""
    return "one" if cluster.world_size == 1 else "several"


def architecture(gpu: Gpu) -> str:
    """The generation of a card in one word: its profile's, else that of its compute capability."""
    named = _first_word(gpu.architecture)
    if named:
        return named
    from planner.records import architecture_of  # noqa: PLC0415  (profiles name theirs)

    return architecture_of("cuda", gpu.compute_capability, gpu.name)


@lru_cache(maxsize=256)
def _first_word(text: str) -> str:
    words = text.split()
    return words[0].lower() if words else ""


def predicted(estimate: Estimate, metric: Metric) -> int:
    """What an estimate says of a metric of ``METRICS``, in bytes."""
    return int(getattr(estimate.peak, f"{metric}_bytes"))
