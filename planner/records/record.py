"""``Record``: one measured run with all that is needed to use it later, elsewhere, by another version.

Bytes are ints, per GPU; seconds are floats; what was not measured is absent.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from planner._version import __version__
from planner.errors import BrokenInput, show
from planner.records.codec import Mismatch, canonical, plain, restored
from planner.records.scenario import scenario_document, scenario_from
from planner.spec import Scenario

SCHEMA = 1
"""Of the document. Adding fields is free, changing what one means is a new number."""

Kind = Literal["steps", "limit"]
"""``steps``: a few optimizer steps. ``limit``: a search of the largest batch or sequence by real failures."""
Outcome = Literal["done", "out_of_memory", "timed_out", "killed", "failed"]
Nothing: Mapping[str, Any] = MappingProxyType({})

MOST_BYTES = 2**60
MOST_RANKS = 2**20
_TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d(\.\d{1,9})?Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDevice:
    """Where it ran. ``architecture`` groups cards that behave alike: ``hopper``, ``ada``, ``cpu``."""

    kind: Literal["cpu", "cuda"]
    name: str
    total_bytes: int
    architecture: str
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What else a number depends on. ``allocator``: the text of PYTORCH_ALLOC_CONF; ``cap_bytes``: a pretended size.

    ``others_bytes``: the most that others may have held of the device when the run began, ``None`` where nobody knows.
    """

    versions: Mapping[str, str] = field(default_factory=lambda: Nothing)
    driver: str = ""
    allocator: str = ""
    cap_bytes: int | None = None
    others_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Highest points in torch's words and nvidia-smi's; any may be unknown."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeaks(Peaks):
    """The highest points of one phase."""

    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPeaks(Peaks):
    """The highest points of one of several ranks, what stands between its steps by owner, and its median step."""

    rank: int
    owners: Mapping[str, int] = field(default_factory=lambda: Nothing)
    steady_seconds: float | None = None
    host_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiedIn:
    """Where a run ended that did not end well: a step, counted from 0, and its phase."""

    step: int
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search found: the largest that ran and the smallest that failed, in ``unit``; either may be absent."""

    unit: str
    largest_ran: int | None = None
    smallest_failed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured run. ``scenario`` is a document, so that a record of a later version is kept though not understood.

    ``layers``: how many layers ran, ``None`` for all. ``lengths``: of the steps' sequences, where they differed; the
    scenario has the longest. ``first`` and ``steady`` are steps by phase; ``peak`` is the
    highest of all steps. ``predicted``: bytes by evidence and metric, as they were predicted when the run was made.
    ``ranks``: of a run on several cards, each of them; all other numbers are of ``rank``, the fullest or the one that
    ended the run.
    """

    taken_at: str
    scenario: Mapping[str, Any]
    device: RunDevice
    outcome: Outcome
    planner: str = __version__
    kind: Kind = "steps"
    layers: int | None = None
    lengths: tuple[int, ...] = ()
    environment: Environment = Environment()
    died_in: DiedIn | None = None
    detail: str = ""
    load: PhasePeaks | None = None
    first: tuple[PhasePeaks, ...] = ()
    steady: tuple[PhasePeaks, ...] = ()
    peak: Peaks = Peaks()
    first_seconds: float | None = None
    steady_seconds: float | None = None
    """Median of the steps after the first."""
    tokens_per_second: float | None = None
    host_bytes: int | None = None
    owners: Mapping[str, int] = field(default_factory=lambda: Nothing)
    predicted: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: Nothing)
    limits: Limits | None = None
    rank: int | None = None
    ranks: tuple[RankPeaks, ...] = ()
    later: Mapping[str, Any] = field(default_factory=lambda: Nothing)
    """Facts that a later version wrote, carried along as they are."""

    @cached_property
    def id(self) -> str:
        """32 hexadecimal digits of the content: the same run has the same on every machine."""
        return _digest(record_document(self, with_id=False))

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.scenario["model"]["name"])

    @property
    def method(self) -> str:
        """``full``, ``lora``, ``qlora`` or ``peft``."""
        return str(self.scenario["train"]["method"])

    @property
    def stack(self) -> str:
        """Name of the stack, without versions."""
        return str(self.scenario["stack"]["name"])

    @property
    def sharding(self) -> str:
        """How states were divided among cards; ``none`` on one of them."""
        return str(self.scenario["train"].get("sharding", "none"))

    @property
    def gpus(self) -> int:
        """Cards in all."""
        cluster = self.scenario.get("cluster", Nothing)
        return int(cluster.get("gpus", 1)) * int(cluster.get("nodes", 1))

    @property
    def first_step_alone(self) -> bool:
        """Whether no step followed the first, whose passes know no optimizer states: its peak is none of training."""
        return bool(self.first) and not self.steady

    def restore(self) -> Scenario:
        """The scenario itself; raise ``UnsupportedScenario`` where this version does not know all of it."""
        return scenario_from(self.scenario)


def now() -> str:
    """The present moment as a record says it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def document_of(scenario: Scenario) -> Mapping[str, Any]:
    """The scenario as a record holds it."""
    return MappingProxyType(scenario_document(scenario))


# ---------------------------------------------------------------- JSON


def record_document(record: Record, *, with_id: bool = True) -> dict[str, Any]:
    """The record as JSON data; fields that hold their defaults are left out, so that new ones change no id."""
    facts = plain(replace(record, scenario=Nothing, later=Nothing), lean=True)
    always = {"scenario": dict(record.scenario), "planner": record.planner, "kind": record.kind}
    found = {"schema": SCHEMA, **record.later, **facts, **always}
    return {**found, "id": _digest(found)} if with_id else found


def _digest(document: Mapping[str, Any]) -> str:
    facts = {name: item for name, item in document.items() if name not in ("schema", "id")}
    return _digest_of(canonical(facts))


def _digest_of(facts: str) -> str:
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def record_text(record: Record) -> str:
    """The record as one line of JSON in ASCII. Schema and id come first: so a record is found in a damaged file."""
    document = record_document(record, with_id=False)
    facts = canonical({name: item for name, item in document.items() if name != "schema"})
    return f'{{"schema":{SCHEMA},"id":"{_digest_of(facts)}",{facts[1:]}'


BEGINNING = re.compile(r'\{"schema":\d{1,9},"id":"([0-9a-f]{32})",')
"""How every line of ``record_text`` begins, of this version or a later one."""


def is_whole(text: str) -> bool:
    """Whether a line is as ``record_text`` made it: its id is the digest of the rest.

    >>> is_whole('{"schema":1,"id":"00000000000000000000000000000000","detail":""}')
    False
    """
    found = BEGINNING.match(text)
    return found is not None and found[1] == _digest_of("{" + text[found.end() :])


def record_from(document: object, *, trusted: bool = False) -> Record:
    """The record that JSON data describes; raise ``BrokenInput`` in one line for what is none.

    Fields that this version does not know are kept in ``later``. An id that does not belong to the content is refused;
    ``trusted`` spares that and what only a stranger would get wrong, for rows that we wrote ourselves.
    """
    if not isinstance(document, dict):
        raise BrokenInput(f"{show(document)} is not a measurement")
    if document.get("schema") != SCHEMA:
        raise BrokenInput(f"schema {show(document.get('schema'))} is not {SCHEMA}: update finetune-planner to read it")
    facts = {name: value for name, value in document.items() if name in _FIELDS}
    later = {name: value for name, value in document.items() if name not in _FIELDS and name not in ("schema", "id")}
    try:
        record = restored(Record, facts | {"later": later}, "measurement")
        if not trusted:
            _check(record)
            _check_id(record, document)
    except (ValueError, RecursionError) as error:
        raise BrokenInput(next(iter(str(error).splitlines()), "nested too deeply")[:300]) from None
    return record


_FIELDS = frozenset(one.name for one in fields(Record)) - {"later"}


def _check_id(record: Record, document: Mapping[str, Any]) -> None:
    given = document.get("id", record.id)
    if given != record.id:
        raise Mismatch(f"id {show(given)} does not belong to the content, which has {record.id}: it was changed")


def read_record(text: str, *, trusted: bool = False) -> Record:
    """The record in one line of JSON; raise ``BrokenInput`` in one line for what is none."""
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BrokenInput(f"not JSON: {next(iter(str(error).splitlines()), 'nested too deeply')[:200]}") from None
    return record_from(document, trusted=trusted)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# ---------------------------------------------------------------- what no run can show


def _check(record: Record) -> None:
    """Raise ``Mismatch`` for values that have the right type and no meaning."""
    if not _TIME.fullmatch(record.taken_at):
        raise Mismatch(f"measurement.taken_at {show(record.taken_at)} is not UTC, as in 2026-01-31T12:00:00Z")
    for place in (("model", "name"), ("train", "method"), ("stack", "name")):
        part = record.scenario.get(place[0])
        name = part.get(place[1]) if isinstance(part, dict) else None
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 300:
            raise Mismatch(f"measurement.scenario.{'.'.join(place)} {show(name)} is no name")
    for name, count in _bytes(record):
        if not 0 <= count <= MOST_BYTES:
            raise Mismatch(f"measurement.{name} {show(count)} is no number of bytes")
    for name in ("first_seconds", "steady_seconds", "tokens_per_second"):
        value = getattr(record, name)
        if value is not None and not 0 <= value < 1e15:
            raise Mismatch(f"measurement.{name} {show(value)} is no sane number")
    if not all(0 <= part.rank < MOST_RANKS for part in record.ranks) or not 0 <= (record.rank or 0) < MOST_RANKS:
        raise Mismatch("measurement.ranks has a number that is none of a rank")
    if record.device.kind == "cuda":
        _check_order(record)


def _check_order(record: Record) -> None:
    """What is allocated lies in what is reserved, and that on the card."""
    peak = record.peak
    known = [("allocated", peak.allocated_bytes), ("reserved", peak.reserved_bytes)]
    found = [(name, count) for name, count in [*known, ("total", record.device.total_bytes)] if count is not None]
    for (inner, less), (outer, more) in pairwise(found):
        if less > more:
            raise Mismatch(f"measurement.peak: {less} {inner} bytes are more than {more} {outer}")


def _bytes(record: Record) -> Iterator[tuple[str, int]]:
    """Every number of bytes, with its place."""
    found: list[tuple[str, int | None]] = [
        ("device.total_bytes", record.device.total_bytes),
        ("environment.cap_bytes", record.environment.cap_bytes),
        ("environment.others_bytes", record.environment.others_bytes),
        ("host_bytes", record.host_bytes),
        *((f"owners.{name}", count) for name, count in record.owners.items()),
        *((f"predicted.{kind}.{name}", count) for kind, by in record.predicted.items() for name, count in by.items()),
    ]
    for part in record.ranks:
        found += [(f"ranks.owners.{name}", count) for name, count in part.owners.items()]
        found.append(("ranks.host_bytes", part.host_bytes))
    peaks: tuple[Peaks | None, ...] = (record.peak, record.load, *record.first, *record.steady, *record.ranks)
    for one in peaks:
        found += [(f"peaks.{name.name}", getattr(one, name.name)) for name in fields(Peaks) if one is not None]
    yield from ((name, count) for name, count in found if count is not None)


# ---------------------------------------------------------------- architectures

_ARCHITECTURES: Mapping[tuple[int, int], str] = MappingProxyType(
    {(6, 0): "pascal", (7, 0): "volta", (7, 5): "turing", (8, 0): "ampere", (8, 9): "ada", (9, 0): "hopper"}
)
"""NVIDIA, CUDA C++ Programming Guide, table of compute capabilities; 10 and above are ``blackwell``."""


def architecture_of(kind: str, capability: tuple[int, int] | None, name: str = "") -> str:
    """The family of a device; ``sm_XY`` for a capability that has no name here, ``amd`` for ROCm's.

    >>> architecture_of("cuda", (8, 6)), architecture_of("cuda", (8, 9)), architecture_of("cpu", None)
    ('ampere', 'ada', 'cpu')
    """
    if kind != "cuda" or capability is None:
        return "cpu" if kind == "cpu" else "unknown"
    if name.startswith(("AMD", "Radeon", "Instinct")):
        return "amd"
    if 10 <= capability[0] <= 12:
        return "blackwell"
    minors = [minor for major, minor in _ARCHITECTURES if major == capability[0] and minor <= capability[1]]
    older = (capability[0], max(minors, default=-1))
    return _ARCHITECTURES.get(older, f"sm_{capability[0]}{capability[1]}")
