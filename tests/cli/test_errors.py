"""Bad input: one line on stderr, the right exit code, nothing on stdout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
OK = ("--model", "8b", "--gpu", "4090")

USAGE: list[tuple[tuple[str, ...], str]] = [
    ((), "--model is missing"),
    (("--gpu", "4090"), "--model is missing"),
    (("--model", "8b"), "--gpu is missing"),
    (("--model", "", "--gpu", "4090"), "--model is missing"),
    (("--model", "llama-9000b", "--gpu", "4090"), "llama-9000b"),
    (("--model", "8b", "--gpu", "4900"), "did you mean"),
    (("--model", "8b", "--gpu", "rtx490"), "list them with: plan gpus"),
    (("--model", "60b", "--gpu", "4090"), "did you mean 65b"),
    (("--model", "0b", "--gpu", "4090"), "unknown model '0b'; did you mean 135m"),
    ((*OK, "--method", "qlorra"), "did you mean qlora"),
    ((*OK, "--method", "dora"), "one of full, lora, qlora"),
    ((*OK, "--format", "pdf"), "one of text, json, markdown"),
    ((*OK, "--stack", ""), "unknown stack ''"),
    ((*OK, "--format", "jsn"), "did you mean json"),
    ((*OK, "--evidence", "guess"), "unknown evidence"),
    ((*OK, "--stack", "trll"), "did you mean trl"),
    ((*OK, "--stack", "hf,transformers=new"), "PACKAGE=VERSION"),
    ((*OK, "--seq-len", "0"), "--seq-len 0"),
    ((*OK, "--seq-len", "-5"), "--seq-len -5"),
    ((*OK, "--seq-len", "16777217"), "--seq-len 16777217"),
    ((*OK, "--seq-len", "99999999999999999999999"), "whole number"),
    ((*OK, "--seq-len", "2.5"), "whole number"),
    ((*OK, "--seq-len", "2k"), "whole number"),
    ((*OK, "--seq-len", "nan"), "whole number"),
    ((*OK, "--micro-batch-size", "65537"), "--micro-batch-size 65537"),
    ((*OK, "--grad-accumulation", "0"), "--grad-accumulation 0"),
    ((*OK, "--lora-rank", "0"), "--lora-rank 0"),
    ((*OK, "--lora-rank", "65537"), "--lora-rank 65537"),
    ((*OK, "--lora-alpha", "nan"), "not a number"),
    ((*OK, "--lora-alpha", "inf"), "not a number"),
    ((*OK, "--lora-alpha", "-1"), "--lora-alpha"),
    ((*OK, "--lora-dropout", "1.5"), "--lora-dropout"),
    ((*OK, "--lora-targets", ""), "--lora-targets"),
    ((*OK, "--gpus", "0"), "--gpus 0"),
    ((*OK, "--gpus", "-1"), "--gpus -1"),
    ((*OK, "--gpus", "4097"), "--gpus 4097"),
    ((*OK, "--gpus", "10", "--nodes", "4"), "take --gpus 8 or 12,"),
    ((*OK, "--gpus", "12"), "take --gpus 8 or 16"),
    ((*OK, "--network-gbps", "0"), "not a rate above 0"),
    ((*OK, "--network-gbps", "nan"), "write it in Gbit/s, for instance 100"),
    ((*OK, "--network-gbps", "inf"), "write it in Gbit/s, for instance 100"),
    ((*OK, "--network-gbps", "1e12"), "up to 1,000,000 Gbit/s: write for instance 100"),
    ((*OK, "--host-memory", "64"), "no unit"),
    ((*OK, "--gpus", "two"), "whole number"),
    ((*OK, "--gpus", "2", "--sharding", "none"), "--sharding"),
    ((*OK, "--headroom", "1"), "no unit"),
    ((*OK, "--headroom", "-1GiB"), "not an amount of memory"),
    ((*OK, "--headroom", "1 parsec"), "unknown unit"),
    ((*OK, "--optimizer", "adamm"), "--optimizer"),
    ((*OK, "--quant", "nf5"), "--quant"),
    ((*OK, "--adapter-dtype", "fp8"), "--adapter-dtype"),
    ((*OK, "--weights-dtype", "int4"), "--weights-dtype"),
    ((*OK, "--attention", "paged"), "--attention"),
    ((*OK, "--loss", "half"), "--loss"),
    ((*OK, "--profiles", "/nowhere"), "--profiles"),
    ((*OK, "--seqlen", "3"), "--seq-len"),
    ((*OK, "--seq-len"), "requires an argument"),
    (("--format", "json", "gpus"), "plan gpus --format"),
    (("gpuz",), "gpus"),
    (("8b",), "8b"),
    (("gpus", "no-such-card"), "no-such-card"),
    (("gpus", "--frmat", "json"), "--format"),
    (("models", "no-such-model"), "no-such-model"),
    (("explain",), "explain what?"),
    (("explain", "FIT01"), "did you mean fit001"),
    (("explain", "memry"), "did you mean memory"),
    (("explain", "memory", "--gpu", "4090"), "--model is missing"),
    (("explain", "stack", "--stack", "nope"), "unknown stack"),
    (("compare", "--model", "8b"), "--gpu is missing"),
    (("rules", "extra"), "extra"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), USAGE, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_usage_errors(run: Run, arguments: tuple[str, ...], says: str) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert says in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "8b", "--gpu", "t4", "--attention", "flash"),
    ],
)
def test_unsupported_is_refused_with_its_own_code(run: Run, arguments: tuple[str, ...]) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.out, answer.err.count("\n")) == (3, "", 1)
    assert answer.err.startswith("error: ")


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    answer = run("--model", "a\x1b[2J\nb", "--gpu", "4090")

    assert answer.err.count("\n") == 1
    assert "\x1b" not in answer.err


BROKEN_CONFIGS = {
    "not json": "{",
    "a list": "[]",
    "no type": "{}",
    "wrong types": '{"model_type": "llama", "hidden_size": "big"}',
    "missing fields": '{"model_type": "llama"}',
    "huge integers": '{"model_type": "llama", "hidden_size": 1e400, "num_hidden_layers": 9999999999999999999999}',
    "deep nesting": "[" * 100_000,
    "unknown architecture": '{"model_type": "never-heard-of", "hidden_size": 64}',
}


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_a_broken_config_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(BROKEN_CONFIGS[name], encoding="utf-8")
    answer = run("--model", str(config), "--gpu", "4090")

    assert answer.code == (3 if name == "unknown architecture" else 2)
    assert (answer.out, answer.err.count("\n")) == ("", 1)


def test_a_profile_with_an_unknown_key_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('id = "mine"\ncolour = "green"\n', encoding="utf-8")
    answer = run(*OK, "--profiles", str(tmp_path))

    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(query: str = "") -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("planner.catalog.list_models", broken)
    monkeypatch.delitem(__import__("sys").modules, "planner.cli.models", raising=False)

    with pytest.raises(RuntimeError, match="a bug"):
        run("models")
