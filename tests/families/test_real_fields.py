"""Fields that files on the Hub carry beside the sizes: none of them may stand in the way."""

from typing import Any

import pytest

from planner.families import model_from_config
from planner.formulas.params import model_params
from tests.families.tiny import CASES, tiny

EVERYWHERE: dict[str, Any] = {
    "_name_or_path": "somewhere/model",
    "architectures": ["SomethingForCausalLM"],
    "attn_implementation": "sdpa",
    "auto_map": {"AutoModelForCausalLM": "modeling.Something"},
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": None,
    "unk_token_id": 3,
    "initializer_range": 0.02,
    "id2label": {"0": "LABEL_0"},
    "model_max_length": 131072,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "unsloth_fixed": True,
    "use_cache": True,
    "max_length": 20,
    "temperature": 0.7,
    "neftune_noise_alpha": 5,
    "_attn_implementation_autoset": True,
}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.2, 1.3]}

BY_FAMILY: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28, "use_mrope": False}),
    ("mistral", {"sliding_window": None}),
    ("phi3", {"embd_pdrop": 0.0, "original_max_position_embeddings": 4096, "rope_scaling": LONGROPE}),
    ("gemma2", {"cache_implementation": "hybrid", "query_pre_attn_scalar": 256, "hidden_act": "gelu_pytorch_tanh"}),
    ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
    ("smollm3", {"max_window_layers": 28, "use_sliding_window": False, "no_rope_layers": [1, 1, 1, 0]}),
    ("cohere", {"logit_scale": 0.0625}),
    ("starcoder2", {"mlp_type": "default", "norm_type": "layer_norm", "norm_epsilon": 1e-05}),
    ("gpt2", {"n_ctx": 128, "task_specific_params": {"text-generation": {}}, "summary_use_proj": True}),
    ("gpt_neox", {"rotary_emb_base": 10000, "rotary_pct": 0.25, "layer_norm_eps": 1e-05}),
    ("bloom", {"attention_softmax_in_fp32": True, "masked_softmax_fusion": True, "seq_length": 2048, "n_inner": None}),
    ("opt", {"prefix": "</s>", "layerdrop": 0.0, "activation_dropout": 0.0, "init_std": 0.02}),
    ("mpt", {"attn_config": {"alibi": True, "attn_impl": "torch"}, "ffn_config": {"ffn_type": "mptmlp"}}),
    ("mixtral", {"router_aux_loss_coef": 0.02, "output_router_logits": False, "sliding_window": None}),
    ("phimoe", {"router_jitter_noise": 0.01, "input_jitter_noise": 0.01, "hidden_dropout": 0.0}),
    ("gpt_oss", {"experts_per_token": 2, "initial_context_length": 4096, "swiglu_limit": 7.0,
                 "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}),
    ("deepseek_v3", {"ep_size": 1, "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "aux_loss_alpha": 0.001,
                     "seq_aux": True, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
                     "routed_scaling_factor": 2.5, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}),
    ("minimax_m2", {"attn_type_list": [1, 1, 1, 1], "use_mtp": True, "num_mtp_modules": 3, "use_qk_norm": True,
                    "qk_norm_type": "per_layer", "use_routing_bias": True, "shared_intermediate_size": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "fields"), BY_FAMILY, ids=[model_type for model_type, _ in BY_FAMILY])
def test_the_fields_of_real_files_change_nothing(model_type: str, fields: dict[str, Any]) -> None:
    config = tiny(*next(case for case in CASES if case[0] == model_type))
    bare = model_params(model_from_config(config, name="bare"))

    assert model_params(model_from_config({**EVERYWHERE, **config, **fields}, name="real")) == bare


@pytest.mark.parametrize("case", CASES, ids=[f"{model_type}-{number}" for number, (model_type, _) in enumerate(CASES)])
def test_the_fields_around_every_config_change_nothing(case: tuple[str, dict[str, Any]]) -> None:
    config = tiny(*case)

    assert model_params(model_from_config({**EVERYWHERE, **config}, name="real")) == model_params(
        model_from_config(config, name="bare")
    )
