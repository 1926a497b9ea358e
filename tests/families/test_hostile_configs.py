"""Configs that may be anything: each ends as a model or as one line that names the field, never as a traceback."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import BrokenInput, PlannerError, UnsupportedScenario
from planner.families import model_from_config, parse_config
from tests.families.llama import LLAMA

DOCUMENTS = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"[1, 2]", "holds a list"),
    (b'"llama"', "holds a str"),
    (b"null", "holds a NoneType"),
    (b"NaN", "holds a float"),
    (b'{"model_type": "llama", "model_type": "gpt2"}', "the key 'model_type' stands twice"),
    (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    (b'{"hidden_size": ' * 50_000, "nested too deeply"),
    (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (b"\xff\xfe\x00", "not text in UTF-8"),
    (b" " * (17 * 2**20), "larger than 16 MiB"),
]


@pytest.mark.parametrize(("data", "message"), DOCUMENTS, ids=[message for _, message in DOCUMENTS])
def test_what_is_no_config_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as caught:
        parse_config(data, "config.json")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"model_type": None}, "model_type is None"),
    ({"model_type": ["llama"]}, "model_type is "),
    ({"hidden_size": "4096"}, "hidden_size is '4096', which is not a whole number"),
    ({"hidden_size": 4096.0}, "hidden_size is 4096.0"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"hidden_size": None}, "hidden_size is null"),
    ({"hidden_size": 0}, "hidden_size is 0, which is not between 1"),
    ({"hidden_size": -4096}, "hidden_size is -4096"),
    ({"hidden_size": 2**24 + 1}, "hidden_size is 16777217"),
    ({"hidden_size": 10**4000}, "hidden_size is a huge number"),
    ({"hidden_size": float("nan")}, "hidden_size is nan"),
    ({"model_type": "gemma2", "final_logit_softcapping": float("inf")}, "final_logit_softcapping is inf"),
    ({"attention_dropout": 10**400}, "attention_dropout is a huge number"),
    ({"hidden_size": {"a": 1}}, "hidden_size is {'a': 1}"),
    ({"num_hidden_layers": 10_001}, "num_hidden_layers is 10001"),
    ({"num_attention_heads": 33}, "num_attention_heads is 33, which does not divide"),
    ({"num_key_value_heads": 5}, "num_key_value_heads is 5, which does not divide 32"),
    ({"vocab_size": []}, r"vocab_size is \[\]"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ({"attention_dropout": 1.5}, "attention_dropout is 1.5"),
    ({"attention_dropout": float("nan")}, "attention_dropout is nan"),
    ({"hidden_act": 3}, "hidden_act is 3"),
    ({"attention_bias": 0.5}, "attention_bias is 0.5"),
    ({"quantization_config": "gptq"}, "quantization_config is 'gptq'"),
    ({"text_config": "llama"}, "text_config is not a table"),
    ({"hidden_size": 2**24, "intermediate_size": 2**24, "num_hidden_layers": 10_000}, "more than 1e"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_value_without_sense_names_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as caught:
        model_from_config({**LLAMA, **change}, name="x")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "field", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_size_is_not_filled_with_a_default(field: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != field}

    with pytest.raises(BrokenInput, match=f"{field} is missing"):
        model_from_config(config, name="x")


def test_a_huge_number_where_only_its_presence_counts_is_no_overflow() -> None:
    config = {**LLAMA, "model_type": "gemma2", "final_logit_softcapping": 10**400}

    assert model_from_config(config, name="x").logits_softcap


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "lama"}, "model_type 'lama' is not covered; nearest that is: llama"),
    ({"model_type": "x" * 500}, "is not covered"),
    (
        {"model_type": "qwen3_next"},
        r"qwen3_next is not covered: its linear-attention layers \(full_attention_interval\)",
    ),
    ({"model_type": "mamba2"}, "mamba2 is not covered: its state-space layers"),
    ({"hidden_act": "swoosh"}, "llama with hidden_act 'swoosh' is not understood"),
    ({"n_hash_layers": 3}, "the field 'n_hash_layers' = 3 of model_type llama is not understood"),
    ({"use_gated_attention": True}, "the field 'use_gated_attention' = True"),
    ({"layer_types": ["linear_attention"] * 32}, "the field 'layer_types'"),
    ({"model_type": "olmo", "clip_qkv": 8.0}, "olmo with clip_qkv 8.0 is not understood"),
    ({"model_type": "gemma2", "layer_types": ["linear_attention"] * 32}, "gemma2 with layer_types entry"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq' is a format for inference"),
    ({"quantization_config": {"quant_method": None}}, "quant_method None"),
]


@pytest.mark.parametrize(("change", "message"), UNSUPPORTED, ids=[message[:60] for _, message in UNSUPPORTED])
def test_what_we_do_not_understand_is_exit_3_and_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedScenario, match=message) as caught:
        model_from_config({**LLAMA, **change}, name="x")

    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (*LLAMA, "head_dim", "layer_types", "sliding_window", "rope_parameters", "quantization_config", "text_config")
TYPES = ("llama", "qwen2", "gemma3_text", "gpt2", "falcon", "mpt", "mixtral", "deepseek_v3", "llama4_text", "opt")


@settings(max_examples=400, deadline=None)
@given(
    model_type=st.sampled_from(TYPES), changes=st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=4)
)
def test_no_config_whatsoever_is_a_traceback(model_type: str, changes: dict[str, Any]) -> None:
    complaint = None
    try:
        model_from_config({**LLAMA, "model_type": model_type, **changes}, name="x")
    except PlannerError as error:
        complaint = str(error)

    assert complaint is None or ("\n" not in complaint and len(complaint) < 400)
