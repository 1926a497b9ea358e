"""axolotl's YAML: every key of its schema has a fate, what it derives is derived, and every export comes back."""

from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import axolotl
from planner.configs.axolotl_adapters import matrices_of
from planner.configs.axolotl_keys import CUT, IGNORED, LIGER, MATTER, ROWS, UNMODELLED
from planner.configs.checking import understand_files
from planner.configs.deepspeed_shipped import SHIPPED
from planner.configs.document import parse_document
from planner.configs.exporting import differences, read_back
from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario
from planner.recommend.request import Request
from planner.spec import Job
from tests.configs.returned import leave, peak, request

NAMES = Path(__file__).parent / "names"
VERSION = "0.19.0"

BASE: dict[str, Any] = {"base_model": "NousResearch/Meta-Llama-3-8B", "sequence_len": 4096, "micro_batch_size": 2}
LORA: dict[str, Any] = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
QLORA: dict[str, Any] = {**LORA, "adapter": "qlora", "load_in_4bit": True}
FLASH: dict[str, Any] = {"attn_implementation": "flash_attention_2"}


def read(*parts: dict[str, Any], **keys: Any) -> Understood:
    data = {name: value for part in (BASE, *parts, keys) for name, value in part.items()}
    return axolotl.read(parse_document(yaml.safe_dump(data), "sft.yml"))


def unmodelled(found: Understood) -> set[str]:
    return {one.key for one in found.of("unmodelled")}


# ---------------------------------------------------------------- the schema


def stored(name: str) -> set[str]:
    return set((NAMES / name).read_text(encoding="utf-8").split())


def classified(name: str) -> list[str]:
    """In which of the three classes a key is; the first that names it decides."""
    classes = {"used": MATTER, "unmodelled": UNMODELLED, "ignored": (*IGNORED, *ROWS)}
    return [fate for fate, names in classes.items() if any(fnmatchcase(name, one) for one in names)]


@pytest.mark.parametrize("name", sorted(stored("axolotl.txt") | stored("axolotl_plugins.txt")))
def test_every_key_of_the_schema_is_classified(name: str) -> None:
    taken = {"val_set_size", "evals_per_epoch", "eval_steps", "eval_strategy", "max_steps", "precompute_ref_log_probs"}

    assert classified(name) or name in taken


def test_the_schema_is_the_one_that_was_read() -> None:
    assert len(stored("axolotl.txt")) == 394


def test_no_class_names_a_key_twice() -> None:
    for name in stored("axolotl.txt"):
        exact = [fate for fate, names in (("used", MATTER), ("unmodelled", UNMODELLED)) if name in names]
        assert len(exact) < 2, name


@pytest.mark.skipif(find_spec("axolotl") is None, reason="axolotl is not installed")
def test_the_stored_names_are_those_of_the_installed_axolotl() -> None:
    fields = import_module("axolotl.utils.schemas.config").AxolotlInputConfig.model_fields
    liger = import_module("axolotl.integrations.liger.args").LigerArgs.model_fields

    assert version("axolotl") == VERSION
    assert stored("axolotl.txt") == fields.keys() | {one.alias for one in fields.values() if one.alias}
    assert stored("axolotl_plugins.txt") == liger.keys() | {"cut_cross_entropy"}


# ---------------------------------------------------------------- what axolotl derives


@pytest.mark.parametrize(
    ("keys", "method", "settings"),
    [
        ({}, "full", {}),
        (LORA, "lora", {"lora_rank": 16, "lora_alpha": 32, "lora_targets": ("all-linear",)}),
        (QLORA, "qlora", {"lora_targets": ("all-linear",)}),
        ({**LORA, "load_in_8bit": True}, "qlora", {"quant": "int8", "kernels": "eager"}),
        ({**QLORA, "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}, "qlora", {"quant": "fp4"}),
        ({**LORA, "peft_autocast_adapter_dtype": False}, "lora", {"adapter_dtype": "bf16"}),
        (
            {**LORA, "lora_target_linear": False, "lora_target_modules": ["q_proj"]},
            "lora",
            {"lora_targets": ("q_proj",)},
        ),
    ],
)
def test_adapters_decide_the_method(keys: dict[str, Any], method: str, settings: dict[str, Any]) -> None:
    found = read(FLASH, keys)

    assert found.method == method
    assert settings.items() <= found.settings.items()
    assert not unmodelled(found)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"load_in_4bit": True}, "without adapter"),
        ({**LORA, "adapter": "qlora"}, "wants load_in_4bit"),
        ({"adapter": "lora"}, "without lora_r"),
        ({**LORA, "lora_mlp_kernel": True, "load_in_8bit": True}, "8-bit weights"),
        ({"activation_offloading": True}, "without gradient_checkpointing"),
        ({"flash_attention": True, "attn_implementation": "sdpa"}, "say the same"),
        ({"deepspeed": "zero2.json", "fsdp_config": {"offload_params": False}}, "cannot be used together"),
        ({"plugins": [CUT], "chunked_cross_entropy": True}, "more than one"),
    ],
)
def test_what_axolotl_refuses_is_broken(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(BrokenInput, match=message):
        read(keys)


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({"bf16": "auto"}, {}),
        ({"bf16": True}, {"weights_dtype": "bf16", "autocast": "bf16"}),
        ({"fp16": True}, {"weights_dtype": "fp16", "autocast": "fp16"}),
        ({"bf16": False, "float16": True}, {"weights_dtype": "fp16", "autocast": "none"}),
        ({"bf16": False}, {"weights_dtype": "fp32", "autocast": "none"}),
        ({"bf16": None}, {"weights_dtype": "fp32", "autocast": "none"}),
        ({"bfloat16": True, "bf16": False}, {"weights_dtype": "bf16", "autocast": "bf16"}),
    ],
)
def test_weights_take_the_dtype_of_the_computation(keys: dict[str, Any], settings: dict[str, Any]) -> None:
    found = read(LORA, keys).settings

    assert {name: found[name] for name in ("weights_dtype", "autocast") if name in found} == settings


@pytest.mark.parametrize(
    ("keys", "settings", "stack"),
    [
        (LORA, {}, "axolotl"),
        ({**LORA, "rl": "dpo"}, {"kernels": "eager", "objective": "dpo"}, "axolotl"),
        (
            {**LORA, "rl": "grpo", "trl": {"beta": 0.04}},
            {"kernels": "eager", "objective": "grpo", "reference": "base"},
            "axolotl",
        ),
        (
            {"rl": "grpo", "trl": {"beta": 0.04}},
            {"kernels": "eager", "objective": "grpo", "reference": "copy"},
            "axolotl",
        ),
        ({**LORA, "rl": "grpo", "trl": {"beta": 0}}, {"kernels": "eager", "objective": "grpo"}, "axolotl"),
        ({**LORA, "trust_remote_code": True}, {"kernels": "eager"}, "axolotl"),
        ({**LORA, "lora_mlp_kernel": False}, {"kernels": "eager"}, "axolotl"),
        (
            {**LORA, **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), True)},
            {"kernels": "fused"},
            "axolotl",
        ),
        ({"plugins": [CUT], **FLASH}, {"kernels": "eager", "loss": "fused"}, "axolotl"),
        ({"plugins": [CUT], "cut_cross_entropy": False, **FLASH}, {"kernels": "eager"}, "axolotl"),
        ({"chunked_cross_entropy": True, **FLASH}, {"kernels": "eager", "loss": "chunked"}, "axolotl"),
        (
            {"plugins": [LIGER], "liger_fused_linear_cross_entropy": True, **FLASH},
            {"kernels": "eager", "loss": "fused"},
            "axolotl,liger_loss=0.8",
        ),
        (
            {"plugins": [LIGER], "liger_rope": True, "liger_rms_norm": True, "liger_swiglu": True, **FLASH},
            {"kernels": "fused"},
            "axolotl,liger=0.8",
        ),
        ({"liger_rope": True, "liger_fused_linear_cross_entropy": True, **FLASH}, {"kernels": "eager"}, "axolotl"),
    ],
)
def test_kernels_and_losses(keys: dict[str, Any], settings: dict[str, Any], stack: str) -> None:
    found = read(keys)

    assert settings.items() <= found.settings.items()
    assert ("loss" in found.settings) == ("loss" in settings)
    assert found.stack == stack
    assert not unmodelled(found)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"plugins": [LIGER], "liger_rms_norm": True, **FLASH}, "liger_rope"),
        ({**LORA, "lora_mlp_kernel": True}, "lora_qkv_kernel"),
        ({"plugins": ["somebody.Plugin"], **FLASH}, "plugins"),
        ({"optimizer": "adamw_torch_4bit", **FLASH}, "optimizer"),
        ({"optimizer": "adamw_torch_8bit", **FLASH}, "optimizer"),
        ({"plugins": [LIGER], "liger_fused_linear_cross_entropy": True}, "attn_implementation"),
        ({"attn_implementation": "xformers", **LORA}, "attn_implementation"),
        ({**LORA, "load_in_4bit": True}, "load_in_4bit"),
        ({**LORA, "adapter": "llama-adapter"}, "adapter"),
        ({**LORA, "gradient_checkpointing": "unsloth"}, "gradient_checkpointing"),
        ({**LORA, "rl": "kto"}, "rl"),
        ({**LORA, "rl": "grpo", "trl": {"num_iterations": 2}}, "trl.num_iterations"),
        ({**LORA, "tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({**LORA, "context_parallel_size": 2}, "context_parallel_size"),
        ({**LORA, "bf16": "full"}, "bf16"),
        (
            {**LORA, "chunked_cross_entropy": True, "chunked_cross_entropy_num_chunks": 4},
            "chunked_cross_entropy_num_chunks",
        ),
        ({**LORA, "torch_compile": "auto"}, "torch_compile"),
    ],
)
def test_what_is_not_modelled_is_told(keys: dict[str, Any], key: str) -> None:
    assert unmodelled(read(keys)) == {key}


@pytest.mark.parametrize(
    ("keys", "quant"),
    [({"adapter": "qlora", "load_in_4bit": True}, None), ({"adapter": "lora", "load_in_8bit": True}, "int8")],
)
def test_experts_that_are_quantised_are_the_stacks(keys: dict[str, Any], quant: str | None) -> None:
    found = read(LORA, keys, lora_target_linear=False, lora_target_modules=["o_proj"], quantize_moe_experts=True)

    assert found.stack == "axolotl,quantize_moe_experts=0.19"
    assert (found.method, found.settings.get("quant")) == ("qlora", quant)
    assert not unmodelled(found)
    assert read(QLORA, quantize_moe_experts=False).stack == "axolotl"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**FLASH}, "wants an adapter, and load_in_4bit or load_in_8bit"),
        ({**LORA}, "wants an adapter, and load_in_4bit or load_in_8bit"),
        ({**QLORA}, "name lora_target_modules"),
    ],
)
def test_experts_are_quantised_where_axolotl_does_it(keys: dict[str, Any], message: str) -> None:
    """utils/schemas/config.py, check_quantize_moe_experts."""
    with pytest.raises(BrokenInput, match=message):
        read(keys, quantize_moe_experts=True)


def test_ligers_head_on_a_wide_table_is_not_planned_unless_something_narrows_it() -> None:
    """loaders/model.py, _configure_embedding_dtypes."""
    head = {"plugins": [LIGER], "liger_fused_linear_cross_entropy": True, "attn_implementation": "sdpa"}

    assert unmodelled(read(head)) == {"attn_implementation"}
    assert unmodelled(read(head, FLASH)) == set()
    assert unmodelled(read(head, LORA)) == set()
    assert unmodelled(read(head, fsdp_version=2, fsdp_config={"offload_params": False})) == set()
    assert unmodelled(read(head, deepspeed="zero2.json")) == set()
    assert unmodelled(read(head, bf16=False)) == set()


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({"gradient_checkpointing": True, **FLASH}, {"gradient_checkpointing": True}),
        ({"gradient_checkpointing": False, **FLASH}, {"gradient_checkpointing": False}),
        (
            {"gradient_checkpointing": "offload", **FLASH},
            {"gradient_checkpointing": True, "offload": ("activations",)},
        ),
        (
            {**LORA, "gradient_checkpointing": True, "activation_offloading": True},
            {"gradient_checkpointing": False, "offload": ("activations",)},
        ),
        (
            {"fsdp_version": 2, "fsdp_config": {"activation_checkpointing": True, "offload_params": True}, **FLASH},
            {"gradient_checkpointing": True, "sharding": "fsdp", "offload": ("optimizer", "parameters")},
        ),
    ],
)
def test_with_adapters_activations_are_offloaded_instead_of_computed_again(
    keys: dict[str, Any], settings: dict[str, Any]
) -> None:
    found = read(keys)

    assert settings.items() <= found.settings.items()
    assert not unmodelled(found)


def test_unversioned_fsdp_is_version_1() -> None:
    assert read(FLASH, fsdp=["full_shard", "auto_wrap"], fsdp_config={"offload_params": False}).fsdp == 1
    assert read(FLASH, fsdp_config={"fsdp_version": 2}).fsdp == 2


def test_a_mesh_says_how_many_cards_there_are() -> None:
    found = read(FLASH, fsdp_version=2, fsdp_config={"offload_params": False}, dp_shard_size=4, dp_replicate_size=2)

    assert (found.gpus, found.nodes, found.settings["sharding"]) == (8, 2, "hsdp")
    assert read(FLASH, dp_shard_size=4, context_parallel_size=2).gpus == 8


def test_evaluation_takes_data_and_a_time() -> None:
    assert "moments" not in read(FLASH, val_set_size=0.05).settings
    assert "moments" not in read(FLASH, evals_per_epoch=4).settings
    found = read(FLASH, val_set_size=0.05, evals_per_epoch=4, gradient_accumulation_steps=4).settings
    assert found["moments"] == ("evaluation",)
    assert (found["eval_batch_size"], found["eval_accumulation_steps"], found["eval_logits"]) == (2, 4, False)


def test_the_older_flag_that_stands_first_holds() -> None:
    assert read(LORA, flash_attention=True, sdp_attention=True).settings["attention"] == "flash"
    assert read(LORA, attn_implementation="kernels-community/flash-attn3@v1").settings["attention"] == "flash"


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|q)_proj", ("up_proj", "down_proj", "q_proj")),
        (
            r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k)_proj|mlp\.(gate|up)_proj)",
            ("q_proj", "k_proj", "gate_proj", "up_proj"),
        ),
        (
            r"model.language_model.layers.[\d]+.(_checkpoint_wrapped_module.)?(mlp|self_attn).(up|q)_proj",
            ("up_proj", "q_proj"),
        ),
        (r".*\.layers\.(3|7)\.self_attn\.(q|k)_proj", None),
        (r"(a+)+$", None),
        ("model.layers.0.mlp.(up)_proj", None),
        ("model.layers.[\\d]+.(mlp|self_attn).(" + "|".join(["up"] * 200) + ")_proj", None),
    ],
)
def test_patterns_are_taken_apart_and_never_run(pattern: str, names: tuple[str, ...] | None) -> None:
    assert matrices_of(pattern) == names


def test_a_pattern_that_cannot_be_taken_apart_is_told() -> None:
    keys = {**LORA, "lora_target_linear": False, "lora_target_modules": "(a+)+$"}

    assert unmodelled(read(keys)) == {"lora_target_modules"}


# ---------------------------------------------------------------- files that are shipped


@pytest.mark.parametrize(("name", "sharding"), [("zero1", "zero1"), ("zero2", "zero2"), ("zero3_bf16", "zero3")])
def test_configurations_that_axolotl_ships_are_known_by_name(name: str, sharding: str, tmp_path: Path) -> None:
    path = tmp_path / "sft.yml"
    path.write_text(yaml.safe_dump({**BASE, **FLASH, "deepspeed": f"deepspeed_configs/{name}.json"}), encoding="utf-8")
    found, documents = understand_files([path])

    assert found.settings["sharding"] == sharding
    assert [one.name for one in documents] == ["sft.yml", f"{name}.json"]


def test_a_file_that_is_there_comes_before_the_one_that_is_shipped(tmp_path: Path) -> None:
    path = tmp_path / "sft.yml"
    path.write_text(yaml.safe_dump({**BASE, **FLASH, "deepspeed": "zero2.json"}), encoding="utf-8")
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 3}}', encoding="utf-8")

    assert understand_files([path])[0].settings["sharding"] == "zero3"


def test_activations_and_the_engines_states_are_offloaded_together(tmp_path: Path) -> None:
    path = tmp_path / "sft.yml"
    keys = {**BASE, **FLASH, "gradient_checkpointing": "offload", "deepspeed": "zero3_bf16_cpuoffload_all.json"}
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")

    assert understand_files([path])[0].settings["offload"] == ("optimizer", "parameters", "activations")


def test_other_names_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "sft.yml"
    path.write_text(yaml.safe_dump({**BASE, **FLASH, "deepspeed": "mine.json"}), encoding="utf-8")

    with pytest.raises(BrokenInput, match="is not beside it"):
        understand_files([path])
    assert "mine.json" not in SHIPPED


# ---------------------------------------------------------------- out and back

ONE = [
    {"method": method, "gradient_checkpointing": checkpointing, "optimizer": optimizer, **more}
    for method, checkpointing, optimizer, more in product(
        ("full", "lora", "qlora"),
        (True, False),
        ("adamw_fused", "adamw_8bit"),
        (
            {"loss": "full"},
            {"loss": "fused"},
            {"loss": "chunked"},
            {"loss": "fused", "stack": "axolotl,liger_loss=0.8"},
        ),
    )
]
PAIRS = [
    {"method": "lora", "objective": "dpo"},
    {"method": "full", "objective": "dpo"},
    {"method": "full", "objective": "dpo", "reference": "none"},
]
KERNELS = [
    {"method": "full", "stack": "axolotl,liger=0.8", "kernels": "fused"},
    {"method": "lora", "stack": "axolotl,liger=0.8,liger_loss=0.8", "kernels": "fused", "loss": "fused"},
    {"method": "qlora", "stack": "axolotl", "kernels": "eager"},
    {"method": "qlora", "quant": "int8", "kernels": "eager"},
    {"method": "qlora", "stack": "axolotl,quantize_moe_experts=0.19", "lora_targets": ("q_proj", "v_proj")},
    {"method": "qlora", "quant": "fp4", "double_quant": False, "quant_storage": "bf16"},
    {"method": "lora", "adapter_dtype": "bf16", "lora_targets": ("q_proj", "v_proj"), "modules_to_save": ("lm_head",)},
    {"method": "lora", "attention": "sdpa", "lora_rank": 64, "lora_dropout": 0.1},
    {"method": "lora", "weights_dtype": "fp16", "autocast": "fp16"},
    {"method": "full", "weights_dtype": "fp32", "autocast": "none", "attention": "sdpa"},
    {"method": "full", "attention": "sdpa"},
    {"method": "lora", "offload": ("activations",), "gradient_checkpointing": False},
    {"method": "full", "offload": ("activations",), "gradient_checkpointing": True},
    *({"method": "lora", "optimizer": name} for name in ("adamw_foreach", "adafactor", "sgd", "lion", "lion_8bit")),
    *({"method": "full", "optimizer": name} for name in ("paged_adamw_8bit", "paged_adamw_32bit")),
    {"method": "lora", "job": Job(packing=True), "moments": ("evaluation",), "eval_batch_size": 2,
     "eval_accumulation_steps": 2, "eval_logits": False},
]  # fmt: skip
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
    {"method": "full", "sharding": "hsdp", "gpus": 16},
    {"method": "lora", "sharding": "fsdp", "gpus": 8, "optimizer": "adamw_8bit"},
    {"method": "full", "sharding": "fsdp", "gpus": 2, "stack": "axolotl,fsdp=1", "gradient_checkpointing": True},
]


OLDER = "axolotl,axolotl=0.17"
"""It offloaded on top of checkpoints, under adapters too."""


def asked(case: dict[str, Any]) -> Request:
    return request(case["method"], **{name: value for name, value in case.items() if name != "method"})


@pytest.mark.parametrize("case", [*ONE, *PAIRS, *KERNELS, *SEVERAL], ids=str)
def test_an_export_that_is_checked_is_the_same_run(case: dict[str, Any]) -> None:
    written, ours = leave("axolotl", asked(case), axolotl)
    theirs = read_back(written, asked(case))

    assert differences(ours, theirs) == {}
    assert theirs.cluster == ours.cluster
    assert peak(theirs) == peak(ours)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"method": "full", "kernels": "fused"}, "axolotl,liger=0.8"),
        ({"method": "qlora", "quant": "int8"}, "--kernels eager"),
        ({"method": "full", "weights_dtype": "fp32", "autocast": "bf16"}, "dtype it computes in"),
        (
            {"method": "full", "attention": "sdpa", "loss": "fused", "stack": "axolotl,liger_loss=0.8"},
            "--attention flash",
        ),
        (
            {"method": "lora", "offload": ("activations",), "gradient_checkpointing": True, "stack": OLDER},
            "--no-gradient-checkpointing",
        ),
        (
            {"method": "full", "offload": ("activations",), "gradient_checkpointing": False},
            "use --gradient-checkpointing",
        ),
        ({"method": "full", "sharding": "fsdp", "gpus": 2, "optimizer": "adamw_8bit"}, "--optimizer adamw"),
        ({"method": "lora", "optimizer": "muon"}, "muon"),
        ({"method": "qlora", "stack": "axolotl,quantize_moe_experts=0.19"}, "--lora-targets q_proj"),
        ({"method": "lora", "lora_alpha": 12.5}, "--lora-alpha 12.5"),
        ({"method": "full", "tensor_parallel": 2, "gpus": 2}, "--tensor-parallel"),
        ({"method": "lora", "moments": ("merge",)}, "--moments merge"),
        ({"method": "lora", "context_parallel": 2, "gpus": 2, "attention": "sdpa"}, "--context-parallel"),
        ({"method": "lora", "sharding": "fsdp", "gpus": 2, "stack": "axolotl,fsdp=1"}, "version 1"),
    ],
)
def test_what_axolotl_cannot_say_is_refused_by_name(case: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedScenario, match=message):
        leave("axolotl", asked(case), axolotl)


@pytest.mark.skipif(find_spec("axolotl") is None, reason="axolotl is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [*KERNELS, *SEVERAL[::3]], ids=str)
def test_axolotl_itself_takes_what_is_written(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils = import_module("axolotl.utils.config")
    written, _ = leave("axolotl", asked(case), axolotl)
    for file in written.files:
        (tmp_path / file.name).write_text(file.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = import_module("axolotl.utils.dict").DictDefault(yaml.safe_load(written.files[0].text))
    utils.prepare_plugins(config)
    taken = utils.validate_config(
        config,
        capabilities={
            "bf16": True,
            "tf32": True,
            "fp8": False,
            "n_gpu": case.get("gpus", 1),
            "compute_capability": "sm_90",
        },
        env_capabilities={"torch_version": "2.11.0"},
    )

    for name, value in yaml.safe_load(written.files[0].text).items():
        if name in ("datasets", "fsdp_config", "lora_modules_to_save") or value is None:
            continue
        assert taken[name] == value, name
