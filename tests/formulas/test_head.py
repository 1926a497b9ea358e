"""The full loss: bytes per logit at its two peaks, by version of transformers, as replays of each era's code showed.

A vocabulary so large that nothing else counts. ``forward``: the peak inside the model's forward. ``backward``: the
log-softmax, its gradient and the gradient of the logits in fp32, and whatever logits the caller still holds.
"""

from dataclasses import replace

import pytest

from planner.catalog import load_model
from planner.closed_form.profile import profile_of
from planner.formulas.tape import Instant
from planner.hardware import load_gpu
from planner.spec import Cluster, Float, Linear, ModelSpec, Scenario, TrainSpec
from planner.stacks import load_stack

VOCABULARY = 2**24
CARD = load_gpu("a100-80gb")
LLAMA = load_model("llama-3.1-8b").model


def spec(*, scaled: bool = False, softcap: bool = False) -> ModelSpec:
    return replace(
        LLAMA,
        hidden_size=4096,
        vocab_size=VOCABULARY,
        lm_head=Linear("lm_head", 4096, VOCABULARY),
        logits_scaled=scaled,
        logits_softcap=softcap,
    )


def per_logit(instants: tuple[Instant, ...]) -> int:
    """Bytes per logit of the largest instant."""
    return max(instant.logits.token for instant in instants) // VOCABULARY


def peaks(stack: str, *, b: int, weights: Float = "bf16", model: ModelSpec | None = None) -> tuple[int, int]:
    """(forward, backward) of one stack."""
    behaviour = load_stack(stack).behaviour
    train = TrainSpec(
        method="lora", autocast="none", weights_dtype=weights, micro_batch_size=b, loss="full", kernels="eager"
    )
    scenario = Scenario(model=model or spec(), train=train, cluster=Cluster(gpu=CARD), stack=behaviour)
    loss = profile_of(scenario).loss
    return per_logit(loss.recompute), per_logit(loss.backward)


FORWARD = [
    # cross entropy in 16 bits: logits, and from two sequences on a shifted copy, and the log-softmax
    ("transformers=4.30.2", 2, 2 + 2 + 2),
    ("transformers=4.30.2", 1, 2 + 2),
    # logits.float() under the same name: 4, shift 4, log-softmax 4
    ("transformers=4.45.2", 2, 4 + 4 + 4),
    ("transformers=4.45.2", 1, 4 + 4),
    # the caller's 16-bit logits besides
    ("transformers=4.48.3", 2, 2 + 4 + 4 + 4),
    ("transformers=4.48.3", 1, 2 + 4 + 4),
    # labels are shifted instead
    ("transformers=4.49.0", 2, 2 + 4 + 4),
    ("transformers=4.49.0", 1, 2 + 4 + 4),
    ("transformers=5.23.0", 2, 2 + 4 + 4),
]


@pytest.mark.parametrize(("version", "b", "expected"), FORWARD)
def test_forward_peak_per_logit(version: str, b: int, expected: int) -> None:
    forward, _ = peaks(f"hf,{version}", b=b)

    assert forward == expected


BACKWARD = [
    # (version, Trainer, which drops the outputs; a loop that holds them)
    ("transformers=4.30.2", 6, 8),
    ("transformers=4.45.2", 12, 16),
    ("transformers=4.48.3", 12, 14),
    ("transformers=4.49.0", 12, 14),
    ("transformers=5.23.0", 12, 14),
]


@pytest.mark.parametrize(("version", "dropped", "held"), BACKWARD)
def test_backward_peak_per_logit(version: str, dropped: int, held: int) -> None:
    assert peaks(f"hf,{version}", b=2)[1] == dropped
    assert peaks(f"plain,{version}", b=2)[1] == held


FP32 = [
    # .float() makes no copy of fp32 logits: logits, shift copy, log-softmax
    ("transformers=4.48.3", 2, 12),
    ("transformers=4.48.3", 1, 8),
    ("transformers=5.23.0", 2, 8),
]


@pytest.mark.parametrize(("version", "b", "expected"), FP32)
def test_fp32_logits_are_not_copied(version: str, b: int, expected: int) -> None:
    forward, backward = peaks(f"hf,{version}", b=b, weights="fp32")

    assert forward == expected
    assert backward == 12
    assert peaks(f"plain,{version}", b=b, weights="fp32")[1] == 16


def test_a_fused_cross_entropy_works_in_place() -> None:
    # a Triton kernel over full logits: 16-bit logits 2, fp32 copy 4, no log-softmax; the gradient is written over it
    behaviour = replace(load_stack("hf,transformers=4.48.1").behaviour)
    train = TrainSpec(method="lora", autocast="none", micro_batch_size=2, loss="full", kernels="fused")
    found = profile_of(Scenario(model=spec(), train=train, cluster=Cluster(gpu=CARD), stack=behaviour)).loss

    # fms-acceleration's rows grow by 10 per logit on transformers 4.48: 2 + 4 + shift copy 4
    assert per_logit(found.recompute) == 10


def test_a_fused_cross_entropy_meets_the_fp32_outputs_of_autocast() -> None:
    # 16-bit logits 2, fp32 copy with its gradient in place 4, the outputs as accelerate returns them 4
    train = TrainSpec(method="lora", autocast="bf16", micro_batch_size=2, loss="full", kernels="fused")
    behaviour = load_stack("hf").behaviour
    found = profile_of(Scenario(model=spec(), train=train, cluster=Cluster(gpu=CARD), stack=behaviour)).loss

    assert per_logit(found.recompute) == 10


def test_softcapped_logits_keep_the_tanh() -> None:
    # Gemma 2: logits / cap, tanh (saved, 2), times cap (the outputs' logits, 2), float 4, log-softmax 4
    forward, _ = peaks("hf", b=2, model=spec(softcap=True))

    assert forward == 2 + 2 + 4 + 4
