"""What a trainer takes where its configuration is silent: the data's own shape, and the installed libraries' word."""

import dataclasses
import importlib
import tomllib
from importlib import resources
from typing import Any

import pytest

from planner.catalog import load_model
from planner.hardware import load_gpu
from planner.spec import Cluster, TrainSpec
from planner.stacks import STACKS, describe_unset, load_stack, resolve, unset_settings
from planner.stacks.values import checked

LLAMA = load_model("llama-3.1-8b").model
FILES = ("libraries", *STACKS)


def document(name: str) -> dict[str, Any]:
    """One rules file."""
    return tomllib.loads((resources.files("planner") / "stacks" / f"{name}.toml").read_text(encoding="utf-8"))


RULES = [(name, rule) for name in FILES for rule in document(name).get("unset", ())]


# ---------------------------------------------------------------- the data


@pytest.mark.parametrize(("file", "rule"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_rule_sets_settings_and_says_who_says_so(file: str, rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"when", "set", "source"}
    assert rule["set"]
    assert rule["set"].keys() <= {field.name for field in dataclasses.fields(TrainSpec)} - {"method", "peft_config"}
    assert len(rule["source"]) > 20


@pytest.mark.parametrize("stack", STACKS)
def test_every_value_is_one_that_a_scenario_takes(stack: str) -> None:
    found = unset_settings(stack, LLAMA, gpus=2)

    for name, value in found.items():
        assert checked(name, value) == value
    cluster = Cluster(gpu=load_gpu("a100-80gb"), gpus=2)
    if found.get("lora_targets") == ():  # none by itself: the trainer's user names them
        found = {**found, "lora_targets": ("q_proj",)}
    train = resolve(LLAMA, cluster, "lora", found, stack).train
    assert {name: getattr(train, name) for name in found if name != "optimizer"} == {
        name: value for name, value in found.items() if name != "optimizer"
    }


@pytest.mark.parametrize("stack", STACKS)
def test_no_conditional_rule_is_dead(stack: str) -> None:
    for rule in document(stack).get("unset", ()):
        for package, condition in rule.get("when", {}).items():
            bound = condition.split(",")[0].lstrip("<>=")
            told = {**document("libraries")["oldest"], **document(stack).get("oldest", {})}
            first = told.get(package, "0.0.1")
            inside, outside = (first, bound) if condition.startswith("<") else (bound, first)
            assert describe_unset(f"{stack},{package}={inside}") != describe_unset(f"{stack},{package}={outside}")


def test_a_plan_keeps_to_the_documented_defaults() -> None:
    # design.md section 4: what TRL itself would take is for configurations of TRL alone
    train = resolve(LLAMA, Cluster(gpu=load_gpu("a100-80gb")), "lora", {}, "trl").train

    assert (train.seq_len, train.micro_batch_size, train.weights_dtype, train.lora_dropout) == (2048, 1, "bf16", 0.0)
    assert unset_settings("trl")["micro_batch_size"] == 8


# ---------------------------------------------------------------- what depends on the model and the cards


def test_what_depends_on_the_model_is_there_with_one() -> None:
    assert {"attention", "lora_targets"}.isdisjoint(unset_settings("hf"))
    assert unset_settings("hf", LLAMA)["attention"] == "sdpa"
    assert unset_settings("hf", LLAMA)["lora_targets"] == ("q_proj", "v_proj")
    assert unset_settings("hf", load_model("gpt2").model)["lora_targets"] == ("c_attn",)
    # transformers 5.23 has no sdpa for BLOOM; PEFT 0.21 has no entry for gpt-oss
    assert unset_settings("hf", load_model("bloom-560m").model)["attention"] == "eager"
    assert unset_settings("hf", load_model("gpt-oss-20b").model)["lora_targets"] == ()


def test_several_cards_are_copies_unless_the_configuration_divides() -> None:
    assert "sharding" not in unset_settings("hf")
    assert unset_settings("hf", gpus=4)["sharding"] == "ddp"


BOUNDARIES = [
    # trl 0.21 against 0.22 sft_config.py; 0.18 against 0.19; 0.25 to 0.27 utils.py, create_model_from_path
    ("trl,trl={}", "0.21.0", "0.22.0", "gradient_checkpointing", False, True),
    ("trl,trl={}", "0.18.2", "0.19.1", "autocast", "none", "bf16"),
    ("trl,transformers=4.57,trl={}", "0.25.1", "0.26.2", "weights_dtype", "fp32", "bf16"),
    ("trl,transformers=5.0,trl={}", "0.26.2", "0.27.2", "weights_dtype", "bf16", "fp32"),
    ("hf,transformers={}", "4.57.6", "5.0.0", "weights_dtype", "fp32", "bf16"),
]


@pytest.mark.parametrize(("stack", "before", "after", "name", "old", "new"), BOUNDARIES)
def test_a_boundary_is_where_the_source_changed(
    stack: str, before: str, after: str, name: str, old: object, new: object
) -> None:
    assert unset_settings(stack.format(before))[name] == old
    assert unset_settings(stack.format(after))[name] == new


# ---------------------------------------------------------------- the installed libraries


def defaults_of(kind: Any) -> dict[str, Any]:
    """Defaults of a library's dataclass."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)
    }


def newest(package: str) -> str:
    """The newest version that the rules describe, without which a comparison says nothing."""
    libraries, trl = document("libraries")["newest"], document("trl")["newest"]
    return str({**libraries, **trl}[package])


def installed(package: str) -> Any:
    """The library, where its installed version is the one that the rules describe or a newer one."""
    module = pytest.importorskip(package, reason=f"needs {package}")
    found, described = (
        tuple(int(part) for part in text.split(".")[:2]) for text in (module.__version__, newest(package))
    )
    if found < described:
        pytest.skip(f"{package} {module.__version__} is older than the rules describe")
    return module


def test_hf_is_what_training_arguments_say() -> None:
    theirs, ours = defaults_of(installed("transformers").TrainingArguments), unset_settings("hf")

    assert theirs["per_device_train_batch_size"] == ours["micro_batch_size"]
    assert theirs["gradient_accumulation_steps"] == ours["grad_accumulation"]
    assert bool(theirs["gradient_checkpointing"]) == ours["gradient_checkpointing"]
    assert (theirs["bf16"], theirs["fp16"], ours["autocast"]) == (False, False, "none")
    assert theirs["optim"] == f"adamw_torch_{load_stack('hf').adamw}"
    assert ours["optimizer"] == "adamw"
    assert (theirs["use_liger_kernel"], ours["kernels"], ours["loss"]) == (False, "eager", "full")
    assert theirs["per_device_eval_batch_size"] == ours["eval_batch_size"]
    assert theirs["eval_accumulation_steps"] is None
    assert not theirs["fsdp"]
    assert not theirs["deepspeed"]


def test_trl_is_what_its_configurations_say() -> None:
    trl, ours = installed("trl"), unset_settings("trl")
    theirs, model = defaults_of(trl.SFTConfig), defaults_of(trl.ModelConfig)

    assert theirs["per_device_train_batch_size"] == ours["micro_batch_size"]
    assert theirs["gradient_accumulation_steps"] == ours["grad_accumulation"]
    assert theirs["max_length"] == ours["seq_len"]
    assert theirs["gradient_checkpointing"] == ours["gradient_checkpointing"]
    # None stands for the opposite of fp16
    assert (theirs["bf16"], theirs["fp16"], ours["autocast"]) == (None, False, "bf16")
    assert theirs["optim"] == f"adamw_torch_{load_stack('trl').adamw}"
    assert (theirs["use_liger_kernel"], theirs["activation_offloading"], theirs["packing"]) == (False, False, False)
    assert {"float32": "fp32"}[model["dtype"]] == ours["weights_dtype"]
    assert (model["lora_r"], model["lora_alpha"], model["lora_dropout"]) == (
        ours["lora_rank"],
        ours["lora_alpha"],
        ours["lora_dropout"],
    )
    assert model["lora_target_modules"] is None
    assert (model["lora_modules_to_save"] or ()) == ours["modules_to_save"]
    assert (model["bnb_4bit_quant_type"], model["use_bnb_nested_quant"]) == (ours["quant"], ours["double_quant"])


def test_adapters_are_what_loraconfig_says() -> None:
    peft, ours = installed("peft"), unset_settings("hf")
    theirs = defaults_of(peft.LoraConfig)

    assert (theirs["r"], theirs["lora_alpha"], theirs["lora_dropout"]) == (
        ours["lora_rank"],
        ours["lora_alpha"],
        ours["lora_dropout"],
    )
    assert theirs["target_modules"] is None
    assert (theirs["modules_to_save"] or ()) == ours["modules_to_save"]


def test_the_table_of_targets_is_pefts() -> None:
    installed("peft")
    constants = importlib.import_module("peft.utils.constants")
    theirs, ours = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, document("libraries")["peft_targets"]
    known = {load_model(path.name.removesuffix(".toml")).model.model_type for path in catalogue()}

    assert ours == {name: theirs[name] for name in ours}
    assert {name for name in known & theirs.keys() if isinstance(theirs[name], list)} <= ours.keys()


def catalogue() -> list[Any]:
    """Files of the catalogue."""
    folder = resources.files("planner") / "models"
    return [path for path in folder.iterdir() if path.name.endswith(".toml") and not path.name.startswith("_")]


def test_quantisation_is_what_bitsandbytesconfig_says() -> None:
    theirs, ours = installed("transformers").BitsAndBytesConfig(load_in_4bit=True), unset_settings("hf")

    assert theirs.bnb_4bit_quant_type == ours["quant"]
    assert theirs.bnb_4bit_use_double_quant == ours["double_quant"]
    assert str(theirs.bnb_4bit_quant_storage).removeprefix("torch.") == ours["quant_storage"]
