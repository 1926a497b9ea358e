"""bitsandbytes before 0.43.2 keeps the inputs of 4-bit products: by hand for Llama-2-7B."""

import pytest

import planner
from planner.closed_form import estimate
from planner.result import Estimate

H, F, LAYERS, TOKENS = 4096, 11008, 32, 1024


def forward(version: str, **settings: object) -> Estimate:
    facts = {"lora_targets": ("q_proj", "v_proj"), "adapter_dtype": "bf16", "gradient_checkpointing": False, **settings}
    return estimate(
        planner.scenario(
            model="llama-2-7b",
            gpu="a100-80gb",
            method="qlora",
            stack=f"plain,bitsandbytes={version}",
            seq_len=TOKENS,
            **facts,  # type: ignore[arg-type]
        )
    )


def activations(found: Estimate) -> int:
    return found.phases["loss"].activations


def test_inputs_without_adapters_are_kept() -> None:
    """Those of gate and up, and of down: adapters keep the input of q, k and v anyway, attention that of o_proj."""
    more = activations(forward("0.43.1")) - activations(forward("0.43.2"))

    assert more == pytest.approx(2 * (H + F) * TOKENS * LAYERS, rel=0.001)


def test_adapters_everywhere_keep_them_anyway() -> None:
    old, new = (forward(version, lora_targets=("all-linear",)) for version in ("0.43.1", "0.43.2"))

    assert activations(old) == pytest.approx(activations(new), rel=0.001)


def test_a_checkpoint_by_hooks_cannot_free_them() -> None:
    old, new = (forward(version, gradient_checkpointing=True) for version in ("0.43.1", "0.43.2"))

    assert activations(old) - activations(new) > 2 * F * TOKENS * (LAYERS - 2)
