"""Reading an ``adapter_config.json``: fields of a good one, one line for everything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import BrokenInput, PlannerError, UnknownName, UnsupportedScenario
from planner.peft_config import FILE_LIMIT, PEFT_TYPES, checked, read_adapter

LORA: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "target_modules": ["q_proj"]}


def test_a_file_and_its_directory_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(LORA), encoding="utf-8")

    assert read_adapter(file) == read_adapter(str(tmp_path)) == LORA


@pytest.mark.parametrize("kind", PEFT_TYPES)
def test_every_type_is_taken_in_either_case(kind: str) -> None:
    assert checked({"peft_type": kind.lower()}, "file") == checked({"peft_type": kind}, "file") == {"peft_type": kind}


BROKEN: list[tuple[bytes, type[PlannerError], str]] = [
    (b"", BrokenInput, "not valid JSON"),
    (b"[]", BrokenInput, "holds a list"),
    (b"{}", BrokenInput, "has no peft_type"),
    (b"\xff\xfe", BrokenInput, "not text in UTF-8"),
    (b'{"peft_type": ' * 50_000, BrokenInput, "nested too deeply"),
    (b'{"peft_type": "LORA", "peft_type": "LOHA"}', BrokenInput, "stands twice"),
    (b" " * (FILE_LIMIT + 1), BrokenInput, "larger than 1 MiB"),
    (b'{"peft_type": ["LORA"]}', BrokenInput, "peft_type is .*, not a name"),
    (b'{"peft_type": null}', BrokenInput, "peft_type is None, not a name"),
    (b'{"peft_type": "LORRA"}', UnknownName, "unknown peft_type 'LORRA'; did you mean lora"),
    (b'{"peft_type": "LORA", "target_modules": "' + b"a" * 3000 + b'"}', BrokenInput, "more than 2000 characters"),
    (b'{"peft_type": "LORA", "task_type": "SEQ_CLS"}', UnsupportedScenario, "task_type is 'SEQ_CLS'"),
    (b'{"peft_type": "LORA", "megatron_config": {}}', UnsupportedScenario, "megatron_config"),
    (b'{"peft_type": "SHADOW", "shadow_model": "some/model"}', UnsupportedScenario, "shadow_model"),
]


@pytest.mark.parametrize(("data", "error", "message"), BROKEN, ids=[message for _, _, message in BROKEN])
def test_what_cannot_be_used_is_one_line(data: bytes, error: type[PlannerError], message: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_bytes(data)

    with pytest.raises(error, match=message) as caught:
        read_adapter(file)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/at/all", "no such file"),
        ("/dev/zero", "not an ordinary file"),
        ("a\0b", "--peft-config"),
        ("~nobody-of-this-name/x", "not a usable path"),
    ],
)
def test_what_is_no_file_is_one_line(path: str, message: str) -> None:
    with pytest.raises(BrokenInput, match=message):
        read_adapter(path)


def test_a_directory_without_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(BrokenInput, match=r"no adapter_config\.json in it"):
        read_adapter(tmp_path)


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["peft_type", "r", "task_type", "target_modules"]), DOCUMENTS))
def test_any_document_is_fields_or_one_line(document: dict[str, Any]) -> None:
    lines = [""]
    try:
        assert checked(document, "file")["peft_type"] in PEFT_TYPES
    except PlannerError as error:
        lines = str(error).splitlines()

    assert len(lines) == 1
