"""axolotl's names: what its keys mean in ours, and which neither memory nor time feels.

Names: axolotl 0.19.0 utils/schemas/*.py (``AxolotlInputConfig``), and those of its integrations' ``args.py``.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Key, listed
from planner.configs.model_arguments import ATTENTION as TRANSFORMERS_ATTENTION
from planner.configs.model_arguments import STORAGES
from planner.configs.transformers_keys import OPTIMIZERS as TRANSFORMERS_OPTIMIZERS
from planner.recommend.request import Setting

ATTENTION: Mapping[Any, Setting] = {
    **TRANSFORMERS_ATTENTION,
    "flash_attention_4": "flash",
    "flash_attention_torch": "flash",
}
"""utils/schemas/enums.py, CANONICAL_ATTN_IMPLS, and kernels of the Hub."""

OLDER_ATTENTION: Mapping[str, str] = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
"""Flags before 0.16, the first that is on holds: utils/schemas/enums.py, LEGACY_ATTN_FLAG_TO_IMPL."""

OPTIMIZERS: Mapping[Any, Setting] = {**TRANSFORMERS_OPTIMIZERS}

IN_8_BITS_BY_TORCHAO = ("adamw_torch_8bit", "ao_adamw_8bit")
"""torchao's blocks of 256 states are as large as bitsandbytes'; but it has no fp32 states for embeddings."""

TRAINING = (
    Key("micro_batch_size", "micro_batch_size", "whole"),
    Key("gradient_accumulation_steps", "grad_accumulation", "whole"),
    Key("sequence_len", "seq_len", "whole"),
)

ADAPTERS = (
    Key("lora_r", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
    Key("lora_modules_to_save", "modules_to_save", "names"),
)

QUANT = (
    Key("bnb_4bit_quant_type", "quant", "text", {"nf4": "nf4", "fp4": "fp4"}),
    Key("bnb_4bit_use_double_quant", "double_quant", "flag"),
    Key("bnb_4bit_quant_storage", "quant_storage", "text", STORAGES),
)
"""Keys of ``bnb_config_kwargs``."""

QUANT_IGNORED = ("load_in_4bit", "bnb_4bit_compute_dtype", "llm_int8_threshold", "llm_int8_has_fp16_weight")

LIGER, CUT = "axolotl.integrations.liger.LigerPlugin", "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"

PLUGINS_IGNORED = ("swanlab.SwanLabPlugin", "lm_eval.LMEvalPlugin")
"""Plugins that watch or test."""

QUANTIZE_EXPERTS = "quantize_moe_experts"
"""The key, and what the stack's text calls it."""

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
LIGER_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation")

MATTER = (
    "base_model", "adapter", "load_in_4bit", "load_in_8bit", "plugins", "bf16", "fp16", "bfloat16", "float16",
    "optimizer", "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading",
    "attn_implementation", *OLDER_ATTENTION, "lora_target_modules", "lora_target_linear", "bnb_config_kwargs",
    "deepspeed", "fsdp", "fsdp_config", "fsdp_version", "context_parallel_size", "sequence_parallel_degree",
    "tensor_parallel_size", "sample_packing", "rl", "num_epochs", "cut_cross_entropy", "chunked_cross_entropy",
    *LORA_KERNELS, *LIGER_PARTS, "liger_swiglu", "liger_fused_linear_cross_entropy", "peft_autocast_adapter_dtype",
    "dp_shard_size", "dp_replicate_size", QUANTIZE_EXPERTS,
    *(key.name for table in (TRAINING, ADAPTERS) for key in table),
)  # fmt: skip

UNMODELLED: Mapping[str, str] = {
    "lora_target_parameters": "adapters on parameters that are no modules, as experts have",
    "peft_use_dora": "DoRA trains magnitudes, and forms the whole weight",
    "lora_rank_pattern": "ranks of their own for some modules",
    "peft_layers_to_transform": "adapters in some layers",
    "peft_layers_pattern": "adapters in some layers",
    "peft_layer_replication": "layers that stand several times",
    "peft_trainable_token_indices": "rows of the embedding that are trained beside the adapters",
    "peft": "LoftQ leaves out the preparation of quantised weights",
    "use_mora": "MoRA's adapters are square matrices",
    "mora": "MoRA's adapters are square matrices",
    "lora_exclude_modules": "adapters in some layers",
    "gptq": "weights that GPTQ quantised",
    "model_quantization_config": "weights that are loaded in another quantised form",
    "use_onebitllms": "weights of 1.58 bits",
    "ple_cpu_offload": "tables of embeddings stay in host memory",
    "layer_offloading": "weights of layers wait in host memory",
    "lora_on_cpu": "embeddings and norms are moved to the processor",
    "qat": "quantisation-aware training keeps fake-quantised weights",
    "fp8": "8-bit training",
    "fp32_norms": "norms are kept in fp32",
    "reinit_weights": "the model is made anew, in fp32",
    "unfrozen_parameters": "only a part of the weights is trained",
    "spectrum_top_fraction": "only a part of the weights is trained",
    "lisa_*": "only a part of the layers is trained at a time",
    "relora": "adapters are merged and begun anew during the run",
    "torch_compile": "compiled graphs keep other tensors",
    "deepcompile": "compiled graphs keep other tensors",
    "tiled_mlp": "the MLP is computed in tiles of the sequence",
    "selective_checkpointing": "checkpoints that keep a part",
    "flash_attn_cross_entropy": "another loss kernel",
    "flash_attn_fuse_mlp": "another MLP kernel",
    "flash_optimum": "other modules",
    "fused_attn_kernel": "rotary embedding and its norm in one kernel",
    "gemma4_hybrid_attn_impl": "two kernels of attention in one model",
    "large_head_attention": "another kernel for large heads",
    "flash_attn_d512": "another kernel for large heads",
    "scaling_softmax": "another attention",
    "use_kernels": "kernels of the Hub",
    "experts_implementation": "another kernel for experts",
    "use_scattermoe": "another kernel for experts",
    "use_sonicmoe": "another kernel for experts",
    "use_dsv4_kernels": "other kernels",
    "use_glm_dsa_kernels": "other kernels",
    "expert_backend": "another kernel for experts",
    "moe_*": "another kernel for experts",
    "nonexpert_quantization": "weights that are loaded in another quantised form",
    "gemma4_fp8_nonexpert": "weights that are loaded in another quantised form",
    "gemma4_nf4_nonexpert": "weights that are loaded in another quantised form",
    "nvfp4_merge_aware": "weights are snapped while they are trained",
    "llama4_linearized_experts": "experts as matrices of their own",
    "expert_parallel_size": "ranks share experts",
    "use_eaft": "another loss, on full logits",
    "diffusion": "another loss",
    "kd_trainer": "another model teaches",
    "reward_model": "a head for another task",
    "process_reward_model": "a head for another task",
    "num_labels": "a head for another task",
    "trainer_cls": "a trainer of your own",
    "nemo_gym_enabled": "rewards from elsewhere",
    "hatchery": "the run is elsewhere",
    "dense_mixer": "all experts are computed",
    "auto_find_batch_size": "the batch is halved until it fits",
    "batch_size": "the batch of all cards together: say gradient_accumulation_steps",
    "shrink_embeddings": "the table of tokens shrinks",
    "do_causal_lm_eval": "evaluation that generates",
    "eval_sequence_len": "evaluation of other lengths",
    "overrides_of_model_config": "the model is another one",
    "model_config": "the model is another one",
    "overrides_of_model_kwargs": "arguments of from_pretrained",
    "model_kwargs": "arguments of from_pretrained",
    "max_memory": "layers may be loaded into host memory",
    "gpu_memory_limit": "layers may be loaded into host memory",
    "accelerator_config": "it may split batches among cards",
    "ebft": "another trainer",
    "use_ray": "Ray starts the workers",
    "max_packed_sequence_len": "0.19 refuses it",
    "rope_scaling": "0.19 refuses it",
    "s2_attention": "0.19 refuses it",
    "flash_attn_rms_norm": "0.19 refuses it",
    "dsv4_*": "other kernels",
    "liger_cross_entropy": "Liger's loss on full logits",
    "liger_rms_norm_gated": "norms of linear attention in one kernel",
    "embeddings_skip_upcast": "embeddings stay in 16 bits through the preparation",
    "freeze_mm_modules": "parts of a multimodal model are frozen",
    "lora_model_dir": "adapters that are there already say their own rank",
}
"""Keys that change the answer in a way that is not planned, unless they are off."""

ROWS = ("tokens", "resize_token_embeddings_to_32x")
"""Keys by which the table of tokens grows by a few rows."""

IGNORED = listed("""
    base_model_config cls_model_config tokenizer_* processor_type processor_kwargs processor_config trust_remote_code
    experimental_skip_move_to_device model_quantization_config_kwargs output_dir hub_* save_* saves_per_epoch
    lora_fan_in_fan_out lora_alpha_pattern peft_use_rslora peft_init_lora_weights peft_ensure_weight_tying
    qlora_sharded_model_loading loraplus_* merge_lora merge_method relora_* jagged_restart_* train_on_inputs
    group_by_length learning_rate embedding_lr embedding_lr_scale weight_decay optim_args optim_target_modules
    torchdistx_path lr_* cosine_* adam_* dion_* qgalore_* max_grad_norm use_wandb wandb_* use_mlflow mlflow_*
    hf_mlflow_log_artifacts use_comet comet_* use_trackio trackio_* use_otel_metrics otel_* gradio_* ray_*
    resources_per_worker image_size image_resize_algorithm role_boundaries type_of_model model_type revision_of_model
    model_revision noisy_embedding_alpha dpo_* evaluation_strategy eval_* evals_per_epoch rpo_alpha strict
    resume_from_checkpoint auto_resume_from_checkpoints mean_resizing_embeddings trl vllm quantization
    dynamic_checkpoint center_rewards_coefficient precompute_ref_log_probs
    datasets test_datasets shuffle_* dataset_* skip_prepare_dataset
    num_dataset_shards_to_save pretraining_dataset dataloader_* remove_unused_columns push_dataset_to_hub
    hf_use_auth_token device device_map world_size local_rank ddp ddp_* seed do_bench_eval bench_*
    metric_for_best_model greater_is_better loss_watchdog_* gc_steps torch_empty_cache_steps gc_collect_steps fp8_*
    tf32 float32 excess_length_strategy min_sample_len max_prompt_len sample_packing_* pad_to_sequence_len
    pad_to_multiple_of curriculum_sampling multipack_real_batches batch_flattening use_pose pose_* pretrain_* streaming
    pretraining_sample_concatenation streaming_multipack_buffer_size flex_attn_compile_kwargs sdpa_varlen
    scaling_softmax_* lora_embedding_kernel chunked_cross_entropy_num_chunks eaft_* tiled_mlp_* fp32_norm_classes
    fsdp_final_state_dict_type val_set_size heads_k_stride ring_attn_func special_tokens added_tokens_overrides
    torch_compile_* warmup_steps warmup_ratio logging_steps early_stopping_patience load_best_model_at_end
    use_tensorboard profiler_* include_* neftune_noise_alpha orpo_alpha simpo_gamma cpo_alpha kto_* rl_beta
    low_cpu_mem_usage chat_template chat_template_* eot_tokens default_system_message fix_untrained_tokens is_*
    preprocess_iterable total_num_tokens total_supervised_tokens axolotl_config_path generate_samples
    num_generation_samples generation_* liger_layer_norm liger_use_token_scaling liger_kernel_impl use_swanlab
    swanlab_* lm_eval_* gptq_disable_exllama debug capabilities env_capabilities expert_parallel_* kd_* llmcompressor
    grokfast_* nvfp4_* nemo_gym_* spectrum_model_name unsloth_*
""")
"""Keys that neither memory nor time feels, by name or pattern."""
