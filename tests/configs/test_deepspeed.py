"""DeepSpeed's JSON: stages, buckets, offloading and dtypes, and a fate for every key of the installed schema."""

import json
from importlib.util import find_spec
from typing import Any

import pytest

from planner.configs import deepspeed
from planner.configs.document import parse_document
from planner.configs.formats import format_of
from planner.configs.keys import listed
from planner.configs.understood import Understood
from planner.errors import BrokenInput
from tests.configs.fates import classified

AUTO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
}
BUCKETS = dict.fromkeys(deepspeed.BUCKETS, "auto")

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="not installed: deepspeed")


def read(zero: dict[str, Any] | None = None, **keys: Any) -> Understood:
    data = {**AUTO, "zero_optimization": zero or {"stage": 2}, **keys}
    document = parse_document(json.dumps(data), "ds_config.json")
    assert format_of(document).name == "deepspeed"
    return deepspeed.read(document)


def fates(found: Understood, fate: str) -> set[str]:
    return {one.key for one in found.readings if one.fate == fate}


@needs_deepspeed
@pytest.mark.torch
def test_every_field_of_the_installed_schema_of_zero_is_classified() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: PLC0415
    from deepspeed.runtime.zero.offload_config import (  # noqa: PLC0415
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    names = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert [one for one in sorted(names) if _strange(_or_broken({"stage": 3, one: 7}), one)] == []
    for section, schema in (
        ("offload_optimizer", DeepSpeedZeroOffloadOptimizerConfig),
        ("offload_param", DeepSpeedZeroOffloadParamConfig),
    ):
        for name in schema.model_fields:
            found = _or_broken({"stage": 3, section: {"device": "cpu", name: 7}})
            assert found is None or not _strange(found, name), (section, name)


def _strange(found: Understood | None, name: str) -> bool:
    """Whether the reader does not know a key of ``zero_optimization``."""
    if found is None:
        return False
    told = [one for one in found.readings if one.key.rpartition(".")[2] == name]
    return not any(one.fate != "unknown" and not one.why.startswith("did you mean") for one in told)


def _or_broken(zero: dict[str, Any]) -> Understood | None:
    try:
        return read(zero)
    except BrokenInput:
        return None


@needs_deepspeed
@pytest.mark.torch
def test_every_key_that_the_installed_version_reads_at_the_top_is_classified() -> None:
    from deepspeed.runtime import constants  # noqa: PLC0415

    sections = listed("""
        OPTIMIZER SCHEDULER FP16 BFLOAT16 TORCH_AUTOCAST GRADIENT_CLIPPING COMMUNICATION_DATA_TYPE DATA_TYPES
        PRESCALE_GRADIENTS GRADIENT_PREDIVIDE_FACTOR GRADIENT_ALLREDUCE_OP DISABLE_ALLGATHER DISABLE_PYTHON_GC
        CHECKPOINT DATALOADER_DROP_LAST LOG_LEVEL STEPS_PER_PRINT TRAIN_BATCH_SIZE ZERO_ALLOW_UNTESTED_OPTIMIZER
        ZERO_FORCE_DS_CPU_OPTIMIZER TRAIN_MICRO_BATCH_SIZE_PER_GPU GRADIENT_ACCUMULATION_STEPS DUMP_STATE
        SEQ_PARALLEL_COMMUNICATION_DATA_TYPE WALL_CLOCK_BREAKDOWN MEMORY_BREAKDOWN USE_DATA_BEFORE_EXPERT_PARALLEL
        MANAGED_GRADIENT_ACCUMULATION
    """)
    names = [getattr(constants, name) for name in sections if hasattr(constants, name)]
    assert len(names) > 20
    assert [one for one in names if not classified(lambda data: read(**data), one)] == []


def test_stages_and_their_buckets() -> None:
    assert read({"stage": 1}).settings == {"sharding": "zero1", "zero_buckets": "deepspeed"}
    assert read({"stage": 2, "reduce_bucket_size": "auto"}).settings["zero_buckets"] == "auto"
    assert read({"stage": 3, **BUCKETS}).settings["zero_buckets"] == "auto"
    mixed = read({"stage": 3, **BUCKETS, "reduce_bucket_size": 5e8})
    assert mixed.settings["zero_buckets"] == "deepspeed", "the larger of the two bounds it"


@pytest.mark.parametrize("stage", [4, -1])
def test_a_stage_that_does_not_exist_is_broken_input(stage: int) -> None:
    with pytest.raises(BrokenInput, match="is not one of 0, 1, 2, 3"):
        read({"stage": stage})


def test_deepspeed_without_zero_is_not_planned() -> None:
    assert fates(read({"stage": 0}), "unmodelled") == {"zero_optimization.stage"}
    with pytest.raises(BrokenInput, match="no zero_optimization"):
        deepspeed.read(parse_document(json.dumps(AUTO), "ds_config.json"))


def test_smaller_buckets_are_bounded_by_the_own_ones_and_larger_ones_are_told() -> None:
    small = read({"stage": 2, "reduce_bucket_size": 2e8, "allgather_bucket_size": 2e8})
    assert fates(small, "unmodelled") == set()
    assert "a bound" in next(one.why for one in small.readings if one.key.endswith("reduce_bucket_size"))
    large = read({"stage": 3, **BUCKETS, "sub_group_size": 1e12, "stage3_max_live_parameters": 3e9})
    assert fates(large, "unmodelled") == {
        "zero_optimization.sub_group_size",
        "zero_optimization.stage3_max_live_parameters",
    }


def test_a_second_bucket_counts_where_no_bound_covers_it() -> None:
    def told(size: object, stage: int = 2) -> object:
        found = read({"stage": stage, "reduce_bucket_size": size, "overlap_comm": True})
        assert fates(found, "unmodelled") == set()
        return found.settings.get("overlap_comm")

    assert told(2e8) is told(5e8, stage=3) is None
    assert told("auto") is told(5e8) is told(5e8, stage=1) is True
    assert read({"stage": 2, "overlap_comm": False}).settings["overlap_comm"] is False


def test_what_leaves_the_card() -> None:
    cpu = {"device": "cpu", "pin_memory": False}
    both = read({"stage": 3, **BUCKETS, "offload_optimizer": cpu, "offload_param": cpu}).settings
    assert (both["offload"], both["offload_device"], both["pin_memory"]) == (("optimizer", "parameters"), "cpu", False)
    nvme = read({"stage": 3, **BUCKETS, "offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}).settings
    assert (nvme["offload"], nvme["offload_device"], nvme["pin_memory"]) == (("optimizer",), "nvme", True)
    assert "offload" not in read({"stage": 3, **BUCKETS, "offload_optimizer": {"device": "none"}}).settings
    two = read({"stage": 3, **BUCKETS, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "nvme"}})
    assert fates(two, "unmodelled") == {"zero_optimization.offload_param.device"}
    part = read({"stage": 3, **BUCKETS, "offload_optimizer": {"device": "cpu", "ratio": 0.3}})
    assert fates(part, "unmodelled") == {"zero_optimization.offload_optimizer.ratio"}


def test_dtypes_and_optimizer_yield_to_the_trainer() -> None:
    found = read(bf16={"enabled": True}, optimizer={"type": "AdamW", "params": {"lr": "auto"}})

    assert dict(found.fallbacks) == {"autocast": "bf16", "optimizer": "adamw_fused"}
    assert fates(read(optimizer={"type": "OneBitAdam"}), "unmodelled") == {"optimizer.type"}
    assert dict(read().fallbacks) == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"tensor_parallel": {"autotp_size": 4}},
        {"hybrid_engine": {"enabled": True}},
        {"data_types": {"grad_accum_dtype": "fp32"}},
        {"amp": {"enabled": True}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_what_changes_the_bytes_otherwise_is_told(keys: dict[str, Any]) -> None:
    assert fates(read(**keys), "unmodelled") == set(keys)
