"""Every run that TRL, accelerate and DeepSpeed can express comes back from its files as the same scenario and bytes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import accelerate, deepspeed, trl
from planner.configs.exporting import differences, read_back
from planner.configs.hf_script import script as shipped
from planner.configs.written import Written
from planner.errors import UnsupportedScenario
from planner.recommend.request import Request
from planner.spec import Job
from tests.configs.returned import leave, peak, request

WRITERS: dict[str, Any] = {"trl": trl, "accelerate": accelerate, "deepspeed": deepspeed}
SHARDINGS = {1: ("none", "zero2"), 2: ("ddp", "fsdp", "zero1", "zero3"), 8: ("fsdp", "zero2", "zero3")}

BESIDE: tuple[dict[str, Any], ...] = (
    {"optimizer": "adamw_foreach"},
    {"optimizer": "adamw_8bit", "gradient_checkpointing": False},
    {"optimizer": "paged_adamw_8bit"},
    {"optimizer": "paged_adamw_32bit"},
    {"optimizer": "adafactor"},
    {"optimizer": "lion"},
    {"optimizer": "lion_8bit"},
    {"optimizer": "sgd", "seq_len": 512, "grad_accumulation": 4},
    {"attention": "sdpa", "weights_dtype": "fp32"},
    {"attention": "eager", "autocast": "none"},
    {"autocast": "fp16"},
    {"moments": ("evaluation",), "eval_logits": False, "eval_batch_size": 2},
)
ADAPTERS: tuple[dict[str, Any], ...] = (
    {"lora_rank": 64, "lora_alpha": 16.0, "lora_dropout": 0.05},
    {"lora_rank": 8, "lora_alpha": 12.5},
    {"lora_targets": ("q_proj", "v_proj"), "modules_to_save": ("embed_tokens",)},
)
QUANTS: tuple[dict[str, Any], ...] = (
    {"quant": "fp4", "double_quant": False},
    {"quant": "int8"},
    {"quant_storage": "bf16"},
)
SHARDED: tuple[dict[str, Any], ...] = (
    {"sharding": "zero3", "offload": ("optimizer",), "pin_memory": False},
    {"sharding": "zero3", "offload": ("optimizer", "parameters")},
    {"sharding": "zero3", "offload": ("optimizer",), "offload_device": "nvme"},
    {"sharding": "zero2", "zero_buckets": "deepspeed"},
    {"sharding": "zero3", "zero_buckets": "deepspeed"},
    {"sharding": "fsdp", "offload": ("optimizer", "parameters")},
    {"sharding": "fsdp", "reshard_after_forward": False},
    {"sharding": "fsdp", "context_parallel": 2, "attention": "sdpa"},
)
OF_TRL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"offload": ("activations",)}),
    ("lora", {"kernels": "fused"}),
    ("full", {"objective": "dpo"}),
    ("lora", {"objective": "dpo", "gpus": 2, "sharding": "ddp"}),
    ("full", {"objective": "dpo", "reference": "none"}),
    ("lora", {"objective": "grpo", "num_generations": 4, "completion_len": 256}),
    ("lora", {"objective": "grpo", "num_generations": 4, "reference": "base"}),
    ("full", {"objective": "grpo", "num_generations": 4, "reference": "copy", "seq_len": 768}),
)


def grid() -> Iterator[tuple[str, Request]]:
    """Methods, cards and shardings in all combinations; other settings vary beside some of them."""
    for target, method, gpus in product(WRITERS, ("full", "lora", "qlora"), SHARDINGS):
        for sharding in SHARDINGS[gpus]:
            if target != "deepspeed" or sharding.startswith("zero"):
                yield target, request(method, gpus=gpus, sharding=sharding)
    for target, settings in product(("trl", "accelerate"), BESIDE):
        yield target, request("full", **settings)
        yield target, request("lora", **settings)
    for target in ("trl", "accelerate"):
        yield from ((target, request("lora", **settings)) for settings in ADAPTERS)
        yield from ((target, request("qlora", **settings)) for settings in QUANTS)
    for target, settings in product(WRITERS, SHARDED):
        if target != "deepspeed" or settings["sharding"].startswith("zero"):
            yield target, request("full", gpus=8, **settings)
    yield from (("trl", request(method, **settings)) for method, settings in OF_TRL)
    yield "trl", replace(request("full", gpus=16, sharding="hsdp"), nodes=2, network_gbps=400)
    yield "trl", request("full", gpus=8, sharding="fsdp", stack="trl,fsdp=1")
    yield "accelerate", request("full", gpus=8, sharding="fsdp", stack="hf,transformers=4.57")
    yield "accelerate", request("full", kernels="fused", loss="fused")


GRID = tuple(grid())


def named(one: object) -> str:
    if isinstance(one, Request):
        said = ",".join(f"{name}={value}" for name, value in one.settings.items())
        return f"{one.methods[0]}-{one.gpus}-{said}"
    return str(one)


@pytest.mark.parametrize(("target", "asked"), GRID, ids=named)
def test_it_comes_back_as_the_same_scenario_and_bytes(target: str, asked: Request) -> None:
    written, ours = leave(target, asked, WRITERS[target])

    theirs = read_back(written, asked)

    assert differences(ours, theirs) == {}
    if not asked.stack:
        assert peak(theirs) == peak(ours)


# ---------------------------------------------------------------- what a target cannot say


@pytest.mark.parametrize(
    ("target", "asked", "told"),
    [
        ("deepspeed", request("full", gpus=8, sharding="fsdp"), "--sharding fsdp: use --sharding zero2 or zero3"),
        ("trl", request("full", gpus=8, tensor_parallel=2, sharding="fsdp", loss="full"), "--tensor-parallel"),
        ("accelerate", request("full", gpus=2, pipeline_parallel=2), "--pipeline-parallel"),
        ("trl", request("lora", moments=("merge",)), "--moments merge"),
        ("trl", request("full", optimizer="adamw_loop"), "--optimizer adamw_loop"),
        ("trl", request("full", optimizer="muon"), "optim has no word for --optimizer 'muon'"),
        ("accelerate", request("full", job=Job(packing=True)), "--packing"),
        ("trl", request("lora", job=Job(packing=True), objective="dpo"), "--packing under --objective dpo"),
        ("accelerate", request("full", moments=("evaluation",)), "--no-eval-logits"),
    ],
    ids=named,
)
def test_what_a_target_cannot_say_is_refused_by_name(target: str, asked: Request, told: str) -> None:
    with pytest.raises(UnsupportedScenario, match=told):
        leave(target, asked, WRITERS[target])


def test_a_setting_without_a_key_is_told_when_the_files_are_read_back() -> None:
    asked = request("full", loss="full")

    written, ours = leave("trl", asked, trl)

    assert differences(ours, read_back(written, asked)) == {"loss": ("full", "fused")}


# ---------------------------------------------------------------- what is in the files


def text(written: Written, name: str) -> str:
    return next(file.text for file in written.files if file.name == name)


def test_nobody_names_a_dataset_for_the_user() -> None:
    asked = request("lora")
    written, _ = leave("trl", asked, trl)
    silent = trl.write(replace_dataset(asked, ""))

    assert yaml.safe_load(text(written, "sft.yaml"))["datasets"] == [
        {"data_files": "data.jsonl", "path": "json", "split": "train"}
    ]
    assert "dataset_name" not in yaml.safe_load(text(silent, "sft.yaml"))
    assert "# dataset_name:  # set this before you start" in text(silent, "sft.yaml")
    assert yaml.safe_load(text(trl.write(replace_dataset(asked, "trl-lib/Capybara")), "sft.yaml"))["dataset_name"] == (
        "trl-lib/Capybara"
    )


def replace_dataset(asked: Request, dataset: str) -> Any:
    from planner.configs.exporting import Places, chosen_of  # noqa: PLC0415
    from planner.planning import plan  # noqa: PLC0415

    asked = replace(asked, stack="trl")
    return chosen_of(plan(asked), asked, Places(dataset, ""))


def test_rate_and_schedule_are_the_recipes_with_their_sources() -> None:
    chosen = replace_dataset(request("lora"), "")
    written = text(trl.write(chosen), "sft.yaml")

    said = yaml.safe_load(written)

    assert said["learning_rate"] == chosen.recipe.learning_rate.value
    assert said["lr_scheduler_type"] == chosen.recipe.scheduler.value
    assert said["warmup_steps"] == chosen.recipe.warmup.value
    assert chosen.recipe.learning_rate.source.split(";")[0] in written


@pytest.mark.parametrize(("objective", "rate"), [("dpo", 5e-6), ("grpo", 1e-5)])
def test_pairs_and_samples_have_rates_of_their_own(objective: str, rate: float) -> None:
    settings: dict[str, Any] = {"num_generations": 4} if objective == "grpo" else {}
    written, _ = leave("trl", request("lora", objective=objective, **settings), trl)

    said = yaml.safe_load(text(written, f"{objective}.yaml"))

    assert said["learning_rate"] <= 10 * rate, "far below what texts want"


def test_one_card_is_one_process_on_any_machine() -> None:
    written, _ = leave("trl", request("lora"), trl)

    said = yaml.safe_load(text(written, "sft.yaml"))

    assert (said["num_processes"], said["gpu_ids"]) == (1, "0")
    assert written.launch == "trl sft --config sft.yaml"


def test_several_machines_say_which_one_they_are() -> None:
    asked = replace(request("full", gpus=16, sharding="hsdp"), nodes=2, network_gbps=400)

    written, _ = leave("trl", asked, trl)

    launcher = yaml.safe_load(text(written, "accelerate.yaml"))
    assert (launcher["num_machines"], launcher["num_processes"]) == (2, 16)
    assert "--machine_rank $MACHINE_RANK" in written.launch


def test_the_script_is_the_shipped_one_and_its_reasons_are_comments() -> None:
    written, _ = leave("accelerate", request("qlora"), accelerate)

    script = text(written, "train.py")

    compile(script, "train.py", "exec")
    assert script.endswith(shipped())
    assert all(line.startswith("#") for line in script.removesuffix(shipped()).splitlines())


@pytest.mark.parametrize(("asked", "told"), [(Job(epochs=1.5), 1.5), (Job(epochs=3.0), 3), (Job(), 2)], ids=str)
def test_epochs_are_the_users_or_the_recipes(asked: Job, told: float) -> None:
    written, _ = leave("trl", request("lora", job=asked), trl)

    assert yaml.safe_load(text(written, "sft.yaml"))["num_train_epochs"] == told


# ---------------------------------------------------------------- the libraries' own parsers


PARSED = [
    ("full", {"sharding": "fsdp", "gpus": 8}),
    ("qlora", {"sharding": "fsdp", "gpus": 2}),
    ("full", {"sharding": "zero3", "gpus": 8, "offload": ("optimizer", "parameters")}),
    ("lora", {"sharding": "ddp", "gpus": 2}),
    ("full", {"sharding": "fsdp", "gpus": 8, "context_parallel": 2, "attention": "sdpa"}),
    ("full", {"sharding": "fsdp", "gpus": 8, "stack": "trl,fsdp=1"}),
]


def save(folder: Path, written: Written) -> None:
    for file in written.files:
        (folder / file.name).write_text(file.text, encoding="utf-8")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("accelerate") is None, reason="not installed: accelerate")
@pytest.mark.parametrize(("method", "settings"), PARSED, ids=str)
def test_accelerates_own_launcher_reads_its_file(tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser  # noqa: PLC0415

    written, ours = leave("trl", request(method, **settings), trl)
    save(tmp_path, written)
    options = ["--config_file", str(tmp_path / "accelerate.yaml"), "train.py"]

    said = _validate_launch_command(launch_command_parser().parse_args(options))[0]

    train = ours.train
    assert said.num_processes == settings["gpus"]
    assert said.use_fsdp == train.shards_by_fsdp
    assert said.use_deepspeed == train.sharding.startswith("zero")
    assert said.multi_gpu == (train.sharding == "ddp")
    if train.shards_by_fsdp:
        assert int(said.fsdp_version) == ours.stack.fsdp_version
    if train.context_parallel > 1:
        assert (said.use_parallelism_config, said.parallelism_config_cp_size) == (True, 2)
    if train.sharding.startswith("zero"):
        assert said.deepspeed_config_file == "ds_config.json"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("trl") is None, reason="not installed: trl")
@pytest.mark.parametrize(
    ("objective", "method"), [("sft", "full"), ("sft", "qlora"), ("dpo", "lora"), ("grpo", "lora")]
)
def test_trls_own_parser_reads_its_file(tmp_path: Path, objective: str, method: str) -> None:
    import importlib  # noqa: PLC0415

    settings: dict[str, Any] = {} if objective == "sft" else {"objective": objective}
    if objective == "grpo":
        settings["num_generations"] = 4
    written, ours = leave("trl", request(method, **settings), trl)
    save(tmp_path, written)
    parser = importlib.import_module(f"trl.scripts.{objective}").make_parser()
    options = ["--config", str(tmp_path / f"{objective}.yaml"), "--use_cpu", "true", "--output_dir", str(tmp_path)]

    _, training, model, data, left = parser.parse_args_and_config(options, return_remaining_strings=True)

    assert left == ["--num_processes", "1", "--gpu_ids", "0"], "for accelerate"
    assert data.datasets[0].data_files == "data.jsonl"
    assert training.per_device_train_batch_size == ours.train.micro_batch_size
    assert training.gradient_accumulation_steps == ours.train.grad_accumulation
    assert training.gradient_checkpointing == ours.train.gradient_checkpointing
    assert (training.optim.value, training.bf16) == ("adamw_torch_fused", True)
    assert (model.dtype, model.attn_implementation) == ("bfloat16", "flash_attention_2")
    assert (model.use_peft, model.load_in_4bit) == (method != "full", method == "qlora")
    if method != "full":
        assert (model.lora_r, model.lora_target_modules) == (ours.train.lora_rank, "all-linear")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("trl") is None, reason="not installed: trl")
@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_each_of_several_machines_starts_its_own_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharding: str
) -> None:
    """What ``trl`` hands to accelerate, and accelerate to torchrun, on the second of two machines."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser  # noqa: PLC0415
    from accelerate.utils.launch import prepare_deepspeed_cmd_env  # noqa: PLC0415
    from trl.cli import accelerate_launcher, main  # noqa: PLC0415

    asked = replace(request("full", gpus=16, sharding=sharding), nodes=2, network_gbps=400)
    written, _ = leave("trl", asked, trl)
    save(tmp_path, written)
    handed: list[str] = []
    keep = lambda script_name, launch_args, training_script_args: handed.extend(launch_args)  # noqa: E731
    monkeypatch.setattr(accelerate_launcher, "launch_training_script", keep)
    monkeypatch.chdir(tmp_path)
    words = written.launch.replace("$MACHINE_RANK", "1").replace("$MAIN_IP", "first").split()[1:]

    assert main([*words, "--use_cpu", "true"]) == 0
    said = _validate_launch_command(launch_command_parser().parse_args([*handed, "sft.py"]))[0]

    assert (said.num_machines, said.num_processes, said.machine_rank) == (2, 16, 1)
    assert (said.main_process_ip, said.main_process_port) == ("first", 29500)
    if sharding == "zero3":
        said.deepspeed_fields_from_accelerate_config = "deepspeed_config_file"  # as launch_command sets it
        command, _ = prepare_deepspeed_cmd_env(said)
        assert command is None, "torchrun's, not a launcher that wants SSH"
        assert (said.nnodes, said.nproc_per_node, said.node_rank) == ("2", "8", 1)
        assert said.rdzv_endpoint == "first:29500"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="not installed: deepspeed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeeds_own_schema_reads_its_file(stage: int) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: PLC0415

    settings: dict[str, Any] = {"offload": ("optimizer",), "zero_buckets": "deepspeed"}
    written, _ = leave("deepspeed", request("full", gpus=8, sharding=f"zero{stage}", **settings), deepspeed)
    said = json.loads(text(written, "ds_config.json"))["zero_optimization"]

    found = DeepSpeedZeroConfig(**said)

    assert (found.stage, found.offload_optimizer.device) == (stage, "cpu")
    assert found.reduce_bucket_size == deepspeed.BUCKETS["reduce_bucket_size"]
