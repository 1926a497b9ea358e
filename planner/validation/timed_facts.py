"""What sources of published times call things, and facts of their runs that they or others print elsewhere."""

from collections.abc import Mapping
from types import MappingProxyType

ALPACA_TOKENS = 110
"""Median tokens of an Alpaca sample in LitGPT's template with Llama's tokenizer; the longest has 1304. lit-gpt
tutorials/resource-tables.md and scripts/prepare_alpaca.py, October 2023."""

MPT_SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "MPT-125m": (768, 12, 12),
        "MPT-350m": (1024, 16, 24),
        "MPT-760m": (1536, 12, 24),
        "MPT-1b": (2048, 16, 24),
        "MPT-3b": (2560, 20, 32),
        "MPT-7b": (4096, 32, 32),
        "MPT-13b": (5120, 40, 40),
        "MPT-30b": (7168, 56, 48),
        "MPT-70b": (8192, 64, 80),
    }
)
"""Width, heads and layers. mosaicml/llm-foundry scripts/train/yamls/pretrain/mpt-*.yaml."""

MPT_VOCABULARY = 50368

MODELS: Mapping[str, str] = MappingProxyType(
    {
        "Llama 3.1 8B": "llama-3.1-8b",
        "Llama-2-7B": "llama-2-7b",
        "Llama-2-7b-hf": "llama-2-7b",
        "LLaMA-7B": "llama-2-7b",
        "LLaMA-13B": "llama-2-13b",
        "Llama-3.2-3B": "llama-3.2-3b",
        "TinyLlama-1.1B (pretrain)": "tinyllama-1.1b",
        "GPT-2 124M (from scratch)": "gpt2",
        "meta-llama/Llama-2-70b-chat-hf": "llama-2-70b",
    }
)
"""What a source calls a model, and the catalogue's name of the same shapes."""

CARDS: Mapping[str, str] = MappingProxyType(
    {
        "H100 80GB": "h100",
        "H100": "h100",
        "H100 95GiB": "h100",
        "H100 96GB": "h100",
        "A100 80GB": "a100-80gb",
        "A100 40GB": "a100-40gb",
        "A100": "a100-80gb",
        "A100-SXM4-40GB": "a100-40gb",
        "RTX 4090 24GB": "rtx4090",
        "RTX A6000 48GB": "rtxa6000",
        "RTX 3090 24GB (PCIe)": "rtx3090",
        "MI300X": "mi300x",
        "A10G 24GB": "a10g",
    }
)

TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "output_proj": ("o_proj",),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
        "query": ("q_proj",),
        "value": ("v_proj",),
    }
)
"""Names of modules in torchtune and LitGPT, and Transformers'."""

CLOCKS: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("Della", "A100"): 1600 / 1593,
        ("Snellius", "A100"): 1215 / 1593,
        ("Della", "H100"): 2600 / 2619,
        ("Snellius", "H100"): 1590 / 2619,
        ("OSSC", "A100"): 1215 / 1593,
        ("OSSC", "H100"): 1590 / 2619,
    }
)
"""Memory clocks that the ODISSEI benchmark prints, against those behind 2039 and 3350 GB/s."""

SLOWER_MEMORY: Mapping[str, float] = MappingProxyType({"H100 96GB": 2400 / 3350, "H100 95GiB": 2400 / 3350})
"""HBM2e in place of HBM3: 2.4 TB/s, at 500 W. pytorch/torchtitan docs/performance.md, "H100 96GB"."""

NETWORKS: Mapping[tuple[str, str], float] = MappingProxyType({("llm-foundry", "A100 40GB"): 1600.0})
"""Gb/s of a machine's adapters together where they are not those of the profile. mosaicml/llm-foundry
scripts/train/benchmarking/README.md."""

MACHINE = 8
"""Cards of one machine, in all sources."""

NATURAL = "lengths of the samples are not published"

PEFT_LOAD = (840.0, 210.0)
"""Tokens of a step of 4 samples, and of one, padding not counted: 4.2 million in 5000 steps. huggingface/peft
method_comparison/MetaMathQA/results."""
