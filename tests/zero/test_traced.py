"""Where gathered parameters and a tied matrix's gradients decide: backward, against traces."""

from types import MappingProxyType
from typing import Any

import pytest

from planner.closed_form import estimate
from planner.spec import Method
from planner.validation.grid import GridCase

SHAPE = {"micro_batch_size": 1, "seq_len": 1024, "attention": "flash"}
ZERO3: dict[str, Any] = {**SHAPE, "sharding": "zero3"}
WIDE: dict[str, Any] = {**SHAPE, "weights_dtype": "fp32", "grad_accumulation": 2}
TRACED: list[tuple[str, Method, str, int, dict[str, Any], int]] = [
    # bytes at the peak of backward, traced with DeepSpeed 0.19.8 on rank 0; of ZeRO-2 on the fullest, to MiB
    ("llama-3.2-1b", "lora", "trl", 8, ZERO3, 2_622_784_512),
    ("llama-3.2-1b", "lora", "hf", 2, ZERO3, 5_081_184_768),
    ("llama-3.2-1b", "full", "trl", 8, ZERO3, 6_310_139_392),
    ("llama-3.1-8b", "lora", "trl", 8, ZERO3, 5_554_951_680),
    ("qwen2.5-0.5b", "lora", "trl", 64, ZERO3, 1_235_208_704),
    ("smollm2-135m", "lora", "trl", 8, {**ZERO3, "seq_len": 512, "objective": "dpo"}, 279_624_192),
    ("qwen2.5-0.5b", "full", "trl", 8, {**SHAPE, "sharding": "zero2", "grad_accumulation": 2}, 3_362_783_232),
    ("llama-3.2-1b", "full", "trl", 1, WIDE, 22_992_260_096),
    ("llama-3.2-1b", "full", "hf", 1, {**WIDE, "grad_accumulation": 1}, 21_941_586_944),
    ("qwen2.5-0.5b", "full", "trl", 1, WIDE, 9_629_410_304),
    ("gemma-2-2b", "full", "hf", 1, WIDE, 49_179_113_984),
]


@pytest.mark.parametrize(
    ("model", "method", "stack", "ranks", "settings", "traced"),
    TRACED,
    ids=[
        f"{name}-{method}-{settings.get('sharding', 'none')}-{ranks}" for name, method, _, ranks, settings, _ in TRACED
    ],
)
def test_backward_is_the_traces(
    model: str, method: Method, stack: str, ranks: int, settings: dict[str, Any], traced: int
) -> None:
    case = GridCase(model, method, stack, "h100", MappingProxyType(settings), ranks)

    assert estimate(case.scenario()).phases["backward"].total == pytest.approx(traced, rel=0.02)
