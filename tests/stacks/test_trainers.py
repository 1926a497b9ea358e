"""What the four trainers do beyond the libraries: settings that they decide, and bytes that their own code takes."""

import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from planner.build.installed import check_versions
from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.recipe import key_of, recipe_of, storage_of
from planner.errors import UnsupportedScenario
from planner.formulas.blocks import block_tape
from planner.formulas.feed_forward import mlp
from planner.formulas.loss import Head, chunked_outputs, cut_fused, liger_fused, unsloth_chunks, unsloth_fused
from planner.formulas.operations import Recorder
from planner.formulas.states import nf4_bytes, torchao_nf4_bytes, torchao_nf4_scratch
from planner.formulas.tape import Size, Tape, Tensor, backward_instants, forward_instants
from planner.hardware import load_gpu
from planner.result import Estimate
from planner.spec import METHODS, Cluster, Method, Scenario
from planner.stacks import STACKS, resolve, unset_settings

LLAMA, MIXTRAL = load_model("llama-3.1-8b").model, load_model("mixtral-8x7b").model
A100 = Cluster(gpu=load_gpu("a100-80gb"))
OURS = ("axolotl", "llamafactory", "unsloth", "torchtune")


def made(method: Method = "lora", stack: str = "axolotl", cluster: Cluster = A100, **settings: Any) -> Scenario:
    return resolve(LLAMA, cluster, method, settings, stack)


def answer(method: Method = "lora", stack: str = "axolotl", **settings: Any) -> Estimate:
    return estimate(made(method, stack, **settings))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stack", OURS)
def test_every_trainer_answers(stack: str, method: Method) -> None:
    found = answer(method, stack, seq_len=4096, micro_batch_size=2)

    assert all(memory.total > 0 for memory in found.phases.values())
    assert found.peak.required_bytes > found.peak.allocated_bytes


@pytest.mark.parametrize("stack", OURS)
def test_a_trace_is_refused_in_one_line_with_what_to_use(stack: str) -> None:
    with pytest.raises(UnsupportedScenario, match="not built here: use --evidence closed-form, or --stack hf or trl"):
        check_versions(made(stack=stack).stack)


def test_llamafactory_trains_in_fp32_unless_told_otherwise() -> None:
    scenario = made("full", "llamafactory")

    assert (scenario.train.weights_dtype, scenario.origins["weights_dtype"]) == ("fp32", "stack")
    assert made("lora", "llamafactory").train.weights_dtype == "bf16"
    assert made("full", "llamafactory", weights_dtype="bf16").train.weights_dtype == "bf16"  # pure_bf16
    assert "weights_dtype" not in unset_settings("llamafactory")
    # 4 bytes of weight, gradient and two moments each
    states = estimate(scenario).phases["optimizer_step"]
    assert states.weights + states.gradients + states.optimizer == pytest.approx(16 * 8_030_261_248, rel=0.001)


def test_saved_modules_are_as_wide_as_the_adapters() -> None:
    head = LLAMA.vocab_size * LLAMA.hidden_size
    wide, narrow = (
        answer("lora", stack, modules_to_save=("lm_head",)).phases["load"].adapters
        - answer("lora", stack).phases["load"].adapters
        for stack in ("llamafactory", "hf")
    )

    assert (wide, narrow) == (4 * head, 2 * head)


def test_unsloth_offloads_checkpoints_of_long_sequences() -> None:
    assert made(stack="unsloth").train.offload == ("activations",)
    assert made(stack="unsloth").origins["offload"] == "stack"
    assert made(stack="unsloth", seq_len=511).train.offload == ()
    assert made(stack="unsloth", gradient_checkpointing=False).train.offload == ()
    assert made(stack="unsloth", offload="none").train.offload == ()


def test_offloaded_checkpoints_leave_three_inputs_on_the_card() -> None:
    inputs = 2 * 4096 * 8192  # bf16
    there, away = (
        answer("lora", "unsloth", seq_len=8192, offload=offload).phases["loss"].activations
        for offload in ("none", "activations")
    )

    assert there - away == (LLAMA.num_hidden_layers - 3) * inputs


def test_dropout_is_left_to_peft_by_older_axolotl() -> None:
    assert made().train.kernels == "fused"
    assert made(lora_dropout=0.1).train.kernels == "fused"
    assert made(stack="axolotl,axolotl=0.15", lora_dropout=0.1).train.kernels == "eager"
    assert made(stack="axolotl,axolotl=0.15", lora_dropout=0.1, kernels="fused").train.kernels == "fused"
    assert made("full").train.kernels == "eager"


def test_axolotl_offloads_in_place_of_recomputing_adapters_only() -> None:
    asked: dict[str, Any] = {"offload": "activations", "gradient_checkpointing": True}

    assert not made("lora", **asked).train.gradient_checkpointing
    assert made("lora", **asked).origins["gradient_checkpointing"] == "stack"
    assert made("full", **asked).train.gradient_checkpointing
    assert made("lora", "axolotl,axolotl=0.17", **asked).train.gradient_checkpointing


def test_torchao_has_no_other_weights_than_nf4() -> None:
    with pytest.raises(UnsupportedScenario, match="torchtune has no int8 weights: use --quant nf4"):
        made("qlora", "torchtune", quant="int8")


# ---------------------------------------------------------------- dtypes


def test_axolotl_leaves_stacked_experts_wide_and_nothing_else() -> None:
    def weights(model: Any, stack: str) -> int:
        return estimate(resolve(model, A100, "qlora", {"lora_targets": ("q_proj",)}, stack)).phases["load"].weights

    stacked = 32 * 8 * 3 * 4096 * 14336
    assert weights(MIXTRAL, "axolotl") - weights(MIXTRAL, "trl") == 2 * stacked
    assert weights(LLAMA, "axolotl") == weights(LLAMA, "trl")


def test_axolotl_trains_what_is_no_layer_in_fp32_without_flash_attention() -> None:
    def states(**settings: Any) -> int:
        memory = answer("full", **settings).phases["optimizer_step"]
        return memory.weights + memory.gradients + memory.optimizer

    outside = 2 * LLAMA.vocab_size * LLAMA.hidden_size + 65 * LLAMA.hidden_size  # embedding, head, norms
    narrow = states(attention="flash")

    assert states(attention="sdpa") - narrow == 4 * 2 * outside
    assert states(attention="sdpa", loss="fused") == narrow  # cut cross entropy takes a 16-bit head
    assert states(attention="sdpa", stack="trl") == states(attention="flash", stack="trl")


def test_torchao_and_bitsandbytes_differ_by_their_tables() -> None:
    # 16-bit factors per 256 scalers where bitsandbytes has fp32 ones
    n = 4096 * 4096

    assert torchao_nf4_bytes(n) - nf4_bytes(n, double_quant=True) == 34 - 2 * n // (64 * 256)


# ---------------------------------------------------------------- gradients of several cards

FSDP = Cluster(gpu=A100.gpu, gpus=8)


@pytest.mark.parametrize(
    ("stack", "each"),
    [
        ("torchtune", True),
        ("plain", True),
        ("hf", False),
        ("hf,accelerate=1.10", True),
        ("hf,accelerate=1.10,fsdp=1", False),
    ],
)
def test_who_reduces_after_every_micro_batch(stack: str, each: bool) -> None:
    scenario = made("full", stack, FSDP, grad_accumulation=2)
    alone = estimate(made("full", stack, FSDP, grad_accumulation=1))

    assert scenario.reduces_each == each
    more = estimate(scenario).phases["backward"].gradients - alone.phases["backward"].gradients
    assert (more > 8_000_000_000) == (not each)


def test_ddp_leaves_gradients_alone_with_every_accelerate() -> None:
    assert not made("lora", "hf,accelerate=1.10", FSDP, sharding="ddp").reduces_each


def test_what_is_no_layer_is_whole_through_the_step_where_it_is_no_unit() -> None:
    # Axolotl's fsdp2_prepare_model: embedding and head, 2 x 1.05 GB in bf16, are gathered through the step
    outer, layers = (
        estimate(replace(scenario, stack=replace(scenario.stack, fsdp2_units=units))).phases["forward"].total
        for scenario in [made("lora", "axolotl", FSDP, seq_len=32768)]
        for units in ("outer", "layers")
    )
    table = 2 * LLAMA.vocab_size * LLAMA.hidden_size

    assert layers - outer == pytest.approx(2 * table, rel=0.1)


def test_axolotl_shards_weights_as_they_were_loaded() -> None:
    ours, theirs = (
        estimate(made("full", stack, FSDP)).phases["load"].weights for stack in ("axolotl", "hf,accelerate=1.13")
    )

    assert theirs == pytest.approx(2 * ours, rel=0.001)


def test_before_accelerate_1_13_the_frozen_base_was_widened_too() -> None:
    old, new = (
        estimate(made("lora", f"hf,accelerate={version}", FSDP)).phases["load"].weights for version in ("1.12", "1.13")
    )

    assert old == pytest.approx(2 * new, rel=0.001)


# ---------------------------------------------------------------- losses


def test_unsloth_cuts_by_what_is_free() -> None:
    found = [unsloth_chunks(16384, 128256, free * 2**30) for free in (1, 2, 4, 8, 80)]

    assert found == sorted(found, reverse=True)
    assert found[-2:] == [unsloth_chunks(16384, 128256, 2 * 4 * 2**30)] * 2  # never more than 4 GiB at a time
    assert all(count % 4 == 0 for count in found)
    assert unsloth_chunks(8, 128256, 0) == 8  # a token at a time at worst


def test_losses_without_logits_take_less_the_less_they_make() -> None:
    head = Head(t=8192, h=4096, V=128256, e=2, hidden_bytes=2, weight_bytes=2, trained=False)
    sizes = [
        max(found.forward, found.backward)
        for found in (cut_fused(head), liger_fused(head), unsloth_fused(head, free=2**36), chunked_outputs(head))
    ]

    assert all(less < more for less, more in pairwise(sizes))


torch: Any = pytest.importorskip("torch", reason="needs torch")


def test_torchtunes_chunks_take_what_torch_makes_of_them() -> None:
    # the loss of its recipes in eager torch on fake tensors: head in chunks, then each chunk in fp32
    for t, h, vocabulary, trained in ((4096, 512, 32000, False), (1024, 4096, 128000, True)):
        forward, backward = _chunked_loss(t, h, vocabulary, trained)
        found = chunked_outputs(Head(t, h, vocabulary, 2, 2, 2, trained))
        hidden = 2 * t * h

        assert found.forward - hidden == pytest.approx(forward, rel=0.001)
        assert found.backward - hidden == pytest.approx(backward, rel=0.002)


def test_torchaos_weights_are_as_large_as_they_say() -> None:
    nf4 = pytest.importorskip("torchao.dtypes.nf4tensor", reason="needs torchao")
    weight = nf4.to_nf4(torch.randn(1024, 2048, dtype=torch.bfloat16))
    parts = ("quantized_data", "quantized_scalers", "quantization_factor", "scaler_mean", "nf4")
    stored = sum(getattr(weight, part).numel() * getattr(weight, part).element_size() for part in parts)
    with living()() as alive:
        weight.get_original_weight()

    assert torchao_nf4_bytes(1024 * 2048) == stored
    assert torchao_nf4_scratch(1024 * 2048) == pytest.approx(alive.most, rel=0.01)


def test_a_fused_mlp_takes_what_its_function_takes() -> None:
    # a function that saves x, gate and up, and writes its gradients over them, as Unsloth's and Axolotl's do
    b, s = 2, 512
    scenario = made("lora", "axolotl", lora_rank=1, micro_batch_size=b, seq_len=s)
    recipe = recipe_of(LLAMA, key_of(scenario), scenario.stack)
    source = Tensor("x", Size(token=2 * 4096), "b s h", 2, grad=True)
    recorder = Recorder(recipe, Tape(source))
    assert LLAMA.blocks[0].mlp is not None
    mlp(recorder, LLAMA.blocks[0].mlp, source)
    forward, backward = _fused_mlp(b * s, 4096, 14336)
    ours = [
        max(one.total.bytes(b=b, s=s) for one in instants)
        for instants in (forward_instants(recorder.tape, keep=True), backward_instants(recorder.tape))
    ]

    assert ours[0] == pytest.approx(forward, rel=0.01)
    assert ours[1] == pytest.approx(backward, rel=0.01)


def test_a_fused_layer_keeps_less_than_an_eager_one() -> None:
    def kept(**settings: Any) -> int:
        scenario = made("qlora", "axolotl", **settings)
        key = key_of(scenario)
        assert not storage_of(key, scenario.stack).torchao
        recipe = recipe_of(LLAMA, key, scenario.stack)
        return block_tape(LLAMA.blocks[0], LLAMA.hidden_size, recipe).saved_by_owner().total.token

    # the product of activation and up projection, and the activation itself
    assert kept(kernels="eager") - kept() >= 2 * 2 * 14336


# ---------------------------------------------------------------- torch


def living() -> Any:
    """A mode that counts the storages that are made inside and still there."""
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415  (with torch only)
    from torch.utils._pytree import tree_leaves  # noqa: PLC0415

    class Living(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self, *outside: Any) -> None:
            super().__init__()
            self.outside = {tensor.untyped_storage()._cdata for tensor in outside}
            self.known: dict[int, int] = {}
            self.now = self.most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.numel() > 16:
                    self.count(tensor.untyped_storage())
            return out

        def count(self, storage: Any) -> None:
            key = storage._cdata
            if key in self.known or key in self.outside:
                return
            self.known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, key)

        def forget(self, key: int) -> None:
            self.now -= self.known.pop(key)

    return Living


def _chunked_loss(t: int, h: int, vocabulary: int, trained: bool) -> tuple[int, int]:
    """Most bytes of a forward and a backward pass, besides the hidden states and the weight."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    functional = torch.nn.functional
    with FakeTensorMode():
        hidden = torch.empty(1, t, h, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(vocabulary, h, dtype=torch.bfloat16, requires_grad=trained)
        labels = torch.zeros(1, t, dtype=torch.long)
        with living()(hidden, weight, labels) as alive:
            logits = [functional.linear(chunk, weight) for chunk in hidden.chunk(8, dim=1)]
            loss = _sum_of_losses(logits, labels)
            forward = alive.most
            del logits
            alive.most = alive.now
            loss.backward()
            return forward, alive.most


def _sum_of_losses(logits: list[Any], labels: Any) -> Any:
    parts = zip([chunk.reshape(-1, chunk.size(-1)) for chunk in logits], labels.chunk(8, dim=1), strict=True)
    entropy = torch.nn.functional.cross_entropy
    return sum(entropy(chunk.float(), part.reshape(-1), reduction="sum") for chunk, part in parts) / labels.numel()


def _fused_mlp(t: int, h: int, f: int) -> tuple[int, int]:
    """Most bytes of both passes of one function around an MLP, besides its input and frozen weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    class Function(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, gate: Any, up: Any, down: Any) -> Any:
            first, second = x @ gate, x @ up
            hidden = torch.empty_like(first)
            ctx.save_for_backward(x, first, second, gate, up, down)
            return hidden @ down

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            _, first, second, gate, up, down = ctx.saved_tensors
            made = grad @ down.t()
            first.copy_(made)
            second.copy_(made)
            dx = first @ gate.t()
            dx.addmm_(second, up.t())
            return dx, None, None, None

    with FakeTensorMode():
        x = torch.empty(t, h, dtype=torch.bfloat16, requires_grad=True)
        weights = [torch.empty(*shape, dtype=torch.bfloat16) for shape in ((h, f), (h, f), (f, h))]
        with living()(x, *weights) as alive:
            out = Function.apply(x, *weights)
            forward = alive.most
            grad = torch.empty_like(out)
            alive.most = alive.now
            out.backward(grad)
            return forward, alive.most - out.untyped_storage().nbytes()


def test_all_stacks_are_tried_here() -> None:
    assert set(OURS) | {"plain", "hf", "trl"} == set(STACKS)
