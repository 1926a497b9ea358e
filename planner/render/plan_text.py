"""What a plan says, in words and neutral tables; ``terminal`` and ``markdown`` give it a look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

from planner.render import words
from planner.render.sheet import Cell, Column, Sheet, Tone, printable, row
from planner.result import ALL_PHASES, OWNERS, Candidate, Plan, Way
from planner.spec import ACTS, MOMENTS_OF, Origin, TrainSpec
from planner.units import GIB, format_count

LORA_SETTINGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "modules_to_save")
QUANT_SETTINGS = ("quant", "double_quant", "quant_storage")

TOTALS = {
    "allocated": "allocated_bytes",
    "reserved": "reserved_bytes",
    "on the device": "device_bytes",
    "needed": "required_bytes",
    "paged by the driver": "managed_bytes",
}
ELSEWHERE = ("managed_bytes",)
"""Totals that are shown only where there are any."""

MUCH_RAM = 8 * GIB
"""From here on a machine's RAM is worth a line."""

SILENT: Mapping[str, object] = MappingProxyType(
    {
        "grad_accumulation": 1,
        "lora_dropout": 0.0,
        "modules_to_save": (),
        "quant_storage": "uint8",
        "kernels": "eager",
        "sharding": "none",
        "peft_config": "",
        "eval_accumulation_steps": 0,
    }
)
"""Defaults of ours that do nothing: JSON has them, two lines of text have not."""


@dataclass(frozen=True, slots=True)
class Group:
    """Ways out of one kind under a heading."""

    heading: str
    ways: tuple[Way, ...]


def subject(plan: Plan) -> tuple[str, str, str]:
    """What was asked: the model with its size, the hardware with what it offers, the software."""
    total = format_count(plan.candidates[0].estimate.parameters.total)
    usable = words.usable(plan.cluster)
    each = "usable each" if plan.cluster.world_size > 1 else "usable"
    return (
        f"{plan.model.name}, {total} parameters",
        f"{words.cards(plan.cluster)}, {usable} GiB {each}",
        software(plan),
    )


def data(plan: Plan) -> str:
    """The file of training data in one line; empty where there is none."""
    if plan.dataset is None:
        return ""
    from planner.render.dataset import dataset_line  # noqa: PLC0415  (most plans have no file)

    return dataset_line(plan.dataset)


def software(plan: Plan) -> str:
    """The stack with its versions, its namesake first."""
    stack = plan.candidates[0].scenario.stack
    rest = [f"{package} {version}" for package, version in stack.versions.items() if package != stack.name]
    return ", ".join([f"{stack.name} {stack.versions.get(stack.name, '')}".strip(), *rest])


def evidence(plan: Plan) -> str:
    """On what the numbers rest; the interval is each candidate's own."""
    kinds = dict.fromkeys(candidate.estimate.evidence for candidate in plan.candidates)
    return f"{' and '.join(kinds)} estimate"


def labels(plan: Plan) -> tuple[str, ...]:
    """A name for each candidate: its method, starred where the plan recommends other settings than asked."""
    seen: set[str] = set()
    names = []
    for candidate in plan.candidates:
        names.append(candidate.method + ("*" if candidate.method in seen else ""))
        seen.add(candidate.method)
    return tuple(names)


def requested(plan: Plan) -> tuple[Candidate, ...]:
    """The candidates on the settings that were asked for: the first of each method."""
    first: dict[str, Candidate] = {}
    for candidate in plan.candidates:
        first.setdefault(candidate.method, candidate)
    return tuple(first.values())


def starred(plan: Plan) -> tuple[str, ...]:
    """For each starred candidate, how its settings differ from those asked for."""
    base = {candidate.method: candidate for candidate in requested(plan)}
    return tuple(
        f"{label} with {words.settings(differing(base[candidate.method], candidate))}"
        for label, candidate in zip(labels(plan), plan.candidates, strict=True)
        if candidate is not base[candidate.method]
    )


def differing(old: Candidate, new: Candidate) -> dict[str, object]:
    """Settings of ``new`` that ``old`` does not share."""
    before, after = old.scenario.train, new.scenario.train
    names = [field.name for field in fields(TrainSpec)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def headline(plan: Plan) -> Cell:
    """The verdict on the whole request."""
    where = words.cards(plan.cluster)
    by_verdict = {
        verdict: [name for name, one in zip(labels(plan), plan.candidates, strict=True) if one.verdict == verdict]
        for verdict in words.VERDICTS
    }
    if by_verdict["fits"]:
        return Cell(f"{_listed(by_verdict['fits'])} on {where}", "good")
    if by_verdict["tight"]:
        return Cell(f"{_listed(by_verdict['tight'])} on {where}, but tight", "warn")
    return Cell(f"Nothing fits on {where}", "bad")


def _listed(names: Sequence[str]) -> str:
    text = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{text} {'fits' if len(names) == 1 else 'fit'}"


def verdicts(plan: Plan) -> Sheet:
    """One row per candidate: verdict, memory that a card must have, when."""
    rows = []
    for label, candidate in zip(labels(plan), plan.candidates, strict=True):
        peak = candidate.estimate.peak
        interval = f"{words.gib(peak.low_bytes)}–{words.gib(peak.high_bytes)}"
        cells = (Cell(label, "strong"), words.verdict(candidate.verdict), words.gib(peak.required_bytes))
        rows.append(row((*cells, Cell(interval, "faint"), words.phase(peak.phase))))
    columns = (
        Column("method"),
        Column("verdict"),
        Column("GiB", numeric=True),
        Column("low–high", numeric=True),
        Column("peak in"),
    )
    return Sheet("", columns, tuple(rows), notes=starred(plan))


def breakdown(plan: Plan) -> Sheet:
    """Bytes by owner at the instant of each candidate's peak, and what they come to on a card."""
    rows = [
        row((name, *(words.gib(getattr(one.estimate.peak_memory, owner)) for one in plan.candidates)))
        for owner, name in words.OWNER_WORDS.items()
    ]
    for name, attribute in TOTALS.items():
        counts = [getattr(one.estimate.peak, attribute) for one in plan.candidates]
        if any(counts) or attribute not in ELSEWHERE:
            tone: Tone = "strong" if attribute == "required_bytes" else ""
            rows.append(row((name, *(Cell(words.gib(count), tone) for count in counts))))
    ram = [one.estimate.host.required_on(one.scenario.cluster) for one in plan.candidates]
    if any(count >= MUCH_RAM for count in ram) or plan.cluster.host_memory_bytes is not None:
        rows.append(row(("RAM of a machine", *(words.gib(count) for count in ram))))
    return Sheet("Memory at the peak", _by_candidate(plan, "GiB at the peak"), tuple(rows), rules=(len(OWNERS),))


def phases(plan: Plan) -> Sheet:
    """Allocated bytes by phase; the peak stands out."""
    rows = []
    present = {name for candidate in plan.candidates for name in candidate.estimate.phases}
    for name in (name for name in ALL_PHASES if name in present):
        cells = [Cell(words.phase(name))]
        for candidate in plan.candidates:
            memory = candidate.estimate.phases.get(name)
            at_peak = candidate.estimate.peak.phase == name
            text = words.gib(memory.total) if memory is not None else ""
            cells.append(Cell(text, "strong" if at_peak else ""))
        rows.append(tuple(cells))
    return Sheet("Allocated by phase", _by_candidate(plan, "GiB allocated in"), tuple(rows))


def _by_candidate(plan: Plan, first: str) -> tuple[Column, ...]:
    return (Column(first), *(Column(label, numeric=True) for label in labels(plan)))


def recommendation(plan: Plan) -> Cell:
    """The choice in one sentence."""
    index = plan.recommendation.candidate
    if index is None:
        return Cell("none of these methods on this hardware", "bad")
    chosen = plan.candidates[index]
    extra = dict(zip(_starred_labels(plan), starred(plan), strict=True)).get(labels(plan)[index], labels(plan)[index])
    tone = words.VERDICTS[chosen.verdict][1]
    return Cell(f"{extra}: {words.VERDICTS[chosen.verdict][0]}, needs {words.against(chosen)}", tone)


def _starred_labels(plan: Plan) -> list[str]:
    return [label for label in labels(plan) if label.endswith("*")]


def groups(plan: Plan) -> tuple[Group, ...]:
    """Ways out: on this hardware, on more of the same cards, on other cards. Empty ones are left out."""
    here = plan.cluster.gpu.id
    count = "these cards" if plan.cluster.world_size > 1 else "this card"
    found = (
        Group(f"Changes on {count}", plan.recommendation.changes),
        Group("More of these cards", tuple(way for way in plan.recommendation.rent if way.gpu == here)),
        Group("Other cards to rent", tuple(way for way in plan.recommendation.rent if way.gpu != here)),
    )
    return tuple(group for group in found if group.ways)


def way_title(plan: Plan, way: Way) -> str:
    """What a way does, in one phrase: the method, then whatever differs from the request, or the change of a file."""
    parts = [way.candidate.method]
    if (way.gpu, way.gpus) != (plan.cluster.gpu.id, plan.cluster.world_size):
        parts = [f"{way.gpus} × {way.gpu}", *parts, *([way.sharding] if way.gpus > 1 else [])]
    if way.edit:
        return f"{', '.join(parts)}, in {printable(way.edit)}"
    rest = {
        name: content for name, content in way.settings.items() if name not in ("method", "sharding", "gpu", "gpus")
    }
    return ", ".join([*parts, *([words.settings(rest)] if rest else [])])


def ways(plan: Plan, group: Group) -> Sheet:
    """A group as a table."""
    columns = (
        Column("change", wraps=True),
        Column("verdict"),
        Column("GiB", numeric=True),
        Column("US$"),
        Column("command", wraps=True),
    )
    rows = tuple(
        row(
            (
                way_title(plan, way),
                words.verdict(way.candidate.verdict),
                words.against(way.candidate).removesuffix(" GiB"),
                words.dollars(way.usd_per_hour),
                Cell(way.command, "code"),
            )
        )
        for way in group.ways
    )
    return Sheet(group.heading, columns, rows)


def assumptions(plan: Plan) -> tuple[tuple[str, str], ...]:
    """What the answer rests on that the user did not say: the stack's defaults, then ours."""
    stack = plan.candidates[0].scenario.stack.name
    found = [
        (f"{stack} sets", _origin(plan, ("stack", "model"))),
        ("we assume", _origin(plan, ("default",))),
        ("data ask for", _origin(plan, ("plan",))),
    ]
    return tuple((who, text) for who, text in found if text)


def _origin(plan: Plan, origins: tuple[Origin, ...]) -> str:
    candidates = requested(plan)
    names = [field.name for field in fields(TrainSpec) if field.name != "method"]
    shown = [
        f"{words.option(name)} {_across(candidates, name)}"
        for name in names
        if relevant(candidates, name) and any(_says(one, name, origins) for one in candidates)
    ]
    return ", ".join(shown)


def _says(candidate: Candidate, name: str, origins: tuple[Origin, ...]) -> bool:
    """Whether one of ``origins`` chose the setting, and to an effect."""
    origin = candidate.scenario.origins.get(name)
    silent = origin == "default" and SILENT.get(name, ...) == getattr(candidate.scenario.train, name)
    return origin in origins and not silent


def _across(candidates: Sequence[Candidate], name: str) -> str:
    """One setting over all methods; where they differ, each value with its methods."""
    methods: dict[str, list[str]] = {}
    for candidate in candidates:
        if relevant([candidate], name):
            methods.setdefault(words.value(getattr(candidate.scenario.train, name)), []).append(candidate.method)
    if len(methods) == 1:
        return next(iter(methods))
    return " ".join(f"{text} ({'/'.join(users)})" for text, users in methods.items())


def relevant(candidates: Iterable[Candidate], name: str) -> bool:
    """Whether the setting acts on any of the candidates."""
    trains = [candidate.scenario.train for candidate in candidates]
    if name in LORA_SETTINGS:
        return any(train.peft_type == "LORA" for train in trains)
    if name == "adapter_dtype":
        return any(train.uses_adapters for train in trains)
    if name in QUANT_SETTINGS:
        return any(train.quantized for train in trains)
    if name in MOMENTS_OF:
        return any(set(MOMENTS_OF[name]) & set(train.moments) for train in trains)
    return name not in ACTS or any(ACTS[name](train) for train in trains)
