"""A config as it lies on the Hub, with the fields around the sizes that real files carry."""

from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008],
    "pretraining_tp": 1,
    "_name_or_path": "meta-llama/Llama-3.1-8B",
    "auto_map": {"AutoModel": "modeling.Custom"},
}
