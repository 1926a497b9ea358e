"""Small stand-ins: a Llama-like model, cards, and an estimator of three lines per owner that tests can do by hand."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from planner.estimators import Estimator
from planner.recommend.candidates import candidate
from planner.recommend.request import Ask, Request, cluster_of
from planner.recommend.rules import Case
from planner.result import Estimate, Memory, Parameters, Peak, Phase, Way
from planner.spec import (
    Attention,
    Block,
    Experts,
    Gpu,
    Linear,
    Method,
    Mlp,
    ModelSpec,
    Norm,
    Scenario,
    Table,
)
from planner.units import GIB

INTERVAL = 0.1


def llama(
    *, h: int = 4096, f: int = 14336, layers: int = 32, n: int = 32, k: int = 8, v: int = 128256, **changes: Any
) -> ModelSpec:
    """A model of Llama's shape; the defaults are Llama-3.1-8B's."""
    d = h // n
    attention = Attention(
        num_attention_heads=n,
        num_key_value_heads=k,
        head_dim=d,
        inputs=(Linear("q_proj", h, n * d), Linear("k_proj", h, k * d), Linear("v_proj", h, k * d)),
        output=Linear("o_proj", n * d, h),
    )
    mlp = Mlp(
        intermediate_size=f,
        activation="silu",
        gated=True,
        inputs=(Linear("gate_proj", h, f), Linear("up_proj", h, f)),
        output=Linear("down_proj", f, h),
    )
    block = Block(attention=attention, norms=(Norm("input_layernorm", h), Norm("post_attention_layernorm", h)), mlp=mlp)
    facts: dict[str, Any] = {
        "name": "toy",
        "model_type": "llama",
        "hidden_size": h,
        "vocab_size": v,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "embeddings": (Table("embed_tokens", (v, h)),),
        "blocks": (block,),
        "layout": (0,) * layers,
        "lm_head": Linear("lm_head", h, v),
        "final_norm": Norm("norm", h),
    }
    return ModelSpec(**{**facts, **changes})


def card(memory_gib: float = 24, **changes: Any) -> Gpu:
    """An Ampere card without NVLink."""
    facts: dict[str, Any] = {
        "id": f"card-{memory_gib:g}",
        "name": f"Card {memory_gib:g}",
        "vendor": "nvidia",
        "architecture": "ampere",
        "memory_bytes": int(memory_gib * GIB),
        "driver_bytes": int(memory_gib * GIB),
        "context_bytes": 0,
        "bandwidth_bytes_per_s": 1e12,
        "peak_flops_per_s": MappingProxyType({"bf16": 150e12}),
        "compute_capability": (8, 6),
        "pcie_bytes_per_s": 32e9,
        "nvlink_bytes_per_s": None,
        "supports_bf16": True,
        "supports_flash": True,
    }
    return Gpu(**{**facts, **changes})


def ask(model: ModelSpec | None = None, gpu: Gpu | None = None, **request: Any) -> Ask:
    """A resolved question."""
    gpu = gpu or card()
    asked = Request(**{"model": "toy", "gpu": gpu.id, **request})
    return Ask(request=asked, model=model or llama(), cluster=cluster_of(asked, gpu))


def parameters(scenario: Scenario) -> Parameters:
    model, train = scenario.model, scenario.train
    linear = sum(one.weight_params for index in model.layout for one in model.blocks[index].linears)
    embedded = sum(table.params for table in model.embeddings) + model.lm_head.weight_params
    experts = sum(table.params for index in model.layout for table in model.blocks[index].tables)
    total = linear + embedded + experts
    per_rank = sum(one.d_in + one.d_out for index in model.layout for one in model.blocks[index].linears)
    trainable = total if train.method == "full" else per_rank * train.lora_rank
    return Parameters(total, trainable, linear if train.quantized else 0)


def fake_estimate(scenario: Scenario) -> Estimate:
    """16-bit weights 2 bytes, 4-bit ones half, trained parameters 8, all divided by shards; flat activations."""
    train, model, world = scenario.train, scenario.model, scenario.cluster.world_size
    counts = parameters(scenario)
    shards = world if train.sharding in ("fsdp", "zero3") else 1
    whole_quants = train.quantized and train.quant_storage == "uint8"
    quantized = counts.quantized // 2 // (1 if whole_quants else shards)
    weights = quantized + 2 * (counts.total - counts.quantized) // shards
    states = counts.trainable * (2 if "8bit" in train.optimizer else 4) // shards
    adapters = 2 * counts.trainable // shards if train.uses_adapters else 0
    layers = 1 if train.gradient_checkpointing else model.num_hidden_layers
    factor = 24 if train.kernels == "fused" else 32
    activations = train.tokens * model.hidden_size * (2 * model.num_hidden_layers + factor * layers)
    logits = {"full": 14, "chunked": 1, "fused": 0}[train.loss] * train.tokens * model.vocab_size
    scores = 4 * train.seq_len**2 * train.micro_batch_size * 32 if train.attention == "eager" else 0
    memory = Memory(weights, adapters, 2 * counts.trainable // shards, states, activations + scores, logits, 0)
    return of_memory(memory, counts)


def of_memory(memory: Memory, counts: Parameters, *, phase: Phase = "backward", managed: int = 0) -> Estimate:
    """An estimate with one phase that matters."""
    total = memory.total
    peak = Peak(phase, total, total, total, total, int(total * (1 - INTERVAL)), int(total * (1 + INTERVAL)), managed)
    return Estimate(
        "closed-form", counts, MappingProxyType({"load": Memory(weights=memory.weights), phase: memory}), peak
    )


def needs(required: Callable[[Scenario], float], **peak: Any) -> Estimator:
    """An estimator whose requirement, in GiB, is a function of the scenario; the rest is ``fake_estimate``."""

    def estimate(scenario: Scenario) -> Estimate:
        made = fake_estimate(scenario)
        bytes_ = int(required(scenario) * GIB)
        bounds: dict[str, Any] = {"low_bytes": bytes_ * 9 // 10, "high_bytes": bytes_ * 11 // 10}
        return replace(made, peak=replace(made.peak, required_bytes=bytes_, **{**bounds, **peak}))

    return estimate


def flat(gib: float, **peak: int) -> Estimator:
    """An estimator with one answer to everything."""
    return needs(lambda scenario: gib, **peak)


def by(setting: str, answers: dict[Any, float]) -> Estimator:
    """An estimator that looks at one setting."""
    return needs(lambda scenario: answers[getattr(scenario.train, setting)])


def by_method(full: float = 200, lora: float = 20, qlora: float = 10) -> Estimator:
    return by("method", {"full": full, "lora": lora, "qlora": qlora})


def mixture() -> ModelSpec:
    """A layer whose experts hold 12 GB of 16-bit weights beside a little attention."""
    experts = Experts(
        num_experts=128,
        top_k=8,
        intermediate_size=768,
        activation="silu",
        gated=True,
        router=Table("router", (128, 2048)),
        tables=(Table("gate_up_proj", (128, 1536, 2048)), Table("down_proj", (128, 2048, 768))),
    )
    dense = llama(h=2048, f=768, layers=1, n=32, k=4, v=1000)
    return replace(dense, blocks=(replace(dense.blocks[0], mlp=None, experts=experts),))


def case(
    asked: Ask | None = None,
    method: Method = "lora",
    *,
    estimate: Estimator = fake_estimate,
    chosen: bool = True,
    others: tuple[Method, ...] = (),
    ways: tuple[Way, ...] | None = None,
    **model_or_stack: Any,
) -> Case:
    """A rule's case: one method of a question beside ``others``, recommended unless ``chosen`` is false."""
    asked = asked or ask()
    subject = candidate(asked, method, estimate)
    if model_or_stack:
        stack = replace(subject.scenario.stack, **model_or_stack)
        scenario = replace(subject.scenario, stack=stack)
        subject = replace(subject, scenario=scenario, estimate=estimate(scenario))
    around = tuple(candidate(asked, other, estimate) for other in others)
    return Case(
        ask=asked,
        subject=subject,
        candidates=(subject, *around),
        chosen=subject if chosen else None,
        estimate=estimate,
        ways=ways,
    )
