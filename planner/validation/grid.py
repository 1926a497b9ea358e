"""Cases on which the closed form is held against the trace: one small model of every kind, a few settings each.

The settings are a fraction of their product, chosen so that every pair that is known to act on each other meets: method
with checkpoints, loss with stack, attention with shape, preparation of a quantised base with autocast. Depth does not
matter, since a trace extends a few layers to all of them; so the smallest model of each kind stands for its kind.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from planner.catalog import load_model
from planner.errors import UnknownName
from planner.hardware import load_gpu
from planner.spec import Cluster, Method, ModelSpec, Scenario
from planner.stacks import resolve

MODELS = (
    *("llama-3.2-1b", "smollm2-135m", "llama-2-7b"),
    *("mistral-7b-v0.1", "ministral-3-3b", "qwen2.5-0.5b", "qwen3-0.6b", "smollm3-3b", "seed-oss-36b"),
    *("gemma-2b", "gemma-2-2b", "gemma-3-270m", "phi-2", "phi-3-mini", "stablelm-2-1.6b"),
    *("gpt2", "gpt-j-6b", "pythia-70m", "bloom-560m", "opt-125m", "opt-350m", "mpt-7b"),
    *("falcon-7b", "falcon-40b", "starcoder-15.5b", "starcoder2-3b", "aya-expanse-8b", "command-r-plus-104b"),
    *("glm-4-9b", "glm-4-9b-0414", "granite-3.1-2b", "olmo-1b", "olmo-2-1b", "olmo-3-7b", "exaone-4.0-1.2b"),
    *("ernie-4.5-0.3b", "apertus-8b", "mixtral-8x7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b", "olmoe-1b-7b"),
    *("granite-3.1-1b-a400m", "phi-3.5-moe", "ernie-4.5-21b-a3b", "gpt-oss-20b", "llama-4-scout", "minimax-m2"),
    *("deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "glm-4.5-air", "glm-4.7-flash"),
)
"""All architectures of the catalogue: dense with all, few and one key heads, experts, latent attention, windows, tied
and untied heads, parallel branches, position tables, and the classics."""

QUICK_MODELS = ("smollm2-135m", "pythia-70m", "gemma-3-270m")
QUICK = 3
"""``--quick``: the first settings, on three models whose layers differ most for their size."""

CARD = "a100-80gb-sxm"
OLD_CARD = "t4"
MACHINE = 8
"""Cards in one machine."""

LONG: Mapping[str, Any] = MappingProxyType({"micro_batch_size": 1, "seq_len": 2048})
SEVERAL: Mapping[str, Any] = MappingProxyType({"micro_batch_size": 4, "seq_len": 512})


ROUTERS_RETURN_TUPLES = ("phi-3.5-moe", "llama-4-scout")
"""PEFT 0.21 cannot wrap their routers, which all-linear names: adapters go to attention alone."""
ATTENTION = "q_proj,k_proj,v_proj,o_proj"


class Setting(NamedTuple):
    """One way to train: method, stack, shape, and what differs from their defaults."""

    method: Method
    stack: str
    shape: Mapping[str, Any]
    others: Mapping[str, Any]
    card: str = CARD


def _setting(method: Method, stack: str, shape: Mapping[str, Any], *, card: str = CARD, **others: object) -> Setting:
    return Setting(method, stack, shape, MappingProxyType(others), card)


SETTINGS = (
    _setting("full", "trl", LONG, attention="flash"),
    _setting("lora", "hf", SEVERAL, attention="sdpa", gradient_checkpointing=False, lora_dropout=0.05),
    _setting("qlora", "trl", LONG, attention="flash"),
    _setting("full", "plain", SEVERAL, attention="eager", gradient_checkpointing=False),
    _setting("qlora", "hf", SEVERAL, attention="sdpa", gradient_checkpointing=False),
    _setting("lora", "plain", LONG, attention="sdpa"),
    _setting("full", "hf", SEVERAL, attention="sdpa", weights_dtype="fp32", optimizer="adamw_8bit"),
    _setting("lora", "trl", SEVERAL, attention="flash", gradient_checkpointing=False),
    _setting("qlora", "hf", LONG, attention="flash", lora_dropout=0.05, optimizer="paged_adamw_8bit"),
    _setting("full", "hf", LONG, attention="flash", gradient_checkpointing=False, grad_accumulation=4),
    _setting("lora", "hf", LONG, attention="eager", weights_dtype="fp32", autocast="bf16"),
    _setting("qlora", "hf", SEVERAL, attention="eager", quant="int8"),
    _setting("qlora", "plain", SEVERAL, attention="sdpa", double_quant=False),
    _setting("lora", "hf", SEVERAL, attention="sdpa", card=OLD_CARD),
)
"""Fourteen of the product of 3 methods, 3 stacks with their losses, 2 shapes, checkpoints, attention and dtypes."""

FOR_ALL = 6
"""So many settings are asked of every model, the others of every second one, in turn: 10 cases for each."""


class GridCase(NamedTuple):
    """One model under one setting, with everything that a reader needs to ask for it again."""

    model: str
    method: Method
    stack: str
    card: str
    settings: Mapping[str, Any]
    ranks: int = 1
    """Cards in all; from 8 on, in machines of 8."""

    @property
    def id(self) -> str:
        """Model and settings on one line: the key under which a result is stored.

        >>> GridCase("gpt2", "full", "trl", "t4", {"seq_len": 1024}).id
        'gpt2 full trl t4 seq_len=1024'
        """
        told = [f"{name}={value}" for name, value in self.settings.items()]
        several = [f"x{self.ranks}"] if self.ranks > 1 else []
        return " ".join([self.model, self.method, self.stack, self.card, *several, *told])

    def scenario(self) -> Scenario:
        """The question for both estimators; raise ``PlannerError`` for what cannot be asked."""
        nodes = max(self.ranks // MACHINE, 1)
        cluster = Cluster(gpu=load_gpu(self.card), gpus=self.ranks // nodes, nodes=nodes)
        return resolve(load_model(self.model).model, cluster, self.method, self.settings, self.stack)


def grid(models: Iterable[str] = MODELS, settings: Iterable[Setting] = SETTINGS) -> tuple[GridCase, ...]:
    """All cases, setting by setting, so that a part of a run has seen every model; raise ``UnknownName``."""
    names = tuple(models)
    for name in names:
        if name not in MODELS:
            raise UnknownName("model of the grid", name, MODELS)
    found = [
        _case(name, setting)
        for number, setting in enumerate(settings)
        for name in names
        if number < FOR_ALL or (number + MODELS.index(name)) % 2 == 0
    ]
    return tuple({case.id: case for case in found}.values())


def quick_grid() -> tuple[GridCase, ...]:
    """A part that runs while one waits."""
    return grid(QUICK_MODELS, SETTINGS[:QUICK])


def _case(name: str, setting: Setting) -> GridCase:
    """A setting as the model can have it: another attention where its class lacks one, no more than its positions.

    No dropout before adapters of stacked experts, which PEFT does not have, and no adapters where it fails.
    """
    model = load_model(name).model
    settings = {**setting.shape, **setting.others}
    if model.is_moe:
        settings.pop("lora_dropout", None)
    if name in ROUTERS_RETURN_TUPLES and setting.method != "full":
        settings["lora_targets"] = ATTENTION
    settings["attention"] = _offered(model, settings["attention"])
    settings["seq_len"] = min(settings["seq_len"], model.max_position_embeddings or settings["seq_len"])
    return GridCase(name, setting.method, setting.stack, setting.card, MappingProxyType(settings))


def _offered(model: ModelSpec, attention: str) -> str:
    if attention in model.attends:
        return attention
    return next(name for name in ("sdpa", "eager", "flash") if name in model.attends)
