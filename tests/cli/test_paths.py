r"""Paths as people have them: blanks, other scripts, great lengths, ``C:\`` and line ends of Windows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import load_model, looks_like_path
from planner.cli.files import check_target, is_device
from planner.errors import BrokenInput, UnknownName, UsageError, show
from planner.render.lines import size
from planner.trace.lengths import read_lengths
from tests.cli.test_commands import MESSAGE

ROOT = Path(__file__).parents[2]
Run = Callable[..., Any]
FOLDERS = ["with a blank", "übung", "模型", 'it\'s "quoted"', "a" * 200, "-dash", "100%", "a;b&c", "#5"]
PLAN = ("--model", "8b", "--gpu", "4090", "--method", "lora")
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}
ROWS = ['{"prompt": "a", "completion": "b c d"}', '{"prompt": "e f", "completion": "g"}']


def profile() -> str:
    text = (ROOT / "hardware_profiles" / "rtx4090.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("aliases")]
    return "\n".join(lines).replace('id = "rtx4090"', 'id = "our-own-card"', 1) + "\n"


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


CALLS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "dataset": lambda at: ("dataset", str(written(at, "rows.jsonl", "\n".join(ROWS) + "\n"))),
    "plan --dataset": lambda at: (*PLAN, "--dataset", str(written(at, "rows.jsonl", "\n".join(ROWS) + "\n"))),
    "plan --model": lambda at: ("--model", str(written(at, "config.json", json.dumps(CONFIG)).parent), "--gpu", "4090"),
    "plan --model FILE": lambda at: ("--model", str(written(at, "config.json", json.dumps(CONFIG))), "--gpu", "4090"),
    "plan --peft-config": lambda at: (
        "--model",
        "8b",
        "--gpu",
        "4090",
        "--peft-config",
        str(written(at, "adapter_config.json", json.dumps(ADAPTER))),
    ),
    "gpus --profiles": lambda at: (
        "gpus",
        "our-own",
        "--profiles",
        str(written(at, "our-own-card.toml", profile()).parent),
    ),
    "plan --profiles": lambda at: (
        "--model",
        "8b",
        "--gpu",
        "our-own-card",
        "--profiles",
        str(written(at, "our-own-card.toml", profile()).parent),
    ),
    "sweep --out": lambda at: ("sweep", *PLAN, "--out", str(written(at, "rows.csv", ""))),
    "why --message": lambda at: ("why", "--message", str(written(at, "log.txt", MESSAGE)), *PLAN),
}


@pytest.mark.parametrize("folder", FOLDERS, ids=ascii)
@pytest.mark.parametrize("name", CALLS)
def test_any_folder_will_do(run: Run, tmp_path: Path, name: str, folder: str) -> None:
    answer = run(*CALLS[name](tmp_path / folder), columns=60)

    assert (answer.code, answer.err) == (0, "")
    assert [line for line in answer.out.splitlines() if size(line) > 60 and not is_value(line)] == []


def is_value(line: str) -> bool:
    """A word of a command to copy, which nothing may break."""
    return line.strip().startswith(("'", "/"))


@pytest.mark.parametrize("name", CALLS)
def test_a_path_that_is_too_long_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    words = [word.replace(str(tmp_path), f"{tmp_path}/{'long/' * 2000}") for word in CALLS[name](tmp_path / "x")]
    answer = run(*words)

    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert len(answer.err) < 400


# ---------------------------------------------------------------- line ends, and marks of byte order


@pytest.mark.parametrize("change", ["crlf", "bom", "both"])
@pytest.mark.parametrize("name", CALLS)
def test_files_from_windows_say_the_same(run: Run, tmp_path: Path, name: str, change: str) -> None:
    arguments = CALLS[name](tmp_path / "here")
    if name == "sweep --out":
        pytest.skip("that file is ours")
    before = run(*arguments, "--format", "json")
    for path in (tmp_path / "here").iterdir():
        data = path.read_bytes()
        data = data.replace(b"\n", b"\r\n") if change != "bom" else data
        path.write_bytes(b"\xef\xbb\xbf" + data if change != "crlf" else data)
    after = run(*arguments, "--format", "json")

    assert (after.code, after.err) == (0, "")
    assert settled(after.out) == settled(before.out)


def settled(text: str) -> Any:
    """An answer without the size of the file, which line ends change."""
    found = json.loads(text)
    for part in (found, found.get("dataset") or {}):
        part.pop("size_bytes", None)
    return found


@pytest.mark.parametrize("data", [b"512\r\n1024, 2\r\n", b"\xef\xbb\xbf512\n1024, 2\n", b"512\r1024, 2\r"])
def test_lengths_from_windows(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lengths.txt"
    path.write_bytes(data)

    assert sorted(read_lengths(path)) == [512, 1024, 1024]


# ---------------------------------------------------------------- names of Windows


@pytest.mark.parametrize(
    "name",
    [r"C:\runs\con", "NUL", "nul.jsonl", "aux.tar.gz", "com1.csv", r"\\server\share\LPT9.txt", "prn ", "CONOUT$"],
)
def test_names_that_windows_keeps_are_refused_there(name: str, tmp_path: Path) -> None:
    assert is_device(name)
    with pytest.raises(UsageError, match="Windows keeps this name for a device"):
        check_target("--out", name, windows=True)
    check_target("--out", str(tmp_path / "nul.jsonl"), windows=False)


@pytest.mark.parametrize("name", [r"C:\con\rows.csv", "console.csv", "com.csv", "com10.csv", "null", "rows.con", ""])
def test_other_names_are_not(name: str) -> None:
    assert not is_device(name)


@pytest.mark.parametrize(
    "name", [r"C:\models\llama", r".\llama", r"..\llama", r"\\server\share\llama", r"models\llama"]
)
def test_paths_of_windows_are_never_names(name: str) -> None:
    assert looks_like_path(name)
    with pytest.raises((BrokenInput, UnknownName, UsageError)) as refused:
        load_model(name)
    assert name in str(refused.value)


def test_messages_show_a_path_as_it_was_typed(run: Run) -> None:
    path = r"C:\Users\me\new\rows.csv"

    assert show(path) == f"'{path}'"
    assert r"'C:\nowhere'" in run(*PLAN, "--profiles", r"C:\nowhere").err
    assert r"C:\cards\4090" in run("--model", "8b", "--gpu", r"C:\cards\4090").err
