"""Tables of the closed form against stored traces of several cards."""

from collections.abc import Callable, Mapping
from functools import cache

from docs.tables import code, percent, table
from planner.validation.against import Agreement, Deviation, compare
from planner.validation.sharded import sharded_grid
from planner.validation.traced import read_traced, stored_sharded


@cache
def sharded() -> Agreement:
    """The closed form against the stored traces, once."""
    return compare(sharded_grid(), read_traced(stored_sharded()))


def sharded_summary() -> str:
    """What was compared, and the one line that matters."""
    found = sharded()
    head = found.headline
    assert head is not None
    models = len({one.case.model for one in found.comparisons})
    versions = ", ".join(f"{name} {version}" for name, version in found.versions)
    return (
        f"{head.n} cases of {models} models. Peak: median error {percent(head.median, 2)}, worst "
        f"{percent(head.worst, 2, sign=True)}. Traced on {found.date} with {versions}."
    )


def sharded_peaks() -> str:
    """Errors of the peak by method and by number of ranks."""
    found = sharded()
    ranks = [(f"{one.name} GPUs", one) for one in found.by_ranks]
    return _table([*((one.name, one) for one in found.by_method), *ranks])


def sharded_phases() -> str:
    """Errors of every phase."""
    return _table([(one.name, one) for one in sharded().by_phase])


def _table(found: list[tuple[str, Deviation]]) -> str:
    rows = [
        (name, one.n, percent(one.median, 2), percent(one.worst, 2, sign=True), code(one.case)) for name, one in found
    ]
    return table(("", "n", "median", "worst", "worst case"), rows, right=[1, 2, 3])


SECTIONS: Mapping[str, Callable[[], str]] = {
    "sharded_peaks": sharded_peaks,
    "sharded_phases": sharded_phases,
    "sharded_summary": sharded_summary,
}
