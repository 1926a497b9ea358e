"""A plan as files that a trainer runs, read back before anybody gets them: what a trainer cannot say is an error."""

import importlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from planner.configs.checking import acts, request_of_files
from planner.configs.combining import combined
from planner.configs.document import Document, parse_document
from planner.configs.formats import format_of, read_as
from planner.configs.targets import TARGETS, TRAINERS, Target
from planner.configs.understood import Understood
from planner.configs.written import REQUIREMENTS, Chosen, File, Written
from planner.errors import UnknownName, UnsupportedScenario, UsageError, option, show
from planner.estimators import Estimator
from planner.formulas.adapters import adapters
from planner.planning import plan
from planner.prices.amounts import spell_hours
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.names import understand
from planner.recommend.recipe import recipe
from planner.recommend.request import DEFAULT_STACK, Request, command, options
from planner.recommend.rules.base import seconds
from planner.recommend.verdict import judge
from planner.result import Candidate, Estimate, Plan
from planner.spec import Job, Scenario
from planner.spec.job import OBJECTIVE_OF
from planner.stacks.rules import load_stack, pinned
from planner.units import format_gib


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written for one target; ``files`` is empty where nothing fits."""

    target: Target
    plan: Plan
    files: tuple[File, ...] = ()
    configs: tuple[str, ...] = ()
    launch: str = ""
    setup: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    """Options with which ``plan check`` reads ``configs`` as the run that they are: hardware, and what no file says."""


def export(name: str, request: Request, *, dataset: str = "", trainer: str = "") -> Exported:
    """What ``request`` recommends, as the files of the target ``name``; a job runs those of ``trainer``, else TRL's.

    ``request.stack`` is empty where the target's own is meant. What the target cannot express is not recommended;
    raise ``UnknownName``, ``UsageError`` for what is of no use to this target, and ``UnsupportedScenario`` where it
    cannot express what was asked for.
    """
    target = TARGETS.get(name)
    if target is None:
        raise UnknownName("target", name, TARGETS)
    runs = _trainer(target, trainer)
    asked = replace(request, stack=request.stack or runs.stack)
    _check_stack(name, asked.stack, runs)
    _check_card(asked)
    places = places_of(asked, dataset, target)
    found = _plan_for(runs, asked, places)
    if found.recommendation.candidate is None:
        return Exported(target=target, plan=found)
    chosen = chosen_of(found, asked, places)
    written = checked(chosen, runs)
    files = (*written.files, _requirements(chosen, written))
    check = check_options(written, asked)
    if target.job:
        asking: Written = importlib.import_module(target.module).write(chosen, replace(written, files=files))
        files = files + asking.files
        written = replace(asking, configs=written.configs, setup=_brought(places, target, files))
    return Exported(
        target=target,
        plan=found,
        files=files,
        configs=written.configs,
        launch=written.launch,
        setup=written.setup,
        check=check,
    )


# ---------------------------------------------------------------- what was asked for


def _trainer(target: Target, trainer: str) -> Target:
    """Whose files are written; only a job has a choice."""
    if not target.job:
        if trainer:
            raise UsageError(
                f"--trainer says what a job runs, and {target.name} runs itself: leave it out, "
                f"or write plan export {trainer if trainer in TRAINERS else 'slurm'} ..."
            )
        return target
    if trainer and trainer not in TRAINERS:
        raise UnknownName("trainer", trainer, TRAINERS)
    return TARGETS[trainer or target.stack]


def _check_stack(name: str, text: str, runs: Target) -> None:
    """Raise ``UsageError`` for a stack that the target does not write for."""
    stack = load_stack(text).behaviour.name
    if stack == runs.stack:
        return
    others = [one for one in TRAINERS if TARGETS[one].stack == stack]
    instead = f"--trainer {others[0]}" if others and TARGETS[name].job else f"plan export {others[0]}" if others else ""
    raise UsageError(
        f"{runs.name} is written for the stack {runs.stack}, and --stack {show(text)} is another: leave it out"
        + (f", or take {instead}" if instead else "")
    )


def _check_card(asked: Request) -> None:
    """Raise ``UnsupportedScenario`` for cards that the packages of an export do not run on: PyPI's torch is CUDA's."""
    gpu = understand(asked)[0].cluster.gpu
    if gpu.vendor == "amd":
        raise UnsupportedScenario(
            f"plan export cannot express --gpu {gpu.id}: it pins packages built for CUDA, and AMD's cards want ROCm's; "
            "take --gpu h100, or plan without export"
        )


# ---------------------------------------------------------------- data and models that are here


class Places(NamedTuple):
    """What the files call data and model: a name of the Hub, or a path; no model where its name on the Hub will do.

    ``brought``: what is here and not where the run starts.
    """

    dataset: str
    model: str
    brought: tuple[Path, ...] = ()


def places_of(asked: Request, dataset: str, target: Target) -> Places:
    """Where a run of ``target`` finds what is here: from wherever it starts, or beside its files."""
    data, model = _here(dataset), _here(asked.model)
    if model is not None and model.is_file():
        model = model.parent
    for path in (data, model):
        if path is not None and _is_no_text(str(path)):
            raise UsageError(f"{show(str(path))} has a name that is no text in UTF-8, as files want it: rename it")
    if target.finds == "here":
        return Places(dataset if data is None else str(data), "" if model is None else str(model))
    return Places(
        dataset if data is None else data.name,
        "" if model is None else f"./{model.name}",
        tuple(path for path in (data, model) if path is not None),
    )


def _here(name: str) -> Path | None:
    """The whole path of what is on this machine."""
    path = Path(name).expanduser() if name else None
    return path.absolute() if path is not None and path.exists() else None


def _is_no_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _brought(places: Places, target: Target, files: tuple[File, ...]) -> tuple[str, ...]:
    """Commands that bring what is here into the folder of the files; a volume is the cluster's."""
    if target.finds != "folder":
        return ()
    taken = {file.name for file in files}
    for path in places.brought:
        if path.name in taken:
            raise UnsupportedScenario(f"{show(path.name)} is what a file of the export is called: rename it")
    return tuple(f"cp -r {shlex.quote(str(path))} ." for path in places.brought)


# ---------------------------------------------------------------- what is recommended


def _plan_for(target: Target, asked: Request, places: Places) -> Plan:
    """The plan; where its choice has no words in ``target``, the plan among what the target can express.

    Raise ``UnsupportedScenario`` where that leaves nothing to plan.
    """
    steps = (step for step in ({}, *target.instead) if not step.keys() & asked.settings.keys())
    refused = None
    for within, step in ((None, {}), *((_expressible(target, asked, places), step) for step in steps)):
        try:
            found = plan(asked, within=within, planned=step)
            if within is None and found.recommendation.candidate is not None:
                checked(chosen_of(found, asked, places), target)
            return found
        except UnsupportedScenario as error:
            refused = error
    raise refused or AssertionError  # the first round returns or refuses


def _expressible(target: Target, asked: Request, places: Places) -> Callable[[Estimator], Estimator]:
    """Lets an estimator answer for what ``target`` can express on the hardware that was asked for.

    Other hardware is advice, which an export is asked about again.
    """
    cluster = understand(asked)[0].cluster
    refusals: dict[Scenario, str] = {}

    def within(estimate: Estimator) -> Estimator:
        def estimated(scenario: Scenario) -> Estimate:
            found = estimate(scenario)
            if scenario.cluster != cluster:
                return found
            if scenario not in refusals:
                refusals[scenario] = _refusal(scenario, found, target, asked, places)
            if refusals[scenario]:
                raise UnsupportedScenario(refusals[scenario])
            return found

        return estimated

    return within


def _refusal(scenario: Scenario, found: Estimate, target: Target, asked: Request, places: Places) -> str:
    """Why ``target`` cannot express a scenario; empty where it can."""
    candidate = Candidate(scenario=scenario, estimate=found, verdict=judge(found, scenario.cluster))
    try:
        checked(_chosen(candidate, asked.job, asked, places), target)
    except UnsupportedScenario as error:
        return str(error)
    return ""


def chosen_of(found: Plan, asked: Request, places: Places) -> Chosen:
    """The recommended candidate with all that a writer needs; the plan must have one."""
    candidate = found.candidates[found.recommendation.candidate or 0]
    return _chosen(candidate, found.job, asked, places, heading=_heading(found, candidate, asked))


def _chosen(candidate: Candidate, job: Job, asked: Request, places: Places, heading: tuple[str, ...] = ()) -> Chosen:
    scenario = candidate.scenario
    return Chosen(
        candidate=candidate,
        job=job,
        request=asked,
        recipe=recipe(scenario, _of_objective(job, scenario)),
        model=places.model or scenario.model.hub_id or asked.model,
        dataset=places.dataset,
        heading=heading,
        beside=tuple(path.name for path in places.brought),
    )


def _of_objective(job: Job, scenario: Scenario) -> Job:
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
        lines.append(f"a step takes about {seconds(step.seconds)} ({seconds(step.low)} to {seconds(step.high)})")
    if candidate.cost is not None:
        lines.append(f"the whole run about {spell_hours(candidate.cost.hours)}")
    lines += ["", *(f"{reason.code}: {reason.text}" for reason in found.recommendation.reasons), ""]
    return (*lines, f"made by: {found.recommendation.command or command(asked)}")


# ---------------------------------------------------------------- what comes back


def checked(chosen: Chosen, target: Target) -> Written:
    """What ``target`` writes, read back; raise ``UnsupportedScenario`` for the first setting that did not survive."""
    written: Written = importlib.import_module(target.module).write(chosen)
    lost = differences(chosen.scenario, read_back(written, chosen.request))
    if lost:
        name, (ours, theirs) = next(iter(lost.items()))
        raise UnsupportedScenario(
            f"{target.name} cannot express {option(name)} {show(ours)}: its files would mean {show(theirs)}"
        )
    return written


def read_back(written: Written, request: Request) -> Scenario:
    """The run that the files describe, on the hardware of ``request``."""
    understood, documents = _understood(written)
    back = request_of_files(understood, documents, _asked_again(written, request, understood)).request
    ask, _ = understand(back)
    return scenario_of(ask, back.methods[0])


def check_options(written: Written, request: Request) -> tuple[str, ...]:
    """What a command has to say so that ``plan check`` reads the files as ``read_back`` does."""
    asked = _asked_again(written, request, _understood(written)[0])
    return ("--model", asked.model, *options(replace(asked, stack=asked.stack or DEFAULT_STACK)))


def _understood(written: Written) -> tuple[Understood, tuple[Document, ...]]:
    """What the files say together."""
    texts = {file.name: file.text for file in written.files}
    documents = tuple(parse_document(texts[name], name) for name in written.configs)
    main, *companions = (read_as(one, format_of(one)) for one in documents)
    return combined(main, companions), documents


def _asked_again(written: Written, request: Request, understood: Understood) -> Request:
    """The request without what the files say: its hardware, its versions, and the settings of the command alone."""
    versions = pinned(request.stack) if request.stack else ()
    return replace(
        request,
        settings=written.settings,
        methods=(),
        gpus=written.gpus,
        nodes=written.nodes,
        stack=",".join((understood.stack or load_stack(request.stack).behaviour.name, *versions)) if versions else "",
    )


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
    return File(REQUIREMENTS, "\n".join(["# the versions that the plan describes", *pins]) + "\n")
