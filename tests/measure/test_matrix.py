"""A matrix is a product of lists; what is wrong in it is named by block and key."""

from pathlib import Path
from typing import Any

import pytest

from planner.errors import BrokenInput, UnknownName
from planner.measure.matrix import expand, load_matrix
from planner.units import GIB


def block(**keys: Any) -> dict[str, Any]:
    return {"name": "a", "model": "llama-3.2-1b", "method": "lora", **keys}


def labels(*blocks: dict[str, Any], **defaults: Any) -> list[str]:
    return [case.label for case in expand({"defaults": defaults, "block": list(blocks)})]


def test_the_product_of_all_lists_the_first_key_slowest() -> None:
    found = labels(block(method=["full", "lora"], seq_len=[512, 1024], gradient_checkpointing=False))

    assert found == [
        "llama-3.2-1b full trl seq_len=512 gradient_checkpointing=false",
        "llama-3.2-1b full trl seq_len=1024 gradient_checkpointing=false",
        "llama-3.2-1b lora trl seq_len=512 gradient_checkpointing=false",
        "llama-3.2-1b lora trl seq_len=1024 gradient_checkpointing=false",
    ]


def test_what_is_excluded() -> None:
    found = labels(
        block(
            model=["llama-3.2-1b", "llama-3.1-8b"],
            method=["full", "lora", "qlora"],
            exclude=[{"model": "llama-3.1-8b", "method": ["full", "lora"]}, {"method": "lora"}],
        )
    )

    assert found == ["llama-3.2-1b full trl", "llama-3.2-1b qlora trl", "llama-3.1-8b qlora trl"]


def test_defaults_hold_unless_a_block_says_otherwise() -> None:
    found = expand({"defaults": {"stack": "hf", "steps": 5, "seq_len": 64}, "block": [block(), block(stack="plain")]})

    assert [(case.stack, case.steps, case.settings["seq_len"]) for case in found] == [("hf", 5, 64), ("plain", 5, 64)]


def test_priority_decides_and_then_the_file() -> None:
    blocks = [
        block(name="late", priority=2, seq_len=1),
        block(name="next", seq_len=2),
        block(name="first", priority=-1, seq_len=3),
        block(name="last", seq_len=4),
    ]

    assert [case.block for case in expand({"block": blocks})] == ["first", "next", "last", "late"]


def test_what_two_blocks_ask_alike_is_asked_once() -> None:
    found = expand({"block": [block(name="one"), block(name="two", seq_len=[512]), block(name="three")]})

    assert [case.block for case in found] == ["one", "two"]


def test_kinds_layers_and_caps() -> None:
    (case,) = expand({"block": [block(layers="auto", cap="24GiB", timeout=60, warmup=0)]})
    assert (case.kind, case.layers, case.cap_bytes, case.timeout, case.warmup) == ("steps", "auto", 24 * GIB, 60, 0)
    assert case.label == "llama-3.2-1b lora trl layers=auto cap=24GiB"

    (case,) = expand({"block": [block(kind="find_max_batch")]})
    assert case.label == "find_max_batch llama-3.2-1b lora trl"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"method": "dora"}, r"block 'a': method 'dora' is not one of full, lora, qlora"),
        ({"sequence": 1}, r"block 'a': unknown key 'sequence'"),
        ({"seq_length": 1}, r"block 'a': unknown key 'seq_length'; did you mean seq_len"),
        ({"sharding": "fsdp"}, r"block 'a': unknown key 'sharding'"),
        ({"model": []}, r"block 'a': model is an empty list"),
        ({"model": 8}, r"block 'a': model 8 is not text"),
        ({"seq_len": [[1]]}, r"block 'a': seq_len \[1\] is neither text nor a number"),
        ({"layers": "some"}, r"block 'a': layers 'some' is neither"),
        ({"layers": [4, True]}, r"block 'a': layers True is neither"),
        ({"cap": "24"}, r"block 'a': cap: '24' has no unit"),
        ({"cap": 24}, r"block 'a': cap 24 is not text"),
        ({"steps": 0}, r"block 'a': steps 0 is not a whole number from 1 to 1000"),
        ({"timeout": "long"}, r"block 'a': timeout 'long' is not a whole number"),
        ({"priority": 1.5}, r"block 'a': priority 1.5 is not a whole number"),
        ({"kind": "guess"}, r"block 'a': kind 'guess' is not one of steps, snapshot"),
        ({"kind": "find_max_seq", "layers": 4}, r"block 'a': layers: a limit is searched with all layers"),
        ({"exclude": {"method": "lora"}}, r"block 'a': exclude .* is not a list"),
        ({"exclude": [{"seq_len": 512}]}, r"block 'a': exclude: unknown key 'seq_len'"),
        ({"exclude": [{"method": "lora"}, {"method": "full"}]}, r"block 'a': exclude: its number 2 is true of no case"),
        ({"name": 5}, r"block 1: name 5 is not text"),
        ({"seq_len": list(range(1, 10_002))}, r"block 'a': 10001 cases are more than"),
    ],
)
def test_a_wrong_key_is_named_with_its_block(broken: dict[str, Any], words: str) -> None:
    with pytest.raises(BrokenInput, match=words) as raised:
        expand({"block": [block(**broken)]})

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "there are no blocks"),
        ({"block": []}, "there are no blocks"),
        ({"block": {"model": "a"}}, "there are no blocks"),
        ({"blocks": []}, r"unknown key 'blocks'; did you mean block\?"),
        ({"defaults": 1, "block": [block()]}, "defaults: write a table"),
        ({"defaults": {"exclude": []}, "block": [block()]}, "defaults: unknown key 'exclude'"),
        ({"block": [{"model": "llama-3.2-1b"}]}, "block 1: method is missing"),
    ],
)
def test_a_wrong_file(document: dict[str, Any], words: str) -> None:
    with pytest.raises(BrokenInput, match=words):
        expand(document)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('[[block]]\nmodel = "llama-3.2-1b"\nmethod = "lora"\n', encoding="utf-8")
    assert [case.label for case in load_matrix(str(path))] == ["llama-3.2-1b lora trl"]

    path.write_text("[[block", encoding="utf-8")
    with pytest.raises(BrokenInput, match=r"grid.toml' is not TOML"):
        load_matrix(str(path))
    path.write_text("[[block]]\nmodel = 1\n", encoding="utf-8")
    with pytest.raises(BrokenInput, match=r"grid.toml', block 1: method is missing"):
        load_matrix(str(path))
    with pytest.raises(BrokenInput, match="cannot be read: No such file"):
        load_matrix(str(tmp_path / "none.toml"))
    with pytest.raises(UnknownName, match="unknown matrix 'cart'"):
        load_matrix("cart")
