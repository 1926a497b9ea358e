"""TRL's keys by trainer: which one a file is for, which keys memory does not feel, and which we do not model.

Names: trl 1.16 trainer/sft_config.py, dpo_config.py, grpo_config.py, scripts/utils.py and scripts/grpo.py; those of
earlier releases; and of the recipes of the alignment handbook and open-r1, whose scripts read TRL's files.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import listed

TELLS_GRPO = listed("""
    num_generations max_completion_length reward_funcs use_vllm steps_per_generation generation_batch_size
    scale_rewards num_iterations reward_weights vllm_mode epsilon_high mask_truncated_completions
""")
"""Keys that make a file one for ``trl grpo``."""

TELLS_DPO = listed("""
    precompute_ref_log_probs precompute_ref_batch_size beta rpo_alpha ld_alpha f_divergence_type reference_free
    ref_model_init_kwargs force_use_ref_model discopop_tau loss_weights use_weighting max_prompt_length
    generate_during_eval model_adapter_name ref_adapter_name
""")
"""Keys that make a file one for ``trl dpo``."""

TELLS_SFT = listed("""
    packing packing_strategy eval_packing dataset_text_field dataset_kwargs eos_token max_seq_length chat_template_path
    completion_only_loss assistant_only_loss num_of_sequences chars_per_token
""")
"""Keys that neither of the others has: a file without any of all three may be for each."""

OTHER_TRAINERS: Mapping[str, tuple[str, ...]] = {
    "kto": listed("desirable_weight undesirable_weight"),
    "orpo or cpo": listed("cpo_alpha simpo_gamma"),
    "reward": listed("center_rewards_coefficient"),
    "ppo": listed("num_ppo_epochs vf_coef cliprange_value response_length kl_coef"),
    "rloo": listed("rloo_k kl_estimator"),
    "distillation": listed("lmbda teacher_model_name_or_path distillation_mode"),
}
"""Trainers that are not planned, by keys that only they have."""

LAUNCH_IGNORED = listed("""
    gpu_ids machine_rank main_process_ip main_process_port rdzv_backend same_network main_training_function
""")

SCRIPT_IGNORED = (
    *LAUNCH_IGNORED,
    *listed("""
    dataset_train_split dataset_test_split dataset_streaming ignore_bias_buffers datasets test_split_size streaming env
    reward_model_name_or_path reward_funcs gradient_checkpointing_use_reentrant
    chat_template system_prompt dataset_mixer dataset_splits dataset_configs dataset_mixture dataset_kwargs
    dataset_prompt_column auto_insert_empty_system_msg columns_to_keep benchmarks callbacks overwrite_hub_revision
    push_to_hub_revision wandb_* report_to ddp_timeout preprocessing_num_workers
    cosine_* repetition_* format_tag_* code_language parallel_code_* code_provider enforce_same_language e2b_*
    morph_* test_batch_size language max_num_* soft_punish_cache ioi_provider code_eval_* piston_*
    """),
)
"""Keys of scripts and launchers."""

SFT_IGNORED = listed("""
    dataset_text_field dataset_kwargs dataset_num_proc dataset_batch_size eos_token pad_token shuffle_dataset
    truncation_mode pad_to_multiple_of completion_only_loss assistant_only_loss packing_strategy padding_free
    eval_packing router_aux_loss_coef num_of_sequences chars_per_token loss_type
""")
SFT_UNMODELLED: Mapping[str, str] = {
    "chat_template_path": "new tokens make embedding and head trainable",
}

DPO_IGNORED = listed("""
    beta loss_type loss_weights rpo_alpha ld_alpha f_divergence_type f_alpha_divergence_coef label_smoothing
    use_weighting discopop_tau sync_ref_model ref_model_mixup_alpha ref_model_sync_steps precompute_ref_batch_size
    disable_dropout dataset_num_proc truncation_mode padding_free pad_to_multiple_of pad_token router_aux_loss_coef
    max_prompt_length max_completion_length max_target_length label_pad_token_id padding_value is_encoder_decoder
    model_adapter_name ref_adapter_name use_logits_to_keep tools base_model_attribute_name
""")
DPO_UNMODELLED: Mapping[str, str] = {
    "ref_model_init_kwargs": "a reference in another dtype",
    "generate_during_eval": "completions are sampled while it evaluates",
    "use_liger_loss": "Liger's fused loss of pairs",
}

GRPO_IGNORED = listed("""
    temperature top_p top_k min_p repetition_penalty generation_kwargs chat_template_kwargs shuffle_dataset
    disable_dropout pad_to_multiple_of router_aux_loss_coef num_generations_eval ds3_gather_for_generation vllm_*
    epsilon epsilon_high delta sapo_* vespo_* importance_sampling_level reward_weights
    multi_objective_aggregation scale_rewards loss_type mask_truncated_completions sync_ref_model
    ref_model_mixup_alpha ref_model_sync_steps entropy_coef_* entropy_target use_adaptive_entropy
    max_tool_calling_iterations off_policy_mask_threshold use_bias_correction_kl log_completions log_multimodal
    num_completions_to_print log_unique_prompts log_completions_hub_repo transformers_continuous_batching_config
    truncation_mode trust_remote_code
""")
ITERATIONS: Mapping[str, str] = {
    "num_iterations": "a rollout lasts for several optimizer steps, and is scored by the older policy besides",
}
"""``GRPOConfig.num_iterations``, unless it is 1. trl 1.16 trainer/grpo_trainer.py, _generate_and_score_completions."""

GRPO_UNMODELLED: Mapping[str, str] = {
    "use_vllm": "vLLM has weights and a cache of its own, on these cards or behind a server",
    "use_transformers_continuous_batching": "its cache of keys and values is paged",
    "use_transformers_paged": "its cache of keys and values is paged",
    "cache_implementation": "another cache of keys and values",
    "cast_lm_head_to_fp32": "the head is another copy in fp32",
    "use_liger_loss": "Liger's fused loss of groups",
    "entropy_coef": "entropies of all tokens are kept",
    "top_entropy_quantile": "entropies of all tokens are kept",
}

_OWN = {
    "sft": (*SFT_IGNORED, *SFT_UNMODELLED, "packing", "activation_offloading"),
    "dpo": (*DPO_IGNORED, *DPO_UNMODELLED, *TELLS_DPO, "activation_offloading"),
    "grpo": (*GRPO_IGNORED, *GRPO_UNMODELLED, *TELLS_GRPO),
}
BESIDE: Mapping[str, tuple[str, ...]] = {
    kind: tuple(name for other, names in _OWN.items() if other != kind for name in names) for kind in _OWN
}
"""By trainer, keys that only the others have."""

_EIGHT: Mapping[str, Any] = {"num_processes": 8, "num_machines": 1, "mixed_precision": "bf16"}

SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "single_gpu": {**_EIGHT, "distributed_type": "NO", "num_processes": 1},
    "multi_gpu": {**_EIGHT, "distributed_type": "MULTI_GPU"},
    "fsdp1": {
        **_EIGHT,
        "distributed_type": "FSDP",
        "fsdp_config": {"fsdp_version": 1, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
    },
    "fsdp2": {
        **_EIGHT,
        "distributed_type": "FSDP",
        "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
    },
    "zero1": {
        **_EIGHT,
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {"zero_stage": 1, "gradient_accumulation_steps": 1},
    },
    "zero2": {**_EIGHT, "distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}},
    "zero3": {**_EIGHT, "distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
}
"""accelerate's configurations that come with TRL, as far as memory feels them: trl 1.16 accelerate_configs/*.yaml."""
