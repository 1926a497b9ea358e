"""Own measurements in the form of ``tests/anchors/*.toml``, in which published ones are kept too.

An anchor names things: a model of the catalogue, a card with a profile, options. A record is written only where these
names give back the very scenario that ran; of the others the file says in a comment why they are left out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from planner.errors import PlannerError, UsageError
from planner.records.codec import plain
from planner.records.record import Record
from planner.spec import Cluster, Scenario

OUTCOMES: Mapping[str, str] = {"done": "ran", "out_of_memory": "oom"}
"""Outcomes that say something about memory."""

BEHAVIOURS = ("kbit_upcast", "holds_logits", "fused_parts")
"""Where an anchor may say that a trainer did otherwise than by its habit."""

LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "modules_to_save", "adapter_dtype")
QUANTISED = ("quant", "double_quant", "quant_storage")


class LeftOut(Exception):
    """Why a record is no anchor."""


def to_anchor_toml(records: Iterable[Record]) -> str:
    """One anchor file; raise ``UsageError`` when the records are of several devices or environments, or none is fit.

    Peaks of CUDA devices, in bytes, with the seconds of a later step.
    """
    ordered = sorted(records, key=lambda record: record.taken_at)
    parts, cases = [], 0
    for record in ordered:
        try:
            parts.append(_case(record))
            cases += 1
        except LeftOut as error:
            parts.append(f"# left out: {record.id[:12]}, {record.model} {record.method}: {error}\n")
    if not cases:
        raise UsageError("none of these measurements can be an anchor: " + _reasons(parts))
    kept = [record for record, part in zip(ordered, parts, strict=True) if part.startswith("[[case]]")]
    return "\n".join([_header(kept), *parts])


def _reasons(parts: Sequence[str]) -> str:
    whys = dict.fromkeys(part.split(": ", 2)[2].strip() for part in parts)
    return "; ".join(whys) or "there are none"


def _header(records: Sequence[Record]) -> str:
    """``[measured]``: on what, and with what, all of them were made."""
    newest = records[-1]
    if len({_place(record) for record in records}) > 1:
        names = ", ".join(dict.fromkeys(record.device.name for record in records))
        raise UsageError(
            f"one anchor file holds one device and one set of versions, and these are of several ({names}): "
            "export some of them by --device or by id"
        )
    found = newest.environment
    facts = {
        "device": newest.device.name,
        "total_bytes": newest.device.total_bytes,
        "planner": newest.planner,
        "date": newest.taken_at[:10],
        "versions": dict(found.versions),
        **({"driver": found.driver} if found.driver else {}),
        **({"allocator": found.allocator} if found.allocator else {}),
    }
    return _table("[measured]", facts)


def _place(record: Record) -> tuple[object, ...]:
    device, found = record.device, record.environment
    versions = tuple(sorted(found.versions.items()))
    return device.name, device.total_bytes, record.planner, versions, found.driver, found.allocator


# ---------------------------------------------------------------- one case


def _case(record: Record) -> str:
    _check_run(record)
    scenario = _scenario(record)
    names = _named(record, scenario)
    facts = {
        "id": f"own-{names['gpu']}-{names['model']}-{record.method}-{record.id[:8]}",
        **names,
        "outcome": OUTCOMES[record.outcome],
        **_numbers(record),
        "confidence": "A",
    }
    return _table("[[case]]", facts)


def _check_run(record: Record) -> None:
    """Raise ``LeftOut`` for what an anchor has no words for."""
    if record.kind != "steps":
        raise LeftOut("a search of a limit")
    if record.outcome not in OUTCOMES:
        raise LeftOut(f"it ended otherwise ({record.outcome})")
    if record.device.kind != "cuda":
        raise LeftOut("measured on a processor")
    if record.layers is not None:
        raise LeftOut("some of the layers only")
    if record.environment.cap_bytes is not None:
        raise LeftOut("on a pretended smaller card")
    if record.lengths:
        raise LeftOut("batches of several lengths")
    if record.outcome == "done" and record.first_step_alone:
        raise LeftOut("one step, whose passes know no optimizer states")
    if record.outcome == "out_of_memory" and not _had_its_card(record):
        raise LeftOut("others may have held a part of the card")


def _had_its_card(record: Record) -> bool:
    """Whether others held no more than a context without a job, or a small display."""
    others = record.environment.others_bytes
    return others is not None and others <= SPARED * record.device.total_bytes


SPARED = 0.03
"""Share of a card that others may hold without being the reason of a failure (ours)."""


def _scenario(record: Record) -> Scenario:
    try:
        return record.restore()
    except PlannerError as error:
        raise LeftOut(str(error)) from None


def _named(record: Record, scenario: Scenario) -> dict[str, Any]:
    """The scenario by names; raise ``LeftOut`` unless they give back the very one."""
    from planner.catalog import index  # noqa: PLC0415  (reads the catalogue)

    if scenario.train.peft_config:
        raise LeftOut("adapters from a file")
    if scenario.model.name not in index().models:
        raise LeftOut("the model is not in the catalogue")
    behaviour = dict(record.scenario["stack"].get("differs", {}))
    names = {
        "model": scenario.model.name,
        "method": record.method,
        "gpu": _gpu_name(record, scenario),
        "gpus": scenario.cluster.world_size,
        "stack": ",".join((scenario.stack.name, *(f"{name}={one}" for name, one in scenario.stack.versions.items()))),
        "settings": _settings(scenario),
        **({"behaviour": behaviour} if behaviour else {}),
    }
    _check_names(scenario, names)
    return names


def _gpu_name(record: Record, scenario: Scenario) -> str:
    """The card's profile: the one that it was planned for, else the one that has the device's name."""
    from planner.hardware import load_gpu  # noqa: PLC0415  (reads the profiles)

    card = scenario.cluster.gpu
    for name in (card.profile or card.id, record.device.name):
        with suppress(PlannerError):
            return load_gpu(name).id
    raise LeftOut(f"no profile describes {record.device.name}")


def _settings(scenario: Scenario) -> dict[str, Any]:
    """Every setting that acts, whoever chose it: defaults change."""
    train = scenario.train
    idle = {"method", "peft_config"}
    idle |= set() if train.uses_adapters else set(LORA)
    idle |= set() if train.quantized else set(QUANTISED)
    return {name: plain(getattr(train, name)) for name in train.settings if name not in idle}


def _check_names(scenario: Scenario, names: Mapping[str, Any]) -> None:
    """Raise ``LeftOut`` where a reader of the anchor would put another question."""
    from planner.catalog import load_model  # noqa: PLC0415  (reads the catalogue)
    from planner.hardware import load_gpu  # noqa: PLC0415  (reads the profiles)
    from planner.stacks import resolve  # noqa: PLC0415

    behaviour = names.get("behaviour", {})
    if not set(behaviour) <= set(BEHAVIOURS):
        raise LeftOut("a trainer with other habits")
    cluster = Cluster(gpu=load_gpu(names["gpu"]), gpus=names["gpus"])
    try:
        found = resolve(load_model(names["model"]).model, cluster, names["method"], names["settings"], names["stack"])
    except PlannerError as error:
        raise LeftOut(str(error)) from None
    idle = {name: getattr(found.train, name) for name in (*LORA, *QUANTISED) if name not in names["settings"]}
    if found.train != replace(scenario.train, **idle):
        raise LeftOut("settings that no options give")
    if found.model != scenario.model:
        raise LeftOut("the catalogue's model is another one")
    changed: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in behaviour.items()}
    if replace(found.stack, **changed) != scenario.stack:
        raise LeftOut("a trainer with other habits")


def _numbers(record: Record) -> dict[str, object]:
    """Bytes and times; a run without memory has none."""
    if record.outcome != "done":
        return {}
    peaks = {name: getattr(record.peak, f"{name}_bytes") for name in ("allocated", "reserved", "device")}
    bytes_of = [{"metric": name, "value": count, "unit": "B"} for name, count in peaks.items() if count]
    times = (("seconds", record.steady_seconds, "step, median"), ("tokens_per_s", record.tokens_per_second, "per GPU"))
    timed = [{"metric": name, "value": value, "scope": scope} for name, value, scope in times if value]
    return {"measured": bytes_of, **({"timed": timed} if timed else {})}


# ---------------------------------------------------------------- TOML


def _table(head: str, facts: Mapping[str, Any]) -> str:
    return "\n".join([head, *(f"{name} = {_value(value)}" for name, value in facts.items())]) + "\n"


def _value(value: object) -> str:
    """A value as TOML writes it; texts are printable, so that JSON's form of them is TOML's.

    >>> _value({"lora_targets": ["q_proj"], "lora-alpha.x": 32.0, "double_quant": True})
    '{ lora_targets = ["q_proj"], "lora-alpha.x" = 32.0, double_quant = true }'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_]+", name, re.ASCII) else json.dumps(name)
