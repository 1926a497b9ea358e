"""Ways out in the words of the file: what is proposed, written into it, means the run that was promised."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cli import main
from planner.configs.spelled import Edit

TRL = {
    "model_name_or_path": "meta-llama/Llama-3.1-8B",
    "dtype": "bfloat16",
    "dataset_name": "trl-lib/Capybara",
    "use_peft": True,
    "lora_r": 32,
    "per_device_train_batch_size": 2,
    "gradient_checkpointing": True,
    "max_length": 2048,
}
AXOLOTL = {
    "base_model": "NousResearch/Meta-Llama-3.1-8B",
    "adapter": "lora",
    "load_in_8bit": False,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_linear": True,
    "sequence_len": 2048,
    "micro_batch_size": 2,
    "datasets": [{"path": "x", "type": "alpaca"}],
}
LLAMAFACTORY = {
    "model_name_or_path": "meta-llama/Llama-3.1-8B",
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_target": "all",
    "template": "llama3",
    "cutoff_len": 2048,
    "per_device_train_batch_size": 1,
    "bf16": True,
}
UNSLOTH = """
model, _ = FastLanguageModel.from_pretrained("unsloth/Meta-Llama-3.1-8B", max_seq_length=2048, load_in_4bit=False)
model = FastLanguageModel.get_peft_model(model, r=16, use_gradient_checkpointing="unsloth")
trainer = SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=2))
"""


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, dict[str, Any]]]:
    """What ``plan check`` says of a text, as lines for people and as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def checking(name: str, text: str, *words: str) -> tuple[str, dict[str, Any]]:
        (tmp_path / name).write_text(text)
        assert main(["check", name, *words]) in (0, 4)
        lines = capsys.readouterr().out
        main(["check", name, *words, "--format", "json"])
        return lines, json.loads(capsys.readouterr().out)

    return checking


def edits(lines: str, name: str) -> list[dict[str, Any] | None]:
    """The changes on this card as they are told, each as keys of the file, or ``None`` where it is told otherwise."""
    section = lines.partition("Changes on this card\n")[2].partition("\n\n")[0]
    ways = [line for line in section.splitlines() if not line.lstrip().startswith("plan check")]
    told = [line.partition(f", in {name}: ")[2] for line in ways]
    return [yaml.safe_load("{" + one + "}") if one else None for one in told]


@pytest.mark.parametrize(
    ("settings", "gpu", "key"),
    [
        (TRL, "12gb", "load_in_4bit"),
        ({**TRL, "gradient_checkpointing": False}, "24gb", "gradient_checkpointing"),
        (AXOLOTL, "24gb", "gradient_checkpointing"),
        ({**AXOLOTL, "gradient_checkpointing": True, "micro_batch_size": 1}, "16gb", "adapter"),
        (LLAMAFACTORY, "16gb", "quantization_bit"),
    ],
    ids=["trl", "trl without checkpoints", "axolotl without checkpoints", "axolotl", "llamafactory"],
)
def test_the_change_written_into_the_file_is_the_promised_run(
    check: Callable[..., tuple[str, dict[str, Any]]], settings: dict[str, Any], gpu: str, key: str
) -> None:
    lines, found = check("sft.yaml", yaml.safe_dump(settings), "--gpu", gpu)
    ways, told = found["recommendation"]["changes"], edits(lines, "sft.yaml")

    assert len(ways) == len(told)
    assert any(one and key in one for one in told)
    for way, edit in zip(ways, told, strict=True):
        assert way["command"] in lines
        if edit is not None:
            _, after = check("sft.yaml", yaml.safe_dump({**settings, **edit}), "--gpu", gpu)
            assert after["candidates"][0]["peak"] == way["candidate"]["peak"], edit


def test_a_script_is_told_by_its_keyword_arguments(check: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    lines, found = check("train.py", UNSLOTH, "--gpu", "12gb")

    assert "qlora, in train.py: from_pretrained(load_in_4bit=True)" in lines
    _, after = check("train.py", UNSLOTH.replace("load_in_4bit=False", "load_in_4bit=True"), "--gpu", "12gb")
    assert after["candidates"][0]["peak"] == found["recommendation"]["changes"][0]["candidate"]["peak"]


def test_the_files_own_name_of_a_key_is_kept(check: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    """``max_seq_length`` is TRL's older name; the writer knows the newer one alone."""
    settings = {key: value for key, value in TRL.items() if key != "max_length"} | {
        "load_in_4bit": True, "max_seq_length": 8192, "per_device_train_batch_size": 4,
    }  # fmt: skip
    lines, found = check("sft.yaml", yaml.safe_dump(settings), "--gpu", "16gb")
    way = next(one for one in found["recommendation"]["changes"] if "seq_len" in one["settings"])

    assert f"max_seq_length: {way['settings']['seq_len']}" in lines


def test_adapters_come_with_all_that_the_file_has_to_say(check: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    """A full run's file says nothing of adapters, and TRL's own defaults are not those of the plan."""
    settings = {key: value for key, value in TRL.items() if key not in ("use_peft", "lora_r")}
    lines, found = check("sft.yaml", yaml.safe_dump(settings), "--gpu", "24gb")
    told = next(line for line in lines.splitlines() if "qlora, in sft.yaml: " in line)
    edit = yaml.safe_load("{" + told.partition("sft.yaml: ")[2] + "}")
    way = next(one for one in found["recommendation"]["changes"] if one["settings"]["method"] == "qlora")

    assert edit["use_peft"] is edit["load_in_4bit"] is True
    _, after = check("sft.yaml", yaml.safe_dump({**settings, **edit}), "--gpu", "24gb")
    assert after["candidates"][0]["peak"] == way["candidate"]["peak"]


def test_other_cards_and_what_the_trainer_cannot_say_have_no_edit(
    check: Callable[..., tuple[str, dict[str, Any]]],
) -> None:
    lines, _ = check("sft.yaml", yaml.safe_dump({**TRL, "max_length": 32768}), "--gpu", "24gb")
    rented = lines.partition("Other cards to rent")[2] + lines.partition("More of these cards")[2]

    assert "plan check sft.yaml" in rented
    assert ", in sft.yaml:" not in rented.partition("trl sets")[0]


def test_an_edit_as_it_stands_in_each_kind_of_file() -> None:
    keys = {"optim": "adamw_8bit", "lora_r": 8, "bf16": False, "run_name": "no", "lora_alpha": 16.0}

    assert Edit("a.yaml", "yaml", keys).text == (
        'a.yaml: optim: adamw_8bit, lora_r: 8, bf16: false, run_name: "no", lora_alpha: 16'
    )
    assert Edit("a.json", "json", {"optim": "sgd"}, ("fp16",)).text == 'a.json: "optim": "sgd", without fp16'
    assert Edit("a.py", "python", {"SFTConfig.optim": "sgd", "SFTConfig.bf16": True}).text == (
        "a.py: SFTConfig(optim='sgd', bf16=True)"
    )
