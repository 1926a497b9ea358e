"""The verdict on an estimate: whether the hardware has what the step must have."""

from planner.result import Estimate, Verdict
from planner.spec import Cluster


def judge(estimate: Estimate, cluster: Cluster) -> Verdict:
    """``fits`` when even the upper bound is there, ``tight`` when the requirement is, else ``does_not_fit``.

    Where the user limits the RAM of a machine, what the job needs there must be there too.

    Formula:   fits: high <= usable    tight: required <= usable < high    does_not_fit: usable < required
    Source:    docs/glossary.md, fits / tight / does not fit
    Valid:     bytes per GPU of the fullest rank
    """
    usable = cluster.usable_bytes
    if lacks_ram(estimate, cluster):
        return "does_not_fit"
    if estimate.peak.high_bytes <= usable:
        return "fits"
    return "tight" if estimate.peak.required_bytes <= usable else "does_not_fit"


def lacks_ram(estimate: Estimate, cluster: Cluster) -> bool:
    """Whether the user limits the RAM of a machine to less than the job needs there."""
    ram = cluster.host_memory_bytes
    return ram is not None and estimate.host.required_on(cluster) > ram
