"""LLaMA-Factory's YAML: every argument has a fate, what it derives is derived, and every export comes back."""

import json
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import llamafactory
from planner.configs.checking import understand_files
from planner.configs.document import parse_document
from planner.configs.exporting import differences, read_back
from planner.configs.llamafactory_keys import IGNORED, MATTER, UNMODELLED
from planner.configs.transformers_keys import IGNORED as TRAINING_IGNORED
from planner.configs.transformers_keys import UNMODELLED as TRAINING_UNMODELLED
from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario
from planner.recommend.request import Request
from planner.spec import Job
from tests.configs.returned import leave, peak, request

NAMES = Path(__file__).parent / "names"
VERSION = "0.9.5"

BASE: dict[str, Any] = {"model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "stage": "sft", "bf16": True}


def read(**keys: Any) -> Understood:
    return llamafactory.read(parse_document(yaml.safe_dump({**BASE, **keys}), "sft.yaml"))


def unmodelled(found: Understood) -> set[str]:
    return {one.key for one in found.of("unmodelled")}


def stored(name: str) -> set[str]:
    return set((NAMES / name).read_text(encoding="utf-8").split())


# ---------------------------------------------------------------- the arguments


@pytest.mark.parametrize("name", sorted(stored("llamafactory.txt") | stored("training_arguments.txt")))
def test_every_argument_is_classified(name: str) -> None:
    classes = (*MATTER, *UNMODELLED, *IGNORED, *TRAINING_UNMODELLED, *TRAINING_IGNORED)
    taken = {"do_eval", "prediction_loss_only", "eval_accumulation_steps", "gradient_checkpointing_kwargs", "adafactor"}
    taken |= {"accelerator_config", "liger_kernel_config", "max_steps", "activation_checkpointing_kwargs"}

    assert any(fnmatchcase(name, one) for one in classes) or name in taken


def test_no_argument_has_two_classes() -> None:
    assert not set(MATTER) & set(UNMODELLED)
    assert not set(UNMODELLED) & set(IGNORED)


@pytest.mark.skipif(find_spec("llamafactory") is None, reason="llamafactory is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_stored_names_are_those_of_the_installed_llamafactory(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import fields  # noqa: PLC0415
    from importlib.metadata import version  # noqa: PLC0415

    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    kinds = import_module("llamafactory.hparams.parser")._TRAIN_ARGS
    names = {one.name for kind in kinds for one in fields(kind) if one.init}
    theirs = {one.name for one in fields(import_module("transformers").Seq2SeqTrainingArguments) if one.init}

    assert version("llamafactory") == VERSION
    assert stored("llamafactory.txt") == names - theirs


# ---------------------------------------------------------------- what it derives


@pytest.mark.parametrize(
    ("keys", "method", "settings"),
    [
        ({}, "lora", {"lora_targets": ("all-linear",), "lora_alpha": 16}),
        ({"lora_rank": 64}, "lora", {"lora_rank": 64, "lora_alpha": 128}),
        ({"lora_target": "q_proj,v_proj"}, "lora", {"lora_targets": ("q_proj", "v_proj")}),
        ({"quantization_bit": 4}, "qlora", {"quant_storage": "bf16"}),
        (
            {"quantization_bit": 4, "quantization_type": "fp4", "bf16": False, "fp16": True},
            "qlora",
            {"quant": "fp4", "quant_storage": "fp16"},
        ),
        ({"quantization_bit": 8, "quantization_method": "bitsandbytes"}, "qlora", {"quant": "int8"}),
        ({"finetuning_type": "full"}, "full", {"weights_dtype": "fp32", "autocast": "bf16"}),
        (
            {"finetuning_type": "full", "pure_bf16": True, "bf16": False},
            "full",
            {"weights_dtype": "bf16", "autocast": "none"},
        ),
    ],
)
def test_methods_and_dtypes(keys: dict[str, Any], method: str, settings: dict[str, Any]) -> None:
    found = read(**keys)

    assert found.method == method
    assert settings.items() <= found.settings.items()
    assert not unmodelled(found)


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({}, {"gradient_checkpointing": True}),
        ({"disable_gradient_checkpointing": True}, {"gradient_checkpointing": False}),
        ({"gradient_checkpointing": False}, {"gradient_checkpointing": True}),
        ({"disable_gradient_checkpointing": True, "gradient_checkpointing": True}, {"gradient_checkpointing": True}),
        ({"use_unsloth_gc": True}, {"gradient_checkpointing": True, "offload": ("activations",)}),
        ({"flash_attn": "fa2"}, {"attention": "flash"}),
        ({"flash_attn": "disabled"}, {"attention": "eager"}),
        ({"enable_liger_kernel": True}, {"kernels": "fused", "loss": "fused"}),
        ({"enable_liger_kernel": True, "stage": "dpo"}, {"kernels": "fused", "loss": "full", "objective": "dpo"}),
        ({"stage": "dpo", "finetuning_type": "full"}, {"objective": "dpo"}),
        ({"stage": "dpo", "pref_loss": "simpo"}, {"objective": "dpo", "reference": "none"}),
        ({"stage": "dpo", "pref_ftx": 1.0}, {"objective": "dpo"}),
        ({"cutoff_len": 4096, "per_device_train_batch_size": 2}, {"seq_len": 4096, "micro_batch_size": 2}),
    ],
)
def test_its_own_keys(keys: dict[str, Any], settings: dict[str, Any]) -> None:
    found = read(**keys)

    assert settings.items() <= found.settings.items()
    assert not unmodelled(found)


def test_auto_attention_is_left_to_transformers() -> None:
    assert "attention" not in read(flash_attn="auto").settings


@pytest.mark.parametrize(
    ("keys", "packing"),
    [({}, False), ({"packing": True}, True), ({"stage": "pt"}, True), ({"stage": "pt", "packing": False}, False)],
)
def test_pretraining_packs_unless_told_otherwise(keys: dict[str, Any], packing: bool) -> None:
    assert read(**keys).job.get("packing", False) is packing


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"finetuning_type": "freeze"}, "finetuning_type"),
        ({"finetuning_type": "oft"}, "finetuning_type"),
        ({"quantization_bit": 3, "quantization_method": "hqq"}, "quantization_bit"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, "quantization_method"),
        ({"stage": "kto"}, "stage"),
        ({"stage": "dpo", "pref_loss": "exo"}, "pref_loss"),
        ({"adapter_name_or_path": "saves/one"}, "adapter_name_or_path"),
        ({"neat_packing": True}, "neat_packing"),
        ({"use_unsloth": True}, "use_unsloth"),
        ({"use_galore": True, "finetuning_type": "full"}, "use_galore"),
        ({"upcast_layernorm": True}, "upcast_layernorm"),
        ({"pure_bf16": True, "additional_target": "lm_head"}, "pure_bf16"),
        ({"optim": "adamw_torch_8bit"}, "optim"),
    ],
)
def test_what_is_not_modelled_is_told(keys: dict[str, Any], key: str) -> None:
    assert key in unmodelled(read(**keys))


def test_new_adapters_on_merged_ones_are_planned() -> None:
    assert not unmodelled(read(adapter_name_or_path="saves/one", create_new_adapter=True))


def test_quantised_weights_cannot_be_trained() -> None:
    with pytest.raises(BrokenInput, match="refuses"):
        read(finetuning_type="full", quantization_bit=4)


@pytest.mark.parametrize(
    ("name", "sharding", "offload"),
    [
        ("ds_z2_config", "zero2", None),
        ("ds_z2_offload_config", "zero2", ("optimizer",)),
        ("ds_z3_config", "zero3", None),
        ("ds_z3_offload_config", "zero3", ("optimizer", "parameters")),
    ],
)
def test_configurations_that_it_ships_are_known_by_name(name: str, sharding: str, offload: Any, tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    keys = {**BASE, "finetuning_type": "full", "deepspeed": f"examples/deepspeed/{name}.json"}
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    found, _ = understand_files([path])

    assert (found.settings["sharding"], found.settings.get("offload")) == (sharding, offload)
    assert not unmodelled(found)


# ---------------------------------------------------------------- out and back

FUSED = {"kernels": "fused", "loss": "fused"}
ONE = [
    {"method": method, "gradient_checkpointing": checkpointing, "optimizer": optimizer, **more}
    for method, checkpointing, optimizer, more in product(
        ("full", "lora", "qlora"), (True, False), ("adamw_fused", "adamw_8bit"), ({}, FUSED)
    )
] + [
    {"method": "full", "weights_dtype": "bf16", "autocast": "none"},
    {"method": "full", "weights_dtype": "bf16"},
    {"method": "full", "autocast": "none", "attention": "sdpa"},
    {"method": "qlora", "quant": "int8"},
    {"method": "qlora", "quant": "fp4", "double_quant": False},
    {"method": "lora", "lora_targets": ("q_proj", "v_proj"), "modules_to_save": ("lm_head",), "lora_dropout": 0.1},
    {"method": "lora", "attention": "sdpa", "lora_rank": 64},
    {"method": "lora", "attention": "eager"},
    {"method": "lora", "objective": "dpo"},
    {"method": "full", "objective": "dpo"},
    {"method": "lora", "offload": ("activations",), "gradient_checkpointing": True},
    *({"method": "lora", "optimizer": name} for name in ("adamw_foreach", "adafactor", "sgd", "lion", "lion_8bit")),
    *({"method": "full", "optimizer": name} for name in ("paged_adamw_8bit", "paged_adamw_32bit")),
    {
        "method": "lora",
        "job": Job(packing=True),
        "moments": ("evaluation",),
        "eval_batch_size": 2,
        "eval_logits": False,
    },
]
SEVERAL = [
    {"method": method, "sharding": sharding, "gpus": gpus, "gradient_checkpointing": checkpointing}
    for method, sharding, gpus, checkpointing in product(
        ("full", "lora", "qlora"), ("ddp", "zero1", "zero2", "zero3", "fsdp"), (2, 8), (True, False)
    )
] + [
    {"method": "full", "sharding": "fsdp", "gpus": 8, "reshard_after_forward": False},
    {"method": "full", "sharding": "fsdp", "gpus": 8, "offload": ("optimizer", "parameters")},
    {"method": "full", "sharding": "zero2", "gpus": 8, "offload": ("optimizer",)},
    {
        "method": "full",
        "sharding": "zero3",
        "gpus": 8,
        "offload": ("optimizer", "parameters"),
        "zero_buckets": "deepspeed",
    },
    {"method": "full", "sharding": "ddp", "gpus": 16},
    {"method": "full", "sharding": "fsdp", "gpus": 2, **FUSED},
]


def asked(case: dict[str, Any]) -> Request:
    return request(case["method"], **{name: value for name, value in case.items() if name != "method"})


@pytest.mark.parametrize("case", [*ONE, *SEVERAL], ids=str)
def test_an_export_that_is_checked_is_the_same_run(case: dict[str, Any]) -> None:
    written, ours = leave("llamafactory", asked(case), llamafactory)
    theirs = read_back(written, asked(case))

    assert differences(ours, theirs) == {}
    assert theirs.cluster == ours.cluster
    assert peak(theirs) == peak(ours)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"method": "lora", "kernels": "fused"}, "all of Liger's kernels"),
        ({"method": "lora", "loss": "chunked"}, "all of Liger's kernels"),
        ({"method": "lora", "adapter_dtype": "bf16"}, "--adapter-dtype bf16"),
        ({"method": "lora", "weights_dtype": "fp32"}, "--weights-dtype fp32"),
        ({"method": "full", "weights_dtype": "bf16", "sharding": "zero3", "gpus": 2}, "--weights-dtype fp32"),
        ({"method": "lora", "offload": ("activations",), "gradient_checkpointing": False}, "--gradient-checkpointing"),
        ({"method": "lora", "lora_alpha": 12.5}, "--lora-alpha 12.5"),
        ({"method": "lora", "optimizer": "muon"}, "muon"),
        ({"method": "full", "tensor_parallel": 2, "gpus": 2}, "--tensor-parallel"),
        ({"method": "lora", "context_parallel": 2, "gpus": 2, "attention": "sdpa"}, "--context-parallel"),
    ],
)
def test_what_it_cannot_say_is_refused_by_name(case: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedScenario, match=message):
        leave("llamafactory", asked(case), llamafactory)


def test_the_dataset_has_an_entry() -> None:
    written, _ = leave("llamafactory", asked({"method": "lora"}), llamafactory)
    files = {file.name: file.text for file in written.files}

    assert yaml.safe_load(files["sft.yaml"])["dataset"] in json.loads(files["dataset_info.json"])


@pytest.mark.skipif(find_spec("llamafactory") is None, reason="llamafactory is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [*ONE[::2], *SEVERAL[::4]], ids=str)
def test_llamafactory_itself_takes_what_is_written(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    written, _ = leave("llamafactory", asked(case), llamafactory)
    for file in written.files:
        (tmp_path / file.name).write_text(file.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    parser = import_module("llamafactory.hparams.parser")
    keys = yaml.safe_load(written.files[0].text)
    deepspeed = keys.pop("deepspeed", None)  # it would initialise its engine
    taken = parser._parse_train_args({**keys, "use_cpu": True, "bf16": False, "fp16": False})

    assert deepspeed in (None, "ds_config.json")
    parser._verify_model_args(taken[0], taken[1], taken[3])
    said = {name: getattr(part, name) for part in taken for name in keys if hasattr(part, name)}
    for name, value in keys.items():
        if name in (
            "bf16",
            "fp16",
            "dataset",
            "lora_target",
            "additional_target",
            "eval_strategy",
            "optim",
            "cutoff_len",
        ):
            continue  # made lists, enums, or shorter by one where samples share a sequence
        assert said[name] == value, name
