"""Parsed options to the library's ``Request``."""

from planner.cli.options import Values, integer, profiles_dir, rate, settings, size
from planner.errors import UnknownName, UsageError
from planner.recommend.request import Request
from planner.result import Evidence
from planner.spec import METHODS, Method
from planner.stacks.values import MAX_GPUS

EVIDENCE: tuple[Evidence, ...] = ("closed-form", "traced")


def build_request(values: Values, *, command: str) -> Request:
    """The request that the options describe; raise ``UsageError`` for what has no meaning."""
    return Request(
        model=_required(
            values, "model", command, "a model: a size such as 8b, a name of `plan models`, a Hub id or a directory"
        ),
        gpu=_required(values, "gpu", command, "a card of `plan gpus`, a class such as 24gb, or local"),
        gpus=_count(values, "gpus"),
        nodes=None if values.get("nodes") is None else _count(values, "nodes"),
        methods=tuple(dict.fromkeys(_method(text) for text in values.get("method") or ())),
        settings=settings(values),
        stack="trl" if values.get("stack") is None else str(values["stack"]),
        headroom_bytes=_headroom(values.get("headroom")),
        network_gbps=None if values.get("network_gbps") is None else rate("--network-gbps", values["network_gbps"]),
        host_memory_bytes=None if values.get("host_memory") is None else size("--host-memory", values["host_memory"]),
        profiles_dir=profiles_dir(values),
        evidence=check_evidence(values.get("evidence")),
    )


def refuse_traced(request: Request, *, command: str) -> Request:
    """The request, where it asks for closed forms, which are all that ``command`` knows; else raise ``UsageError``."""
    if request.evidence != "closed-form":
        raise UsageError(f"{command} rests on closed forms: leave out --evidence {request.evidence}, or run plan trace")
    return request


def check_evidence(text: str | None) -> Evidence:
    """The kind of evidence that is asked for."""
    if text is None:
        return "closed-form"
    for kind in EVIDENCE:
        if text == kind:
            return kind
    raise UnknownName("evidence", text, EVIDENCE)


def _required(values: Values, name: str, command: str, what: str) -> str:
    text = values.get(name)
    if not text or not text.strip():
        example = f"{command} --model 8b --gpu 4090 (all options: plan --help)"
        raise UsageError(f"--{name} is missing: name {what}; for instance: {example}")
    return str(text)


def _count(values: Values, name: str) -> int:
    text = values.get(name)
    count = 1 if text is None else integer(f"--{name}", text)
    if not 1 <= count <= MAX_GPUS:
        raise UsageError(f"--{name} {text} is outside 1 to {MAX_GPUS}")
    return count


def _method(text: str) -> Method:
    for method in METHODS:
        if text.lower() == method:
            return method
    raise UnknownName("method", text, METHODS)


def _headroom(text: str | None) -> int:
    return 0 if text is None else size("--headroom", text)
