"""Where a plan can go: trainers, and schedulers that run the files of one. Commands read it at their start."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """Where a plan goes: ``module`` writes it. ``stack``: the trainer that runs it.

    A ``job`` target asks a scheduler for machines, and runs the files of a trainer on them. ``finds``: where its run
    finds data and models of this machine. ``instead``: settings that are planned in turn where the target has no words
    for those of its stack.
    """

    name: str
    module: str
    stack: str
    job: bool = False
    finds: Literal["here", "folder", "volume"] = "here"
    instead: tuple[Mapping[str, str], ...] = ()


ZERO: tuple[Mapping[str, str], ...] = ({"sharding": "zero2"}, {"sharding": "zero3"})

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        one.name: one
        for one in (
            Target("trl", "planner.configs.trl", "trl"),
            Target("axolotl", "planner.configs.axolotl", "axolotl", instead=({"kernels": "eager"},)),
            Target("llamafactory", "planner.configs.llamafactory", "llamafactory"),
            Target("unsloth", "planner.configs.unsloth", "unsloth"),
            Target("torchtune", "planner.configs.torchtune", "torchtune"),
            Target("accelerate", "planner.configs.accelerate", "hf"),
            Target("deepspeed", "planner.configs.deepspeed", "hf", instead=ZERO),
            Target("sky", "planner.jobs.sky", "trl", job=True, finds="folder"),
            Target("dstack", "planner.jobs.dstack", "trl", job=True, finds="folder"),
            Target("slurm", "planner.jobs.slurm", "trl", job=True),
            Target("k8s", "planner.jobs.k8s", "trl", job=True, finds="volume"),
        )
    }
)

TRAINERS = tuple(one.name for one in TARGETS.values() if not one.job)
JOBS = tuple(one.name for one in TARGETS.values() if one.job)
