"""axolotl's adapters and quantised weights.

axolotl 0.19.0 utils/schemas/peft.py, loaders/adapter.py, and loaders/model.py, _set_quantization_config.
"""

import re
from collections.abc import Mapping

from planner.configs.axolotl_keys import ADAPTERS, QUANT, QUANT_IGNORED, QUANTIZE_EXPERTS
from planner.configs.keys import Keys
from planner.errors import BrokenInput, show
from planner.recommend.request import Setting
from planner.spec import Method

ALL_LINEAR = ("all-linear",)
TABLES = ("embed_tokens", "lm_head")

EXPERTS_VERSION = "0.19"
"""Of axolotl, whose quantised experts were read."""


def method_of(keys: Keys) -> Method:
    """The method; raise ``BrokenInput`` where axolotl would stop."""
    adapter = keys.take("adapter", "text", "method", "").lower()
    bits = {bits: keys.take(f"load_in_{bits}bit", "flag", "method", absent=False) for bits in (4, 8)}
    if not adapter:
        if bits[4] or bits[8]:
            raise BrokenInput(f"{keys.file}: load_in_4bit or load_in_8bit without adapter, which axolotl refuses")
        return "full"
    if adapter == "qlora":
        if bits[8] or not bits[4]:
            raise BrokenInput(f"{keys.file}: adapter qlora wants load_in_4bit: true, and no load_in_8bit")
        return "qlora"
    if adapter != "lora":
        keys.tell("adapter", "unmodelled", sets="method", why="of adapters we model lora and qlora")
    if bits[4]:
        why = "under adapter lora axolotl loads 16-bit weights all the same, and prepares them as quantised"
        keys.tell("load_in_4bit", "unmodelled", sets="method", why=why)
    return "qlora" if bits[8] else "lora"


def quantized_experts(keys: Keys, method: Method) -> tuple[str, ...]:
    """What the stack's text says of experts that are quantised as they are loaded.

    utils/schemas/config.py, check_quantize_moe_experts: what axolotl refuses beside it.
    """
    if not keys.take(QUANTIZE_EXPERTS, "flag", "method", absent=False):
        return ()
    if method == "full" or not (keys.peek("load_in_4bit") or keys.peek("load_in_8bit")):
        raise BrokenInput(f"{keys.file}: {QUANTIZE_EXPERTS} wants an adapter, and load_in_4bit or load_in_8bit")
    if keys.peek("lora_target_linear"):
        raise BrokenInput(f"{keys.file}: {QUANTIZE_EXPERTS} goes with no lora_target_linear: name lora_target_modules")
    return (f"{QUANTIZE_EXPERTS}={EXPERTS_VERSION}",)


def adapters(keys: Keys, method: Method) -> dict[str, Setting]:
    """Settings of adapters, and of the quantised weights under them."""
    if method == "full":
        keys.ignore("lora_*", "peft_*", "bnb_config_kwargs", why="no adapters are trained")
        return {}
    if "lora_r" not in keys and "lora_model_dir" not in keys:
        raise BrokenInput(f"{keys.file}: an adapter without lora_r, for which axolotl has no default")
    found = {**keys.plain(ADAPTERS), **_targets(keys), **_dtype(keys, method)}
    if method != "qlora":
        keys.ignore("bnb_config_kwargs", why="no weights are quantised")
        return found
    return found | _quant(keys)


def _dtype(keys: Keys, method: Method) -> dict[str, Setting]:
    """Adapters are fp32, unless PEFT is told to leave them as their weights are stored."""
    if keys.take("peft_autocast_adapter_dtype", "flag", "adapter_dtype", absent=True):
        return {}
    if method == "qlora" and keys.peek("load_in_8bit"):
        return {"adapter_dtype": "fp32"}
    return {"adapter_dtype": "bf16"}


def _quant(keys: Keys) -> dict[str, Setting]:
    """What bitsandbytes makes of the weights: of 8-bit ones nothing can be set."""
    if keys.peek("load_in_8bit"):
        keys.ignore("bnb_config_kwargs", why="8-bit weights have no such setting")
        return {"quant": "int8"}
    section = keys.section("bnb_config_kwargs")
    found = section.plain(QUANT)
    section.unmodelled({"llm_int8_skip_modules": "some modules stay in 16 bits"})
    section.ignore(*QUANT_IGNORED)
    section.readings(key.name for key in QUANT)
    return found


# ---------------------------------------------------------------- targets


def _targets(keys: Keys) -> dict[str, Setting]:
    """The adapted matrices: all of them, by name, or by a pattern of the plain kind."""
    every = keys.take("lora_target_linear", "flag", "lora_targets", absent=False)
    named = keys.take("lora_target_modules", "any", "lora_targets", [])
    if not every and not named:
        return {}
    names = (named,) if isinstance(named, str) else named
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise BrokenInput(f"{keys.file}: lora_target_modules {show(named)} is not a name or a list of names")
    if every:
        beyond = [name for name in names if name in TABLES or not name.replace("_", "").isalnum()]
        if beyond:
            keys.tell("lora_target_modules", "unmodelled", sets="lora_targets", why=f"{beyond[0]} beside all matrices")
        return {"lora_targets": ALL_LINEAR}
    if isinstance(named, str) and not _is_name(named):
        found = matrices_of(named)
        if found is None:
            keys.tell("lora_target_modules", "unmodelled", sets="lora_targets", why="a pattern: name the modules")
            return {}
        return {"lora_targets": found}
    return {"lora_targets": tuple(names)}


def _is_name(text: str) -> bool:
    return text == ALL_LINEAR[0] or text.replace("_", "").isalnum()


_LAYERS = re.compile(
    r"(?:model\\?\.)?(?:language_model\\?\.|text_model\\?\.)?(?:model\\?\.)?layers\\?\.(?:\[\\d\]\+|\\d\+|\.\*)\\?\."
    r"(?:\(_checkpoint_wrapped_module\\?\.\)\?)?(?P<rest>.+)",
    re.ASCII,
)
"""The beginning of a pattern that holds for every layer of a text model."""
_BLOCKS = re.compile(r"\((?:mlp|self_attn|cross_attn|\|)+\)\\?\.\((?P<names>[a-z_|]+)\)(?P<suffix>[a-z_]*)", re.ASCII)
_BY_BLOCK = re.compile(r"(?:mlp|self_attn)\\?\.\((?P<names>[a-z_|]+)\)(?P<suffix>[a-z_]*)", re.ASCII)
LONGEST_PATTERN = 300


def matrices_of(pattern: str) -> tuple[str, ...] | None:
    r"""The matrices that a pattern of the plain kind names in every layer; ``None`` for any other.

    Nobody's pattern is run: it is taken apart.

    >>> matrices_of(r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|down|q)_proj")
    ('up_proj', 'down_proj', 'q_proj')
    """
    found = _LAYERS.fullmatch(pattern[:LONGEST_PATTERN])
    if found is None or len(pattern) > LONGEST_PATTERN:
        return None
    rest = found["rest"]
    blocks = _BLOCKS.fullmatch(rest)
    if blocks is not None:
        return _expanded(blocks)
    if not (rest.startswith("(") and rest.endswith(")")):
        return None
    parts = [_BY_BLOCK.fullmatch(part) for part in _alternatives(rest[1:-1])]
    if any(part is None for part in parts):
        return None
    return tuple(dict.fromkeys(name for part in parts if part is not None for name in _expanded(part)))


def _alternatives(text: str) -> list[str]:
    """The parts between bars that stand in no parentheses."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def _expanded(found: re.Match[str]) -> tuple[str, ...]:
    groups: Mapping[str, str] = found.groupdict()
    return tuple(dict.fromkeys(name + groups["suffix"] for name in groups["names"].split("|") if name))
