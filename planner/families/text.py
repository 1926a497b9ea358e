"""The text part of a multimodal config, and the architectures that we know of and do not cover."""

from collections.abc import Mapping

from planner.errors import BrokenInput
from planner.families.fields import printable

TEXT_KEYS = ("text_config", "llm_config", "language_config")

TEXT_CLASS = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "llava": "llama",
    "llava_next": "llama",
    "paligemma": "gemma",
    "idefics3": "llama",
    "smolvlm": "llama",
    "kimi_k25": "deepseek_v3",
}
"""The text class of a multimodal ``model_type`` when the nested config does not name its own."""

SAME_TEXT_CLASS = {
    "kimi_k2": "deepseek_v3",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    **TEXT_CLASS,
}
"""Other names of classes that we cover: same modules, same shapes."""

FLAT_VISION = frozenset({"vision_config", "vision_start_token_id", "vision_end_token_id"})

UNCOVERED = {
    "qwen3_next": "its linear-attention layers (full_attention_interval) have other activations",
    "qwen3_5": "its linear-attention layers (layer_types) have other activations",
    "qwen3_5_text": "its linear-attention layers (full_attention_interval) have other activations",
    "qwen3_5_moe": "its linear-attention layers (layer_types) have other activations",
    "qwen3_5_moe_text": "its linear-attention layers (layer_types) have other activations",
    "nemotron_h": "its state-space layers (hybrid_override_pattern) have other activations",
    "mamba": "its state-space layers (state_size) have other activations",
    "mamba2": "its state-space layers (state_size) have other activations",
    "falcon_mamba": "its state-space layers (state_size) have other activations",
    "jamba": "its state-space layers (attn_layer_period) have other activations",
    "bamba": "its state-space layers (mamba_n_heads) have other activations",
    "falcon_h1": "its state-space branch (mamba_d_ssm) has other activations",
    "granitemoehybrid": "its state-space layers (layer_types) have other activations",
    "zamba2": "its state-space layers (layers_block_type) have other activations",
    "lfm2": "its convolution layers (layer_types) have other activations",
    "lfm2_moe": "its convolution layers (layer_types) have other activations",
    "kimi_linear": "its linear-attention layers (linear_attn_config) have other activations",
    "minimax": "its linear-attention layers (layer_types) have other activations",
    "rwkv": "it is a recurrent network without attention",
    "recurrent_gemma": "its recurrent layers (block_types) have other activations",
    "gemma3n": "its per-layer embeddings and altup streams (altup_num_inputs) have other activations",
    "gemma3n_text": "its per-layer embeddings and altup streams (altup_num_inputs) have other activations",
    "gemma4": "its shared keys and values (num_global_key_value_heads) have other activations",
    "gemma4_text": "its shared keys and values (num_global_key_value_heads) have other activations",
    "gemma4_unified": "its shared keys and values (num_global_key_value_heads) have other activations",
    "gemma4_unified_text": "its shared keys and values (num_global_key_value_heads) have other activations",
    "deepseek_v32": "its sparse-attention indexer (index_topk) has other activations",
    "glm_moe_dsa": "its sparse-attention indexer (index_topk) has other activations",
    "deepseek_v4": "its compressed attention and hyper-connections (compress_ratios, hc_mult) have other activations",
    "muse_glimmer": "its gate on the attention output (self_attn.gate_proj) has other activations",
    "muse_glimmer_text": "its gate on the attention output (self_attn.gate_proj) has other activations",
    "mllama": "its cross-attention layers (cross_attention_layers) have other activations",
    "internlm2": "its class is remote code, which we never run",
    "chatglm": "its class is remote code, which we never run",
    "baichuan": "its class is remote code, which we never run",
    "t5": "it is an encoder-decoder",
    "bart": "it is an encoder-decoder",
    "bert": "it is an encoder",
}
"""Architectures that people ask for, each with the feature that the formulas do not know."""


def text_part(config: Mapping[str, object], where: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """The config of the text class, with a note when there is more to the model than text."""
    outer = config.get("model_type")
    nested = [key for key in TEXT_KEYS if config.get(key)]
    if not nested:
        flat = any(key in config and config[key] for key in FLAT_VISION)
        return dict(config), (text_note(outer),) if flat else ()
    key = nested[0]
    inner = config[key]
    if not isinstance(inner, dict):
        raise BrokenInput(f"{where}: {key} is not a table of settings")
    if isinstance(outer, str) and outer in UNCOVERED:
        return {**inner, "model_type": outer}, ()
    text = {**inherited(config), **inner}
    if "model_type" not in inner:
        text["model_type"] = TEXT_CLASS.get(outer, outer) if isinstance(outer, str) else outer
    return text, (text_note(outer),)


def inherited(config: Mapping[str, object]) -> dict[str, object]:
    """What the outer config settles for its text part."""
    return {key: config[key] for key in ("tie_word_embeddings",) if key in config}


def text_note(outer: object) -> str:
    """What the estimate leaves out."""
    kind = printable(outer) if isinstance(outer, str) else "multimodal model"
    return f"{kind}: planned for its text part alone; a vision or audio tower adds its own weights"
