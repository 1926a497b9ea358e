"""Experts that Axolotl quantises as it loads them: what bitsandbytes makes of a stack, and a pass of that."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.inventory import take_inventory
from planner.closed_form.profile import profile_of
from planner.closed_form.recipe import key_of, recipe_of, storage_of
from planner.errors import UnsupportedScenario
from planner.formulas.experts import UNPACKED, experts
from planner.formulas.operations import Recorder
from planner.formulas.params import expert_stacks
from planner.formulas.tape import Size, Tape, Tensor
from planner.hardware import load_gpu
from planner.spec import Cluster, ModelSpec, Scenario
from planner.stacks import load_stack, resolve
from planner.throughput.work import work_of

GLM, LLAMA = load_model("glm-4.7-flash").model, load_model("llama-3.1-8b").model
PACKED = "axolotl,quantize_moe_experts=0.19"
E, H, F = 64, 2048, 1536
"""GLM 4.7 Flash: experts, hidden size, width of one; 46 of its 47 layers have them."""
STACKS = 46 * E * 3 * H * F


def made(stack: str = PACKED, model: ModelSpec = GLM, gpus: int = 1, **settings: Any) -> Scenario:
    card = Cluster(gpu=load_gpu("a100-80gb"), gpus=gpus)
    return resolve(model, card, "qlora", {"lora_targets": ("o_proj",), "kernels": "eager", **settings}, stack)


def weights(scenario: Scenario) -> int:
    return take_inventory(scenario.model, storage_of(key_of(scenario), scenario.stack)).weights


def tape_of_experts(**settings: Any) -> Tape:
    """The experts of one layer, on rows that need a gradient."""
    scenario = made(**settings)
    recorder = Recorder(
        recipe_of(GLM, key_of(scenario), scenario.stack),
        Tape(Tensor("x", Size(token=2 * H), "b s h", 2, grad=True)),
    )
    spec = GLM.blocks[-1].experts
    assert spec is not None
    experts(recorder, replace(spec, shared=None, shared_gate=None), recorder.tape.source)
    return recorder.tape


# ---------------------------------------------------------------- when


def test_only_who_asks_has_quantised_experts() -> None:
    assert load_stack(PACKED).behaviour.quantizes_experts
    assert not load_stack("axolotl").behaviour.quantizes_experts


def test_a_model_without_experts_and_experts_that_are_modules_feel_nothing() -> None:
    older = "axolotl,transformers=4.57"

    assert weights(made(model=LLAMA)) == weights(made("axolotl", model=LLAMA))
    assert weights(made(f"{older},quantize_moe_experts=0.19")) == weights(made(older))


# ---------------------------------------------------------------- what stays


def test_stacks_are_quantised_whole() -> None:
    # packed bytes, a byte per block of 64, an fp32 scale per 256 of these; tables and offset: 16, 256 and 1 floats
    stacks = [E * 2 * F * H, E * F * H]
    four_bit = 46 * sum(n // 2 + n // 64 + 4 * -(-n // 64 // 256) + 4 * (16 + 256 + 1) for n in stacks)
    eight_bit = 46 * (E * 3 * H * F + 4 * E * (2 * F + H))
    wide = 4 * STACKS  # PEFT's preparation makes 16-bit parameters fp32

    assert sum(count * site.d_in * site.d_out for site, count in expert_stacks(GLM)) == STACKS
    assert weights(made("axolotl")) - weights(made()) == wide - four_bit
    assert weights(made("axolotl", quant="int8")) - weights(made(quant="int8")) == wide - eight_bit


def test_they_count_as_quantised() -> None:
    ours, plain = (estimate(made(stack)).parameters for stack in (PACKED, "axolotl"))

    assert ours.quantized - plain.quantized == STACKS
    assert ours.total == plain.total


def test_a_stack_is_joined_from_matrices_before_it_is_quantised() -> None:
    # gate and up as stacks of their own, and both in one: twice its 16-bit bytes
    assert estimate(made()).phases["load"].temporaries == 2 * 2 * E * 2 * F * H
    assert profile_of(made()).inventory.largest_stack == E * 2 * F * H
    # gpt-oss's checkpoint has stacks
    oss = made(model=load_model("gpt-oss-20b").model)
    assert estimate(oss).phases["load"].temporaries == 2 * 32 * 2 * 2880 * 2880


# ---------------------------------------------------------------- what a pass makes


@pytest.mark.parametrize(("quant", "e"), [("nf4", 2), ("int8", 4)])
def test_a_pass_dequantises_every_stack_and_keeps_it_for_backward(quant: str, e: int) -> None:
    tape = tape_of_experts(quant=quant)

    assert [op.output.size.fixed for op in tape.ops if op.name == UNPACKED] == [E * 2 * F * H * e, E * F * H * e]
    assert sum(one.size.fixed for one in tape.saved()) == E * 3 * F * H * e
    assert tape.result.e == 2  # whatever the products' dtype


def test_checkpoints_hold_one_layers_stacks_at_a_time() -> None:
    with_them, without = (
        estimate(made(gradient_checkpointing=on, loss="fused")).phases["backward"].activations for on in (True, False)
    )
    stacks = E * 3 * F * H * 2

    assert stacks < with_them < 3 * stacks
    assert without > 46 * stacks


def test_what_is_not_planned_is_refused_with_what_is() -> None:
    with pytest.raises(UnsupportedScenario, match="use --sharding ddp"):
        made(gpus=2, sharding="fsdp")
    with pytest.raises(UnsupportedScenario, match="--lora-targets q_proj"):
        estimate(made(lora_targets=("all-linear",)))
    assert made(gpus=2, sharding="ddp").stack.quantizes_experts


def test_a_pass_forward_dequantises_and_backward_does_not() -> None:
    def read(stack: str, **settings: Any) -> float:
        scenario = made(stack, **settings)
        return work_of(scenario, estimate(scenario)).dequantised

    for on in (False, True):
        wide = read(PACKED, gradient_checkpointing=on) - read("axolotl", gradient_checkpointing=on)
        assert wide == pytest.approx((1 + on) * 2.53 * STACKS)
    assert read(PACKED, quant="int8") - read("axolotl", quant="int8") == pytest.approx(2 * 13 * STACKS)


# ---------------------------------------------------------------- bitsandbytes

torch: Any = pytest.importorskip("torch", reason="needs torch")


def test_bitsandbytes_packs_a_stack_into_what_we_count() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes")
    stack = torch.randn(4, 96, 64, dtype=torch.bfloat16)
    numel = stack.numel()
    for nested in (False, True):
        packed, state = functional.quantize_4bit(stack, compress_statistics=nested, quant_type="nf4")
        first = state.absmax.nbytes + state.code.nbytes
        second = state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes if nested else 0
        assert packed.nbytes == numel // 2
        assert packed.nbytes + first + second == one_stack(quant="nf4", double_quant=nested)
    rows, scales, _ = functional.int8_vectorwise_quant(stack.to(torch.float16).view(-1, 64))
    assert rows.nbytes + scales.nbytes == one_stack(quant="int8")


def one_stack(**settings: Any) -> int:
    """Bytes of a stack of 4 matrices of 96 by 64, as the inventory counts them: half of those of two."""
    spec = GLM.blocks[-1].experts
    assert spec is not None
    stacks = (replace(spec.tables[0], shape=(4, 96, 64)), replace(spec.tables[1], shape=(4, 96, 64)))
    model = replace(GLM, blocks=(replace(GLM.blocks[-1], experts=replace(spec, tables=stacks)),), layout=(0,))
    storage = storage_of(key_of(made(**settings)), load_stack(PACKED).behaviour)
    both, none = (
        take_inventory(model, storage._replace(packed_experts=packed)).quantized_weights for packed in (True, False)
    )
    return (both - none) // 2


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_transformers_experts_save_what_bitsandbytes_dequantises(quant: str) -> None:
    pytest.importorskip("bitsandbytes.nn.parametrize", reason="needs bitsandbytes 0.48")
    module = quantised(quant)
    x = torch.randn(16, 128, dtype=torch.bfloat16, requires_grad=True)
    chosen, shares = torch.randint(0, 8, (16, 2)), torch.rand(16, 2, dtype=torch.bfloat16, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        if tensor.ndim == 3:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(x, chosen, shares)
    e = 4 if quant == "int8" else 2

    assert sorted(kept.values()) == [8 * 128 * 256 * e, 8 * 2 * 128 * 256 * e]
    assert out.dtype == torch.bfloat16
    assert not any(parameter.is_floating_point() for parameter in module.parameters())  # nothing for PEFT to widen


@pytest.mark.parametrize(("quant", "most"), [("nf4", 2 + 4 / 64), ("int8", 4 + 4)])
def test_dequantising_takes_what_we_say_beside_the_stack(quant: str, most: float) -> None:
    pytest.importorskip("bitsandbytes.nn.parametrize", reason="needs bitsandbytes 0.48")
    module, numel = quantised(quant), 8 * 2 * 128 * 256
    op = next(op for op in tape_of_experts(quant=quant).ops if op.name == UNPACKED)

    assert op.output.size.fixed + op.scratch_forward.fixed == most * E * 2 * F * H
    assert peak(lambda: module.gate_up_proj) == pytest.approx(most * numel, rel=0.02)


def quantised(quant: str) -> Any:  # an nn.Module
    """Mixtral's experts with stacks as Axolotl replaces them: its 8-bit parametrization is bitsandbytes' function."""
    from bitsandbytes import functional  # noqa: PLC0415
    from bitsandbytes.nn.parametrize import replace_parameter_4bit  # noqa: PLC0415
    from torch.nn.utils import parametrize  # noqa: PLC0415
    from transformers import MixtralConfig  # noqa: PLC0415
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts  # noqa: PLC0415

    class Rows(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, scales: Any) -> None:
            super().__init__()
            self.register_buffer("scales", scales)

        @torch.no_grad()  # type: ignore[untyped-decorator]
        def forward(self, rows: Any) -> Any:
            wide = functional.int8_vectorwise_dequant(rows.reshape(-1, rows.shape[-1]), self.scales)
            return wide.reshape(rows.shape)

    config = MixtralConfig(hidden_size=128, intermediate_size=256, num_local_experts=8, num_experts_per_tok=2)
    config._experts_implementation = "grouped_mm"
    module = MixtralExperts(config).to(torch.bfloat16)
    for name, parameter in list(module.named_parameters()):
        torch.nn.init.normal_(parameter, std=0.02)
        if quant == "nf4":
            replace_parameter_4bit(module, name, compress_statistics=True, quant_type="nf4")
            continue
        flat = parameter.data.to(torch.float16).view(-1, parameter.shape[-1])  # on CUDA it takes the stack itself
        rows, scales, _ = functional.int8_vectorwise_quant(flat)
        setattr(module, name, torch.nn.Parameter(rows.view(parameter.shape), requires_grad=False))
        parametrize.register_parametrization(module, name, Rows(scales), unsafe=True)
    return module


def peak(call: Callable[[], Any]) -> int:
    """Most bytes that lie in memory at once of what ``call`` allocates."""
    with torch.profiler.profile(profile_memory=True) as found:
        kept = call()
    del kept
    now = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
