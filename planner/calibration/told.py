"""On what an interval rests, in words."""

from planner.result import Basis
from planner.units import counted


def words_of(basis: Basis | None) -> str:
    """What bounds rest on, to follow "between A and B".

    >>> words_of(Basis("published", 39, ("one", "two"), "trl on Ampere, one GPU", 0.9))
    'by 39 published numbers of 2 sources (trl on Ampere, one GPU)'
    >>> words_of(Basis("scenario", 1, ("3f",)))
    'by 1 run of this very scenario here'
    """
    if basis is None or basis.kind == "stated":
        return "a stated width, since nothing like it was measured"
    if basis.kind == "published":
        return f"by {basis.n} published numbers of {counted(len(basis.sources), 'source')} ({basis.group})"
    runs = counted(basis.n, "run")
    return {
        "scenario": f"by {runs} of this very scenario here",
        "neighbours": f"by {runs} of this model here, of another shape or setting",
        "device": f"by {runs} of other models on such a device here",
    }[basis.kind]
