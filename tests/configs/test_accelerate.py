"""accelerate's YAML: processes, engines and groups of ranks, and a fate for every field of the installed library."""

from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs import accelerate
from planner.configs.checking import request_of_files, understand_files
from planner.configs.combining import combined
from planner.configs.document import parse_document
from planner.configs.formats import format_of
from planner.configs.understood import Understood
from planner.errors import BrokenInput
from planner.recommend.request import Request
from planner.stacks import load_stack
from tests.configs.fates import classified

BASE = {"compute_environment": "LOCAL_MACHINE", "num_processes": 4, "num_machines": 1}
WRAPPED = {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}

needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="not installed: accelerate")


def read(**keys: Any) -> Understood:
    document = parse_document(yaml.safe_dump({**BASE, **keys}), "accelerate.yaml")
    assert format_of(document).name == "accelerate"
    return accelerate.read(document)


def fsdp(version: int | None = None, **keys: Any) -> Understood:
    section = {**WRAPPED, **keys, **({"fsdp_version": version} if version else {})}
    return read(distributed_type="FSDP", fsdp_config=section)


def zero(**keys: Any) -> Understood:
    return read(distributed_type="DEEPSPEED", deepspeed_config=keys)


def fates(found: Understood, fate: str) -> set[str]:
    return {one.key for one in found.readings if one.fate == fate}


# ---------------------------------------------------------------- every key has a fate


@needs_accelerate
@pytest.mark.torch
def test_every_field_of_the_installed_configuration_is_classified() -> None:
    from accelerate.commands.config.config_args import ClusterConfig  # noqa: PLC0415

    names = [field.name for field in fields(ClusterConfig)]
    assert [
        name for name in names if not classified(lambda data: read(**{"distributed_type": "NO", **data}), name)
    ] == []


@needs_accelerate
@pytest.mark.torch
@pytest.mark.parametrize("prefix", ["", "fsdp_"])
def test_every_field_of_the_installed_fsdp_plugin_is_classified(prefix: str) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin as Plugin  # noqa: PLC0415

    assert [one.name for one in fields(Plugin) if _strange(prefix + one.name.removeprefix("fsdp_"), "FSDP")] == []


@needs_accelerate
@pytest.mark.torch
def test_every_field_of_the_installed_deepspeed_plugin_is_classified() -> None:
    from accelerate.utils import DeepSpeedPlugin  # noqa: PLC0415

    names = [field.name for field in fields(DeepSpeedPlugin) if field.name != "hf_ds_config"]
    assert [name for name in names if _strange(name, "DEEPSPEED")] == []


@needs_accelerate
@pytest.mark.torch
def test_every_option_of_the_installed_launcher_about_engines_is_classified() -> None:
    from accelerate.commands.launch import launch_command_parser  # noqa: PLC0415

    options = {action.dest for action in launch_command_parser()._actions}
    groups = {name for name in options if name.startswith("parallelism_config_")}
    assert len(groups) > 5
    found = read(distributed_type="FSDP", fsdp_config=WRAPPED, parallelism_config=dict.fromkeys(groups, "1"))
    assert fates(found, "unknown") == set()
    assert [one for one in options if one.startswith("fsdp_") and _strange(one, "FSDP")] == []


def _strange(name: str, kind: str) -> bool:
    """Whether an engine's section has a key that the reader does not know, whatever its value."""
    section = "fsdp_config" if kind == "FSDP" else "deepspeed_config"
    wrapped = WRAPPED if kind == "FSDP" and not name.endswith("auto_wrap_policy") else {}
    for value in ("x", 7, True):
        try:
            found = read(distributed_type=kind, **{section: {**wrapped, name: value}})
        except BrokenInput:
            continue
        told = [one for one in found.readings if one.key == f"{section}.{name}"]
        if not any(one.fate != "unknown" and not one.why.startswith("did you mean") for one in told):
            return True
    return False


@needs_accelerate
@pytest.mark.torch
def test_defaults_are_those_of_the_installed_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP is version 1, and ZeRO stage 2, where a file does not say it: a new release that changes it fails here."""
    from accelerate.commands.launch import launch_command_parser  # noqa: PLC0415
    from accelerate.utils import FullyShardedDataParallelPlugin as Plugin  # noqa: PLC0415

    for name in ("FSDP_VERSION", "FSDP_RESHARD_AFTER_FORWARD", "FSDP_SHARDING_STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    defaults = launch_command_parser().parse_args(["x.py"])

    assert Plugin().fsdp_version == fsdp().fsdp == 1
    assert defaults.fsdp_sharding_strategy == "FULL_SHARD"
    assert Plugin(fsdp_version=2).reshard_after_forward is fsdp(2).settings["reshard_after_forward"] is True
    assert zero().settings["sharding"] == "zero2"


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize(
    ("kind", "processes", "gpus", "sharding"),
    [("NO", 8, 1, "none"), ("MULTI_GPU", 4, 4, "ddp"), ("MULTI_GPU", 1, 1, "none"), ("FSDP", 8, 8, "fsdp")],
)
def test_how_many_cards_and_what_divides(kind: str, processes: int, gpus: int, sharding: str) -> None:
    found = read(distributed_type=kind, num_processes=processes, fsdp_config=WRAPPED)

    assert (found.gpus, found.settings["sharding"]) == (gpus, sharding)
    assert bool(found.notes) == (kind == "NO")


@pytest.mark.parametrize("kind", ["MEGATRON_LM", "XLA", "MULTI_CPU", "MULTI_NPU", "TP"])
def test_other_engines_and_devices_are_told(kind: str) -> None:
    assert "distributed_type" in fates(read(distributed_type=kind), "unmodelled")


def test_on_processors_an_engine_silently_repeats_the_model() -> None:
    found = read(distributed_type="FSDP", fsdp_config=WRAPPED, use_cpu=True)

    assert "DDP" in next(one.why for one in found.of("unmodelled") if one.key == "use_cpu")


def test_mixed_precision_is_the_launchers_where_the_trainer_has_none() -> None:
    found = read(distributed_type="NO", mixed_precision="bf16")
    off = Understood(format="transformers", settings={"autocast": "none"})
    half = Understood(format="transformers", settings={"autocast": "fp16"})

    assert combined(off, [found]).settings["autocast"] == "bf16"
    assert combined(half, [found]).settings["autocast"] == "fp16"
    assert combined(found, []).settings["autocast"] == "bf16"
    assert "mixed_precision" in fates(read(distributed_type="NO", mixed_precision="fp8"), "unmodelled")


# ---------------------------------------------------------------- FSDP


def test_both_versions_of_fsdp_and_their_names() -> None:
    assert (fsdp(1).fsdp, fsdp(2).fsdp) == (1, 2)
    assert fsdp(2, fsdp_reshard_after_forward=False).settings["reshard_after_forward"] is False
    assert fsdp(1, fsdp_sharding_strategy="HYBRID_SHARD").settings["sharding"] == "hsdp"
    assert fsdp(1, fsdp_sharding_strategy=4).settings["sharding"] == "hsdp"
    assert fsdp(2, offload_params=True).settings["offload"] == ("optimizer", "parameters")
    assert fsdp(1, fsdp_activation_checkpointing=True).settings["gradient_checkpointing"] is True


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"fsdp_sharding_strategy": "SHARD_GRAD_OP"}, "fsdp_sharding_strategy"),
        ({"fsdp_sharding_strategy": "NO_SHARD"}, "fsdp_sharding_strategy"),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy"),
        ({"fsdp_activation_checkpointing_offload": True}, "fsdp_activation_checkpointing_offload"),
    ],
)
def test_what_of_fsdp_is_not_modelled(keys: dict[str, Any], told: str) -> None:
    assert fates(fsdp(1, **keys), "unmodelled") == {f"fsdp_config.{told}"}


def test_without_a_policy_all_of_the_model_is_one_unit() -> None:
    found = read(distributed_type="FSDP", fsdp_config={"fsdp_version": 2})

    assert fates(found, "unmodelled") == {"fsdp_config.fsdp_auto_wrap_policy"}


def test_the_version_of_fsdp_is_one_of_the_stack() -> None:
    request = Request(model="8b", gpu="h100", stack="")
    document = (parse_document("a: 1", "accelerate.yaml"),)

    one = request_of_files(fsdp(1), document, request).request.stack
    two = request_of_files(fsdp(2), document, Request(model="8b", gpu="h100", stack="trl")).request.stack

    assert (one, load_stack(one).behaviour.fsdp_version) == ("hf,fsdp=1", 1)
    assert (two, load_stack(two).behaviour.fsdp_version) == ("trl,fsdp=2", 2)


# ---------------------------------------------------------------- DeepSpeed


def test_deepspeeds_settings_by_accelerates_names() -> None:
    found = zero(zero_stage=3, offload_optimizer_device="cpu", offload_param_device="cpu", zero3_init_flag=True)

    assert found.settings == {
        "sharding": "zero3",
        "zero_buckets": "deepspeed",
        "offload": ("optimizer", "parameters"),
        "offload_device": "cpu",
        "pin_memory": True,
    }
    assert zero(gradient_accumulation_steps=4).settings["grad_accumulation"] == 4
    assert "grad_accumulation" not in zero(gradient_accumulation_steps="auto").settings


def test_a_file_of_deepspeed_is_read_where_accelerate_names_it(tmp_path: Path) -> None:
    launcher = {**BASE, "distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "ds.json"}}
    (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(launcher), encoding="utf-8")
    (tmp_path / "ds.json").write_text(
        '{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}}', encoding="utf-8"
    )

    found, documents = understand_files([tmp_path / "accelerate.yaml"])

    assert [one.name for one in documents] == ["accelerate.yaml", "ds.json"]
    assert (found.settings["sharding"], found.settings["autocast"], found.gpus) == ("zero1", "bf16", 4)


def test_a_file_that_lies_elsewhere_is_not_read(tmp_path: Path) -> None:
    launcher = {**BASE, "distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "../ds.json"}}
    (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(launcher), encoding="utf-8")

    with pytest.raises(BrokenInput, match="lies elsewhere"):
        understand_files([tmp_path / "accelerate.yaml"])


def test_two_files_that_disagree_are_told() -> None:
    trainer = Understood(format="trl", settings={"grad_accumulation": 8})

    with pytest.raises(BrokenInput, match="make them agree"):
        combined(trainer, [zero(gradient_accumulation_steps=1)])


# ---------------------------------------------------------------- groups of ranks


@pytest.mark.parametrize("prefix", ["", "parallelism_config_"])
def test_groups_of_ranks_by_either_name(prefix: str) -> None:
    section = {f"{prefix}{name}": size for name, size in {"dp_shard_size": 2, "cp_size": 2, "tp_size": 2}.items()}

    found = read(
        distributed_type="FSDP", num_processes=8, fsdp_config={**WRAPPED, "fsdp_version": 2}, parallelism_config=section
    )

    assert (found.settings["context_parallel"], found.settings["tensor_parallel"]) == (2, 2)
    assert fates(found, "unknown") == set()


def test_copies_of_shards_are_planned_one_in_each_machine() -> None:
    def copies(machines: int) -> Understood:
        section = {"dp_replicate_size": 2, "dp_shard_size": 8}
        keys = {"fsdp_config": {**WRAPPED, "fsdp_version": 2}, "parallelism_config": section}
        return read(distributed_type="FSDP", num_processes=16, num_machines=machines, **keys)

    assert copies(2).settings["sharding"] == "hsdp"
    assert fates(copies(2), "unmodelled") == set()
    assert fates(copies(1), "unmodelled") == {"parallelism_config.dp_replicate_size"}
