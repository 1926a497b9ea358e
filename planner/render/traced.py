"""What a trace found: bytes by owner and phase, what the allocator makes of them, and who asked for the most."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.machine import candidate_document
from planner.render.sheet import Cell, Column, Sheet, row
from planner.result import OWNERS, PHASES, Phase
from planner.spec import MOMENTS
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.allocator.replay import Replay
    from planner.tracing import Tracing

SITES = 12
"""Places that are listed; JSON has all."""


def traced_sheets(found: "Tracing", notes: Sequence[str] = ()) -> list[Sheet]:
    """The tables of one method."""
    caching = [] if found.candidate.scenario.cluster.gpu.is_cpu else [allocator_sheet(found)]
    moments = [moments_sheet(found)] if found.candidate.scenario.train.moments else []
    return [phases_sheet(found), *moments, *caching, sites_sheet(found, notes)]


def phases_sheet(found: "Tracing") -> Sheet:
    """GiB by owner at the highest instant of every phase; allocated bytes of the first step below."""
    phases = [phase for phase in PHASES if phase in found.candidate.estimate.phases]
    steps = [_step_row(found, step, phases) for step in _steps(found)]
    rows = (*_owner_rows(found, phases), *steps)
    return Sheet(_title(found), _columns("GiB at each phase's peak", phases), rows, rules=RULES)


def moments_sheet(found: "Tracing") -> Sheet:
    """The same for what comes after the steps."""
    moments = found.candidate.scenario.train.moments
    return Sheet("", _columns("GiB after the steps", moments), tuple(_owner_rows(found, moments)), rules=RULES[:1])


RULES = (len(OWNERS), len(OWNERS) + 1)
"""Lines above and below the sum of all owners."""


def _columns(first: str, phases: Sequence[Phase]) -> tuple[Column, ...]:
    return (Column(first), *(Column(words.phase(phase), numeric=True) for phase in phases))


def _owner_rows(found: "Tracing", phases: Sequence[Phase]) -> list[tuple[Cell, ...]]:
    memories = [found.candidate.estimate.phases[phase] for phase in phases]
    owners = [
        row((name, *(words.gib(getattr(memory, owner)) for memory in memories)))
        for owner, name in words.OWNER_WORDS.items()
    ]
    total = row((Cell("allocated", "strong"), *(Cell(words.gib(memory.total), "strong") for memory in memories)))
    return [*owners, total]


def _steps(found: "Tracing") -> tuple[int, ...]:
    """The first step, and the last one, which every further one is like."""
    last = max(instant.step for instant in found.instants)
    return (0, last) if last and not found.lengths else (0,)


def _step_row(found: "Tracing", step: int, phases: Sequence[str]) -> tuple[Cell, ...]:
    tops: dict[str, int] = {}
    for instant in found.instants:
        if instant.step == step:
            tops[instant.phase] = max(tops.get(instant.phase, 0), instant.memory.total)
    name = "in the first step" if step == 0 else "in further steps"
    return row((name, *(words.gib(tops[phase]) if phase in tops else "" for phase in phases)))


def allocator_sheet(found: "Tracing") -> Sheet:
    """The caching allocator as it is set, and with segments that grow."""
    peak = found.candidate.estimate.peak
    columns = (Column("caching allocator"), Column("as set", numeric=True), Column("expandable segments", numeric=True))
    pairs = [(name, read(found.replay), read(found.expandable)) for name, read in MEASURES]
    rows = [row((name, format_bytes(own), format_bytes(other))) for name, own, other in pairs]
    rows.append(
        row(("taken from the device", f"{found.replay.segments:,} times", f"{found.expandable.segments:,} times"))
    )
    rows.append(row((Cell("smallest card", "strong"), Cell(format_bytes(peak.required_bytes), "strong"), "")))
    note = (
        f"The step completes from {format_bytes(peak.required_bytes)} on, context included; with memory to spare "
        f"nvidia-smi shows {format_bytes(peak.device_bytes)}. {words.usable(found.candidate.scenario.cluster)} GiB are "
        f"usable: {words.VERDICTS[found.candidate.verdict][0]}."
    )
    return Sheet("", columns, tuple(rows), notes=(note, *_ragged(found)))


def _requested(run: "Replay") -> int:
    return run.requested


def _allocated(run: "Replay") -> int:
    return run.allocated


def _reserved(run: "Replay") -> int:
    return run.reserved


def _lost(run: "Replay") -> int:
    return run.reserved - run.allocated


MEASURES = (
    ("asked for", _requested),
    ("allocated", _allocated),
    ("reserved", _reserved),
    ("reserved, not in use at the peak", _lost),
)


def _ragged(found: "Tracing") -> tuple[str, ...]:
    if not found.lengths:
        return ()
    worst = max(found.lengths)
    return (
        f"{len(found.lengths):,} steps of {len(set(found.lengths)):,} lengths; the longest batch, of {worst:,} tokens, "
        f"decides; the peak is in step {found.peak.step + 1}.",
    )


def sites_sheet(found: "Tracing", notes: Sequence[str]) -> Sheet:
    """The places that hold the most at the peak."""
    columns = (
        Column("owner"),
        Column("asked for by", wraps=True),
        Column("blocks", numeric=True),
        Column("GiB", numeric=True),
    )
    rows = [
        row((words.OWNER_WORDS[site.owner], _place(site.place), f"{site.blocks:,}", words.gib(site.bytes)))  # type: ignore[index]
        for site in found.sites[:SITES]
    ]
    rest = found.sites[SITES:]
    if rest:
        count, size = sum(site.blocks for site in rest), sum(site.bytes for site in rest)
        rows.append(row(("", f"{len(rest):,} other places", f"{count:,}", words.gib(size))))
    step = "" if found.peak.phase in MOMENTS else f" of step {found.peak.step + 1}"
    title = f"Alive at the peak, in {words.phase(found.peak.phase)}{step}"
    return Sheet(title, columns, tuple(rows), notes=(_depth(found), *notes))


def _place(text: str) -> str:
    """A module's path without what PEFT wraps around every one."""
    return text.removeprefix("base_model.model.")


def _depth(found: "Tracing") -> str:
    depth = found.traced.depth
    versions = ", ".join(f"{name} {version}" for name, version in found.candidate.scenario.stack.versions.items())
    ran = (
        "every layer"
        if depth.recorded == depth.layers
        else f"{depth.recorded} of {depth.layers} layers, extended exactly"
    )
    return f"Traced: {ran}; {versions}."


def _title(found: "Tracing") -> str:
    scenario = found.candidate.scenario
    train = scenario.train
    kind = train.method if train.method != "peft" else str(train.peft_type).lower()
    checkpointing = words.value(train.gradient_checkpointing)
    return (
        f"{scenario.model.name} on {words.cards(scenario.cluster)}: {kind}, {train.micro_batch_size} × {train.seq_len} "
        f"tokens, {train.attention} attention, checkpointing {checkpointing}"
    )


def traced_document(found: "Tracing") -> dict[str, object]:
    """The candidate of the contract, with what a trace knows besides."""
    return {
        **candidate_document(found.candidate),
        "trace": {
            "layers": {"total": found.traced.depth.layers, "recorded": found.traced.depth.recorded},
            "allocator": _allocator_document(found.replay),
            "expandable_segments": _allocator_document(found.expandable),
            "steps": [
                {"step": one.step, "phase": one.phase, "allocated_bytes": one.memory.total} for one in found.instants
            ],
            "peak": {"step": found.peak.step, "phase": found.peak.phase},
            "alive": [
                {"owner": site.owner, "place": _place(site.place), "blocks": site.blocks, "bytes": site.bytes}
                for site in found.sites
            ],
            "lengths": list(found.lengths),
        },
    }


def _allocator_document(run: "Replay") -> dict[str, int]:
    return {
        "requested_bytes": run.requested,
        "allocated_bytes": run.allocated,
        "reserved_bytes": run.reserved,
        "fragmentation_bytes": run.fragmentation,
        "segments": run.segments,
        "retries": run.retries,
    }
