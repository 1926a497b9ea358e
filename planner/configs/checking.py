"""A trainer's configuration, with its companions, as a plan of exactly that run."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from planner.catalog import REPOSITORY, exists, find_name, load_model, looks_like_path, refuse_uncovered
from planner.configs.combining import combined
from planner.configs.deepspeed_shipped import shipped_document
from planner.configs.document import STDIN, Document, read_document
from planner.configs.formats import BY_NAME, Format, format_of, read_as
from planner.configs.spelled import edit_of
from planner.configs.transformers_keys import EVALUATED
from planner.configs.understood import Reading, Understood
from planner.configs.wording import told_by_keys
from planner.errors import BrokenInput, UnsupportedScenario, UsageError, nearest, show
from planner.hardware import list_classes
from planner.planning import plan
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.candidates import supported
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.request import DEFAULT_STACK, Request, Setting, options
from planner.recommend.shared import shared_estimator
from planner.result import Candidate, Plan, Way
from planner.spec import MOMENT_SETTINGS, Cluster, Method, Scenario, TrainSpec
from planner.spec.training import NAMES
from planner.stacks.rules import unset_settings

HELD = ("seq_len", "micro_batch_size", "grad_accumulation", "gradient_checkpointing", "lora_rank")
"""Settings that a plan fills in where they are open; a configuration always has them."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A configuration and its plan. ``unset``: what the trainer takes where the files say nothing.

    ``overridden``: settings that the command changed.
    """

    understood: Understood
    documents: tuple[Document, ...]
    plan: Plan
    unset: Mapping[str, Setting]
    overridden: tuple[str, ...] = ()

    @property
    def candidate(self) -> Candidate:
        """The run that the files describe."""
        return self.plan.candidates[0]

    @property
    def format(self) -> Format:
        """Whose configuration it is."""
        return BY_NAME[self.understood.format]


def understand_files(
    paths: Sequence[str | Path], trainer: str | None = None
) -> tuple[Understood, tuple[Document, ...]]:
    """What the files say together: one of them a trainer's, the others companions that lie beside it.

    Files that the trainer's own names are read too where they lie in its folder, or below it.
    """
    if [str(one) for one in paths].count(STDIN) > 1:
        raise UsageError(f"{STDIN} is standard input, which is read once: name it once")
    found, documents = _understood([read_document(path, piped=True) for path in paths], trainer)
    return replace(found, paths=tuple(map(str, paths)), trainer=trainer), documents


def _understood(documents: list[Document], trainer: str | None) -> tuple[Understood, tuple[Document, ...]]:
    """What documents say together, and those that they name."""
    forms = [format_of(one, trainer if place == 0 else None) for place, one in enumerate(documents)]
    kinds = [trainer if trainer in form.kinds else None for form in forms]
    mains = [place for place, form in enumerate(forms) if not form.companion]
    if len(mains) > 1:
        first, second = (documents[place].name for place in mains[:2])
        raise UsageError(f"{first} and {second} both describe a run: check them one by one")
    main = _main(forms)
    read = [read_as(one, form, kind) for one, form, kind in zip(documents, forms, kinds, strict=True)]
    for place, one in enumerate(read):  # grows: a companion may name a file, too
        for path in _named(one, documents[place], documents):
            documents.append(_read(path))
            read.append(read_as(documents[-1], format_of(documents[-1])))
    return combined(read[main], (one for place, one in enumerate(read) if place != main)), tuple(documents)


def _main(forms: Sequence[Format]) -> int:
    """The place of the trainer's own file; the first of companions alone."""
    return next((place for place, form in enumerate(forms) if not form.companion), 0)


def _named(main: Understood, document: Document, given: Iterable[Document]) -> list[Path]:
    """Files that the configuration names and that were not given; raise ``BrokenInput`` for one that is elsewhere."""
    had = {one.path.resolve() for one in given}
    names = {one.name for one in given}
    found = []
    for key, name in main.files.items():
        path = (document.folder / name).resolve()
        if path in had or Path(name).name in names:
            continue
        if not path.is_relative_to(document.folder.resolve()):
            raise BrokenInput(
                f"{document.name}: {key} {show(name)} lies elsewhere, and is not read unasked: name it too"
            )
        if not exists(path) and shipped_document(path) is None:
            raise BrokenInput(f"{document.name}: {key} {show(name)} is not beside it: name that file too")
        found.append(path)
    return found


def _read(path: Path) -> Document:
    """The file, or what its trainer ships under that name where it is not there."""
    shipped = None if exists(path) else shipped_document(path)
    return read_document(path) if shipped is None else shipped


def acts(name: str, scenario: Scenario) -> bool:
    """Whether a setting decides anything in this run: adapters' do not under full fine-tuning."""
    train = scenario.train
    if name.startswith("lora_") or name in ("adapter_dtype", "modules_to_save"):
        return train.uses_adapters
    if name in ("quant", "double_quant", "quant_storage"):
        return train.quantized and (name == "quant" or train.quant != "int8")
    return train.shards_by_fsdp if name == "fsdp" else name not in NAMES or name in train.settings


def judged_somewhere(
    understood: Understood, documents: tuple[Document, ...], request: Request, ignore: Sequence[str] = ()
) -> Checked:
    """The plan on the smallest class of cards that runs what the files describe, or on the largest if none does.

    A class is its weakest card, so a note says that no card was named.
    """
    classes = list_classes(request.profiles_dir)
    runs = (gpu.id for gpu in classes if _runs(understood, documents, replace(request, gpu=gpu.id)))
    smallest = next(runs, None)
    found = check(understood, documents, replace(request, gpu=smallest or classes[-1].id), ignore)
    if smallest is None:
        return _noted(found, f"no --gpu: {classes[-1].id} is the largest class of cards")
    return _noted(found, f"no --gpu: {smallest} is the smallest class of cards that runs it")


def _runs(understood: Understood, documents: tuple[Document, ...], request: Request) -> bool:
    """Whether the run fits, or is tight, on the card of ``request``; not where the card cannot do what files ask."""
    with told_by_keys(understood, _held(request)):
        asked = replace(request_of_files(understood, documents, request).request, evidence="closed-form")
        ask = informed(understand(asked)[0])
        found = supported(ask, ask.methods[0], shared_estimator())
    return found is not None and found.verdict != "does_not_fit"


def _held(request: Request) -> set[str]:
    """What the command said itself, which no key of a file is to blame for."""
    told = {
        "method": bool(request.methods),
        "gpus": request.gpus > 1,
        "nodes": request.nodes is not None,
        "stack": bool(request.stack),
    }
    return {*request.settings, *(name for name, said in told.items() if said)}


def _noted(found: Checked, note: str) -> Checked:
    return replace(found, plan=replace(found.plan, notes=(note, *found.plan.notes)))


class Asked(NamedTuple):
    """The request that files make, and which of its settings are the trainer's own defaults."""

    request: Request
    unset: Mapping[str, Setting]


def check(
    understood: Understood, documents: tuple[Document, ...], request: Request, ignore: Sequence[str] = ()
) -> Checked:
    """The plan of the run that the files describe, on the hardware of ``request``, whose settings come before theirs.

    Raise ``UnsupportedScenario`` for keys that change the answer in a way that we do not model, unless they stand in
    ``ignore``.
    """
    _refuse_absent(ignore, understood.readings)
    refuse_unmodelled(understood.of("unmodelled"), ignore)
    with told_by_keys(understood, _held(request)):
        asked, unset = request_of_files(understood, documents, request)
        found = _with_origins(plan(asked), unset.keys() - request.settings.keys())
    edits = _Edits(understood, documents, request, asked, found.cluster)
    return Checked(
        understood=_settled(understood, asked),
        documents=documents,
        plan=_with_commands(found, [*understood.words, *_ignoring(ignore)], request, edits),
        unset=unset,
        overridden=tuple(name for name in request.settings if name in understood.settings),
    )


def request_of_files(understood: Understood, documents: tuple[Document, ...], request: Request) -> Asked:
    """The request of files on the hardware of ``request``; its model and stack are empty where the files name them."""
    stack = _stack(request, understood)
    gpus = request.gpus if request.gpus > 1 else understood.gpus or request.gpus
    model = request.model or _model(understood, documents)
    unset = _unset(understood, stack, model, gpus)
    return Asked(
        replace(
            request,
            model=model,
            methods=(request.methods or _methods(understood))[:1],
            gpus=gpus,
            nodes=request.nodes or understood.nodes,
            settings=_planned({**unset, **understood.settings, **request.settings}, request),
            stack=stack,
            job=replace(request.job, **understood.job),
        ),
        unset,
    )


def _stack(request: Request, understood: Understood) -> str:
    """The command's stack, the trainer's, or that of companions alone; with the version of FSDP that the files say."""
    stack = request.stack or understood.stack or "hf"
    return stack if understood.fsdp is None or "fsdp=" in stack else f"{stack},fsdp={understood.fsdp}"


def _methods(understood: Understood) -> tuple[Method, ...]:
    """The method of the files; that of an adapter's own file is told by its kind."""
    if "peft_config" in understood.settings and understood.method in (None, "lora"):
        return ()
    return (understood.method or "full",)


def _planned(settings: Mapping[str, Setting], request: Request) -> Mapping[str, Setting]:
    """Without the evaluation that files ask for where it is not planned: among several cards, and of pairs."""
    beyond = settings.get("sharding", "none") != "none" or settings.get("objective", "sft") != "sft"
    if not beyond or "moments" in request.settings:
        return settings
    return {name: value for name, value in settings.items() if name != "moments"}


def _refuse_absent(ignore: Sequence[str], readings: Sequence[Reading]) -> None:
    """Raise ``UsageError`` for a key to ignore that no file has, or that counts: mistyped, or not needed."""
    keys = [one.key for one in readings]
    for name in ignore:
        counts = [one.fate == "used" for one in readings if one.key == name]
        if counts and all(counts):
            raise UsageError(
                f"--ignore {show(name)}: what {_files(readings)} says there is planned: leave it out, or take the key "
                "out of the file"
            )
        if name not in keys:
            near = nearest(name, keys, count=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            raise UsageError(f"--ignore {show(name)}: no key of {_files(readings)} has that name; {hint}")


def _files(readings: Sequence[Reading]) -> str:
    return " or ".join(dict.fromkeys(one.file for one in readings)) or "these files"


def _settled(understood: Understood, asked: Request) -> Understood:
    """What was understood, with a note where the evaluation of the files is not planned."""
    if "moments" not in understood.settings or "moments" in asked.settings:
        return understood
    others = tuple(note for note in understood.notes if note != EVALUATED)
    return replace(understood, notes=(*others, "evaluation is not planned among several cards, nor of pairs"))


def refuse_unmodelled(keys: Sequence[Reading], ignore: Sequence[str]) -> None:
    left = [one for one in keys if one.key not in ignore]
    if left:
        first = left[0]
        others = f"; so {'do' if left[2:] else 'does'} {', '.join(one.key for one in left[1:])}" if left[1:] else ""
        go_on = " ".join(_ignoring(one.key for one in left))
        raise UnsupportedScenario(
            f"{first.file}: {first.key} {show(first.value)} changes the answer ({first.why}){others}: "
            f"{go_on} goes on without"
        )


def _unset(understood: Understood, stack: str, model: str, gpus: int) -> dict[str, Setting]:
    """What the trainer takes where the files are silent."""
    held = {name: getattr(TrainSpec, name) for name in HELD}
    theirs = unset_settings(stack, load_model(model).model, gpus=gpus)
    said = {**held, "sharding": "ddp" if gpus > 1 else "none", **theirs}
    if "peft_config" in understood.settings or _methods(understood) == ("full",):
        said = {name: value for name, value in said.items() if name not in OF_ADAPTERS}
    if "moments" not in {**said, **understood.settings}:
        said = {name: value for name, value in said.items() if name not in MOMENT_SETTINGS}
    return {name: value for name, value in said.items() if name not in understood.settings}


OF_ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "modules_to_save")
"""Settings that an ``adapter_config.json`` has itself, and a full run has not."""


def _with_origins(found: Plan, theirs: Collection[str]) -> Plan:
    """The plan with the trainer's own defaults told as such, and not as the user's."""

    def told(one: Candidate) -> Candidate:
        by = one.scenario.origins
        origins = {name: "stack" if name in theirs and by[name] == "user" else by[name] for name in by}
        return replace(one, scenario=replace(one.scenario, origins=origins))

    return replace(found, candidates=tuple(told(one) for one in found.candidates))


class _Edits(NamedTuple):
    """What changes would look like in the files: ``request`` is the command's, ``asked`` that of the files."""

    understood: Understood
    documents: tuple[Document, ...]
    request: Request
    asked: Request
    cluster: Cluster

    def of(self, way: Way) -> str:
        """How the trainer's own file says what a way changes; empty where it does not, and for other cards or engines:
        their launcher is told, too.
        """
        here = (way.gpu, way.gpus) == (self.cluster.gpu.id, self.cluster.world_size)
        if not here or not way.settings or {"sharding", "offload"} & way.settings.keys():
            return ""
        main = self.documents[_main([format_of(one) for one in self.documents])]

        def again(changed: Document) -> Scenario:
            found, documents = _understood(
                [changed if one is main else one for one in self.documents], self.understood.trainer
            )
            ask = informed(understand(request_of_files(found, documents, self.request).request)[0])
            return scenario_of(ask, ask.methods[0])

        edit = edit_of(way.candidate, way.settings, self.asked, main, self.understood, again)
        return "" if edit is None else edit.text


def _with_commands(found: Plan, files: Sequence[str], request: Request, edits: _Edits) -> Plan:
    """The plan with commands that ask of the same files: what a way changes lies over them, or stands in them."""
    advice = found.recommendation

    def told(way: Way) -> Way:
        settings = {name: value for name, value in way.settings.items() if name != "method"}
        method = cast("tuple[Method, ...]", (way.settings["method"],)) if "method" in way.settings else request.methods
        asked = replace(request, gpu=way.gpu, gpus=way.gpus, methods=method, settings={**request.settings, **settings})
        return replace(way, command=_command(files, asked), edit=edits.of(way))

    changed = replace(
        advice,
        command=None if advice.command is None else _command(files, request),
        alternatives=tuple(replace(one, way=told(one.way)) for one in advice.alternatives),
        changes=tuple(told(one) for one in advice.changes),
        rent=tuple(told(one) for one in advice.rent),
    )
    return replace(found, recommendation=changed)


def _command(files: Sequence[str], request: Request) -> str:
    """The command that checks these files on the hardware of ``request``, with its settings over theirs."""
    model = ["--model", request.model] if request.model else []
    return shlex.join(
        ["plan", "check", *files, *model, *options(replace(request, stack=request.stack or DEFAULT_STACK))]
    )


def _ignoring(keys: Iterable[str]) -> list[str]:
    return [word for key in keys for word in ("--ignore", key)]


def _model(understood: Understood, documents: Sequence[Document]) -> str:
    """The model that the files name, where it is known here or lies beside them; nothing is fetched unasked."""
    name, file = understood.model, documents[0]
    if not name:
        strange = next((one for one in understood.of("unknown") if one.sets == "model"), None)
        if strange is not None:
            raise UsageError(f"{strange.file}: {strange.key} {show(strange.value)} is {strange.why}")
        raise UsageError(f"{file.name} names no model: add --model")
    if find_name(name) is not None and not looks_like_path(name):
        return name
    path = file.folder / name
    if looks_like_path(name) or exists(path):
        inside = any(path.resolve().is_relative_to(Path(one).resolve()) for one in (file.folder, "."))
        if not inside:
            raise UsageError(
                f"{file.name}: the model {show(name)} lies elsewhere, and is not read unasked: add --model"
            )
        return str(path)
    refuse_uncovered(name)
    if REPOSITORY.fullmatch(name):
        raise UsageError(
            f"{file.name}: {name} is not in the catalogue, and nothing is fetched unasked: --model {name} looks it up"
        )
    raise UsageError(f"{file.name}: the model {show(name)} is not known here: add --model")
