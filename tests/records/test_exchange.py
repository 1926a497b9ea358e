"""Records travel: as JSON Lines to other stores, and as anchors to where published measurements are kept."""

import random
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planner
from planner.errors import UsageError
from planner.records import Environment, Record, RunDevice, Store, document_of, record_text
from planner.records.anchored import to_anchor_toml
from planner.records.exchange import Imported, export_lines, import_lines
from planner.validation.anchors import load_anchors
from planner.validation.checks import scenario_of
from tests.records.builders import a_record, another, out_of_memory

RECORDS = tuple(another(a_record(), number) for number in range(5))


def test_export_and_import(store: Store) -> None:
    content = export_lines(RECORDS).encode()

    assert import_lines(content, store) == Imported(new=5, known=0, refused=())
    assert import_lines(content, store) == Imported(new=0, known=5, refused=())
    assert sorted(map(record_text, store.records())) == sorted(map(record_text, RECORDS))
    assert export_lines(reversed(store.records())).encode() == content


def test_a_line_twice_is_one_record(store: Store) -> None:
    assert import_lines(export_lines(RECORDS[:2] * 2).encode(), store) == Imported(new=2, known=2, refused=())


def test_lines_that_are_no_records_harm_none(store: Store) -> None:
    one, two, three = (record_text(record).encode() for record in RECORDS[:3])
    lines = [one, b"", b"{", two.replace(b'"done"', b'"fine"'), b"\xff\xfe", two[:-40], b"{" * 50_000, three + b"\r"]

    found = import_lines(b"\n".join(lines), store)

    assert (found.new, found.known) == (2, 0)
    assert [number for number, _ in found.refused] == [3, 4, 5, 6, 7]
    assert [why for _, why in found.refused if "\n" in why] == []
    assert "outcome 'fine' is not one of" in found.refused[1][1]
    assert found.refused[2][1] == "not UTF-8 text"


def test_a_line_of_gigantic_size_is_refused(store: Store) -> None:
    found = import_lines(b'{"schema": 1, "detail": "' + b"x" * 4_000_001 + b'"}', store)

    assert found.refused == ((1, "4,000,028 bytes are no measurement"),)


def test_nothing_to_import_makes_no_store(store: Store) -> None:
    assert import_lines(b"\n\n", store) == Imported(0, 0, ())
    assert store.path is not None
    assert not store.path.exists()


LINE = record_text(RECORDS[0])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_fuzzed_lines_are_refused_or_whole(seed: int) -> None:
    """Damage of any kind to a line is one line of error; the lines around it are taken."""
    chance = random.Random(seed)
    content = bytearray(LINE.encode())
    for _ in range(chance.randrange(1, 6)):
        start = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[start] = chance.randrange(256)
            case 1:
                del content[start : start + chance.randrange(1, 200)]
            case 2:
                content[start:start] = chance.randbytes(chance.randrange(1, 20))
            case _:
                content[start:start] = content[: chance.randrange(len(content))]
        content = content or bytearray(b" ")
    kept: list[Record] = []

    class Kept(Store):
        def add_all(self, records):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            kept.extend(records)
            return len(kept)

    whole = record_text(RECORDS[1]).encode()
    found = import_lines(whole + b"\n" + bytes(content) + b"\n" + whole, Kept(None))

    assert [record for record in kept if record not in (RECORDS[0], RECORDS[1])] == []
    assert kept.count(RECORDS[1]) == 2
    assert all("\n" not in why for _, why in found.refused)
    assert found.refused or RECORDS[0] in kept or not bytes(content).strip()


# ---------------------------------------------------------------- anchors


def anchored(records: tuple[Record, ...], folder: Path) -> dict[str, Record]:
    """The records by the ids of their anchors, which are read back as the questions that they were."""
    (folder / "own.toml").write_text(to_anchor_toml(records), encoding="utf-8")
    (file,) = load_anchors(folder)
    assert file.unmodelled == ()
    found = {record.id[:8]: record for record in records}
    for case in file.cases:
        record = found[case.id.rpartition("-")[2]]
        mine, theirs = record.restore(), scenario_of(case)
        assert (theirs.model, theirs.stack) == (mine.model, mine.stack)
        assert planner.estimate(theirs).phases == planner.estimate(mine).phases
    return {case.id: found[case.id.rpartition("-")[2]] for case in file.cases}


def test_anchors_are_the_questions_that_they_were(tmp_path: Path) -> None:
    records = (
        a_record(1),
        a_record(2, method="full"),
        a_record(3, method="qlora", model="qwen3-0.6b"),
        out_of_memory(4, method="full"),
    )

    assert len(anchored(records, tmp_path)) == 4
    (file,) = load_anchors(tmp_path)
    assert file.cases[0].id == f"own-l4-smollm2-135m-lora-{records[0].id[:8]}"
    assert file.source.device is not None
    assert (file.source.device.name, file.source.device.driver) == ("NVIDIA L4", "580.1")
    assert file.source.date == "2026-03-01"
    assert [case.outcome for case in file.cases] == ["ran", "ran", "ran", "oom"]
    numbers = {number.metric: number.low_bytes for number in file.cases[0].published}
    assert numbers == {"allocated": 700_000_257, "reserved": 800_064_512, "device": 1_200_000_000}
    assert {timed.metric: timed.value for timed in file.cases[0].timed} == {"seconds": 0.125, "tokens_per_s": 16384.0}
    assert file.cases[3].published == ()


def test_settings_that_differ_from_defaults_survive(tmp_path: Path) -> None:
    scenario = planner.scenario(
        model="smollm2-135m", gpu="l4", method="lora", stack="hf,transformers=4.48.1", seq_len=333, lora_rank=7,
        lora_targets="q_proj,v_proj", optimizer="paged_adamw_8bit", attention="eager", gradient_checkpointing=False,
    )  # fmt: skip
    other = replace(scenario, stack=replace(scenario.stack, kbit_upcast="norms", fused_parts=("norm", "loss")))
    records = (replace(a_record(), scenario=document_of(scenario)), replace(a_record(), scenario=document_of(other)))

    assert len(anchored(records, tmp_path)) == 2


CPU = RunDevice(kind="cpu", name="A processor", total_bytes=1, architecture="cpu")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (a_record(layers=2), "some of the layers only"),
        (a_record(steady=()), "one step, whose passes know no optimizer states"),
        (a_record(kind="limit"), "a search of a limit"),
        (a_record(outcome="killed"), r"it ended otherwise \(killed\)"),
        (a_record(device=CPU), "measured on a processor"),
        (a_record(environment=Environment(versions={"torch": "2.13"}, cap_bytes=1)), "on a pretended smaller card"),
        (a_record(lengths=(512, 64)), "batches of several lengths"),
        (a_record(outcome="out_of_memory", environment=Environment()), "others may have held a part of the card"),
    ],
)
def test_what_no_anchor_can_say_is_left_out(record: Record, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"none of these measurements can be an anchor: {why}$"):
        to_anchor_toml([record])

    good = a_record(9, device=record.device if record.device.kind == "cuda" else a_record().device)
    text = to_anchor_toml([record, good])
    assert [case["model"] for case in tomllib.loads(text)["case"]] == ["smollm2-135m"]
    assert f"# left out: {record.id[:12]}, smollm2-135m lora: " in text
    assert len(anchored((record, good), tmp_path)) == 1


def test_models_and_trainers_that_have_no_name_are_left_out() -> None:
    scenario = a_record().restore()
    unknown = replace(scenario, model=replace(scenario.model, name="mine"))
    shorter = replace(scenario, model=replace(scenario.model, layout=scenario.model.layout[:3]))
    changed = replace(scenario, stack=replace(scenario.stack, repeats_kv=not scenario.stack.repeats_kv))
    for one, why in (
        (unknown, "the model is not in the catalogue"),
        (shorter, "the catalogue's model is another one"),
        (changed, "a trainer with other habits"),
    ):
        with pytest.raises(UsageError, match=why):
            to_anchor_toml([replace(a_record(), scenario=document_of(one))])


def test_several_devices_are_several_files() -> None:
    other = replace(a_record().device, name="NVIDIA L40S")

    with pytest.raises(UsageError, match=r"several \(NVIDIA L4, NVIDIA L40S\): export some of them by"):
        to_anchor_toml([a_record(1), a_record(2, device=other)])


def test_nothing_is_no_anchor() -> None:
    with pytest.raises(UsageError, match="there are none"):
        to_anchor_toml([])
