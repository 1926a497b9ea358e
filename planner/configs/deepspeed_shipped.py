"""DeepSpeed configurations that trainers ship beside their examples, by file name: a run may name them without having
them beside it.

What they set is a fact of the packages: axolotl 0.19.0 deepspeed_configs/, LLaMA-Factory 0.9.5 examples/deepspeed/.
Precision, batch and clipping are ``auto`` in all of them where nothing else stands here.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.configs.document import Document

AUTO: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    )
)
ON_HOST: Mapping[str, Any] = MappingProxyType({"device": "cpu", "pin_memory": True})

AXOLOTL_ZERO_3: Mapping[str, Any] = MappingProxyType(
    {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 0,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "max_live_parameters": 0,
        "max_reuse_distance": 0,
        "gather_16bit_weights_on_model_save": True,
    }
)
FACTORY_ZERO_2: Mapping[str, Any] = MappingProxyType(
    {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
        "round_robin_gradients": True,
    }
)
FACTORY_ZERO_3: Mapping[str, Any] = MappingProxyType(
    {
        "stage": 3,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
)
COMPILED: Mapping[str, Any] = MappingProxyType({"compile": {"disable": False, "backend": "inductor"}})


def _made(zero: Mapping[str, Any], *, bf16: Any = "auto", **more: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """A file from what it sets beyond ``auto``."""
    return MappingProxyType({**AUTO, "bf16": {"enabled": bf16}, "zero_optimization": dict(zero), **more})


AXOLOTL_ZERO_1: Mapping[str, Any] = MappingProxyType({"stage": 1, "overlap_comm": True})
AXOLOTL_ZERO_2: Mapping[str, Any] = MappingProxyType(
    {"stage": 2, "offload_optimizer": {"device": "cpu"}, "contiguous_gradients": True, "overlap_comm": True}
)
UNTESTED: Mapping[str, Any] = MappingProxyType(
    {"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True}
)

SHIPPED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "zero1.json": _made(AXOLOTL_ZERO_1),
        "zero1_torch_compile.json": _made(AXOLOTL_ZERO_1, **COMPILED),
        "zero2.json": _made(AXOLOTL_ZERO_2),
        "zero2_torch_compile.json": _made(AXOLOTL_ZERO_2, **COMPILED),
        "zero3.json": _made(AXOLOTL_ZERO_3),
        "zero3_bf16.json": _made(AXOLOTL_ZERO_3, bf16=True),
        "zero3_bf16_cpuoffload_all.json": _made(
            {**AXOLOTL_ZERO_3, "offload_optimizer": ON_HOST, "offload_param": ON_HOST}, bf16=True, **UNTESTED
        ),
        "zero3_bf16_cpuoffload_params.json": _made({**AXOLOTL_ZERO_3, "offload_param": ON_HOST}, bf16=True, **UNTESTED),
        "ds_z0_config.json": _made({**FACTORY_ZERO_2, "stage": 0}),
        "ds_z2_config.json": _made(FACTORY_ZERO_2),
        "ds_z2_autotp_config.json": _made(FACTORY_ZERO_2, tensor_parallel={"autotp_size": 2}),
        "ds_z2_offload_config.json": _made({**FACTORY_ZERO_2, "offload_optimizer": ON_HOST}),
        "ds_z3_config.json": _made(FACTORY_ZERO_3),
        "ds_z3_fp8_config.json": _made(
            {
                **FACTORY_ZERO_3,
                "offload_optimizer": {"device": "cpu", "pin_memory": False},
                "reduce_bucket_size": 12845056,
                "stage3_prefetch_bucket_size": 11560550,
                "stage3_param_persistence_threshold": 35840,
            },
        ),
        "ds_z3_offload_config.json": _made({**FACTORY_ZERO_3, "offload_optimizer": ON_HOST, "offload_param": ON_HOST}),
    }
)


def shipped_document(path: Path) -> Document | None:
    """The file that trainers ship under the name of ``path``; ``None`` for any other name.

    >>> shipped_document(Path("deepspeed_configs/zero3.json")).data["zero_optimization"]["stage"]
    3
    """
    data = SHIPPED.get(path.name)
    return None if data is None else Document(path=path, data=data, format="json")
