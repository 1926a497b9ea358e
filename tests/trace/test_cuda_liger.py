"""Liger's kernels under a trace: what they save and take on fake tensors, and what is refused."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from planner.allocator.events import OUTSIDE  # noqa: E402
from planner.build import kernels  # noqa: E402
from planner.catalog import load_model  # noqa: E402
from planner.closed_form import estimate as closed_form  # noqa: E402
from planner.errors import UnsupportedScenario, UsageError  # noqa: E402
from planner.hardware import load_gpu  # noqa: E402
from planner.spec import Cluster, Method, Scenario  # noqa: E402
from planner.stacks import resolve  # noqa: E402
from planner.trace.cuda import Card, cuda_autocast  # noqa: E402
from planner.trace.cuda.liger import liger_on_cuda  # noqa: E402
from planner.trace.estimator import estimate  # noqa: E402
from planner.trace.fake import Answering, fake_mode  # noqa: E402
from planner.trace.recorder import Recorder, storage_of  # noqa: E402
from planner.trace.run import record  # noqa: E402
from planner.trace.semantics import cpu_semantics  # noqa: E402
from planner.trace.standins import Answers  # noqa: E402

pytestmark = pytest.mark.torch

needs_liger = pytest.mark.skipif(
    not find_spec("liger_kernel"), reason="needs liger-kernel: pip install --no-deps liger-kernel"
)
CARD = Card((9, 0), 132)
B, S, H, WIDE, V = 2, 512, 256, 1024, 8192


def scenario(method: Method = "full", *, model: str = "llama-3.2-1b", stack: str = "hf", **settings: Any) -> Scenario:
    return resolve(load_model(model).model, Cluster(gpu=load_gpu("h100-sxm")), method, settings, stack)


# ---------------------------------------------------------------- kernels, by hand


@pytest.fixture
def liger() -> Iterator[Any]:
    """Liger's functions on a card with 132 multiprocessors, under a fake mode."""
    with liger_on_cuda(CARD):
        from liger_kernel.transformers import functional  # noqa: PLC0415  (only in here)

        with fake_mode(), Answering():
            yield functional


def make(*shape: int, dtype: Any = None, grad: bool = True) -> Any:
    return torch.empty(shape, dtype=dtype or torch.bfloat16, requires_grad=grad)


def saved_by(call: Callable[[], Any]) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    """What a call returns, and shape and dtype of what autograd keeps for it."""
    found: list[tuple[tuple[int, ...], Any]] = []

    def keep(tensor: Any) -> Any:
        found.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return call(), found


def peak(call: Callable[[], Any], *there: Any) -> int:
    """The most bytes that were there at once of what a call made beside tensors that are ``there``."""
    recorder = Recorder(hidden=lambda *_: (), kept=lambda *_, **__: 0, answer=Answers(), logit_widths=frozenset())
    standing: int = sum(storage_of(tensor).nbytes() for tensor in there)
    for tensor in there:
        recorder.add(storage_of(tensor), "weights", "", OUTSIDE)
    recorder.begin("forward")
    with recorder:
        result = call()
    trace = recorder.ledger.trace()
    del result
    now = most = 0
    for event in trace.events:
        now += trace.blocks[event].bytes if event >= 0 else -trace.blocks[~event].bytes
        most = max(most, now)
    return most - standing


@needs_liger
def test_rms_norm_saves_its_input_and_one_number_a_row(liger: Any) -> None:
    x, weight = make(B, S, H), make(H)

    _, saved = saved_by(lambda: liger.liger_rms_norm(x, weight, 1e-6))

    assert sorted(saved, key=str) == sorted(
        [((B * S, H), torch.bfloat16), ((H,), torch.bfloat16), ((B * S,), torch.float32)], key=str
    )


@needs_liger
def test_rms_norm_writes_its_gradient_over_the_one_it_gets(liger: Any) -> None:
    # beside it one fp32 row for each multiprocessor, 132*256*4 = 135,168, and their sum 1,024, then 16 bit 512
    x, weight, out = make(B, S, H), make(H), make(B, S, H, grad=False)
    y = liger.liger_rms_norm(x, weight, 1e-6)

    assert peak(lambda: torch.autograd.grad(y, (x, weight), out), x, weight, y, out) == 132 * H * 4 + 4 * H + 2 * H


@needs_liger
def test_swiglu_saves_gate_and_up_and_returns_its_gradients_in_their_place(liger: Any) -> None:
    gate, up, out = make(B, S, WIDE), make(B, S, WIDE), make(B, S, WIDE, grad=False)

    y, saved = saved_by(lambda: liger.liger_swiglu(gate, up))

    assert saved == [((B * S, WIDE), torch.bfloat16)] * 2
    assert torch.autograd.grad(y, gate, out)[0].untyped_storage()._cdata == gate.untyped_storage()._cdata


@needs_liger
def test_rope_saves_the_tables_and_turns_in_place(liger: Any) -> None:
    # queries and keys as attention makes them, heads in front of the sequence by a view: nothing is copied
    query, key = make(B, S, 4, 64).transpose(1, 2), make(B, S, 2, 64).transpose(1, 2)
    cos, sin = make(1, S, 64, grad=False), make(1, S, 64, grad=False)

    found, saved = saved_by(lambda: liger.liger_rope(query, key, cos, sin))

    assert saved == [((1, S, 64), torch.bfloat16)] * 2
    assert found[0].untyped_storage()._cdata == query.untyped_storage()._cdata
    assert peak(lambda: liger.liger_rope(query, key, cos, sin), query, key, cos, sin) == 0


@needs_liger
def test_fused_head_keeps_gradients_and_one_tile_of_logits(liger: Any) -> None:
    # V/H = 32 chunks of 1024/32 = 32 rows; kept: gradients of the hidden states and of the weight
    hidden, weight = make(B * S, H), make(V, H)
    labels = make(B * S, dtype=torch.int64, grad=False)
    call = lambda: liger.liger_fused_linear_cross_entropy(hidden, weight, labels)  # noqa: E731

    _, saved = saved_by(call)

    assert saved == [((B * S, H), torch.bfloat16), ((V, H), torch.bfloat16)]
    small = 4 * B * S  # losses
    assert peak(call, hidden, weight, labels) - (2 * B * S * H + 2 * V * H + 32 * V * 2 + small) in range(2 * small)


@needs_liger
def test_fused_head_of_fp32_weights_under_autocast_makes_two_16_bit_copies(liger: Any) -> None:
    # one that autocast keeps, since the weight is a leaf, and one of its transposed view, which it does not
    hidden, weight = make(B * S, H, dtype=torch.float32), make(V, H, dtype=torch.float32)
    labels = make(B * S, dtype=torch.int64, grad=False)

    def call() -> Any:
        with cuda_autocast(), torch.autocast("cpu", torch.bfloat16):
            return liger.liger_fused_linear_cross_entropy(hidden, weight, labels)

    least = 4 * B * S * H + 4 * V * H + 2 * V * H * 2 + 32 * V * 2
    assert least <= peak(call, hidden, weight, labels) < least + 200_000


# ---------------------------------------------------------------- the process afterwards


@needs_liger
def test_nothing_is_left_behind() -> None:
    from transformers.models.llama import modeling_llama  # noqa: PLC0415

    rope, cross_entropy = modeling_llama.apply_rotary_pos_emb, torch.nn.functional.cross_entropy
    before = {name for name in sys.modules if name.startswith(("triton", "liger_kernel"))}

    estimate(scenario(kernels="fused", loss="full"))

    assert {name for name in sys.modules if name.startswith(("triton", "liger_kernel"))} == before
    assert modeling_llama.apply_rotary_pos_emb is rope
    assert torch.nn.functional.cross_entropy is cross_entropy


# ---------------------------------------------------------------- whole steps


@needs_liger
@pytest.mark.parametrize("stack", ["hf", "plain"])
def test_a_fused_head_has_no_full_logits(stack: str) -> None:
    # V/h = 62.6 -> 63 chunks of 33 -> 64 rows of 2048: one tile of 64*128256*2, against at least 2048*128256*2
    memory = estimate(scenario(stack=stack, loss="fused")).phases["loss"]

    assert 64 * 128256 * 2 <= memory.logits <= 64 * 128256 * 2 + 2 * 2**20  # in whole blocks of the allocator


@needs_liger
@pytest.mark.parametrize("stack", ["hf", "plain", "trl"])
def test_fused_kernels_are_never_ignored(stack: str) -> None:
    kept = [
        estimate(
            scenario(stack=stack, loss="full", kernels=kernels, gradient_checkpointing=False, micro_batch_size=8)
        ).phases["forward"]
        for kernels in ("eager", "fused")
    ]

    assert kept[1].activations < 0.8 * kept[0].activations


@needs_liger
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-8b", "mistral-7b-v0.3", "gemma-2-9b"])
@pytest.mark.parametrize("loss", ["fused", "full"])
def test_closed_form_agrees_in_every_phase(model: str, loss: str) -> None:
    asked = scenario(model=model, kernels="fused", loss=loss)
    traced, closed = estimate(asked), closed_form(asked)

    for name, memory in traced.phases.items():
        assert closed.phases[name].total == pytest.approx(memory.total, rel=0.001), name


@needs_liger
@pytest.mark.parametrize("stack", ["hf", "trl"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_closed_form_agrees_where_adapters_stay_eager(method: Method, stack: str) -> None:
    # transformers and TRL put Liger's kernels beside PEFT's own adapters
    asked = scenario(method, model="llama-3.1-8b", kernels="fused", stack=stack)
    traced, closed = estimate(asked), closed_form(asked)

    for name, memory in traced.phases.items():
        assert closed.phases[name].total == pytest.approx(memory.total, rel=0.025), name


@needs_liger
def test_closed_form_copies_queries_and_keys_of_one_product() -> None:
    asked = scenario(model="phi-3.5-mini", kernels="fused", loss="fused", gradient_checkpointing=False)
    traced, closed = estimate(asked).phases["forward"], closed_form(asked).phases["forward"]

    assert closed.total == pytest.approx(traced.total, rel=0.005)


@needs_liger
@pytest.mark.parametrize("settings", [{"stack": "plain"}, {"weights_dtype": "fp32"}])
def test_closed_form_agrees_where_the_head_differs(settings: dict[str, Any]) -> None:
    # nobody holds logits that were never there; fp32 weights are cast twice
    asked = scenario(model="llama-3.1-8b", kernels="fused", loss="fused", **settings)

    assert closed_form(asked).phases["loss"].total == pytest.approx(estimate(asked).phases["loss"].total, rel=0.001)


@needs_liger
def test_only_listed_parts_are_fused() -> None:
    asked = scenario(kernels="fused", loss="full")
    asked = replace(asked, stack=replace(asked.stack, fused_parts=("norm",)))

    with liger_on_cuda(CARD):
        assert [name for name, on in kernels.options_of(asked, "llama").items() if on] == ["rms_norm"]
        assert kernels.options_of(scenario(loss="fused"), "llama")["fused_linear_cross_entropy"]
        assert not any(kernels.options_of(scenario(stack="trl", loss="fused"), "llama").values())


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "wish"),
    [
        ({"kernels": "fused"}, "--kernels fused"),
        ({"loss": "fused"}, "--loss fused of stack hf"),
    ],
)
def test_missing_liger_is_named(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], wish: str) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda _name: None)

    with pytest.raises(UsageError, match=f"a trace of {wish} needs liger-kernel: .*--evidence closed-form"):
        estimate(scenario(**settings))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_fused_adapters_are_in_no_library(method: Method) -> None:
    asked = scenario(method, kernels="fused")
    asked = replace(asked, stack=replace(asked.stack, fused_parts=("norm", "lora")))

    with pytest.raises(UnsupportedScenario, match="fused LoRA as in Unsloth, and none of the installed libraries"):
        estimate(asked)


@needs_liger
def test_models_that_liger_does_not_know_are_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="Liger has no kernels for gpt2 models: use --kernels eager, or"):
        estimate(scenario(model="gpt2", kernels="fused", seq_len=1024))


@needs_liger
def test_parts_that_liger_lacks_for_a_model_are_refused() -> None:
    def apply(rms_norm: bool = True, model: Any = None) -> None: ...

    with liger_on_cuda(CARD):
        from liger_kernel.transformers import monkey_patch  # noqa: PLC0415  (only in here)

        with (
            patch.dict(monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN, {"llama": apply}),
            pytest.raises(UnsupportedScenario, match="Liger has no fused rope for llama models: use --evidence"),
        ):
            kernels.options_of(scenario(kernels="fused"), "llama")


def test_the_cpu_has_no_triton() -> None:
    asked = scenario(kernels="fused")

    with pytest.raises((UnsupportedScenario, UsageError), match="liger"):
        record(asked, cpu_semantics(asked), layers=1)


def test_real_devices_are_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="traced, not run"):
        kernels.check_kernels(scenario(kernels="fused"), real=True)
