"""TrainingArguments as JSON: what people write, what the library prints, and a fate for every installed field."""

import json
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from planner.configs import transformers
from planner.configs.checking import understand_files
from planner.configs.document import parse_document
from planner.configs.transformers_keys import LENGTHS
from planner.configs.understood import Understood
from planner.stacks import load_stack
from tests.configs.fates import classified

BASE = {"model_name_or_path": "Qwen/Qwen3-8B", "output_dir": "out", "per_device_train_batch_size": 4}

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="not installed: transformers")


def read(**keys: Any) -> Understood:
    return transformers.read(parse_document(json.dumps({**BASE, **keys}), "training_args.json"))


def fates(found: Understood, fate: str) -> set[str]:
    return {one.key for one in found.readings if one.fate == fate}


@needs_transformers
@pytest.mark.torch
def test_every_field_of_the_installed_arguments_is_classified() -> None:
    from transformers import TrainingArguments  # noqa: PLC0415

    names = [field.name for field in fields(TrainingArguments)]
    assert [name for name in names if not classified(lambda data: read(**data), name)] == []


@needs_transformers
@pytest.mark.torch
def test_defaults_are_those_of_the_installed_arguments() -> None:
    from transformers import TrainingArguments  # noqa: PLC0415

    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    unset = load_stack("hf").unset

    assert unset["micro_batch_size"] == theirs["per_device_train_batch_size"]
    assert unset["grad_accumulation"] == theirs["gradient_accumulation_steps"]
    assert unset["eval_batch_size"] == theirs["per_device_eval_batch_size"]
    assert (theirs["optim"], load_stack("hf").adamw) == ("adamw_torch_fused", "fused")
    assert (theirs["bf16"], theirs["fp16"], unset["autocast"]) == (False, False, "none")
    assert (theirs["gradient_checkpointing"], theirs["activation_checkpointing"]) == (None, None)
    assert unset["gradient_checkpointing"] is False
    assert (theirs["fsdp"], theirs["deepspeed"], theirs["eval_strategy"]) == (None, None, "no")


@needs_transformers
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_library_prints_is_understood_to_the_last_key(tmp_path: Path) -> None:
    from transformers import TrainingArguments  # noqa: PLC0415

    printed = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=True,
        gradient_checkpointing=True,
        per_device_train_batch_size=2,
        optim="paged_adamw_8bit",
    ).to_json_string()

    found = transformers.read(parse_document(printed, "training_args.json"))

    assert fates(found, "unknown") == set()
    assert fates(found, "unmodelled") == {"use_cpu"}
    assert found.settings == {
        "micro_batch_size": 2,
        "grad_accumulation": 1,
        "optimizer": "paged_adamw_8bit",
        "gradient_checkpointing": True,
        "autocast": "bf16",
    }
    assert found.job == {"epochs": 3.0}


@pytest.mark.parametrize("name", LENGTHS)
def test_every_name_of_a_length(name: str) -> None:
    assert read(**{name: 4096}).settings["seq_len"] == 4096


def test_liger_in_transformers_has_a_head_of_its_own() -> None:
    found = read(use_liger_kernel=True).settings

    assert (found["kernels"], found["loss"]) == ("fused", "fused")
    alone = read(use_liger_kernel=True, liger_kernel_config={"fused_linear_cross_entropy": False})
    assert fates(alone, "unmodelled") == {"liger_kernel_config.fused_linear_cross_entropy"}
    assert "kernels" not in read(use_liger_kernel=False).settings


@pytest.mark.parametrize(
    ("keys", "sharding", "reshard", "version"),
    [
        ({"fsdp": True}, "fsdp", True, 2),
        ({"fsdp": "full_shard auto_wrap"}, "fsdp", True, 2),
        ({"fsdp": ["shard_grad_op"]}, "fsdp", False, 2),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": False}}, "fsdp", False, 2),
        ({"fsdp": "hybrid_shard", "fsdp_config": {"version": 1}}, "hsdp", True, 1),
    ],
)
def test_fsdp_by_arguments_alone(keys: dict[str, Any], sharding: str, reshard: bool, version: int) -> None:
    found = read(**keys)

    assert (found.settings["sharding"], found.settings["reshard_after_forward"]) == (sharding, reshard)
    assert found.fsdp == version
    assert fates(found, "unmodelled") == set()


def test_fsdps_offloading_stands_in_either_place() -> None:
    assert read(fsdp="full_shard offload").settings["offload"] == ("optimizer", "parameters")
    assert read(fsdp=True, fsdp_config={"cpu_offload": True}).settings["offload"] == ("optimizer", "parameters")


def test_fsdps_settings_in_a_file_are_read_beside_the_arguments(tmp_path: Path) -> None:
    section = {"transformer_layer_cls_to_wrap": ["Qwen3DecoderLayer"], "version": 2, "reshard_after_forward": False}
    (tmp_path / "fsdp.json").write_text(json.dumps(section), encoding="utf-8")
    arguments = {**BASE, "fsdp": "full_shard auto_wrap offload", "fsdp_config": "fsdp.json"}
    (tmp_path / "args.json").write_text(json.dumps(arguments), encoding="utf-8")

    found, documents = understand_files([tmp_path / "args.json"])

    assert [one.name for one in documents] == ["args.json", "fsdp.json"]
    assert (found.settings["sharding"], found.settings["reshard_after_forward"], found.fsdp) == ("fsdp", False, 2)
    assert found.settings["offload"] == ("optimizer", "parameters")
    assert fates(found, "unknown") == fates(found, "unmodelled") == set()


def test_deepspeed_stands_in_the_arguments_or_in_a_file_beside_them(tmp_path: Path) -> None:
    engine = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}, "bf16": {"enabled": True}}
    inside = read(deepspeed=engine)
    (tmp_path / "ds.json").write_text(json.dumps(engine), encoding="utf-8")
    (tmp_path / "args.json").write_text(json.dumps({**BASE, "deepspeed": "ds.json"}), encoding="utf-8")

    beside, documents = understand_files([tmp_path / "args.json"])

    assert len(documents) == 2
    assert beside.settings == inside.settings
    assert (inside.settings["sharding"], inside.settings["autocast"]) == ("zero2", "bf16")


def test_evaluation_is_losses_only_and_says_so() -> None:
    found = read(eval_strategy="steps", per_device_eval_batch_size=16, eval_accumulation_steps=4)

    assert (found.settings["moments"], found.settings["eval_logits"]) == (("evaluation",), False)
    assert (found.settings["eval_batch_size"], found.settings["eval_accumulation_steps"]) == (16, 4)
    assert any("metrics" in note for note in found.notes)
    assert "moments" not in read(eval_strategy="no").settings


def test_a_batch_of_all_cards_together_is_told() -> None:
    assert fates(read(accelerator_config={"split_batches": True}), "unmodelled") == {"accelerator_config.split_batches"}


def test_arguments_of_older_releases() -> None:
    old = read(
        evaluation_strategy="epoch", adafactor=True, per_gpu_train_batch_size=3, warmup_ratio=0.1, group_by_length=True
    )

    assert (old.settings["optimizer"], old.settings["moments"]) == ("adafactor", ("evaluation",))
    assert old.settings["micro_batch_size"] == 4, "the newer name holds"
    assert fates(old, "unknown") == set()
