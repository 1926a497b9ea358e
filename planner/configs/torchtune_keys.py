"""What torchtune's recipes call the settings that decide memory: torchtune 0.6.1, ``recipes/*.py``."""

from collections.abc import Mapping

from planner.configs.keys import Key

SETTINGS = (
    Key("batch_size", "micro_batch_size", "whole"),
    Key("gradient_accumulation_steps", "grad_accumulation", "whole"),
    Key("enable_activation_checkpointing", "gradient_checkpointing", "flag"),
    Key("fsdp_reshard_after_forward", "reshard_after_forward", "flag"),
    Key("tensor_parallel_dim", "tensor_parallel", "whole"),
    Key("dtype", "weights_dtype", words={"bf16": "bf16", "fp32": "fp32"}),
)
"""Keys at the top. ``dtype`` is that of weights, adapters and everything else: no recipe has autocast."""

OF_LORA = (
    Key("lora_rank", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
)
"""Arguments of the builders with adapters."""

OF_TOKENIZER = (Key("max_seq_len", "seq_len", "whole"),)

COMPONENTS: Mapping[str, str] = {
    "adamw_fused": "torch.optim.AdamW",
    "adamw_foreach": "torch.optim.AdamW",
    "adamw_loop": "torch.optim.AdamW",
    "adamw_8bit": "bitsandbytes.optim.AdamW8bit",
    "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "paged_adamw_32bit": "bitsandbytes.optim.PagedAdamW",
    "lion": "bitsandbytes.optim.Lion",
    "lion_8bit": "bitsandbytes.optim.Lion8bit",
    "sgd": "torch.optim.SGD",
}
"""Optimizers as they are imported."""

LOOPS: Mapping[str, Mapping[str, bool]] = {
    "adamw_fused": {"fused": True},
    "adamw_foreach": {"fused": False, "foreach": True},
    "adamw_loop": {"fused": False, "foreach": False},
}
"""Arguments of ``torch.optim.AdamW``; without any, it takes foreach on a GPU: torch 2.13 optim/optimizer.py,
_default_to_fused_or_foreach."""

OPTIMIZER = Key(
    "_component_",
    "optimizer",
    words={
        **{component.lower(): name for name, component in COMPONENTS.items() if name not in LOOPS},
        "bitsandbytes.optim.pagedadamw32bit": "paged_adamw_32bit",
        "torch.optim.adamw": "adamw_foreach",
    },
)

LOSSES: Mapping[str, str] = {
    "torchtune.modules.loss.cewithchunkedoutputloss": "chunked",
    "torch.nn.crossentropyloss": "full",
}
CHUNKED = "torchtune.modules.loss.CEWithChunkedOutputLoss"
PREFERENCES = ("torchtune.rlhf.loss.dpoloss", "torchtune.rlhf.loss.rsoloss")
DPO = "torchtune.rlhf.loss.DPOLoss"

ATTENTION: Mapping[str, str] = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "output_proj": "o_proj",
}
"""Matrices of ``lora_attn_modules`` under transformers' names."""
MLP = ("gate_proj", "up_proj", "down_proj")
"""What ``apply_lora_to_mlp`` adapts: w1, w3 and w2."""
OUTPUT = "lm_head"
FUSED: Mapping[str, str] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Where transformers' class of the model has one matrix for several."""

SEPARATE = ("tok_embeddings", "output")
"""``custom_sharded_layers`` with which FSDP gathers embedding and head apart from the rest, as plans have it."""

OTHERS = (
    "checkpointer",
    "ref_checkpointer",
    "clip_grad_norm",
    "collate_fn",
    "cudnn_deterministic_mode",
    "enable_async_checkpointing",
    "log_every_n_steps",
    "log_level",
    "log_peak_memory_stats",
    "low_cpu_ram",
    "lr_scheduler",
    "max_steps_per_epoch",
    "metric_logger",
    "output_dir",
    "profile_memory",
    "profiler",
    "resume_from_checkpoint",
    "save_adapter_weights_only",
    "seed",
    "shuffle",
    "tensor_parallel_plan",
)
"""Keys without influence."""

LEGACY = ("fsdp", "memory_efficient_fsdp_wrap")
"""Keys that a shipped recipe has and that no code of 0.6.1 reads."""

UNMODELLED: Mapping[str, str] = {
    "optimizer_in_bwd": "gradients go as soon as their parameter is updated",
    "ac_mode": "torchtune then checkpoints some layers only, or none",
    "ac_option": "torchtune then checkpoints some layers only",
    "quantizer": "quantisation-aware training holds rounded copies",
    "fake_quant_after_n_steps": "quantisation-aware training holds rounded copies",
    "teacher_model": "distillation holds a second model",
    "teacher_checkpointer": "distillation holds a second model",
    "kd_loss": "distillation has a second forward pass",
    "kd_ratio": "distillation has a second forward pass",
    "policy_model": "PPO holds four models",
    "reward_and_value_model": "PPO holds four models",
    "dataloader": "a recipe in development, which loads several datasets",
    "datasets": "a recipe in development, which loads several datasets",
}
"""Keys that change the answer. ``optimizer_in_bwd: false`` and the like say nothing."""

OF_PPO = (
    "enable_kv_cache",
    "ref_policy_checkpointer",
    "reward_checkpointer",
    "value_checkpointer",
    "forward_batch_size",
    "ppo_batch_size",
    "ppo_epochs",
    "gamma",
    "lmbda",
    "kl_coeff",
    "whiten_rewards",
    "min_response_length",
    "penalise_no_eos",
    "reward_penalty",
    "stop_token_ids",
    "num_steps",
    "max_generated_tokens",
    "temperature",
    "top_k",
)
"""Keys of PPO, beside ``policy_model``, which says that it is not modelled."""
