"""Comments of exported files end where they should, whatever stands in a file's name."""

import pytest
import yaml

from planner.configs.written import Line, comments, yaml_text

ENDS = ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_name_cannot_leave_its_comment(end: str) -> None:
    name = f"data{end}push_to_hub: true.jsonl"

    text = yaml_text([f"made by: plan --dataset '{name}'"], [Line("lora_r", 16)], [f"# {name}"])

    assert yaml.safe_load(text) == {"lora_r": 16}


def test_what_no_yaml_may_hold_is_escaped() -> None:
    assert comments(["a\x1b[31mb\x00"]) == ["# a\\x1b[31mb\\x00"]


def test_options_are_not_torn_apart() -> None:
    """A command in a comment has its options whole, so that it can be copied."""
    found = comments(["made by: plan " + " ".join(["--grad-accumulation 1 --no-gradient-checkpointing"] * 5)])

    assert len(found) > 1
    assert not any(line.endswith("-") for line in found)
