"""Resource planner and method recommender for fine-tuning language models.

``planner.plan(model="8b", gpu="4090", seq_len=4096)`` is the command's answer as a frozen object;
``planner.scenario(...)`` and ``planner.estimate(...)`` are its parts. Names load when they are used, so that importing
the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from planner._version import __version__

if TYPE_CHECKING:
    from planner.errors import BrokenInput, PlannerError, UnknownName, UnsupportedScenario, UsageError
    from planner.hardware import list_gpus, load_gpu
    from planner.planning import Request, estimate, scenario
    from planner.planning import plan_for as plan
    from planner.recommend.compare import Comparison
    from planner.recommend.compare import compare_for as compare
    from planner.recommend.frontier import Frontier
    from planner.recommend.frontier import frontier_for as frontier
    from planner.recommend.rent import rent_for as rent
    from planner.recommend.rental import Rental, RentAnswer
    from planner.recommend.sweep import Row
    from planner.recommend.sweep import sweep_for as sweep
    from planner.recommend.whatif import WhatIf
    from planner.recommend.whatif import what_if_for as what_if
    from planner.result import Candidate, Estimate, Memory, Peak, Plan, Reason, Recommendation, Way
    from planner.spec import Cluster, Gpu, Job, ModelSpec, Scenario, TrainSpec

_HOMES = {
    "planner.errors": ("BrokenInput", "PlannerError", "UnknownName", "UnsupportedScenario", "UsageError"),
    "planner.hardware": ("list_gpus", "load_gpu"),
    "planner.planning": ("Request", "estimate", "plan_for", "scenario"),
    "planner.recommend.compare": ("Comparison", "compare_for"),
    "planner.recommend.frontier": ("Frontier", "frontier_for"),
    "planner.recommend.rent": ("rent_for",),
    "planner.recommend.rental": ("RentAnswer", "Rental"),
    "planner.recommend.sweep": ("Row", "sweep_for"),
    "planner.recommend.whatif": ("WhatIf", "what_if_for"),
    "planner.result": ("Candidate", "Estimate", "Memory", "Peak", "Plan", "Reason", "Recommendation", "Way"),
    "planner.spec": ("Cluster", "Gpu", "Job", "ModelSpec", "Scenario", "TrainSpec"),
}
_RENAMED = {
    "plan": "plan_for",
    "compare": "compare_for",
    "frontier": "frontier_for",
    "rent": "rent_for",
    "sweep": "sweep_for",
    "what_if": "what_if_for",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BrokenInput",
    "Candidate",
    "Cluster",
    "Comparison",
    "Estimate",
    "Frontier",
    "Gpu",
    "Job",
    "Memory",
    "ModelSpec",
    "Peak",
    "Plan",
    "PlannerError",
    "Reason",
    "Recommendation",
    "RentAnswer",
    "Rental",
    "Request",
    "Row",
    "Scenario",
    "TrainSpec",
    "UnknownName",
    "UnsupportedScenario",
    "UsageError",
    "Way",
    "WhatIf",
    "__version__",
    "compare",
    "estimate",
    "frontier",
    "list_gpus",
    "load_gpu",
    "plan",
    "rent",
    "scenario",
    "sweep",
    "what_if",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name from the module that holds it."""
        inner = _RENAMED.get(name, name)
        if name not in __all__ or inner not in _HOME:
            raise AttributeError(f"module 'planner' has no attribute {name!r}")
        return getattr(import_module(_HOME[inner]), inner)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
