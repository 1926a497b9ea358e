"""Unsloth's names for the settings that decide memory: unsloth 2026.10, models/loader.py, llama.py and vision.py."""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Key, listed
from planner.configs.model_arguments import DTYPES
from planner.recommend.request import Setting
from planner.stacks import load_stack

OF_LOADER = (
    Key("dtype", "weights_dtype", "text", DTYPES),
    Key("torch_dtype", "weights_dtype", "text", DTYPES),
)
"""``from_pretrained``. Which weights are quantised, and whether adapters are trained, other keys say together."""

OF_ADAPTERS = (
    Key("r", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
    Key("modules_to_save", "modules_to_save", "names"),
)
"""``get_peft_model``."""

EMBEDDINGS = ("embed_tokens", "lm_head")
"""Targets that Unsloth trains as copies of their own: models/llama.py, _redirect_embedding_targets."""

CHECKPOINTS: Mapping[Any, tuple[bool, tuple[str, ...]]] = {
    "unsloth": (True, ("activations",)),
    True: (True, ()),
    "true": (True, ()),
    False: (False, ()),
    "false": (False, ()),
    "none": (False, ()),
}
"""``use_gradient_checkpointing``: whether layers are computed again, and whether their inputs wait in RAM."""


def checkpointing(word: Any, seq_len: Setting | None) -> dict[str, Setting] | None:  # noqa: ANN401  (a file's value)
    """What a word for checkpoints means to a sequence of ``seq_len``; ``None`` for a word that Unsloth does not have.

    >>> checkpointing("unsloth", 256)
    {'gradient_checkpointing': True, 'offload': ()}
    """
    said = word.strip().lower() if isinstance(word, str) else word
    found = CHECKPOINTS.get(said) if isinstance(said, str | int) else None
    if found is None:
        return None
    short = isinstance(seq_len, int) and seq_len < load_stack("unsloth").behaviour.offloads_from
    return {"gradient_checkpointing": found[0], "offload": () if short else found[1]}


LOADER_MATTERS = (
    "model_name", "max_seq_length", "load_in_4bit", "load_in_8bit", "load_in_16bit", "full_finetuning",
    "use_gradient_checkpointing", "float32_mixed_precision", *(key.name for key in OF_LOADER),
)  # fmt: skip
ADAPTERS_MATTER = ("target_modules", "use_gradient_checkpointing", *(key.name for key in OF_ADAPTERS))

LOADER_UNMODELLED: Mapping[str, str] = {
    "resize_model_vocab": "rows are added to embedding and head",
    "offload_embedding": "the embedding waits in RAM",
    "fast_inference": "vLLM holds weights and a cache beside",
    "load_in_fp8": "weights in 8 bits of another kind",
    "qat_scheme": "quantisation-aware training rounds copies",
    "unsloth_tiled_mlp": "MLPs are computed in tiles of the sequence",
    "quantization_config": "weights are quantised as it says",
    "num_labels": "a head for another task",
    "auto_model": "a class of model that is not the causal one",
    "return_logits": "logits are kept whole",
    "target_parameters": "adapters on parameters that are no modules",
    "device_map_planner_kwargs": "layers are spread over cards",
    "offload_layers": "layers wait in RAM",
}
LOADER_IGNORED = listed("""
    token fix_tokenizer trust_remote_code revision use_exact_model_name random_state max_lora_rank disable_log_stats
    gpu_memory_utilization float8_kv_cache text_only on_model_resolved rope_scaling fullgraph whisper_language
    whisper_task unsloth_force_compile attn_implementation tokenizer_name cache_dir local_files_only low_cpu_mem_usage
""")

ADAPTERS_UNMODELLED: Mapping[str, str] = {
    "layers_to_transform": "only some layers have adapters",
    "layers_pattern": "only some layers have adapters",
    "finetune_last_n_layers": "only some layers have adapters",
    "target_parameters": "adapters on parameters that are no modules",
    "qat_scheme": "quantisation-aware training rounds copies",
    "offload_layers": "layers wait in RAM",
    "checkpoint_skip_layers": "some layers keep what they compute",
    "use_dora": "DoRA trains magnitudes, and forms the whole weight",
    "exclude_modules": "some matrices have no adapters",
}
ADAPTERS_IGNORED = listed("""
    model random_state max_seq_length use_rslora init_lora_weights loftq_config temporary_location task_type
    ensure_weight_tying finetune_vision_layers finetune_audio_layers inference_mode autocast_adapter_dtype
""")
PARTS = ("finetune_language_layers", "finetune_attention_modules", "finetune_mlp_modules")
"""Switches of parts, which are on."""

UNNAMED: Mapping[str, str] = {"[*]": "arguments without names", "[*][*]": "arguments that are computed"}
"""Patterns of keys for what has no name: ``script.script_calls``."""

TRAINER_UNMODELLED: Mapping[str, str] = {
    "peft_config": "adapters of TRL's: get_peft_model says Unsloth's",
    "optimizers": "an optimizer of the script's own",
    "ref_model": "a second model",
    "compute_metrics": "logits are gathered for metrics",
    "preprocess_logits_for_metrics": "logits are gathered for metrics",
}
TRAINER_IGNORED = listed("""
    model args tokenizer processing_class train_dataset eval_dataset data_collator formatting_func callbacks
    dataset_text_field dataset_num_proc dataset_kwargs reward_funcs beta max_prompt_length
""")

UNPATCHED: Mapping[str, Any] = {"micro_batch_size": 8, "grad_accumulation": 1, "optimizer": "adamw_fused"}
"""What transformers' own TrainingArguments take, whose defaults Unsloth leaves: transformers 5.17
training_args.py."""
