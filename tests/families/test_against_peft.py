"""What PEFT trains and bitsandbytes would quantise, counted on the real modules and by our formulas."""

from typing import Any

import pytest

from planner.errors import UsageError
from planner.families import model_from_config
from planner.formulas.params import adapters, lora_params, quantizable_params
from tests.families.tiny import CASES, Config, tiny, title

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", minversion="0.21")

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

RANK = 4


def build(config: Config) -> Any:
    """The text class of transformers with these fields, without memory."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **fields)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(settings)


def trainable(config: Config, targets: str | list[str], modules_to_save: list[str] | None = None) -> int:
    """Entries that require gradients once PEFT has injected its adapters."""
    settings = peft.LoraConfig(
        r=RANK, target_modules=targets, modules_to_save=modules_to_save, task_type="CAUSAL_LM", lora_dropout=0.0
    )
    with torch.device("meta"):
        adapted = peft.get_peft_model(build(config), settings, low_cpu_mem_usage=True)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("case", CASES, ids=title)
def test_all_linear_trains_what_peft_trains(case: tuple[str, Config]) -> None:
    config = tiny(*case)

    ours = lora_params(model_from_config(config, name="tiny"), ("all-linear",), RANK)

    assert ours == trainable(config, "all-linear")


NAMED = [
    ("llama", ["q_proj", "v_proj"], None),
    ("llama", ["self_attn.o_proj", "down_proj"], None),
    ("llama", ["q_proj"], ["embed_tokens", "lm_head"]),
    ("llama", ["q_proj", "lm_head"], None),
    ("llama", ["q_proj", "embed_tokens"], None),
    ("llama", ["q_proj", "v_proj"], ["o_proj", "norm"]),
    ("llama", ["q_proj", "down_proj"], ["mlp"]),
    ("gemma", ["q_proj"], ["embed_tokens"]),
    ("gemma", ["q_proj"], ["embed_tokens", "lm_head"]),
    ("gpt2", ["c_attn"], None),
    ("gpt2", ["c_proj"], ["wte"]),
    ("phi3", ["qkv_proj", "gate_up_proj"], None),
    ("mixtral", ["q_proj", "v_proj"], None),
    ("mixtral", ["q_proj", "w1", "w2", "w3"], None),
    ("qwen3_moe", ["gate_proj", "up_proj", "down_proj"], None),
    ("deepseek_v3", ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"], None),
    ("deepseek_v3", ["o_proj", "gate_proj", "up_proj", "down_proj"], None),
    ("deepseek_v3", ["shared_experts.down_proj"], None),
    ("gpt_oss", ["q_proj", "o_proj"], None),
    ("llama4_text", ["router", "q_proj"], None),
]


@pytest.mark.parametrize(("model_type", "targets", "saved"), NAMED, ids=lambda value: str(value))
def test_named_targets_and_saved_modules_train_what_peft_trains(
    model_type: str, targets: list[str], saved: list[str] | None
) -> None:
    config = tiny(*next(case for case in CASES if case[0] == model_type))

    ours = lora_params(model_from_config(config, name="tiny"), tuple(targets), RANK, tuple(saved or ()))

    assert ours == trainable(config, targets, saved)


def test_the_gate_cannot_be_adapted_without_the_up_matrix() -> None:
    config = tiny(*next(case for case in CASES if case[0] == "mixtral"))

    with pytest.raises(ValueError, match="without also targeting w3"):
        trainable(config, ["w1"])
    with pytest.raises(UsageError, match="w1 needs w3 too"):
        adapters(model_from_config(config, name="tiny"), ("w1",))


# Without biases and affine norms OPT's last parameter is a matrix, which transformers then leaves alone by its rule
# "the last module stays in 16 bits": no model is like that.
ODD = {"enable_bias": False, "layer_norm_elementwise_affine": False}
QUANTISED = [case for case in CASES if not ODD.items() <= case[1].items()]


@pytest.mark.parametrize("case", QUANTISED, ids=title)
def test_bitsandbytes_would_quantise_what_we_count(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real = build(config)
    quantizers = pytest.importorskip("transformers.quantizers.base")
    kept = quantizers.get_keys_to_not_convert(real)
    should_convert = pytest.importorskip("transformers.quantizers.quantizers_utils").should_convert_module
    conv = transformers.pytorch_utils.Conv1D

    # replace_with_bnb_linear, transformers 5.23: isinstance(module, Conv1D) or type(module) is nn.Linear
    converted = sum(
        module.weight.numel()
        for name, module in real.named_modules()
        if (isinstance(module, conv) or type(module) is torch.nn.Linear) and should_convert(name, kept)
    )

    assert quantizable_params(model_from_config(config, name="tiny")) == converted
