"""torchtune's model builders: which model each one builds, and where its recipes find weights and tokenizer.

Facts of torchtune 0.6.1: ``torchtune/models/*/_model_builders.py``, and the recipes in ``recipes/configs`` for the
files. A builder has LoRA under ``lora_NAME``, and most have QLoRA under ``qlora_NAME``.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from planner.spec import Method

MODELS = "torchtune.models"


class Builder(NamedTuple):
    """``model``: our name of it, or a Hub id where it is not in the catalogue. ``shards``: files of the checkpoint."""

    family: str
    name: str
    model: str
    shards: int = 0
    kind: str = "LLAMA3"
    """The checkpointer's ``model_type``."""
    tokenizer: str = "llama3.llama3_tokenizer"
    vocabulary: tuple[tuple[str, str], ...] = (("path", "original/tokenizer.model"),)
    """Arguments of the tokenizer that name files of the checkpoint."""
    weights: str = "model-{}-of-{}.safetensors"
    fused: bool = False
    """transformers' class joins queries, keys and values in one matrix, and gate and up in another; torchtune's not."""
    adapts_output: bool = True
    """The LoRA builder takes ``apply_lora_to_output``."""

    @property
    def component(self) -> str:
        """Where it is imported from."""
        return f"{MODELS}.{self.family}.{self.name}"

    @property
    def lora(self) -> str:
        """Where its variant with adapters is imported from."""
        return f"{MODELS}.{self.family}.lora_{self.name}"


_ONE_FILE = (("path", "tokenizer.model"),)
_MERGES = (("path", "vocab.json"), ("merges_file", "merges.txt"))
_PICKLED = "pytorch_model-{}-of-{}.bin"


def _llama2(family: str, name: str, model: str, shards: int) -> Builder:
    return Builder(family, name, model, shards, "LLAMA2", "llama2.llama2_tokenizer", _ONE_FILE, _PICKLED)


def _gemma(family: str, name: str, model: str, shards: int) -> Builder:
    kind, tokenizer = family.upper(), "gemma.gemma_tokenizer"
    return Builder(family, name, model, shards, kind, tokenizer, _ONE_FILE, adapts_output=False)


def _qwen(family: str, name: str, model: str, shards: int, *, adapts_output: bool = True) -> Builder:
    tokenizer = f"{family}.{family}_tokenizer"
    return Builder(family, name, model, shards, "QWEN2", tokenizer, _MERGES, adapts_output=adapts_output)


_VISION = "LLAMA3_VISION", "llama3_2_vision.llama3_2_vision_transform"

BUILDERS = (
    Builder("llama3_1", "llama3_1_8b", "llama-3.1-8b", 4),
    Builder("llama3_1", "llama3_1_70b", "llama-3.1-70b", 30),
    Builder("llama3_1", "llama3_1_405b", "llama-3.1-405b", 191, vocabulary=(("path", "original/mp8/tokenizer.model"),)),
    Builder("llama3_3", "llama3_3_70b", "llama-3.3-70b", 30),
    Builder("llama3_2", "llama3_2_1b", "llama-3.2-1b", 1, "LLAMA3_2"),
    Builder("llama3_2", "llama3_2_3b", "llama-3.2-3b", 2, "LLAMA3_2"),
    Builder("llama3_2_vision", "llama3_2_vision_11b", "meta-llama/Llama-3.2-11B-Vision-Instruct", 5, *_VISION),
    Builder("llama3_2_vision", "llama3_2_vision_90b", "meta-llama/Llama-3.2-90B-Vision-Instruct", 37, *_VISION),
    Builder("llama3", "llama3_8b", "llama-3-8b", 4),
    Builder("llama3", "llama3_70b", "llama-3-70b", 30),
    _llama2("llama2", "llama2_7b", "llama-2-7b", 2),
    _llama2("llama2", "llama2_13b", "llama-2-13b", 3),
    _llama2("llama2", "llama2_70b", "llama-2-70b", 15),
    _llama2("code_llama2", "code_llama2_7b", "codellama-7b", 3),
    _llama2("code_llama2", "code_llama2_13b", "codellama-13b", 3),
    _llama2("code_llama2", "code_llama2_70b", "codellama-70b", 15),
    Builder("mistral", "mistral_7b", "mistral-7b-v0.1", 2, "MISTRAL", "mistral.mistral_tokenizer", _ONE_FILE, _PICKLED),
    _gemma("gemma", "gemma_2b", "gemma-2b", 2),
    _gemma("gemma", "gemma_7b", "gemma-7b", 4),
    _gemma("gemma2", "gemma2_2b", "gemma-2-2b", 3),
    _gemma("gemma2", "gemma2_9b", "gemma-2-9b", 8),
    _gemma("gemma2", "gemma2_27b", "gemma-2-27b", 24),
    Builder("phi3", "phi3_mini", "phi-3-mini", 2, "PHI3_MINI", "phi3.phi3_mini_tokenizer", _ONE_FILE, fused=True),
    Builder(
        "phi4",
        "phi4_14b",
        "phi-4",
        6,
        "PHI4",
        "phi4.phi4_tokenizer",
        (("vocab_path", "vocab.json"), ("merges_path", "merges.txt")),
        fused=True,
    ),
    _qwen("qwen2", "qwen2_0_5b", "qwen2-0.5b", 1, adapts_output=False),
    _qwen("qwen2", "qwen2_1_5b", "qwen2-1.5b", 1, adapts_output=False),
    _qwen("qwen2", "qwen2_7b", "qwen2-7b", 4),
    _qwen("qwen2_5", "qwen2_5_0_5b", "qwen2.5-0.5b", 1),
    _qwen("qwen2_5", "qwen2_5_1_5b_instruct", "qwen2.5-1.5b", 1),
    _qwen("qwen2_5", "qwen2_5_1_5b_base", "qwen2.5-1.5b", 1),
    _qwen("qwen2_5", "qwen2_5_3b", "qwen2.5-3b", 2),
    *(
        _qwen("qwen2_5", f"qwen2_5_{size}_{kind}", f"qwen2.5-{size}", shards)
        for size, shards in (("7b", 4), ("14b", 8), ("32b", 17), ("72b", 37))
        for kind in ("instruct", "base")
    ),
)
"""All that train a causal language model; of those for one model, the first is written. The others (reward models, T5,
CLIP, Flux) no recipe for it takes."""

BY_COMPONENT: Mapping[str, Builder] = {one.component: one for one in BUILDERS}


class Built(NamedTuple):
    """What ``model._component_`` names: ``None`` where the builder is not torchtune's own."""

    builder: Builder | None
    method: Method


def built(component: str) -> Built:
    """The builder and the method behind a component's name.

    >>> built("torchtune.models.llama3_1.qlora_llama3_1_8b").method
    'qlora'
    >>> built("torchtune.models.llama3_1.llama3_1_8b").builder.model
    'llama-3.1-8b'
    """
    before, _, last = component.rpartition(".")
    name = last.removeprefix("q").removeprefix("lora_") if last.startswith(("lora_", "qlora_")) else last
    method: Method = "qlora" if last.startswith("qlora_") else "lora" if last.startswith("lora_") else "full"
    return Built(BY_COMPONENT.get(f"{before}.{name}"), method)


def builders_for(model: str) -> Iterator[Builder]:
    """The builders of a model of the catalogue."""
    return (one for one in BUILDERS if one.model == model)
