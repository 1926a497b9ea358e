"""Published times against ours: errors by source, from all runs and from a fit that has not seen the source."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from planner.closed_form import estimate
from planner.formulas.collectives import Exchange
from planner.spec import Scenario
from planner.throughput.constants import Constants, constants
from planner.throughput.rates import rates_of
from planner.throughput.record import Regime, regime_of
from planner.throughput.roofline import parts_of, seconds_of
from planner.throughput.work import Work, work_of
from planner.validation.timed_rows import TimedRun, timed_rows

BLENDED = ("products", "wide_products", "attention", "weights", "moved", "dequantised", "kernels")
"""Counts that grow with the share of the forward pass that is repeated."""

WIDE_SUMS = 2
"""Bytes of an fp32 sum of gradients, for each one of a 16-bit sum."""


class Timed(NamedTuple):
    """One run with its work: all that a set of constants needs to predict it."""

    run: TimedRun
    work: Work

    def predicted(self, known: Constants | None = None) -> float:
        """Seconds of one optimizer step."""
        known = known or constants()
        rates = rates_of(self.run.scenario, known)
        assert rates is not None, "anchors are on cards with a peak"
        clock = self.run.clock
        rates = rates._replace(
            bytes_per_s=rates.bytes_per_s * clock, dequant_bytes_per_s=rates.dequant_bytes_per_s * clock
        )
        if self.run.compiled:
            rates = rates._replace(kernel_s=rates.kernel_s * known.compiled.value)
        return seconds_of(self.work, rates, parts_of(self.work, rates))

    def regime(self, known: Constants) -> Regime:
        """The kind of run."""
        rates = rates_of(self.run.scenario, known)
        assert rates is not None, "anchors are on cards with a peak"
        return regime_of(self.run.scenario, self.work, parts_of(self.work, rates), known)

    def error(self, known: Constants | None = None) -> float:
        """Relative: (ours - published) / published."""
        return self.predicted(known) / self.run.seconds - 1


@cache
def timed() -> tuple[Timed, ...]:
    """Every published time that we can put as a question, with its work."""
    return tuple(Timed(run, _work(run)) for run in timed_rows()[0])


def _work(run: TimedRun) -> Work:
    work = _whole(run.scenario, run)
    if run.recomputed is not None:
        without, all_of_it = (_whole(_checkpointed(run.scenario, on), run) for on in (False, True))
        share = run.recomputed
        blend = {name: (1 - share) * getattr(without, name) + share * getattr(all_of_it, name) for name in BLENDED}
        work = work._replace(**blend)
    if run.dense:
        work = work._replace(attention=2 * work.attention)
    return work._replace(exchanges=tuple(map(_widened, work.exchanges))) if run.wide_sums else work


def _widened(one: Exchange) -> Exchange:
    return one._replace(sent=WIDE_SUMS * one.sent) if one.kind == "reduce_scatter" else one


def _whole(scenario: Scenario, run: TimedRun) -> Work:
    return work_of(scenario, estimate(scenario), run.load)


def _checkpointed(scenario: Scenario, on: bool) -> Scenario:
    return replace(scenario, train=replace(scenario.train, gradient_checkpointing=on))


# ---------------------------------------------------------------- scores


class Score(NamedTuple):
    """Errors of one source, or of one kind of run: ``bias`` is the median signed, the rest are of absolute ones."""

    name: str
    n: int
    bias: float
    median: float
    p90: float


def score(name: str, errors: Iterable[float]) -> Score:
    """Scores of some errors.

    >>> score("one", [0.1, -0.2, 0.3])
    Score(name='one', n=3, bias=0.1, median=0.2, p90=0.3)
    """
    signed = sorted(errors)
    absolute = sorted(map(abs, signed))
    n = len(signed)
    return Score(name, n, signed[n // 2], absolute[n // 2], absolute[min(int(0.9 * n), n - 1)])


def by_source(errors: Mapping[str, float]) -> tuple[Score, ...]:
    """Scores by source, of errors by id, and last of all runs."""
    groups: dict[str, list[float]] = {}
    for one in timed():
        if one.run.id in errors:
            groups.setdefault(one.run.source, []).append(errors[one.run.id])
    rows = [score(name, found) for name, found in sorted(groups.items())]
    return (*rows, score("all", errors.values()))


def errors_of(known: Constants | None = None) -> dict[str, float]:
    """Error of every run by its id."""
    return {one.run.id: one.error(known) for one in timed()}
