"""Every kind of PEFT adapter as a small configuration, and a real training run of it on the CPU."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import transformers
from peft import LoraConfig, PeftConfig, get_peft_model

from planner.build.method import tensors_of
from planner.build.peft_patches import even_clusters, even_segments, importable
from planner.families import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, ModelSpec, Scenario, TrainSpec
from planner.stacks import load_stack
from tests.estimators.real import largest_sum

Fields = dict[str, Any]

B, S, HIDDEN, LAYERS, VOCABULARY = 4, 48, 64, 2, 320
LLAMA: Fields = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
}

QV = ["q_proj", "v_proj"]
EIGHT = {"num_virtual_tokens": 8}

TUNERS: dict[str, Fields] = {
    "ADALORA": {"target_modules": QV, "init_r": 8, "target_r": 4, "total_step": 100},
    "ADAMSS": {"target_modules": QV, "r": 16, "num_subspaces": 3},
    "ADAPTION_PROMPT": {"adapter_len": 8, "adapter_layers": LAYERS},
    "BEFT": {"target_modules": ["v_proj"]},
    "BOFT": {"target_modules": QV},
    "C3A": {"target_modules": QV, "block_size": 32},
    "CARTRIDGE": EIGHT,
    "CPT": {"cpt_token_ids": list(range(8)), "cpt_mask": [1] * 8, "cpt_tokens_type_mask": [1, 2, 2, 3, 3, 4, 4, 4]},
    "DEFT": {"target_modules": QV},
    "DELORA": {"target_modules": QV},
    "FOURIERFT": {"target_modules": QV, "n_frequency": 100},
    "FROD": {"target_modules": QV, "progressbar": False},
    "GLORA": {"target_modules": QV},
    "GRALORA": {"target_modules": QV, "r": 8},
    "HIRA": {"target_modules": QV, "r": 8},
    "HRA": {"target_modules": QV, "r": 4},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": {"target_modules": QV, "r": 4},
    "LN_TUNING": {},
    "LOHA": {"target_modules": QV, "module_dropout": 0.0},
    "LOKR": {"target_modules": QV},
    "LORA": {"target_modules": "all-linear"},
    "MISS": {"target_modules": QV, "r": 8},
    "MULTITASK_PROMPT_TUNING": {**EIGHT, "num_tasks": 2},
    "OFT": {"target_modules": QV, "oft_block_size": 16},
    "OSF": {"target_modules": QV},
    "PEANUT": {"target_modules": QV, "r": 8},
    "POLY": {"target_modules": QV},
    "PREFIX_TUNING": EIGHT,
    "PROMPT_TUNING": EIGHT,
    "PSOFT": {"target_modules": QV, "r": 16},
    "PVERA": {"target_modules": QV},
    "P_TUNING": {**EIGHT, "encoder_hidden_size": 32},
    "RANDLORA": {"target_modules": QV},
    "ROAD": {"target_modules": QV, "group_size": 32},
    "SHADOW": {},
    "SHIRA": {"target_modules": QV, "r": 4},
    "SUPERTUNING": {"target_modules": QV},
    "TINYLORA": {"target_modules": QV},
    "TRAINABLE_TOKENS": {"token_indices": [1, 5, 9], "target_modules": ["embed_tokens"]},
    "UNILORA": {"target_modules": QV},
    "VBLORA": {"target_modules": QV, "vector_length": 16, "num_vectors": 32},
    "VERA": {"target_modules": QV},
    "WAVEFT": {"target_modules": QV, "n_frequency": 100},
    "XLORA": {"hidden_size": HIDDEN, "xlora_depth": 2, "xlora_size": 64},
}


def fields_of(kind: str, folder: Path, **more: Any) -> Fields:
    """The fields of one kind as its file holds them; X-LoRA's two experts are saved in ``folder``."""
    fields = {"peft_type": kind, "task_type": "CAUSAL_LM", **TUNERS[kind], **more}
    return {**fields, "adapters": experts(folder)} if kind == "XLORA" else fields


def experts(folder: Path) -> dict[str, str]:
    """Two LoRA adapters on disk, as X-LoRA loads them."""
    found = {}
    for name in ("0", "1"):
        model = get_peft_model(llama(), LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"))
        model.save_pretrained(str(folder / name))
        found[name] = str(folder / name)
    return found


def write(fields: Mapping[str, Any], folder: Path) -> Path:
    """An ``adapter_config.json``."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(fields), encoding="utf-8")
    return file


def llama() -> Any:
    """The real model in training mode."""
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(**{key: value for key, value in LLAMA.items() if key != "model_type"})
    settings.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    model.config.use_cache = False
    return model.train()


def spec() -> ModelSpec:
    """Our model of the same configuration."""
    return model_from_config(LLAMA, name="tiny")


def scenario(**settings: Any) -> Scenario:
    """The same training run: fp32, eager attention, no checkpoints, AdamW over lists of tensors."""
    defaults: dict[str, Any] = {
        "method": "lora",
        "micro_batch_size": B,
        "seq_len": S,
        "attention": "eager",
        "autocast": "none",
        "weights_dtype": "fp32",
        "gradient_checkpointing": False,
        "optimizer": "adamw_foreach",
    }
    train = TrainSpec(**{**defaults, **settings})
    return Scenario(
        model=spec(), train=train, cluster=Cluster(gpu=load_gpu("a100-80gb")), stack=load_stack("hf").behaviour
    )


class Real(NamedTuple):
    """A real run: what PEFT says is trained, bytes of gradients, of adapters as they stand, and the highest point."""

    trainable: int
    gradient_bytes: int
    peak: int


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small are not worth waking another core for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def adapted(fields: Fields) -> Any:
    """A real model with the adapter, by PEFT alone; scikit-learn's clusters, where it is absent, are even ones."""
    with ExitStack() as stack:
        if fields["peft_type"] == "ADAMSS":
            stack.enter_context(importable("sklearn"))
            stack.enter_context(patch("peft.tuners.adamss.layer.clustering_Z", even_clusters(None)))
            stack.enter_context(patch("peft.tuners.adamss.layer.seg_locations", even_segments(None)))
        return get_peft_model(llama(), PeftConfig.from_peft_type(**fields)).train()


@one_thread()
def real_run(fields: Fields) -> Real:
    """Three real steps of a plain loop; the profiler counts the third."""
    model = adapted(fields)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, foreach=True)
    ids = torch.randint(3, VOCABULARY, (B, S))
    inputs = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    if fields["peft_type"] in ("POLY", "MULTITASK_PROMPT_TUNING"):
        inputs["task_ids"] = torch.zeros(B, dtype=torch.int64)
    gradients = 0

    def step() -> None:
        nonlocal gradients
        model(**inputs).loss.backward()
        gradients = storage_bytes([one.grad for one in trained if one.grad is not None])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    standing = storage_bytes([*(tensor for _, tensor in tensors_of(model)), *states, *inputs.values()])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return Real(model.get_nb_trainable_parameters()[0], gradients, standing + largest_sum(profiler))


def storage_bytes(tensors: list[Any]) -> int:
    """Bytes of distinct storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
