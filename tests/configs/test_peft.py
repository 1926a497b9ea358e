"""PEFT's ``adapter_config.json``: alone, and beside a trainer's file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs.checking import check, understand_files
from planner.configs.document import parse_document
from planner.configs.formats import format_of
from planner.configs.peft import read
from planner.errors import BrokenInput, UnknownName, UnsupportedScenario, UsageError
from planner.recommend.request import Request

LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
    "r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "inference_mode": True,
    "use_rslora": True,
}


def file(folder: Path, **fields: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**LORA, **fields}), encoding="utf-8")
    return path


def request(**keys: Any) -> Request:
    return Request(**{"model": "", "gpu": "h100", "stack": "", **keys})


def test_alone_it_is_a_run_of_its_own_model(tmp_path: Path) -> None:
    found = check(*understand_files([file(tmp_path)]), request())

    train = found.candidate.scenario.train
    assert found.format.name == "peft"
    assert (found.candidate.method, found.plan.model.name) == ("lora", "llama-3.1-8b")
    assert (train.lora_rank, train.lora_alpha, train.lora_targets) == (64, 16.0, ("q_proj", "v_proj"))


def test_a_quantised_base_is_said_by_the_command(tmp_path: Path) -> None:
    found = check(*understand_files([file(tmp_path)]), request(methods=("qlora",)))

    assert found.candidate.method == "qlora"
    assert found.candidate.scenario.train.lora_rank == 64


def test_other_kinds_of_adapters_are_traced(tmp_path: Path) -> None:
    understood, documents = understand_files([file(tmp_path, peft_type="IA3", feedforward_modules=["down_proj"])])

    with pytest.raises(UnsupportedScenario, match="traced"):
        check(understood, documents, request())


def test_beside_a_trainers_file_it_says_what_is_adapted(tmp_path: Path) -> None:
    trainer = {"model_name_or_path": "meta-llama/Llama-3.1-8B", "max_length": 512, "per_device_train_batch_size": 1}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(trainer), encoding="utf-8")

    found = check(*understand_files([tmp_path / "sft.yaml", file(tmp_path)]), request())

    train = found.candidate.scenario.train
    assert (found.candidate.method, train.seq_len, train.lora_rank) == ("lora", 512, 64)
    assert found.candidate.scenario.stack.name == "trl"


def test_two_files_with_adapters_are_one_too_many(tmp_path: Path) -> None:
    trainer = {"model_name_or_path": "meta-llama/Llama-3.1-8B", "use_peft": True, "lora_r": 8, "max_length": 512}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(trainer), encoding="utf-8")

    with pytest.raises(UsageError, match=r"sft\.yaml: lora_r stands in adapter_config\.json already"):
        check(*understand_files([tmp_path / "sft.yaml", file(tmp_path)]), request())


def test_every_field_is_used_or_ignored(tmp_path: Path) -> None:
    found = read(parse_document(file(tmp_path, bias="none", loftq_config={}).read_text(encoding="utf-8"), "a.json"))

    assert {one.key: one.fate for one in found.readings if one.fate == "used"}.keys() == {
        "peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules", "bias",
    }  # fmt: skip
    assert found.of("unknown") == ()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"peft_type": "LOORA"}, UnknownName),
        ({"peft_type": 3}, BrokenInput),
        ({"task_type": "SEQ_CLS"}, UnsupportedScenario),
    ],
)
def test_a_file_that_peft_could_not_read_is_refused(tmp_path: Path, fields: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        understand_files([file(tmp_path, **fields)])


def test_it_is_told_by_its_keys(tmp_path: Path) -> None:
    text = file(tmp_path).read_text(encoding="utf-8")

    assert format_of(parse_document(text, "adapter_config.json")).name == "peft"
