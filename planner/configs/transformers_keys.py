"""What transformers' ``TrainingArguments`` and the scripts around them call their settings.

Names: transformers 5.23 training_args.py, and those of transformers 4 that it no longer has.
"""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Key, listed
from planner.recommend.request import Setting

OPTIMIZERS: Mapping[Any, Setting] = {
    "adamw_torch_fused": "adamw_fused",
    "adamw_torch": "adamw_foreach",
    "adamw_hf": "adamw_loop",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
    "paged_adamw": "paged_adamw_32bit",
    "adafactor": "adafactor",
    "lion_32bit": "lion",
    "lion_8bit": "lion_8bit",
    "sgd": "sgd",
}
"""transformers 5.23 training_args.py, OptimizerNames, and trainer_optimizer.py; ``adamw_hf`` and ``paged_adamw`` are
names of transformers 4."""

TRAINING = (
    Key("per_gpu_train_batch_size", "micro_batch_size", "whole"),
    Key("per_device_train_batch_size", "micro_batch_size", "whole"),
    Key("gradient_accumulation_steps", "grad_accumulation", "whole"),
    Key("optim", "optimizer", "text", OPTIMIZERS),
    Key("gradient_checkpointing", "gradient_checkpointing", "flag"),
    Key("activation_checkpointing", "gradient_checkpointing", "flag"),
)
"""Older names come first: the last that is there holds."""

MATTER = (
    *dict.fromkeys(key.name for key in TRAINING), "bf16", "fp16", "use_liger_kernel", "fsdp", "fsdp_config",
    "deepspeed", "torch_compile", "auto_find_batch_size", "eval_strategy", "evaluation_strategy",
    "per_device_eval_batch_size", "num_train_epochs", "parallelism_config",
)  # fmt: skip

UNMODELLED: Mapping[str, str] = {
    "torch_compile*": "compiled graphs keep other tensors",
    "torchdynamo": "compiled graphs keep other tensors",
    "auto_find_batch_size": "the batch is halved until it fits",
    "label_smoothing_factor": "another loss, on full logits",
    "optim_target_modules": "an optimizer of low rank",
    "use_cpu": "the run is on a processor",
    "no_cuda": "the run is on a processor",
    "use_mps_device": "the run is on Apple's device",
    "use_ipex": "the run is on Intel's device",
    "mp_parameters": "SageMaker's model parallelism",
    "sharded_ddp": "fairscale's sharding",
    "parallelism_config": "it belongs into accelerate's configuration",
    "jit_mode_eval": "evaluation by a traced graph",
}
OFF: tuple[Any, ...] = (None, False, 0, 0.0, "", "none", [], {}, -1)

IGNORED = listed("""
    output_dir overwrite_output_dir do_train do_predict max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
    warmup_steps warmup_ratio optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices
    max_grad_norm neftune_noise_alpha use_cache torch_empty_cache_steps tf32 seed data_seed full_determinism run_name
    project trackio_* report_to disable_tqdm debug log_* logging_* save_* enable_jit_checkpoint push_to_hub
    push_to_hub_* hub_* load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    resume_from_checkpoint restore_callback_states_from_checkpoint dataloader_* remove_unused_columns label_names
    train_sampling_strategy group_by_length length_column_name ddp_* skip_memory_metrics include_num_input_tokens_seen
    include_tokens_per_second include_for_metrics include_inputs_for_metrics batch_eval_metrics eval_delay eval_steps
    eval_on_start eval_do_concat_batches eval_use_gather_object local_rank bf16_full_eval fp16_full_eval xpu_backend
    tpu_* past_index half_precision_backend fp16_opt_level fp16_backend use_legacy_prediction_loop ray_scope
    dispatch_batches split_batches
""")
"""Keys of TrainingArguments that neither memory nor time feels, by name or pattern."""

EVALUATED = "evaluation is planned without a function for metrics, which would gather logits: --eval-logits"
"""A note on runs that evaluate."""

DATA = listed("""
    dataset_name dataset_config_name dataset_config train_file validation_file test_file max_train_samples
    max_eval_samples max_predict_samples overwrite_cache validation_split_percentage preprocessing_num_workers
    keep_linebreaks streaming splits dataset_text_field text_column append_concat_token add_special_tokens
    dataset_path dataset_split data_files
""")
"""Keys of scripts that name their data."""

LENGTHS = ("max_seq_length", "max_seq_len", "seq_length", "block_size", "model_max_length", "max_length")
"""What scripts call the tokens of a sequence."""
