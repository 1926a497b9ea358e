"""One job against another: ranges by hand, and published ratios that the model must give."""

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.hardware import load_gpu
from planner.spec import Cluster, Method
from planner.stacks import resolve
from planner.throughput import step_time
from planner.throughput.constants import constants
from planner.throughput.ratios import DEQUANTISE, KERNEL_S, Job, ratio
from planner.validation.timing import Timed, timed

BY_ID = {one.run.id: one for one in timed()}
LIGER = "fms-a100_80gb_liger-Mistral-7B-v0.1"


def job(method: Method, seq_len: int = 2048) -> Job:
    settings = {"seq_len": seq_len, "adapter_dtype": "bf16", "autocast": "none"}
    one = resolve(load_model("llama-3.1-8b").model, Cluster(gpu=load_gpu("a100")), method, settings, "plain")
    return Job(one, estimate(one))


@pytest.mark.parametrize("seq_len", [128, 2048, 32768])
def test_a_range_holds_the_ratio_of_the_times_themselves(seq_len: int) -> None:
    lora, qlora = job("lora", seq_len), job("qlora", seq_len)
    times = [step_time(*one) for one in (qlora, lora)]
    assert times[0] is not None
    assert times[1] is not None

    found = ratio(qlora, lora)

    assert found is not None
    assert found.low <= times[0].seconds / times[1].seconds <= found.high


def test_what_is_unsure_lies_around_what_is_taken() -> None:
    known = constants()

    assert DEQUANTISE[0] < known.dequantise.value < DEQUANTISE[1]
    assert KERNEL_S[0] < known.kernel.value < KERNEL_S[1]


def test_a_ratio_turned_around_is_the_other_one() -> None:
    one, other = ratio(job("qlora"), job("lora")), ratio(job("lora"), job("qlora"))

    assert one is not None
    assert other is not None
    assert (1 / other.high, 1 / other.low) == pytest.approx((one.low, one.high))


def against(slow: Timed, fast: Timed) -> tuple[float, float]:
    """Published and predicted ratio."""
    return slow.run.seconds / fast.run.seconds, slow.predicted() / fast.predicted()


@pytest.mark.parametrize(
    ("slow", "fast", "published"),
    [
        # full against LoRA on one card, the same kernels: a third fewer FLOPs are worth 1.14
        (f"{LIGER}-foak-fast-kernels-full-g1-b8", f"{LIGER}-foak-fast-kernels-lora-g1-b8", 1.12),
        # unfused LoRA against fused QLoRA: the fused one is faster, 4-bit or not
        (f"{LIGER}-foak-fast-kernels-lora-g1-b8", f"{LIGER}-accelerated-peft-bnb-foak-qlora-g1-b8", 1.06),
        # PEFT's k-bit preparation makes the residual stream fp32
        (
            "fms-a100_80gb-Mistral-7B-v0.1-baseline-peft-bnb-qlora-g1-b8",
            "fms-a100_80gb-Mistral-7B-v0.1-accelerated-peft-bnb-qlora-g1-b8",
            1.23,
        ),
        # one sample of Alpaca: dequantising and more kernels
        ("litgpt-res-lora-llama-2-7b-bnb.nf4-mb1-x1", "litgpt-res-lora-llama-2-7b-bf16-mb1-x1", 1.56),
        # a checkpoint at every layer of a compiled step
        ("torchtune-3b-ac", "torchtune-3b-packed-compile-chunkce", 1.27),
        # a slower memory clock of the same card
        ("torchtune-odissei-Snellius-A100x1", "torchtune-odissei-Della-A100x1", 1.11),
    ],
)
def test_causes_cost_what_was_measured(slow: str, fast: str, published: float) -> None:
    measured, ours = against(BY_ID[slow], BY_ID[fast])

    assert measured == pytest.approx(published, abs=0.01)
    assert ours == pytest.approx(measured, rel=0.12)
