"""What a method costs in quality, by size and age of the model: levels with what was measured, no score."""

from planner.result import Candidate

SMALL_MODEL = 3_500_000_000
"""Parameters up to which full fine-tuning is affordable on common cards ("3B" models have up to 3.2 B)."""

TINY_MODEL = 3_000_000_000
"""Parameters up to which 4-bit weights cost most: litgpt saw +8 % validation loss at 1.2 B, +11 % at 2.5 B."""

ROBUST_MODEL = 13_000_000_000
"""Parameters from which the 4-bit penalty is small."""

NEWER_VOCABULARY = 100_000
"""Vocabulary from which a model counts as of the Llama-3 generation or newer: Llama-3 128k, Qwen 152k, Gemma 256k
against Llama-2's 32k. A proxy of ours for tokens per parameter in pre-training, which configs do not state."""

RISKS = (
    "as good as full fine-tuning where it was measured",
    "about 1 % of validation loss lost to 4-bit weights (litgpt)",
    "about 5 % of validation loss lost to 4-bit weights (litgpt)",
    "8 to 11 % of validation loss lost to 4-bit weights (litgpt)",
)
"""What a quality risk of 0, 1, 2, 3 means."""


NOTABLE_RISK = 2
"""From here on a loss is worth a warning."""


def quality_risk(one: Candidate) -> int:
    """An index into ``RISKS``: what 4-bit weights lost on models of this size and age.

    Source:    litgpt config_hub/finetune/README.md, validation losses of LoRA against QLoRA (rule QLT005)
    """
    total, train = one.estimate.parameters.total, one.scenario.train
    if not train.quantized or train.quant == "int8":
        return 0
    if total <= TINY_MODEL:
        return 3
    return 2 if one.scenario.model.vocab_size >= NEWER_VOCABULARY and total < ROBUST_MODEL else 1
