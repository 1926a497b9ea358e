"""A record keeps its id and its content on the way through JSON, and a document that is none is refused in one line."""

import json
from dataclasses import replace
from typing import Any

import pytest

from planner.errors import BrokenInput
from planner.records import (
    Limits,
    RankPeaks,
    Record,
    architecture_of,
    now,
    read_record,
    record_document,
    record_from,
    record_text,
)
from tests.records.builders import a_record, out_of_memory


@pytest.mark.parametrize(
    "record",
    [
        a_record(),
        a_record(7, layers=4, method="qlora"),
        out_of_memory(),
        a_record(kind="limit", limits=Limits(unit="micro_batch_size", largest_ran=12, smallest_failed=13)),
        a_record(taken_at=now(), model="qwen1.5-moe-a2.7b"),
        a_record(rank=1, ranks=(RankPeaks(rank=0), RankPeaks(rank=1, allocated_bytes=5, owners={"weights": 4}))),
    ],
    ids=["done", "truncated", "out of memory", "limit", "mixture of experts", "ranks"],
)
def test_json_and_back(record: Record) -> None:
    again = read_record(record_text(record))

    assert again == record
    assert again.id == record.id
    assert record_text(again) == record_text(record)


def test_the_id_is_that_of_the_content() -> None:
    assert a_record(1).id == a_record(1).id
    assert a_record(1).id != a_record(2).id
    assert replace(a_record(1), detail="other").id != a_record(1).id


def test_an_id_stays_when_a_later_version_has_more_fields() -> None:
    """Defaults are not written: a field that is added with a default changes no record made before."""
    document = record_document(out_of_memory())

    assert not {"layers", "limits", "first", "peak", "later"} & set(document)
    assert all(value not in (None, [], {}) for value in document.values())


def test_facts_of_a_later_version_are_carried_along() -> None:
    document = record_document(a_record()) | {"power_watts": [310, 290]}
    del document["id"]
    record = record_from(document)

    assert record.later == {"power_watts": [310, 290]}
    assert record_document(record) == document | {"id": record.id}
    assert record.id != a_record().id


def test_a_changed_record_is_refused() -> None:
    document = record_document(a_record())
    document["host_bytes"] += 1

    with pytest.raises(BrokenInput, match=r"does not belong to the content.*: it was changed"):
        record_from(document)


def edited(place: str, value: object) -> dict[str, Any]:
    document = json.loads(record_text(a_record()))
    document.pop("id")
    part: Any = document
    *path, last = (int(name) if name.isdigit() else name for name in place.split("."))
    for name in path:
        part = part[name]
    part[last] = value
    return dict(document)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("schema", 2, "schema 2 is not 1: update finetune-planner"),
        ("outcome", "fine", "measurement.outcome 'fine' is not one of done, out_of_memory"),
        ("taken_at", "yesterday", "is not UTC, as in"),
        ("taken_at", "2026-01-01T00:00:00+02:00", "is not UTC, as in"),
        ("host_bytes", -1, "host_bytes -1 is no number of bytes"),
        ("host_bytes", 1.5, "host_bytes 1.5 is not a whole number"),
        ("host_bytes", True, "host_bytes True is not a whole number"),
        ("device.total_bytes", 2**70, "is no number of bytes"),
        ("device.capability", [8], r"capability has 1 items, not 2"),
        ("device.colour", "green", r"device.colour is unknown"),
        ("peak.allocated_bytes", 10**40, "a huge number is no number of bytes"),
        ("peak.allocated_bytes", 2**40, "allocated bytes are more than 800064512 reserved"),
        ("peak.reserved_bytes", 2**40, "reserved bytes are more than 23664230400 total"),
        ("steady.0.reserved_bytes", -3, "is no number of bytes"),
        ("first", {}, "first {} is not a list"),
        ("first.0", {"allocated_bytes": 3}, r"first\[0\].phase is missing"),
        ("owners.weights", -1, "owners.weights -1 is no number of bytes"),
        ("predicted.traced.allocated", "much", "is not a whole number"),
        ("steady_seconds", -1.0, "steady_seconds -1.0 is no sane number"),
        ("scenario", 3, "scenario 3 is not an object"),
        ("scenario.model", {}, "scenario.model.name None is no name"),
        ("scenario.model.name", "a\nb", "scenario.model.name"),
        ("scenario.stack.name", "\ud800", "is no name"),
        ("detail", "\ud800", "is not text"),
        ("layers", "4", "layers '4' is not a whole number"),
    ],
)
def test_what_is_no_record_is_refused(place: str, value: object, says: str) -> None:
    with pytest.raises(BrokenInput, match=says) as caught:
        record_from(edited(place, value))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[1]", r"\[1\] is not a measurement"),
        ("{", "not JSON"),
        ('{"schema": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(text: str, says: str) -> None:
    with pytest.raises(BrokenInput, match=says):
        read_record(text)


@pytest.mark.parametrize(
    ("capability", "name", "family"),
    [
        ((7, 5), "", "turing"),
        ((8, 0), "", "ampere"),
        ((8, 6), "", "ampere"),
        ((8, 9), "", "ada"),
        ((9, 0), "", "hopper"),
        ((10, 0), "", "blackwell"),
        ((12, 0), "", "blackwell"),
        ((5, 2), "", "sm_52"),
        ((13, 0), "", "sm_130"),
        ((9, 4), "AMD Instinct MI300X", "amd"),
    ],
)
def test_architectures(capability: tuple[int, int], name: str, family: str) -> None:
    assert architecture_of("cuda", capability, name) == family


def test_a_record_of_one_card_has_no_ranks_and_says_so() -> None:
    record = a_record()
    assert not {"rank", "ranks"} & set(record_document(record))
    assert (record.gpus, record.sharding) == (1, "none")


@pytest.mark.parametrize("ranks", [(RankPeaks(rank=-1),), (RankPeaks(rank=0, allocated_bytes=-5),)])
def test_ranks_without_meaning_are_refused(ranks: tuple[RankPeaks, ...]) -> None:
    document = record_document(a_record(ranks=ranks))
    with pytest.raises(BrokenInput, match=r"rank|bytes"):
        record_from(document)
