"""The model, its weights and its adapters, by the names of TRL's ``ModelConfig`` and of scripts like it.

Names: trl 1.16 trainer/model_config.py; older names are those of trl 0.7 to 1.0, of the alignment handbook's recipes,
and of the examples of PEFT (examples/sft) and transformers (run_clm.py).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from planner.configs.keys import Key, Keys, listed
from planner.errors import BrokenInput
from planner.recommend.request import Setting
from planner.spec import Method

DTYPES: Mapping[Any, Setting] = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32",
    "fp32": "fp32", "float": "fp32", "auto": "bf16", "torch.bfloat16": "bf16", "torch.float16": "fp16",
    "torch.float32": "fp32",
}  # fmt: skip
"""torch's names of dtypes in ours; ``auto`` is that of the checkpoint, which nearly always is bf16."""

ATTENTION: Mapping[Any, Setting] = {
    "flash_attention_2": "flash",
    "flash_attention_3": "flash",
    "kernels-community/flash-attn2": "flash",
    "kernels-community/flash-attn": "flash",
    "kernels-community/flash-attn3": "flash",
    "kernels-community/vllm-flash-attn3": "flash",
    "sdpa": "sdpa",
    "eager": "eager",
}
"""transformers 5.23 modeling_flash_attention_utils.py and modeling_utils.py: kernels that are FlashAttention."""

STORAGES: Mapping[Any, Setting] = {
    "uint8": "uint8",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "torch.bfloat16": "bf16",
}

MODEL = (
    Key("dtype", "weights_dtype", "text", DTYPES),
    Key("torch_dtype", "weights_dtype", "text", DTYPES),
    Key("attn_implementation", "attention", "text", ATTENTION),
    Key("use_flash_attention_2", "attention", "flag", {True: "flash", False: "sdpa"}),
    Key("use_flash_attn", "attention", "flag", {True: "flash", False: "sdpa"}),
)

LORA = (
    Key("lora_r", "lora_rank", "whole"),
    Key("lora_alpha", "lora_alpha", "number"),
    Key("lora_dropout", "lora_dropout", "number"),
    Key("lora_target_modules", "lora_targets", "names"),
    Key("lora_modules_to_save", "modules_to_save", "names"),
)

QUANT = (
    Key("bnb_4bit_quant_type", "quant", "text", {"nf4": "nf4", "fp4": "fp4"}),
    Key("use_bnb_nested_quant", "double_quant", "flag"),
    Key("use_nested_quant", "double_quant", "flag"),
    Key("bnb_4bit_quant_storage", "quant_storage", "text", STORAGES),
    Key("bnb_4bit_quant_storage_dtype", "quant_storage", "text", STORAGES),
)

MATTER = (
    "model_name_or_path", "use_peft", "load_in_4bit", "load_in_8bit",
    *(key.name for table in (MODEL, LORA, QUANT) for key in table),
)  # fmt: skip

ADAPTERS = ("use_peft", "use_peft_lora")
IN_4_BITS = ("load_in_4bit", "use_4bit_quantization")
IN_8_BITS = ("load_in_8bit", "use_8bit_quantization")

UNMODELLED: Mapping[str, str] = {
    "use_dora": "DoRA trains magnitudes, and forms the whole weight",
    "lora_target_parameters": "adapters on parameters that are no modules, as experts have",
    "use_unsloth": "Unsloth's own kernels: --stack unsloth plans them, for sft alone",
}

IGNORED = listed("""
    model_revision model_code_revision trust_remote_code lora_task_type use_rslora lora_bias tokenizer_name
    tokenizer_name_or_path cache_dir use_fast_tokenizer token use_auth_token low_cpu_mem_usage config_name
    bnb_4bit_compute_dtype base_model_revision chat_template_format model_type
""")


class Arguments(NamedTuple):
    """What the keys say about the model and how it is trained."""

    model: str | None
    method: Method | None
    settings: Mapping[str, Setting]


def model_arguments(keys: Keys) -> Arguments:
    """The model and its settings; raise ``BrokenInput`` for 4- or 8-bit weights without adapters to train."""
    model = keys.take("model_name_or_path", "text", "model")
    settings = {**keys.plain(MODEL), **_initial(keys)}
    method = _method(keys)
    if method in ("lora", "qlora"):
        settings |= _adapters(keys)
    if method == "qlora":
        settings |= _quant(keys)
    keys.ignore(*(key.name for key in LORA), why="no adapters are trained")
    keys.ignore(*(key.name for key in QUANT), why="no weights are quantised")
    keys.unmodelled(UNMODELLED)
    keys.unmodelled({"lora_task_type": "a head for another task"}, off=("CAUSAL_LM",))
    keys.unmodelled({"lora_bias": "biases are trained"}, off=("none",))
    keys.ignore(*IGNORED)
    return Arguments(model, method, settings)


def _method(keys: Keys) -> Method | None:
    """The method, or ``None`` where nothing is said: full fine-tuning, unless an adapter's file lies beside."""
    adapters = [keys.take(name, "flag", "method") for name in ADAPTERS]
    quantized = [name for name in (*IN_4_BITS, *IN_8_BITS) if keys.take(name, "flag", "method", absent=False)]
    if quantized and not any(adapters):
        raise BrokenInput(
            f"{keys.file}: {quantized[0]} without {ADAPTERS[0]}: only adapters on quantised weights are trained"
        )
    if quantized:
        return "qlora"
    if any(adapters):
        return "lora"
    return None if all(one is None for one in adapters) else "full"


def _adapters(keys: Keys) -> dict[str, Setting]:
    """LoRA's settings; a pattern instead of names is not followed."""
    found = keys.plain(LORA)
    targets = keys.peek("lora_target_modules")
    if isinstance(targets, str) and not targets.replace("-", "_").replace(".", "_").isidentifier():
        found.pop("lora_targets", None)
        keys.tell("lora_target_modules", "unmodelled", why="a pattern: name the modules, or all-linear")
    return found


def _quant(keys: Keys) -> dict[str, Setting]:
    """What bitsandbytes makes of the weights: 8-bit ones have no settings."""
    if any(keys.peek(name) is True for name in IN_8_BITS):
        keys.ignore(*(key.name for key in QUANT), why="8-bit weights have no such setting")
        return {"quant": "int8"}
    return keys.plain(QUANT)


def _initial(keys: Keys) -> dict[str, Setting]:
    """Arguments of ``from_pretrained`` that TRL lays over those of the model."""
    section = keys.section("model_init_kwargs")
    found = section.plain(MODEL)
    section.unmodelled({"use_kernels": "kernels of the Hub", "quantization_config": "weights of another kind"})
    section.ignore("revision", "trust_remote_code", "use_cache", "low_cpu_mem_usage", "device_map")
    section.readings([key.name for key in MODEL])
    return found
