"""Fields of ``config.json`` that change neither a shape nor what a training step computes.

Sources: ``transformers.PretrainedConfig`` (generation, classification and bookkeeping fields, also those of
4.x that files on the Hub still carry) and the files of the models in the catalogue.
"""

_GENERATION = """
    bad_words_ids begin_suppress_tokens cache_implementation decoder_start_token_id diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_scores prefix remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p use_cache use_cache_kernel
    use_cache_quantization
"""
_BOOKKEEPING = """
    architectures attn_implementation audio_config auto_map chunk_size_feed_forward compression_config dtype
    experts_implementation finetuning_task gradient_checkpointing id2label image_size init_device init_std
    initializer_range is_decoder is_encoder_decoder keys_to_ignore_at_inference label2id language languages
    model_type name_or_path num_labels onnx_safe output_attentions output_hidden_states output_router_logits
    problem_type pruned_heads quantization quantization_config return_dict sep_token_id task_specific_params
    tf_legacy_loss tie_encoder_decoder tokenizer_class torch_dtype torchscript transformers.js_config
    transformers_version unsloth_fixed unsloth_version use_bfloat16 verbose vision_config
"""
_NUMERICS = """
    max_sequence_length model_max_length neftune_noise_alpha rope_scaling_factor rotary_emb_base tp_size
    attention_multiplier attention_softmax_in_fp32 attn_scale attn_temperature_tuning aux_loss_alpha
    classifier_dropout emb_dropout_prob embedding_multiplier embedding_multiplier_scale floor_scale fp32_residual
    input_jitter_noise layer_norm_eps layer_norm_epsilon logit_scale logits_scaling mm_tokens_per_image n_ctx
    n_group norm_eps norm_epsilon norm_topk_prob original_max_position_embeddings output_router_logits
    pretraining_tp qk_head_dim query_pre_attn_scalar reorder_and_upcast_attn residual_multiplier rms_norm_eps
    rope_interleaved rope_local_base_freq rope_ratio rope_theta routed_scaling_factor router_aux_loss_coef
    router_jitter_noise scale_attention_softmax_in_fp32 scale_attn_by_inverse_layer_idx scale_attn_weights
    scoring_func seq_aux seq_length slow_but_exact softmax_scale summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj topk_group topk_method use_flash_attention use_flash_attn
"""

HARMLESS = frozenset((_GENERATION + _BOOKKEEPING + _NUMERICS).split())

_SUFFIXES = ("_token_id", "_token_index", "_token_ids", "_token")
_PREFIXES = ("_", "summary_", "transformers")


def is_harmless(name: str, value: object) -> bool:
    """Whether a field that no family reads can be left aside.

    Text and whatever is switched off (null, false, empty) cannot turn a feature on.

    >>> is_harmless("bos_token_id", 1), is_harmless("use_gate", False), is_harmless("mamba_d_state", 128)
    (True, True, False)
    """
    if name in HARMLESS or name.endswith(_SUFFIXES) or name.startswith(_PREFIXES):
        return True
    if name == "layer_types":
        return isinstance(value, list) and all(kind == "full_attention" for kind in value)
    return value is None or value is False or isinstance(value, str) or value in ([], {})
