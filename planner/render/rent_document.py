"""``plan rent --format json``: one object, described by its types."""

from typing import Literal

from typing_extensions import TypedDict

from planner.prices import age_days, is_old
from planner.recommend.rental import Rental, RentAnswer
from planner.render.document import CandidateDocument, ReasonDocument
from planner.render.machine import candidate_document, reason_document

RENT_SCHEMA: Literal[1] = 1


class QuestionDocument(TypedDict):
    """What was asked. ``tokens`` are of one epoch; ``download_gbps`` is an assumption."""

    model: str
    task: str
    tokens: int | None
    epochs: float
    methods: list[str]
    max_gpus: int
    budget_usd: float | None
    deadline_hours: float | None
    headroom_bytes: int
    download_gbps: float


class PricesDocument(TypedDict):
    """Where prices come from, and how old the oldest is."""

    source: Literal["snapshot", "live"]
    asked: Literal["snapshot", "live"]
    spot: bool
    as_of: str | None
    age_days: int | None
    old: bool


class HourlyDocument(TypedDict):
    """US dollars per hour for all cards together; ``null`` where nobody lists one."""

    low: float | None
    typical: float | None
    hyperscaler: float | None
    as_of: str
    estimated: bool
    basis: str


class RentalDocument(TypedDict):
    """One offer. ``usd`` and ``hours``: of the run, else of a million tokens. Bytes of RAM and disk: per machine.

    ``quality_risk``: 0 none known, 1 to 3 as 4-bit weights lose more. ``time_published``: whether anybody timed such
    runs. ``within``: budget and deadline are kept.
    """

    gpu: str
    gpus: int
    nodes: int
    method: str
    sharding: str
    within: bool
    usd: float
    hours: float
    usd_per_million_tokens: float
    usd_per_hour: HourlyDocument
    headroom_bytes: int
    host_bytes: int
    disk_bytes: int
    quality_risk: int
    time_published: bool
    seller: str | None
    region: str | None
    candidate: CandidateDocument
    command: str


class RentDocument(TypedDict):
    """What ``plan rent --format json`` prints. ``recommended`` is an index into ``offers``, or ``null``."""

    schema: Literal[1]
    question: QuestionDocument
    prices: PricesDocument
    offers: list[RentalDocument]
    others: list[RentalDocument]
    recommended: int | None
    reasons: list[ReasonDocument]
    nearest: str | None
    considered: int
    notes: list[str]


def rent_document(answer: RentAnswer) -> RentDocument:
    """The whole answer."""
    return {
        "schema": RENT_SCHEMA,
        "question": _question(answer),
        "prices": _prices(answer),
        "offers": [_rental(answer, one) for one in answer.offers],
        "others": [_rental(answer, one) for one in answer.others],
        "recommended": answer.recommended,
        "reasons": [reason_document(reason) for reason in answer.reasons],
        "nearest": answer.nearest,
        "considered": answer.considered,
        "notes": list(answer.notes),
    }


def _question(answer: RentAnswer) -> QuestionDocument:
    question = answer.question
    request = question.request
    return {
        "model": answer.model.name,
        "task": request.job.task,
        "tokens": request.job.epoch_tokens,
        "epochs": request.job.epochs,
        "methods": list(request.methods),
        "max_gpus": question.max_gpus,
        "budget_usd": question.budget_usd,
        "deadline_hours": question.deadline_hours,
        "headroom_bytes": request.headroom_bytes,
        "download_gbps": question.assumed.download_gbps,
    }


def _prices(answer: RentAnswer) -> PricesDocument:
    as_of, today = answer.price_as_of, answer.question.today
    return {
        "source": "live" if answer.live else "snapshot",
        "asked": "live" if answer.question.live else "snapshot",
        "spot": answer.question.spot and answer.live,
        "as_of": as_of,
        "age_days": None if as_of is None else age_days(as_of, today),
        "old": as_of is not None and is_old(as_of, today),
    }


def _rental(answer: RentAnswer, one: Rental) -> RentalDocument:
    return {
        "gpu": one.gpu,
        "gpus": one.gpus,
        "nodes": one.candidate.scenario.cluster.nodes,
        "method": one.method,
        "sharding": one.candidate.scenario.train.sharding,
        "within": one.within(answer.question),
        "usd": one.usd,
        "hours": one.hours,
        "usd_per_million_tokens": one.usd_per_million,
        "usd_per_hour": _hourly(one),
        "headroom_bytes": one.headroom_bytes,
        "host_bytes": one.needs.host_bytes,
        "disk_bytes": one.needs.disk_bytes,
        "quality_risk": one.risk,
        "time_published": one.measured,
        "seller": one.seller,
        "region": one.region,
        "candidate": candidate_document(one.candidate),
        "command": one.command,
    }


def _hourly(one: Rental) -> HourlyDocument:
    def of_all(usd: float | None) -> float | None:
        return None if usd is None else usd * one.gpus

    return {
        "low": of_all(one.price.low_usd),
        "typical": of_all(one.price.typical_usd),
        "hyperscaler": of_all(one.price.hyperscaler_usd),
        "as_of": one.price.as_of,
        "estimated": one.price.estimated,
        "basis": one.price.basis,
    }
