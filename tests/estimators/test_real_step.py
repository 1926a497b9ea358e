"""The peak of a whole training step: the profiler's count of a real tiny Llama on the CPU, and ours."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.closed_form import estimate
from planner.formulas.overhead import cublas_workspace

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")

from tests.estimators.real import CARD, Config, batch, build, largest_sum, scenario, settings_of, spec_of  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.01
RANK = 8

VOCABULARY = 2048
LLAMA: Config = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
}
B, S = 4, 128

OPTIMIZERS: dict[str, Callable[[list[Any]], Any]] = {
    "adamw_foreach": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=True),
    "adamw_loop": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=False),
    "adamw_fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-4),
}


def storage_bytes(tensors: list[Any]) -> int:
    """Bytes of distinct storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def step_peak(model: Any, make_optimizer: Callable[[list[Any]], Any], *, b: int, s: int) -> int:
    """Most bytes alive during the third step: what stands before it, and the profiler's running sum over it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trained)
    inputs = batch(VOCABULARY, b=b, s=s)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

    def step() -> None:
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    standing = storage_bytes([*model.parameters(), *model.buffers(), *states, *inputs.values()])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return standing + largest_sum(profiler)


STEPS = [
    ("full", "adamw_foreach", True, B, S),
    ("full", "adamw_foreach", False, B, S),
    ("full", "adamw_foreach", True, 1, 16),  # so small that the optimizer's temporary is the peak
    ("full", "adamw_loop", True, 1, 16),
    ("full", "adamw_fused", False, B, S),
    ("full", "sgd", True, B, S),
    ("lora", "adamw_foreach", True, B, S),
    ("lora", "adamw_foreach", False, B, S),
]


@pytest.mark.parametrize(("method", "optimizer", "checkpointing", "b", "s"), STEPS)
def test_the_peak_of_a_step_is_what_the_profiler_counts(
    method: str, optimizer: str, checkpointing: bool, b: int, s: int
) -> None:
    settings = settings_of(LLAMA)
    model = build(settings, checkpointing=checkpointing)
    if method == "lora":
        model.enable_input_require_grads()
        lora = peft.LoraConfig(r=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, lora)
    real = step_peak(model, OPTIMIZERS[optimizer], b=b, s=s)

    found = estimate(
        scenario(
            spec_of(settings),
            stack="hf",
            method=method,
            lora_rank=RANK,
            optimizer=optimizer,
            gradient_checkpointing=checkpointing,
            micro_batch_size=b,
            seq_len=s,
        )
    )
    ours = max(memory.total for memory in found.phases.values()) - cublas_workspace(CARD.compute_capability)
    told = {phase: memory.total for phase, memory in found.phases.items()}
    assert ours == pytest.approx(real, rel=TOLERANCE), f"{ours / real - 1:+.2%} {found.peak.phase} {told}"
