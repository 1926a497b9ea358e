"""What a planned run needs of each machine: memory, disk and hours, with the margins that are added to a plan."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from planner.configs.written import REQUIREMENTS, Chosen, Written
from planner.cost import disk_bytes, host_bytes
from planner.spec import Gpu

MEMORY_MARGIN = 1.25
"""On host memory, for the page cache that makes loading quick and for the input pipeline. Ours."""
SYSTEM_GB = 40
"""Disk for the system, torch with CUDA, and a trainer. Ours, rounded up."""
HOURS_MARGIN = 1.5
"""On the upper bound of the run's hours: a limit that ends a run too early costs all of it. Ours."""
CPUS_PER_GPU = 8
"""Processor cores for each card, of a data loader that is not to wait. Ours."""
SHARED_GB = 16
"""Of /dev/shm, through which ranks of one machine exchange data. Ours."""

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Of each of ``nodes`` machines. ``hours``: when to give up, or ``None`` where nobody said how much data there is.

    ``memory_gb`` and ``disk_gb`` are rounded up.
    """

    gpu: Gpu
    gpus: int
    nodes: int
    memory_gb: int
    disk_gb: int
    hours: int | None

    @property
    def cpus(self) -> int:
        """Processor cores."""
        return self.gpus * CPUS_PER_GPU


def needs_of(chosen: Chosen) -> Needs:
    """What the chosen run needs."""
    scenario, estimate, cost = chosen.scenario, chosen.candidate.estimate, chosen.candidate.cost
    cluster = scenario.cluster
    return Needs(
        gpu=cluster.gpu,
        gpus=cluster.gpus,
        nodes=cluster.nodes,
        memory_gb=ceil(host_bytes(scenario, estimate) * MEMORY_MARGIN / GB),
        disk_gb=SYSTEM_GB + ceil(disk_bytes(scenario, estimate, chosen.job) / GB),
        hours=None if cost is None else max(ceil(cost.high_hours * HOURS_MARGIN), 1),
    )


def reasons(chosen: Chosen, needs: Needs, place: str) -> list[str]:
    """Lines for the top of a request: the plan, then where the numbers of the request come from.

    ``place``: where what the run needs of this machine has to be.
    """
    lines = [
        f"host memory: {needs.memory_gb} GB on each machine, {MEMORY_MARGIN:g} times the plan's",
        f"disk: {needs.disk_gb} GB, {SYSTEM_GB} GB of them for system and packages",
    ]
    if needs.hours is None:
        lines.append("time: nobody said how much data there is, so no limit is set: --dataset or --dataset-tokens")
    else:
        lines.append(f"time: {needs.hours} h, {HOURS_MARGIN:g} times the plan's upper bound")
    lines += [f"{name} has to lie {place}" for name in chosen.beside]
    return [*chosen.heading, "", *lines]


def run_name(chosen: Chosen) -> str:
    """What the run is called in every tool: its method and its model."""
    return plain_name(f"{chosen.candidate.method}-{chosen.scenario.model.name}")


def plain_name(text: str) -> str:
    """A name that every tool takes: letters, digits and dashes, no more than 40.

    >>> plain_name("QLoRA-Llama 3.1/8B ")
    'qlora-llama-3-1-8b'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def setup_lines(written: Written) -> list[str]:
    """Commands that make a machine ready in the folder of the files."""
    return [f"pip install -r {REQUIREMENTS}", *written.setup]


def as_command(launch: str) -> str:
    """A launch behind another command, which takes no variables of the shell's.

    >>> as_command("NNODES=2 llamafactory-cli train sft.yaml"), as_command("trl sft")
    ('env NNODES=2 llamafactory-cli train sft.yaml', 'trl sft')
    """
    return f"env {launch}" if "=" in launch.split()[0] else launch


def exports(variables: Iterable[tuple[str, str]], needs: Needs) -> list[str]:
    """Where the first of several machines is, and which one this is; nothing where there is one.

    The launches of trainers name ``$MAIN_IP`` and ``$MACHINE_RANK``.
    """
    if needs.nodes == 1:
        return []
    named = tuple(variables)
    return [*(f"{name}={value}" for name, value in named), f"export {' '.join(name for name, _ in named)}"]


def block(key: str, lines: Iterable[str]) -> list[str]:
    """A text of several lines in YAML."""
    return [f"{key}: |", *(f"  {line}" for line in lines)]


def items(commands: Iterable[str]) -> list[str]:
    """A list of texts in YAML, whatever characters they have."""
    return [line for command in commands for line in ("  - |", f"    {command}")]
