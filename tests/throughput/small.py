"""A tiny Llama and a card whose numbers tests can work by hand."""

from types import MappingProxyType
from typing import Any

from planner.families.build import model_from_config
from planner.spec import Gpu, ModelSpec
from planner.units import GIB


def llama(*, h: int = 4096, f: int = 14336, layers: int = 32, n: int = 32, k: int = 8, v: int = 128256) -> ModelSpec:
    """A model of Llama's shape; the defaults are Llama-3.1-8B's."""
    config = {
        "model_type": "llama",
        "hidden_size": h,
        "intermediate_size": f,
        "num_hidden_layers": layers,
        "num_attention_heads": n,
        "num_key_value_heads": k,
        "vocab_size": v,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
    return model_from_config(config, name="small")


def card(memory_gib: float = 24, **changes: Any) -> Gpu:
    """150 TFLOP/s, 1 TB/s, 32 GB/s over PCIe, of no architecture that anybody measured."""
    facts: dict[str, Any] = {
        "id": f"card-{memory_gib:g}",
        "name": f"Card {memory_gib:g}",
        "vendor": "other",
        "architecture": "unheard of",
        "memory_bytes": int(memory_gib * GIB),
        "driver_bytes": int(memory_gib * GIB),
        "context_bytes": 0,
        "bandwidth_bytes_per_s": 1e12,
        "peak_flops_per_s": MappingProxyType({"bf16": 150e12, "fp32": 20e12}),
        "compute_capability": (8, 6),
        "pcie_bytes_per_s": 32e9,
        "nvlink_bytes_per_s": None,
        "supports_bf16": True,
        "supports_flash": True,
    }
    return Gpu(**{**facts, **changes})
