"""From what the user set to a whole scenario: who decides, and what is refused."""

import math
from dataclasses import fields
from typing import Any

import pytest

from planner.catalog import load_model
from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.hardware import load_gpu
from planner.spec import METHODS, OPTIMIZERS, Cluster, Method, Scenario, TrainSpec
from planner.stacks import resolve

LLAMA = load_model("llama-3.1-8b").model
A100, T4, V100 = (Cluster(gpu=load_gpu(name)) for name in ("a100-80gb", "t4", "v100-32gb"))


def made(method: Method = "lora", cluster: Cluster = A100, stack: str = "trl", **settings: Any) -> Scenario:
    return resolve(LLAMA, cluster, method, settings, stack)


def several(count: int, cluster: Cluster = A100) -> Cluster:
    return Cluster(gpu=cluster.gpu, gpus=count)


# ---------------------------------------------------------------- who decides


def test_defaults_are_those_of_the_contract() -> None:
    train = made().train

    assert (train.seq_len, train.micro_batch_size, train.grad_accumulation) == (2048, 1, 1)
    assert (train.lora_rank, train.lora_alpha, train.lora_dropout, train.lora_targets) == (
        16,
        32.0,
        0.0,
        ("all-linear",),
    )
    assert (train.quant, train.double_quant, train.quant_storage) == ("nf4", True, "uint8")
    assert (train.weights_dtype, train.gradient_checkpointing, train.attention) == ("bf16", True, "flash")
    assert (train.kernels, train.sharding, train.modules_to_save) == ("eager", "none", ())


def test_the_stack_beats_the_default_and_the_user_beats_the_stack() -> None:
    # adapters of a quantised base: fp32 by default, bf16 with TRL, what the user says otherwise
    assert made("qlora", stack="hf").train.adapter_dtype == "fp32"
    assert made("qlora").train.adapter_dtype == "bf16"
    assert made("qlora", adapter_dtype="fp32").train.adapter_dtype == "fp32"


def test_origins_say_who_decided() -> None:
    origins = made("lora", seq_len=4096, loss="full").origins

    assert origins["seq_len"] == "user"
    assert origins["loss"] == "user"
    assert origins["autocast"] == "stack"
    assert origins["optimizer"] == "stack"
    assert origins["micro_batch_size"] == "default"
    assert origins["method"] == "user"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stack", ["plain", "hf", "trl"])
def test_every_setting_has_a_value_and_an_origin(method: Method, stack: str) -> None:
    scenario = made(method, stack=stack)

    assert set(scenario.origins) == {field.name for field in fields(TrainSpec)}
    assert set(scenario.origins.values()) <= {"user", "stack", "model", "default"}


def test_what_is_none_was_not_set() -> None:
    assert made(seq_len=None, lora_rank=None) == made()
    assert made(seq_len=None).origins["seq_len"] == "default"


def test_adamw_becomes_the_stacks_own_kind() -> None:
    # Trainer: fused from transformers 4.54 and torch 2.8 on; a bare loop: torch's default, foreach
    assert made().train.optimizer == "adamw_fused"
    assert made(stack="plain").train.optimizer == "adamw_foreach"
    assert made(stack="hf,torch=2.4").train.optimizer == "adamw_foreach"
    assert made(optimizer="adamw_loop").train.optimizer == "adamw_loop"
    assert made(optimizer="adamw").train.optimizer == "adamw_fused"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_can_be_named(name: str) -> None:
    scenario = made(optimizer=name)

    assert scenario.train.optimizer == name
    assert scenario.origins["optimizer"] == "user"


def test_alpha_follows_the_rank_unless_it_is_set() -> None:
    assert made(lora_rank=64).train.lora_alpha == 128.0
    assert made(lora_rank=64, lora_alpha=16).train.lora_alpha == 16.0


def test_two_gpus_are_sharded_by_default() -> None:
    assert made(cluster=several(2)).train.sharding == "fsdp"
    assert made(cluster=Cluster(gpu=A100.gpu, nodes=2)).train.sharding == "fsdp"
    assert made(cluster=several(2), sharding="ddp").train.sharding == "ddp"


# ---------------------------------------------------------------- what one setting decides about another


@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_4_bit_weights_are_stored_as_floats_where_they_are_sharded(sharding: str) -> None:
    # uint8 weights would not shard
    assert made("qlora", several(2), sharding=sharding).train.quant_storage == "bf16"
    assert made("qlora", several(2), sharding=sharding, quant_storage="uint8").train.quant_storage == "uint8"
    assert made("qlora", several(2, T4), sharding=sharding).train.quant_storage == "fp16"


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2"])
def test_elsewhere_they_stay_bytes(sharding: str) -> None:
    assert made("qlora", several(2), sharding=sharding).train.quant_storage == "uint8"
    assert made("lora", several(2), sharding="fsdp").train.quant_storage == "uint8"


@pytest.mark.parametrize("cluster", [T4, V100])
def test_cards_without_bf16_use_fp16_and_sdpa(cluster: Cluster) -> None:
    train = made("lora", cluster).train

    assert (train.weights_dtype, train.autocast, train.attention) == ("fp16", "fp16", "sdpa")
    assert made("qlora", cluster).train.adapter_dtype == "fp32"
    # a gradient scaler cannot unscale fp16 gradients: fp32 weights
    assert made("full", cluster).train.weights_dtype == "fp32"


def test_cards_with_bf16_use_it() -> None:
    for method in METHODS:
        train = made(method).train
        assert (train.weights_dtype, train.autocast, train.attention) == ("bf16", "bf16", "flash")


NOT_ALL_KERNELS = [
    # what transformers 5.23 offers for the class, and what the card can run
    ("bloom-560m", A100, "eager"),
    ("llama-4-scout", A100, "sdpa"),
    ("gpt-oss-20b", A100, "flash"),
    ("gpt-oss-20b", T4, "eager"),
    ("gemma-2-2b", V100, "eager"),
    ("llama-3.1-8b", V100, "sdpa"),
]


@pytest.mark.parametrize(("model", "cluster", "expected"), NOT_ALL_KERNELS)
def test_the_fastest_attention_that_class_and_card_have(model: str, cluster: Cluster, expected: str) -> None:
    assert resolve(load_model(model).model, cluster, "lora").train.attention == expected


# ---------------------------------------------------------------- names


NAMES = [
    ("q_proj,v_proj", ("q_proj", "v_proj")),
    (" q_proj , v_proj ", ("q_proj", "v_proj")),
    ("q_proj,q_proj", ("q_proj",)),
    (["q_proj", "v_proj"], ("q_proj", "v_proj")),
    (("o_proj",), ("o_proj",)),
    ("all-linear", ("all-linear",)),
]


@pytest.mark.parametrize(("given", "expected"), NAMES)
def test_target_names_come_with_commas_or_as_a_list(given: object, expected: tuple[str, ...]) -> None:
    assert made(lora_targets=given).train.lora_targets == expected


def test_no_modules_to_save_is_said_in_three_ways() -> None:
    for nothing in ("none", "", ()):
        assert made(modules_to_save=nothing).train.modules_to_save == ()


# ---------------------------------------------------------------- refusals

REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    # a choice that does not exist
    *[
        ({name: "no-such-choice"}, UsageError, f"--{name.replace('_', '-')} 'no-such-choice' is not one of")
        for name in (
            "adapter_dtype", "quant", "quant_storage", "weights_dtype", "autocast", "optimizer", "attention",
            "kernels", "loss", "sharding",
        )
    ],
    *[({name: 3}, UsageError, "is not one of") for name in ("optimizer", "attention")],
    # numbers
    *[
        ({name: value}, UsageError, "is outside 1 to" if isinstance(value, int) else "is not a whole number")
        for name in ("seq_len", "micro_batch_size", "grad_accumulation", "lora_rank")
        for value in (0, -1, 2**40, 1.5, "8")
    ],
    ({"seq_len": True}, UsageError, "is not a whole number"),
    ({"lora_dropout": 1.0}, UsageError, "is outside 0 to 0.99"),
    ({"lora_dropout": -0.1}, UsageError, "is outside 0 to 0.99"),
    ({"lora_dropout": math.nan}, UsageError, "is not a number"),
    ({"lora_alpha": math.inf}, UsageError, "is not a number"),
    ({"lora_alpha": "16"}, UsageError, "is not a number"),
    ({"lora_alpha": 10**5000}, UsageError, "a huge number is outside 0"),
    ({"seq_len": 10**5000}, UsageError, "a huge number is outside 1"),
    ({"lora_alpha": True}, UsageError, "is not a number"),
    # flags
    ({"double_quant": 1}, UsageError, "is neither true nor false"),
    ({"gradient_checkpointing": "yes"}, UsageError, "is neither true nor false"),
    # names
    ({"lora_targets": ""}, UsageError, "--lora-targets is empty"),
    ({"lora_targets": "none"}, UsageError, "--lora-targets is empty"),
    ({"lora_targets": [1]}, UsageError, "is not a list of module names"),
    ({"modules_to_save": {"lm_head": 1}}, UsageError, "is not a list of module names"),
    # settings that nobody knows, with the nearest that is
    ({"seq_length": 128}, UnknownName, "did you mean seq_len"),
    ({"lora_r": 8}, UnknownName, "did you mean lora_rank"),
    ({"xyzzy": 8}, UnknownName, "unknown setting 'xyzzy'"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED)
def test_a_setting_without_meaning_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**settings)


def test_a_method_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="dora"):
        resolve(LLAMA, A100, "dora")  # type: ignore[arg-type]


def test_what_the_card_cannot_do_is_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="t4 cannot run FlashAttention-2: use --attention sdpa"):
        made(cluster=T4, attention="flash")
    with pytest.raises(UnsupportedScenario, match="a gradient scaler cannot unscale them"):
        made("full", weights_dtype="fp16")
    deepspeeds = made("full", weights_dtype="fp16", sharding="zero2")
    assert deepspeeds.train.weights_dtype == "fp16", "it has a scaler of its own"
    with pytest.raises(UnsupportedScenario, match="has no flash attention in transformers"):
        resolve(load_model("bloom-560m").model, A100, "lora", {"attention": "flash"})


def test_several_cards_need_a_scheme() -> None:
    with pytest.raises(UsageError, match="--sharding none on 2 GPUs: use --sharding"):
        made(cluster=several(2), sharding="none")
    with pytest.raises(UsageError, match="more than the 4096"):
        made(cluster=several(5000))


def test_messages_are_one_line_and_short() -> None:
    for settings in ({"optimizer": "x" * 500}, {"seq_len": 10**500}, {"lora_targets": [["a"] * 500]}):
        with pytest.raises(UsageError) as caught:
            made(**settings)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_equal_questions_are_equal_scenarios() -> None:
    assert made(seq_len=4096) == made(seq_len=4096)
    # who chose a value does not change the question
    assert made(seq_len=2048) == made()
    assert hash(made(seq_len=2048)) == hash(made())


def test_fp32_queries_take_no_flash_attention() -> None:
    # transformers 5.23 modeling_flash_attention_utils.py, get_target_dtype: fp32 stays fp32 without autocast.
    settings = {"weights_dtype": "fp32", "autocast": "none"}

    assert resolve(LLAMA, A100, "full", settings).train.attention == "sdpa"
    with pytest.raises(UnsupportedScenario, match="16-bit inputs only"):
        resolve(LLAMA, A100, "full", {**settings, "attention": "flash"})


@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_8_bit_weights_are_not_sharded(sharding: str) -> None:
    with pytest.raises(UnsupportedScenario, match="8-bit weights cannot be sharded"):
        resolve(LLAMA, several(2), "qlora", {"quant": "int8", "sharding": sharding})


def test_what_a_trainer_does_not_have_is_not_planned_for_it() -> None:
    two = Cluster(gpu=A100.gpu, gpus=2)

    assert resolve(LLAMA, A100, "lora", stack="torchtune").train.attention == "sdpa"
    assert resolve(load_model("gemma-2-2b").model, A100, "lora", stack="torchtune").train.attention == "eager"
    assert resolve(LLAMA, two, "lora", stack="torchtune").train.sharding == "fsdp"
    assert resolve(LLAMA, two, "lora", stack="unsloth").train.sharding == "ddp"
    for stack, settings in (
        ("torchtune", {"attention": "flash"}),
        ("torchtune", {"sharding": "ddp"}),
        ("torchtune", {"loss": "fused"}),
        ("torchtune", {"weights_dtype": "fp16"}),
        ("unsloth", {"sharding": "zero3"}),
    ):
        name, value = next(iter(settings.items()))
        with pytest.raises(
            UnsupportedScenario, match=f"stack {stack} with --{name.replace('_', '-')} {value} is not planned"
        ):
            resolve(LLAMA, two, "lora", settings, stack=stack)
