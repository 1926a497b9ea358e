"""A change that a plan proposes, as the user would write it in the file.

What the writer would say of the changed run tells which keys say the change; laid over the user's own file and read
again, they must mean exactly that run. Where they do not, or the trainer has no words for it, there is no edit.
"""

import importlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from planner.configs.document import Document, FileFormat, parse_document
from planner.configs.formats import BY_NAME, read_as
from planner.configs.script import CONFIGS
from planner.configs.understood import Reading, Understood
from planner.configs.written import Chosen, Written
from planner.errors import PlannerError
from planner.recommend.recipe import recipe
from planner.recommend.request import Request
from planner.result import Candidate
from planner.spec import Scenario

WRITERS: Mapping[str, str] = {
    **{name: name for name in ("trl", "axolotl", "llamafactory", "unsloth", "torchtune")},
    "transformers": "accelerate",
}
"""Modules that write a format's keys: TrainingArguments are written beside accelerate's file."""

OF_ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")
"""Settings that some trainers want to be told where there are adapters."""

MOST_ROUNDS = 3
"""Times that keys are added for what still differs: adapters bring rank and targets with them."""

PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
"""Words that YAML takes as text without quotes, but for those that mean something else."""
NOT_TEXT = ("true", "false", "null", "yes", "no", "on", "off")


@dataclass(frozen=True, slots=True)
class Edit:
    """Keys of one file with their new values, by dotted path, and keys that go."""

    file: str
    format: FileFormat
    keys: Mapping[str, Any]
    dropped: tuple[str, ...] = ()
    sets: Mapping[str, str] = field(default_factory=dict)
    """Which setting each of the keys is about."""

    @property
    def text(self) -> str:
        """The change as it would stand in the file.

        >>> Edit("sft.yml", "yaml", {"adapter": "qlora", "load_in_4bit": True}, ("load_in_8bit",)).text
        'sft.yml: adapter: qlora, load_in_4bit: true, without load_in_8bit'
        >>> Edit("train.py", "python", {"get_peft_model.r": 8, "SFTConfig.optim": "sgd"}).text
        "train.py: get_peft_model(r=8), SFTConfig(optim='sgd')"
        """
        lines = [*LINES[self.format](self.keys), *(f"without {key}" for key in self.dropped)]
        return f"{self.file}: {', '.join(lines)}"


def edit_of(
    candidate: Candidate,
    changed: Collection[str],
    request: Request,
    document: Document,
    understood: Understood,
    again: Callable[[Document], Scenario],
) -> Edit | None:
    """How ``document`` says the run of ``candidate``, which differs in ``changed`` settings; ``None`` where it cannot.

    ``again``: the run that a changed document means.
    """
    goal = candidate.scenario
    if understood.format == "transformers" and "method" in changed:
        return None  # which adapters there are stands in a script of the user's own
    try:
        theirs = _said(candidate, request, understood.format, document.format)
    except PlannerError:
        return None  # the trainer has no words for it

    def differs(edit: Edit) -> set[str] | None:
        """Settings that the changed file means otherwise than the goal; ``None`` where it cannot be read."""
        try:
            got = again(_over(document, edit))
        except PlannerError:
            return None
        return {name for name in goal.train.settings if getattr(got.train, name) != getattr(goal.train, name)}

    wanted = set(changed)
    for _ in range(MOST_ROUNDS):
        left: set[str] = set()
        for alias in (True, False):
            edit = _edit(wanted, theirs, document, understood, alias=alias)
            if not edit.keys and not edit.dropped:
                return None
            found = differs(edit)
            if found == set():
                return _shortest(edit, differs)
            left = set(OF_ADAPTERS) if found is None else found  # without them some trainers stop
        if left <= wanted:
            return None
        wanted |= left
    return None


def _shortest(edit: Edit, differs: Callable[[Edit], set[str] | None]) -> Edit:
    """The edit without settings that go without saying, and without switches that are off beside others.

    What has no place beside the new keys still goes, whether it is read or not.
    """
    for setting in dict.fromkeys(edit.sets.values()):
        group = [key for key in edit.keys if edit.sets[key] == setting]
        off = [key for key in group if edit.keys[key] is False]
        for left_out in (group, off if len(off) < len(group) else ()):
            shorter = replace(edit, keys={key: value for key, value in edit.keys.items() if key not in left_out})
            if left_out and differs(shorter) == set():
                edit = shorter
                break
    return edit


def _said(candidate: Candidate, request: Request, form: str, kind: FileFormat) -> list[Reading]:
    """The keys by which the trainer's writer says a run, as its reader takes them; none for files of another kind."""
    if form not in WRITERS:
        return []
    chosen = Chosen(
        candidate=candidate,
        job=request.job,
        request=request,
        recipe=recipe(candidate.scenario, request.job),
        model=request.model,
        dataset="",
        heading=(),
    )
    written: Written = importlib.import_module(f"planner.configs.{WRITERS[form]}").write(chosen)
    name = written.configs[0]
    document = parse_document(next(file.text for file in written.files if file.name == name), name)
    if (document.format == "python") != (kind == "python"):
        return []
    return [one for one in read_as(document, BY_NAME[form]).readings if one.fate == "used"]


def _edit(
    wanted: Collection[str],
    theirs: Collection[Reading],
    document: Document,
    understood: Understood,
    *,
    alias: bool,
) -> Edit:
    """The keys for ``wanted`` settings; ``alias``: under the one name that the file has for a setting already."""
    ours = [one for one in understood.of("used") if one.file == document.name and one.sets in wanted]
    keys: dict[str, Any] = {}
    sets: dict[str, str] = {}
    for one in (one for one in theirs if one.sets in wanted):
        alone = sum(other.sets == one.sets for other in theirs) == 1
        path = _path(one, ours, document, alias=alias and alone)
        keys[path], sets[path] = one.value, one.sets
    dropped = tuple(one.key for one in ours if one.key not in keys)
    new = {key: value for key, value in keys.items() if _at(document.data, key) != value}
    return Edit(document.name, document.format, new, dropped, sets)


def _path(one: Reading, ours: Iterable[Reading], document: Document, *, alias: bool) -> str:
    """Where the file has, or would have, a key that the writer names."""
    leaf = one.key.rpartition(".")[2]
    alike = [other.key for other in ours if other.sets == one.sets]
    for key in alike:
        if key.rpartition(".")[2] == leaf:
            return key
    if alias and len(alike) == 1:
        return alike[0]
    call = one.key.partition(".")[0]
    if call in CONFIGS and call not in document.data:
        return next((f"{name}.{leaf}" for name in CONFIGS if name in document.data), one.key)
    return one.key


# ---------------------------------------------------------------- a file with an edit laid over it


def _over(document: Document, edit: Edit) -> Document:
    data = dict(document.data)
    for key, value in edit.keys.items():
        data = _with(data, key, value)
    for key in edit.dropped:
        data = _with(data, key, None)
    return replace(document, data=MappingProxyType(data))


def _with(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """The mapping with a value at a dotted path; ``None`` says nothing there."""
    head, rest = _parted(data, path)
    if not rest:
        return {**data, head: value}
    inner = data.get(head)
    return {**data, head: _with(inner if isinstance(inner, Mapping) else {}, rest, value)}


def _at(data: Mapping[str, Any], path: str) -> object:
    head, rest = _parted(data, path)
    inner = data.get(head)
    if not rest:
        return inner
    return _at(inner, rest) if isinstance(inner, Mapping) else None


def _parted(data: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The first key of a path and the rest of it; names of keys may have dots, as calls of a script have."""
    heads = [key for key in data if path == key or path.startswith(f"{key}.")]
    head = max(heads, key=len, default=path.partition(".")[0])
    return head, path[len(head) + 1 :]


# ---------------------------------------------------------------- how a file writes it


def _yaml_lines(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {_flow(value)}" for key, value in keys.items()]


def _flow(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    plain = isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_TEXT
    return str(value) if plain else json.dumps(_short(value))


def _json_lines(keys: Mapping[str, Any]) -> list[str]:
    return [f"{json.dumps(key)}: {json.dumps(_short(value))}" for key, value in keys.items()]


def _short(value: object) -> object:
    """A number as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _calls(keys: Mapping[str, Any]) -> list[str]:
    """Keyword arguments, by call."""
    calls: dict[str, list[str]] = {}
    for path, value in keys.items():
        call, _, name = path.rpartition(".")
        calls.setdefault(call, []).append(f"{name}={_short(value)!r}")
    return [f"{call}({', '.join(arguments)})" for call, arguments in calls.items()]


LINES: Mapping[FileFormat, Callable[[Mapping[str, Any]], list[str]]] = {
    "yaml": _yaml_lines,
    "json": _json_lines,
    "python": _calls,
}
