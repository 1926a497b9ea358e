"""Every key of a file is taken once, or its fate is told."""

from typing import Any

import pytest

from planner.configs.document import parse_document
from planner.configs.keys import Key, Keys, Kind
from planner.configs.understood import Fate
from planner.errors import BrokenInput, UnsupportedScenario

OPTIM = Key("optim", "optimizer", words={"adamw_torch": "adamw_foreach", "adamw_torch_fused": "adamw_fused"})


def keys(text: str) -> Keys:
    return Keys(parse_document(text, "sft.yml"))


def fates(found: Keys, *matter: str) -> dict[str, Fate]:
    return {one.key: one.fate for one in found.readings(matter)}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("whole", "2", 2),
        ("whole", "'2'", 2),
        ("whole", "2.0", 2),
        ("number", "1e-4", 1e-4),
        ("number", "2", 2),
        ("flag", "'True'", True),
        ("flag", "no", False),
        ("names", "q_proj, v_proj", ["q_proj", "v_proj"]),
        ("names", "[q_proj]", ["q_proj"]),
        ("text", "bf16", "bf16"),
        ("any", "[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_values_are_taken_as_trainers_take_them(kind: Kind, text: str, value: object) -> None:
    assert keys(f"key: {text}").take("key", kind, "") == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("whole", "two"),
        ("whole", "2.5"),
        ("whole", "true"),
        ("whole", "[2]"),
        ("number", ".inf"),
        ("number", "1e999"),
        ("number", "true"),
        ("number", "'1_0'"),
        ("flag", "1"),
        ("flag", "maybe"),
        ("names", "{a: b}"),
        ("names", "[1]"),
        ("text", "3"),
    ],
)
def test_wrong_types_name_the_file_the_key_and_the_value(kind: Kind, text: str) -> None:
    with pytest.raises(BrokenInput, match=r"^sft.yml: key .* is not "):
        keys(f"key: {text}").take("key", kind, "")


def test_every_key_has_a_fate() -> None:
    found = keys("lora_r: 16\nwandb_project: x\ncompile: true\nlora_rr: 3\ncolour: red\nempty:\noff: false\n")
    found.take("lora_r", "whole", "lora_rank")
    found.ignore("wandb_*")
    found.unmodelled({"compile": "graphs", "off": "it never is"})

    assert fates(found, "lora_r") == {
        "lora_r": "used",
        "wandb_project": "ignored",
        "compile": "unmodelled",
        "lora_rr": "unmodelled",  # a slip of a key that decides memory
        "colour": "unknown",
        "empty": "ignored",
        "off": "ignored",
    }


def test_sections_are_told_by_dotted_paths() -> None:
    found = keys("fsdp_config:\n  offload_params: true\n  strange_thing: 1\nplain: 2\n")
    section = found.section("fsdp_config")
    section.take("offload_params", "flag", "offload")
    section.readings()

    assert fates(found) == {
        "fsdp_config.offload_params": "used",
        "fsdp_config.strange_thing": "unknown",
        "plain": "unknown",
    }


def test_a_section_that_is_none_is_broken_and_an_absent_one_is_empty() -> None:
    assert "anything" not in keys("a: 1").section("fsdp_config")
    with pytest.raises(BrokenInput, match="fsdp_config 3 is not a section"):
        keys("fsdp_config: 3").section("fsdp_config")


def test_words_translate_in_both_directions() -> None:
    assert keys("optim: adamw_torch_fused").plain([OPTIM]) == {"optimizer": "adamw_fused"}
    assert OPTIM.write("adamw_foreach") == "adamw_torch"
    with pytest.raises(UnsupportedScenario, match="optim has no word for --optimizer 'muon'"):
        OPTIM.write("muon")


def test_a_value_that_has_no_word_of_ours_is_unmodelled() -> None:
    found = keys("optim: galore_adamw")

    assert found.plain([OPTIM]) == {}
    assert fates(found) == {"optim": "unmodelled"}


@pytest.mark.parametrize("value", [("q_proj", "v_proj"), 16, True, "bf16"])
def test_a_key_without_words_gives_back_what_it_took(value: Any) -> None:
    key = Key("x", "lora_targets")

    assert key.read(key.write(value)) == value
