"""Cases of many cards on which the closed form is held against the trace: FSDP2 at four sizes, and DDP.

Every model meets full fine-tuning at every number of ranks; a few of them LoRA and QLoRA too, which the others meet at
every second number. Settings take turns so that each of them meets each number of ranks and several models. The models
differ in what an engine that shards tensor by tensor can tell apart: tied embeddings, fused matrices, experts, windows,
and how large the embedding is beside a layer.
"""

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

from planner.catalog import load_model
from planner.errors import UnknownName
from planner.spec import Method
from planner.validation.grid import LONG, SEVERAL, GridCase

MODELS = (
    *("llama-3.2-1b", "qwen2.5-1.5b", "gemma-2-9b", "mistral-7b-v0.1", "llama-3.1-8b", "qwen3-8b", "phi-4"),
    *("qwen3-32b", "mixtral-8x7b", "qwen3-30b-a3b", "llama-3.1-70b", "llama-3.1-405b"),
)
EVERYWHERE = ("llama-3.2-1b", "llama-3.1-8b", "qwen3-8b")
"""Models that meet all methods at all numbers of ranks."""
RANKS = (2, 8, 64, 512)
TURNS = 2
"""The others meet adapters at every such number of ranks."""
MEDIAN, WORST = 0.02, 0.06
"""What we promise for the peaks."""
CARD = "h100"

MIDDLE = {"micro_batch_size": 2, "seq_len": 4096}
Settings = tuple[str, dict[str, Any]]
"""A stack, and what is set."""

FULL: tuple[Settings, ...] = (
    ("hf", {**LONG, "attention": "flash"}),
    ("trl", {**MIDDLE, "attention": "flash"}),
    ("hf", {**SEVERAL, "attention": "sdpa", "gradient_checkpointing": False}),
    ("hf", {**LONG, "attention": "flash", "grad_accumulation": 4}),
    ("plain", {**LONG, "attention": "sdpa"}),
)
LORA: tuple[Settings, ...] = (
    ("hf", {**LONG, "attention": "flash"}),
    ("trl", {**MIDDLE, "attention": "flash"}),
    ("hf", {**SEVERAL, "attention": "sdpa", "gradient_checkpointing": False}),
    ("hf", {**LONG, "attention": "flash", "modules_to_save": "lm_head"}),
    ("plain", {**SEVERAL, "attention": "sdpa", "grad_accumulation": 4}),
)
QLORA: tuple[Settings, ...] = (
    ("hf", {**LONG, "attention": "flash"}),
    ("trl", {**MIDDLE, "attention": "flash"}),
    ("hf", {**SEVERAL, "attention": "sdpa", "gradient_checkpointing": False}),
    ("hf", {**LONG, "attention": "flash", "quant_storage": "uint8", "grad_accumulation": 4}),
    ("plain", {**LONG, "attention": "sdpa", "double_quant": False}),
)
FSDP: tuple[tuple[Method, tuple[Settings, ...]], ...] = (("full", FULL), ("lora", LORA), ("qlora", QLORA))

OTHERS: tuple[tuple[str, Method, str, int, dict[str, Any]], ...] = (
    ("llama-3.2-1b", "full", "hf", 8, {**LONG, "attention": "flash", "sharding": "ddp"}),
    ("llama-3.1-8b", "lora", "trl", 2, {**LONG, "attention": "flash", "sharding": "ddp"}),
    ("qwen3-8b", "qlora", "hf", 64, {**SEVERAL, "attention": "sdpa", "sharding": "ddp"}),
)
"""DDP, which divides nothing: how many ranks there are does not matter to it."""


def sharded_grid(models: Iterable[str] = MODELS) -> tuple[GridCase, ...]:
    """All cases of these models; raise ``UnknownName``."""
    names = tuple(models)
    for name in names:
        if name not in MODELS:
            raise UnknownName("model of the grid", name, MODELS)
    return (*_fsdp(names), *(_case(*other) for other in OTHERS if other[0] in names))


def _fsdp(names: tuple[str, ...]) -> Iterator[GridCase]:
    for method, settings in FSDP:
        for place, ranks in enumerate(RANKS):
            for name in names:
                if not _meets(name, method, place):
                    continue
                stack, chosen = settings[(MODELS.index(name) + place) % len(settings)]
                yield _case(name, method, stack, ranks, {**chosen, "sharding": "fsdp"})


def _meets(name: str, method: Method, place: int) -> bool:
    """Whether a model meets a method at the number of ranks in this place."""
    if method == "full" or name in EVERYWHERE:
        return True
    others = [other for other in MODELS if other not in EVERYWHERE]
    return (place - others.index(name)) % TURNS == 0


def _case(name: str, method: Method, stack: str, ranks: int, settings: dict[str, Any]) -> GridCase:
    """A setting as the model can have it."""
    attends = load_model(name).model.attends
    attention = settings["attention"] if settings["attention"] in attends else attends[0]
    return GridCase(name, method, stack, CARD, MappingProxyType({**settings, "attention": attention}), ranks)
