"""Whatever people write behind a key that matters: it is read, or refused in one line."""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.configs import (
    accelerate,
    accelerate_fsdp,
    axolotl,
    axolotl_keys,
    deepspeed,
    llamafactory,
    llamafactory_keys,
    torchtune,
    torchtune_keys,
    transformers,
    transformers_keys,
    trl,
    trl_keys,
    unsloth,
)
from planner.configs.document import Document
from planner.configs.understood import Understood
from planner.errors import PlannerError

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**40, "", "none", "auto", "../../x", [], ["a", 1], [[]], {}, {"a": {"b": None}},
)  # fmt: skip


class Case(NamedTuple):
    """A reader, a file that it takes, in several kinds, and the keys behind which strange values stand."""

    read: Callable[[Document], Understood]
    base: Mapping[str, Any]
    kinds: tuple[Mapping[str, Any], ...]
    names: Iterable[str]


LORA = {"lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
CASES: Mapping[str, Case] = {
    "axolotl": Case(
        axolotl.read,
        {"base_model": "NousResearch/Meta-Llama-3-8B", "sequence_len": 4096, "micro_batch_size": 2},
        (
            {},
            {**LORA, "adapter": "qlora", "load_in_4bit": True},
            {"fsdp_config": {"fsdp_version": 2}},
            {**LORA, "adapter": "lora", "rl": "grpo"},
        ),
        (*axolotl_keys.MATTER, *axolotl_keys.UNMODELLED, "trl", "val_set_size", "eval_steps"),
    ),
    "llamafactory": Case(
        llamafactory.read,
        {"model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "stage": "sft", "cutoff_len": 2048},
        ({}, {"finetuning_type": "full"}, {"quantization_bit": 4}, {"stage": "dpo"}),
        (*llamafactory_keys.MATTER, *llamafactory_keys.UNMODELLED),
    ),
    "trl": Case(
        trl.read,
        {"model_name_or_path": "meta-llama/Llama-3.1-8B", "dataset_name": "trl-lib/Capybara"},
        ({}, {"use_peft": True, "load_in_4bit": True}, {"num_generations": 8}, {"rpo_alpha": 1.0}),
        (*trl.MATTER, *trl_keys.GRPO_UNMODELLED, *trl_keys.DPO_UNMODELLED, *trl_keys.ITERATIONS, *trl_keys.TELLS_DPO),
    ),
    "transformers": Case(
        transformers.read,
        {"model_name_or_path": "meta-llama/Llama-3.1-8B", "per_device_train_batch_size": 2},
        ({}, {"fsdp": "full_shard auto_wrap"}, {"use_liger_kernel": True}),
        (*transformers_keys.MATTER, *transformers_keys.UNMODELLED, *transformers_keys.LENGTHS, "liger_kernel_config"),
    ),
    "accelerate": Case(
        accelerate.read,
        {"compute_environment": "LOCAL_MACHINE", "num_processes": 2},
        ({"distributed_type": "FSDP"}, {"distributed_type": "DEEPSPEED"}, {"distributed_type": "MULTI_GPU"}),
        (*accelerate.MATTER, *accelerate.UNMODELLED, *accelerate_fsdp.MATTER, "dynamo_config"),
    ),
    "deepspeed": Case(
        deepspeed.read,
        {"zero_optimization": {"stage": 3}},
        ({},),
        (*deepspeed.MATTER, *deepspeed.UNMODELLED),
    ),
    "torchtune": Case(
        torchtune.read,
        {
            "model": {"_component_": "torchtune.models.llama3_1.lora_llama3_1_8b"},
            "optimizer": {"_component_": "torch.optim.AdamW"},
            "tokenizer": {"max_seq_len": 2048},
        },
        ({},),
        (
            *(key.name for key in torchtune_keys.SETTINGS), *torchtune_keys.UNMODELLED,
            "model", "optimizer", "tokenizer", "loss", "dataset", "epochs", "custom_sharded_layers", "device",
        ),
    ),
    "unsloth": Case(unsloth.read, {"model": "unsloth/Meta-Llama-3.1-8B"}, ({},), ("model", "training", "lora")),
}  # fmt: skip


def said(case: Case, data: Mapping[str, Any]) -> list[str]:
    """The keys that were read, or the refusal if it is one line."""
    try:
        return [one.key for one in case.read(Document(path=Path("run.yaml"), data=data, format="yaml")).readings]
    except PlannerError as error:
        return [] if "\n" in str(error) else [str(error)]


KEYS = [(name, key) for name, case in CASES.items() for key in sorted({*case.names})]


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_strange_value_is_read_or_refused_in_one_line(name: str, key: str) -> None:
    case = CASES[name]
    for value, kind in product(STRANGE, case.kinds):
        assert said(case, {**case.base, **kind, key: value}), value


SECTIONS = (
    ("axolotl", "fsdp_config", accelerate_fsdp.MATTER),
    ("axolotl", "bnb_config_kwargs", [key.name for key in axolotl_keys.QUANT]),
    ("axolotl", "trl", ("num_generations", "max_completion_length", "beta", "num_iterations")),
    ("accelerate", "deepspeed_config", accelerate.PLUGIN_MATTER),
    ("accelerate", "fsdp_config", accelerate_fsdp.MATTER),
    ("accelerate", "parallelism_config", accelerate.PARALLEL),
    ("deepspeed", "zero_optimization", deepspeed.ZERO_MATTER),
    ("deepspeed", "optimizer", ("type", "params")),
    ("deepspeed", "bf16", ("enabled",)),
    ("torchtune", "model", ("_component_", "lora_rank", "lora_attn_modules", "apply_lora_to_mlp", "quantize_base")),
    ("torchtune", "optimizer", ("_component_", "fused", "foreach")),
    ("torchtune", "loss", ("_component_",)),
    ("torchtune", "dataset", ("packed",)),
    ("unsloth", "training", ("max_seq_length", "gradient_checkpointing", "training_type", "optim", "num_epochs")),
    ("unsloth", "lora", ("lora_r", "target_modules", "use_dora", "finetune_mlp_modules")),
)


@pytest.mark.parametrize(("name", "section", "key"), [(name, one, key) for name, one, keys in SECTIONS for key in keys])
def test_so_is_one_in_a_section(name: str, section: str, key: str) -> None:
    case = CASES[name]
    for value, kind in product(STRANGE, case.kinds):
        data = {**case.base, **kind}
        before = data.get(section)
        inside = {**(before if isinstance(before, Mapping) else {}), key: value}
        assert said(case, {**data, section: inside}), value
