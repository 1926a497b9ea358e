"""LLaMA-Factory's names beside those of ``TrainingArguments``: what they mean in ours, and which nothing feels.

Names: LLaMA-Factory 0.9.5 hparams/model_args.py, data_args.py, finetuning_args.py, training_args.py,
generating_args.py.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Key, listed
from planner.configs.transformers_keys import MATTER as TRAINING_MATTER
from planner.recommend.request import Setting

ATTENTION: Mapping[Any, Setting] = {"fa2": "flash", "fa3": "flash", "sdpa": "sdpa", "disabled": "eager"}
"""extras/constants.py, AttentionFunction; ``auto`` is left to transformers."""

DATA = (Key("cutoff_len", "seq_len", "whole"),)

LORA = (
    Key("lora_rank", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
    Key("additional_target", "modules_to_save", "names"),
)

QUANT = (
    Key("quantization_type", "quant", "text", {"nf4": "nf4", "fp4": "fp4"}),
    Key("double_quantization", "double_quant", "flag"),
)

METHODS = ("bnb", "bitsandbytes")
"""Of ``quantization_method``, bitsandbytes' name now and before 0.9."""

OBJECTIVES: Mapping[str, str] = {"sft": "sft", "pt": "sft", "dpo": "dpo"}
"""``stage`` in our words."""

PAIRS = ("sigmoid", "hinge", "ipo", "kto_pair")
"""Losses of ``pref_loss`` with a reference."""

ALONE = ("orpo", "simpo")
"""Losses of ``pref_loss`` without one, of the same logits. hparams/finetuning_args.py, use_ref_model."""

MATTER = (
    "model_name_or_path", "stage", "finetuning_type", "quantization_bit", "quantization_method", "lora_target",
    "flash_attn", "packing", "neat_packing", "enable_liger_kernel", "use_unsloth_gc", "disable_gradient_checkpointing",
    "pure_bf16", "pref_loss", "adapter_name_or_path", "create_new_adapter",
    *(key.name for table in (DATA, LORA, QUANT) for key in table), *TRAINING_MATTER,
)  # fmt: skip

UNMODELLED: Mapping[str, str] = {
    "use_unsloth": "Unsloth's own kernels: --stack unsloth plans them, for sft alone",
    "use_galore": "an optimizer of low rank",
    "use_apollo": "an optimizer of low rank",
    "use_badam": "it trains one block at a time",
    "use_adam_mini": "another optimizer",
    "use_muon": "another optimizer",
    "use_llama_pro": "only a part of the layers is trained",
    "use_mca": "Megatron divides layers",
    "use_hyper_parallel": "another engine",
    "use_dora": "DoRA trains magnitudes, and forms the whole weight",
    "use_dft_loss": "another loss, on full logits",
    "use_asft_loss": "another loss, and a reference",
    "use_eaft_loss": "another loss, on full logits",
    "mixture_of_depths": "layers that see a part of the tokens",
    "shift_attn": "another attention",
    "moe_aux_loss_coef": "the router's logits of all layers are kept for another loss",
    "upcast_layernorm": "norms compute in fp32",
    "upcast_lmhead_output": "logits become fp32 before the loss",
    "train_from_scratch": "the model is made anew, in fp32",
    "resize_vocab": "the table of tokens grows, and is trained",
    "add_tokens": "the table of tokens grows, and is trained",
    "add_special_tokens": "the table of tokens grows, and is trained",
    "new_special_tokens_config": "the table of tokens grows, and is trained",
    "use_kt": "experts stay with the processor",
    "use_v1_kernels": "other kernels",
    "freeze_language_model": "only the parts around the language model are trained",
    "fp8": "8-bit training",
    "ref_model": "another model as reference",
    "reward_model": "another model scores",
    "predict_with_generate": "evaluation that generates",
    "compute_accuracy": "evaluation that gathers predictions",
    "quantization_device_map": "layers may be loaded into host memory",
    "infer_backend": "no training",
}
"""Keys that change the answer in a way that is not planned, unless they are off."""

IGNORED = listed("""
    adapter_folder cache_dir use_fast_tokenizer split_special_tokens init_special_tokens model_revision
    low_cpu_mem_usage rope_scaling use_reentrant_gc offload_folder use_kv_cache infer_dtype hf_hub_token
    ms_hub_token om_hub_token print_param_status trust_remote_code image_* video_* crop_to_patches
    use_audio_in_video audio_sampling_rate export_* vllm_* sglang_* kt_* template dataset eval_dataset dataset_dir
    media_dir train_on_prompt mask_history streaming buffer_size mix_strategy interleave_probs overwrite_cache
    preprocessing_batch_size preprocessing_num_workers max_samples eval_num_beams ignore_pad_token_for_loss val_size
    eval_on_each_dataset tool_format default_system enable_thinking preserve_thinking tokenized_path
    data_shared_file_system loraplus_* use_rslora pissa_* oft_* module_dropout pref_beta dpo_label_smoothing kto_*
    pref_ftx pref_bco_weight simpo_gamma ppo_* ref_model_* reward_model_* ld_alpha galore_* apollo_* badam_*
    swanlab_* use_swanlab hyper_parallel_args asft_alpha eaft_alpha freeze_vision_tower freeze_multi_modal_projector
    freeze_trainable_* freeze_extra_modules disable_shuffling early_stopping_steps plot_loss
    include_effective_tokens_per_second enable_torch_profiler profiler_* profile_modules fp8_* ray_* master_addr
    master_port do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty
    length_penalty skip_special_tokens sortish_sampler generation_*
""")
"""Keys that neither memory nor time feels, by name or pattern."""
