"""A plan as files that a trainer runs, read back before anybody gets them: what a trainer cannot say is an error."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.configs.checking import acts, combined, request_of_files
from planner.configs.document import parse_document
from planner.configs.formats import format_of, read_as
from planner.configs.written import Chosen, File, Written
from planner.errors import UnknownName, UnsupportedScenario, show
from planner.formulas.adapters import adapters
from planner.planning import plan
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.names import understand
from planner.recommend.recipe import recipe
from planner.recommend.request import Request, command
from planner.result import Candidate, Plan
from planner.spec import Job, Scenario
from planner.spec.job import OBJECTIVE_OF
from planner.stacks.values import option
from planner.units import format_gib


@dataclass(frozen=True, slots=True)
class Target:
    """Where a plan goes: ``module`` writes it. ``stack``: the trainer that runs it.

    A ``job`` target asks a scheduler for machines, and runs the files of a trainer on them.
    """

    name: str
    module: str
    stack: str
    job: bool = False


TARGETS: Mapping[str, Target] = {
    one.name: one
    for one in (
        Target("trl", "planner.configs.trl", "trl"),
        Target("axolotl", "planner.configs.axolotl", "axolotl"),
        Target("llamafactory", "planner.configs.llamafactory", "llamafactory"),
        Target("unsloth", "planner.configs.unsloth", "unsloth"),
        Target("torchtune", "planner.configs.torchtune", "torchtune"),
        Target("accelerate", "planner.configs.accelerate", "hf"),
        Target("deepspeed", "planner.configs.deepspeed", "hf"),
        Target("sky", "planner.jobs.sky", "trl", job=True),
        Target("dstack", "planner.jobs.dstack", "trl", job=True),
        Target("slurm", "planner.jobs.slurm", "trl", job=True),
        Target("k8s", "planner.jobs.k8s", "trl", job=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written for one target; ``files`` is empty where nothing fits."""

    target: Target
    plan: Plan
    files: tuple[File, ...] = ()
    configs: tuple[str, ...] = ()
    launch: str = ""
    setup: tuple[str, ...] = ()


def export(name: str, request: Request, *, dataset: str = "", trainer: str = "trl") -> Exported:
    """What ``request`` recommends, as the files of the target ``name``; a job runs those of ``trainer``.

    ``request.stack`` is empty where the target's own is meant. Raise ``UnknownName``, and ``UnsupportedScenario`` for a
    setting that the target cannot express.
    """
    if name not in TARGETS:
        raise UnknownName("target", name, TARGETS)
    target = TARGETS[name]
    runs = TARGETS[trainer] if target.job and trainer in TARGETS else target
    if runs.job:
        raise UnknownName("trainer", trainer, [one.name for one in TARGETS.values() if not one.job])
    asked = replace(request, stack=request.stack or runs.stack)
    found = plan(asked)
    if found.recommendation.candidate is None:
        return Exported(target=target, plan=found)
    chosen = chosen_of(found, asked, dataset)
    written: Written = importlib.import_module(runs.module).write(chosen)
    hold_against(written, chosen, runs)
    files = (*written.files, _requirements(chosen, written))
    if target.job:
        asking: Written = importlib.import_module(target.module).write(chosen, replace(written, files=files))
        files, written = files + asking.files, replace(asking, configs=written.configs)
    return Exported(
        target=target, plan=found, files=files, configs=written.configs, launch=written.launch, setup=written.setup
    )


def chosen_of(found: Plan, asked: Request, dataset: str) -> Chosen:
    """The recommended candidate with all that a writer needs; the plan must have one."""
    candidate = found.candidates[found.recommendation.candidate or 0]
    model = _local(asked.model) or found.model.hub_id or asked.model
    return Chosen(
        candidate=candidate,
        plan=found,
        request=asked,
        recipe=recipe(candidate.scenario, _job(found.job, candidate.scenario)),
        model=model,
        dataset=dataset,
        heading=_heading(found, candidate, asked),
    )


def _local(model: str) -> str:
    """The folder of a model that is here, from wherever the run starts; empty for any other."""
    path = Path(model)
    if not path.exists():
        return ""
    return str((path.parent if path.is_file() else path).absolute())


def _job(job: Job, scenario: Scenario) -> Job:
    """The job as its objective has it: pairs and samples want other rates than texts, whatever the task was called."""
    tasks = {objective: task for task, objective in OBJECTIVE_OF.items()}
    return replace(job, task=tasks.get(scenario.train.objective, job.task))


def _heading(found: Plan, candidate: Candidate, asked: Request) -> tuple[str, ...]:
    """What the run is, what it takes, why this method, and how to plan it again."""
    peak, cluster, step = candidate.estimate.peak, candidate.scenario.cluster, candidate.step
    cards = f"{cluster.world_size} x {cluster.gpu.name}"
    lines = [
        f"{candidate.method} of {found.model.name} on {cards}: needs {format_gib(peak.required_bytes)} GiB "
        f"({format_gib(peak.low_bytes)} to {format_gib(peak.high_bytes)}) of {format_gib(cluster.usable_bytes)} GiB "
        "usable on each card"
    ]
    if step is not None:
        lines.append(f"a step takes about {step.seconds:.2g} s ({step.low:.2g} to {step.high:.2g})")
    if candidate.cost is not None:
        lines.append(f"the whole run about {candidate.cost.hours:.2g} h")
    lines += ["", *(f"{reason.code}: {reason.text}" for reason in found.recommendation.reasons), ""]
    return (*lines, f"made by: {found.recommendation.command or command(asked)}")


def hold_against(written: Written, chosen: Chosen, target: Target) -> None:
    """Read the files back; raise ``UnsupportedScenario`` for the first setting that did not survive."""
    lost = differences(chosen.scenario, read_back(written, chosen.request))
    if lost:
        name, (ours, theirs) = next(iter(lost.items()))
        raise UnsupportedScenario(
            f"{target.name} cannot express {option(name)} {show(ours)}: its files would mean {show(theirs)}"
        )


def read_back(written: Written, request: Request) -> Scenario:
    """The run that the files describe, on the hardware of ``request``."""
    texts = {file.name: file.text for file in written.files}
    documents = tuple(parse_document(texts[name], name) for name in written.configs)
    main, *companions = (read_as(one, format_of(one)) for one in documents)
    asked = replace(request, settings=written.settings, methods=(), gpus=written.gpus, nodes=written.nodes, stack="")
    back = request_of_files(combined(main, companions), documents, asked).request
    ask, _ = understand(back)
    return scenario_of(ask, back.methods[0])


def differences(ours: Scenario, theirs: Scenario) -> dict[str, tuple[Any, Any]]:
    """Settings that act and that two scenarios do not share, and how many cards they have; ours and theirs."""
    pairs = {name: (getattr(ours.train, name), getattr(theirs.train, name)) for name in ours.train.settings}
    pairs["gpus"] = (ours.cluster.world_size, theirs.cluster.world_size)
    pairs["nodes"] = (ours.cluster.nodes, theirs.cluster.nodes)
    pairs["stack"] = (ours.stack.name, theirs.stack.name)
    pairs["fsdp"] = (ours.stack.fsdp_version, theirs.stack.fsdp_version)
    if _adapted(ours) == _adapted(theirs):
        del pairs["lora_targets"]  # other names for the same matrices
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and acts(name, ours)}


def _adapted(scenario: Scenario) -> object:
    """The matrices that have adapters."""
    train, fused = scenario.train, scenario.stack.fused_experts
    if train.peft_type != "LORA":
        return None
    return adapters(scenario.model, train.lora_targets, train.modules_to_save, fused_experts=fused)


def _requirements(chosen: Chosen, written: Written) -> File:
    """The versions that the plan describes."""
    versions = chosen.scenario.stack.versions
    names = written.packages or tuple(versions)
    pins = [f"{name}=={versions[name]}.*" for name in versions if name in names]
    return File("requirements.txt", "\n".join(["# the versions that the plan describes", *pins]) + "\n")
