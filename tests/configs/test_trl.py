"""TRL's YAML: which trainer a file is for, what it says, and a fate for every key of the installed configurations."""

import json
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import accelerate, trl
from planner.configs.checking import request_of_files, understand_files
from planner.configs.document import parse_document, read_document
from planner.configs.formats import format_of
from planner.configs.trl_keys import SHIPPED
from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario
from planner.recommend.request import Request
from planner.stacks import load_stack
from tests.configs.fates import classified

BASE = {"model_name_or_path": "meta-llama/Llama-3.1-8B", "dataset_name": "trl-lib/Capybara", "output_dir": "out"}
LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 16}
QLORA = {**LORA, "load_in_4bit": True, "dtype": "bfloat16"}
DPO = {"beta": 0.1, "max_length": 1024}
GRPO = {"num_generations": 8, "max_completion_length": 1024}

needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="not installed: trl")


def read(*parts: dict[str, Any], kind: str | None = None, **keys: Any) -> Understood:
    data = {name: value for part in (BASE, *parts, keys) for name, value in part.items()}
    return trl.read(parse_document(yaml.safe_dump(data), "run.yaml"), kind)


def fates(found: Understood, fate: str) -> set[str]:
    return {one.key for one in found.readings if one.fate == fate}


# ---------------------------------------------------------------- every key has a fate


@needs_trl
@pytest.mark.torch
@pytest.mark.parametrize("name", ["SFTConfig", "DPOConfig", "GRPOConfig", "ModelConfig", "ScriptArguments"])
def test_every_field_of_the_installed_configurations_is_classified(name: str) -> None:
    import trl as library  # noqa: PLC0415

    kind = {"DPOConfig": "dpo", "GRPOConfig": "grpo"}.get(name, "sft")
    names = [field.name for field in fields(getattr(library, name))]
    assert [one for one in names if not classified(lambda data: read(data, kind=kind), one)] == []


@needs_trl
@pytest.mark.torch
def test_the_fields_of_the_scripts_own_arguments_are_classified() -> None:
    from trl.scripts.grpo import GRPOScriptArguments  # noqa: PLC0415
    from trl.scripts.utils import DatasetMixtureConfig  # noqa: PLC0415

    names = {field.name for one in (GRPOScriptArguments, DatasetMixtureConfig) for field in fields(one)}
    assert [name for name in sorted(names) if not classified(lambda data: read(data, kind="grpo"), name)] == []


@needs_trl
@pytest.mark.torch
def test_defaults_are_those_of_the_installed_configurations() -> None:
    """What a file leaves out is what the library takes: a new release that changes it fails here."""
    import trl as library  # noqa: PLC0415

    sft = {field.name: field.default for field in fields(library.SFTConfig)}
    model = {field.name: field.default for field in fields(library.ModelConfig)}
    unset = load_stack("trl").unset

    assert unset["seq_len"] == sft["max_length"]
    assert unset["micro_batch_size"] == sft["per_device_train_batch_size"]
    assert unset["gradient_checkpointing"] == sft["gradient_checkpointing"]
    assert (sft["optim"], load_stack("trl").adamw) == ("adamw_torch_fused", "fused")
    assert (unset["lora_rank"], unset["lora_alpha"]) == (model["lora_r"], model["lora_alpha"])
    assert (unset["lora_dropout"], unset["quant"]) == (model["lora_dropout"], model["bnb_4bit_quant_type"])
    assert (model["dtype"], unset["weights_dtype"]) == ("float32", "fp32")
    assert (model["use_peft"], model["use_bnb_nested_quant"], unset["double_quant"]) == (False, False, False)
    assert model["lora_target_modules"] is None
    grpo = {field.name: field.default for field in fields(library.GRPOConfig)}
    assert (grpo["num_generations"], grpo["max_completion_length"], grpo["beta"]) == (8, trl.COMPLETION, 0.0)


@needs_trl
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_configurations_that_trl_ships_say_what_they_did(name: str) -> None:
    folder = Path(str(find_spec("trl").origin)).parent / "accelerate_configs"  # type: ignore[union-attr]
    theirs = accelerate.read(read_document(folder / f"{name}.yaml"))

    ours = read(accelerate_config=name)

    assert {path.stem for path in folder.glob("*.yaml")} == set(SHIPPED)
    assert ours.settings["sharding"] == theirs.settings["sharding"]
    assert {one: ours.settings[one] for one in theirs.settings} == dict(theirs.settings)
    assert (ours.gpus, ours.fsdp) == (theirs.gpus, theirs.fsdp)


# ---------------------------------------------------------------- which trainer


@pytest.mark.parametrize("keys", [{}, {"do_train": True}, LORA, {"per_device_train_batch_size": 2, "packing": True}])
def test_a_yaml_with_keys_of_trl_is_trls_and_json_a_trainers(keys: dict[str, Any]) -> None:
    data = {**BASE, **keys}

    assert format_of(parse_document(yaml.safe_dump(data), "run.yaml")).name == "trl"
    assert format_of(parse_document(json.dumps(data), "run.json")).name == "transformers"


@pytest.mark.parametrize(
    ("keys", "objective"),
    [
        ({}, "sft"),
        ({"beta": 0.01}, "dpo"),
        ({"precompute_ref_log_probs": True}, "dpo"),
        ({"max_prompt_length": 512}, "dpo"),
        ({"num_generations": 4}, "grpo"),
        ({"max_completion_length": 256, "beta": 0.04}, "grpo"),
        ({"reward_funcs": ["accuracy_reward"]}, "grpo"),
    ],
)
def test_the_trainer_is_told_by_its_keys(keys: dict[str, Any], objective: str) -> None:
    assert read(keys).settings.get("objective", "sft") == objective


def test_the_user_can_name_the_trainer() -> None:
    assert read(kind="dpo").settings["objective"] == "dpo"
    assert read(DPO, kind="sft").settings.get("objective") is None


@pytest.mark.parametrize(
    ("key", "trainer"),
    [("desirable_weight", "kto"), ("center_rewards_coefficient", "reward"), ("num_ppo_epochs", "ppo")],
)
def test_other_trainers_are_refused_by_name(key: str, trainer: str) -> None:
    with pytest.raises(UnsupportedScenario, match=f"{key} is a key of TRL's {trainer} trainer"):
        read({key: 1.0})


# ---------------------------------------------------------------- what the keys say


def test_methods_are_what_three_switches_say() -> None:
    assert read().method is None, "a file of adapters may lie beside it"
    assert read(use_peft=False).method == "full"
    assert read(LORA).method == "lora"
    assert (read(QLORA).method, read(QLORA).settings.get("quant")) == ("qlora", None)
    assert read(LORA, load_in_8bit=True).settings["quant"] == "int8"
    with pytest.raises(BrokenInput, match="load_in_4bit without use_peft"):
        read(load_in_4bit=True)


def test_old_names_mean_what_new_ones_do() -> None:
    old = read(QLORA, torch_dtype="bfloat16", max_seq_length=512, use_flash_attention_2=True, use_liger=True)
    new = read(QLORA, dtype="bfloat16", max_length=512, attn_implementation="flash_attention_2", use_liger_kernel=True)

    assert {**old.settings} == {**new.settings}


def test_keys_of_adapters_say_nothing_where_none_are_trained() -> None:
    found = read(lora_r=64, bnb_4bit_quant_type="fp4")

    assert {"lora_r", "bnb_4bit_quant_type"} <= fates(found, "ignored")
    assert not {"lora_rank", "quant"} & set(found.settings)


def test_what_liger_replaces_in_trl_is_not_the_head() -> None:
    assert read(use_liger_kernel=True).settings["kernels"] == "fused"
    assert "loss" not in read(use_liger_kernel=True).settings
    part = read(use_liger_kernel=True, liger_kernel_config={"rope": False})
    assert "liger_kernel_config.rope" in fates(part, "unmodelled")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"optim": "galore_adamw"}, "optim"),
        ({"attn_implementation": "flex_attention"}, "attn_implementation"),
        ({**LORA, "use_dora": True}, "use_dora"),
        ({**LORA, "lora_target_modules": "model.*proj"}, "lora_target_modules"),
        ({**LORA, "lora_target_parameters": ["mlp.experts.gate_up_proj"]}, "lora_target_parameters"),
        ({"torch_compile": True}, "torch_compile"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"max_length": None}, "max_length"),
        ({"loss_type": "dft"}, "loss_type"),
        ({"chat_template_path": "x/y"}, "chat_template_path"),
        ({"model_init_kwargs": {"use_kernels": True}}, "model_init_kwargs.use_kernels"),
        ({**GRPO, "use_vllm": True}, "use_vllm"),
        ({**GRPO, "steps_per_generation": 4}, "steps_per_generation"),
        ({**GRPO, "num_iterations": 2}, "num_iterations"),
        ({**GRPO, "entropy_coef": 0.1}, "entropy_coef"),
        ({**DPO, "ref_model_init_kwargs": {"dtype": "bfloat16"}}, "ref_model_init_kwargs"),
    ],
)
def test_what_we_do_not_model_stops_a_check(keys: dict[str, Any], told: str) -> None:
    assert fates(read(keys), "unmodelled") == {told}


@pytest.mark.parametrize("name", ["adamw_torch_4bit", "lomo", "apollo_adamw", "ademamix_8bit", "schedule_free_adamw"])
def test_optimizers_without_a_formula_are_not_guessed(name: str) -> None:
    assert fates(read(optim=name), "unmodelled") == {"optim"}


@needs_trl
@pytest.mark.torch
def test_every_optimizer_of_transformers_is_mapped_or_told() -> None:
    from transformers.training_args import OptimizerNames  # noqa: PLC0415

    known = {one.value: read(optim=one.value) for one in OptimizerNames}
    mapped = {name for name, found in known.items() if "optimizer" in found.settings}

    assert all(fates(found, "unmodelled") == {"optim"} for name, found in known.items() if name not in mapped)
    assert mapped == {
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
        "adafactor", "lion_32bit", "lion_8bit", "sgd",
    }  # fmt: skip


def test_checkpointing_has_two_names_and_the_newer_holds() -> None:
    assert read(gradient_checkpointing=False).settings["gradient_checkpointing"] is False
    both = read(gradient_checkpointing=True, activation_checkpointing=False)
    assert both.settings["gradient_checkpointing"] is False


def test_references_follow_the_method() -> None:
    assert "reference" not in read(DPO).settings, "the stack knows"
    assert read(DPO, precompute_ref_log_probs=True).settings["reference"] == "none"
    assert read(DPO, LORA, force_use_ref_model=True).settings["reference"] == "copy"
    assert read(GRPO, beta=0.04).settings["reference"] == "copy"
    assert read(GRPO, LORA, beta=0.04).settings["reference"] == "base"
    assert read(GRPO, beta=0.0).settings["reference"] == "none"


def test_prompts_of_grpo_are_as_long_as_a_file_says_or_as_we_assume_aloud() -> None:
    said, silent = read(GRPO, max_prompt_length=256), read(GRPO)

    assert said.settings["seq_len"] == 256 + 1024
    assert silent.settings["seq_len"] == trl.PROMPT + 1024
    assert any("--seq-len" in note for note in silent.notes)
    assert not any("--seq-len" in note for note in said.notes)


def test_evaluation_counts_only_where_it_happens_and_is_planned() -> None:
    assert "moments" not in read(per_device_eval_batch_size=64).settings
    found = read(eval_strategy="steps", per_device_eval_batch_size=4)
    assert (found.settings["moments"], found.settings["eval_batch_size"]) == (("evaluation",), 4)

    blank = Request(model="", gpu="h100", stack="")
    document = (parse_document("a: 1", "run.yaml"),)
    one = request_of_files(found, document, blank).request.settings
    many = request_of_files(read(eval_strategy="steps", num_processes=8), document, blank).request.settings
    assert one["moments"] == ("evaluation",)
    assert "moments" not in many


def test_trl_starts_accelerate_with_keys_of_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**BASE, "accelerate_config": "fsdp.yaml"}), encoding="utf-8")
    launcher = {"distributed_type": "FSDP", "num_processes": 4, "fsdp_config": {"fsdp_version": 2}}
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump(launcher), encoding="utf-8")

    found, documents = understand_files([tmp_path / "run.yaml"])

    assert [one.name for one in documents] == ["run.yaml", "fsdp.yaml"]
    assert (found.gpus, found.settings["sharding"], found.fsdp) == (4, "fsdp", 2)
    assert read(num_processes=8).gpus == 8
    assert read(accelerate_config="single_gpu", num_processes=8).gpus == 1


def test_trl_is_in_bf16_unless_a_file_says_otherwise_and_a_launcher_may_bring_it_back() -> None:
    document = (parse_document("a: 1", "run.yaml"),)
    blank = Request(model="", gpu="h100", stack="")

    def autocast(**keys: Any) -> object:
        return request_of_files(read(**keys), document, blank).request.settings["autocast"]

    assert autocast() == "bf16"
    assert autocast(fp16=True) == "fp16"
    assert autocast(bf16=False) == "none"
    assert autocast(bf16=False, accelerate_config="multi_gpu") == "bf16"


def test_packing_and_epochs_are_the_jobs() -> None:
    assert read(packing=True, num_train_epochs=3).job == {"packing": True, "epochs": 3}
    assert read(max_steps=100, num_train_epochs=3).job == {}
