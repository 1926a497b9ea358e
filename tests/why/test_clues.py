"""What a message tells by itself, one clue at a time, and the tensors that a request can be."""

from dataclasses import replace

import pytest

from planner.allocator.constants import constants
from planner.closed_form import estimate
from planner.planning import scenario
from planner.recommend.verdict import judge
from planner.result import Candidate
from planner.spec import Scenario
from planner.units import GIB, MIB
from planner.why import Amount, Clue, parse
from planner.why.clues import clues
from planner.why.known import known, made, matches, segment
from tests.why.test_messages import TORCH_1_8, TORCH_1_13, TORCH_2_9

PLANNED = scenario(model="8b", gpu="4090", method="qlora")


def candidate(one: Scenario = PLANNED) -> Candidate:
    found = estimate(one)
    return Candidate(scenario=one, estimate=found, verdict=judge(found, one.cluster))


def told(text: str, code: str, planned: Candidate | None = None) -> Clue | None:
    return next((clue for clue in clues(parse(text), planned) if clue.code == code), None)


def test_a_small_request_tells_nothing() -> None:
    small = told(TORCH_2_9.replace("allocate 2.00 GiB", "allocate 20.00 MiB"), "WHY002", candidate())
    smaller = told(TORCH_2_9.replace("allocate 2.00 GiB", "allocate 2.00 MiB"), "WHY002")

    assert small is not None
    assert "any tensor of 1 to 10 MiB" in small.text
    assert smaller is not None
    assert "any tensor of up to 1 MiB" in smaller.text


def test_a_plan_that_does_not_fit_says_so() -> None:
    large = candidate(scenario(model="70b", gpu="4090", method="lora"))

    found = told(TORCH_2_9, "WHY003", large)

    assert found is not None
    assert found.bytes == large.estimate.peak.required_bytes
    assert told(TORCH_2_9, "WHY003", candidate()) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RuntimeError: CUDA error: out of memory", "the driver itself"),
        ("CUBLAS_STATUS_ALLOC_FAILED", "its own handle or buffer"),
        ("Error out of memory at line 380 in file x.cpp", "the host's RAM"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.", "the host's RAM ran out"),
    ],
)
def test_who_ran_out_is_said(text: str, words: str) -> None:
    found = told(text, "WHY004")

    assert found is not None
    assert words in found.text


@pytest.mark.parametrize(
    ("idle", "words"), [("1.60", "would have been enough"), ("1.10", "still not have been enough")]
)
def test_whether_less_fragmentation_would_have_been_enough(idle: str, words: str) -> None:
    """2.00 GiB were asked for, and 0.50 are free."""
    found = told(TORCH_2_9.replace("1.40 GiB is reserved", f"{idle} GiB is reserved"), "WHY005")

    assert found is not None
    assert words in found.text
    assert found.bytes is not None
    assert abs(found.bytes - float(idle) * GIB) < 0.01 * GIB


def test_little_fragmentation_is_not_worth_a_line() -> None:
    assert told(TORCH_2_9.replace("1.40 GiB is reserved", "0.20 GiB is reserved"), "WHY005") is None


def test_other_processes_are_what_is_neither_free_nor_ours() -> None:
    found = told(TORCH_2_9, "WHY006")

    assert found is not None
    assert "process 811 1.25 GiB" in found.text
    assert found.bytes is not None
    assert abs(found.bytes - (23.64 - 512.19 / 1024 - 21.88) * GIB) < 0.01 * GIB


def test_before_torch_named_processes_a_context_is_taken_for_ours() -> None:
    """23.69 in all, 0.50 free, 22.50 reserved: 0.69 are left, of which a context takes most."""
    assert told(TORCH_1_8, "WHY006", candidate()) is None
    crowded = told(TORCH_1_8.replace("512.81 MiB free", "11.81 MiB free"), "WHY006", candidate())
    assert crowded is not None
    assert crowded.bytes is not None
    assert crowded.bytes == pytest.approx((23.69 - 11.81 / 1024 - 22.50) * GIB - 430 * MIB, abs=0.01 * GIB)


def test_among_several_cards_it_may_be_nccl_unless_the_process_was_counted() -> None:
    several = candidate(scenario(model="8b", gpu="4090", gpus=2, method="qlora"))
    crowded = TORCH_1_8.replace("512.81 MiB free", "11.81 MiB free")
    unnamed, counted, alone = (
        told(crowded, "WHY006", several),
        told(TORCH_2_9, "WHY006", several),
        told(crowded, "WHY006"),
    )

    assert unnamed is not None
    assert unnamed.text.startswith("other processes, a display or NCCL held")
    assert counted is not None
    assert "NCCL" not in counted.text
    assert alone is None or "NCCL" not in alone.text


def test_what_is_ours_outside_of_torch() -> None:
    found = told(TORCH_2_9.replace("this process has 21.88", "this process has 23.10"), "WHY007", candidate())

    assert found is not None
    assert found.bytes == pytest.approx((23.10 - 20.02 - 1.40) * GIB - 430 * MIB, abs=0.02 * GIB)
    assert told(TORCH_2_9, "WHY007", candidate()) is None


def test_a_limit_is_named() -> None:
    found = told(TORCH_1_13, "WHY008")

    assert found is not None
    assert found.bytes == 12 * GIB
    assert told(TORCH_2_9, "WHY008") is None


def test_a_message_of_another_card() -> None:
    assert told(TORCH_2_9, "WHY009", candidate()) is None
    found = told(TORCH_2_9, "WHY009", candidate(scenario(model="8b", gpu="a100", method="qlora")))
    assert found is not None
    assert "name the one that it ran on" in found.text


# ---------------------------------------------------------------- tensors by size


def test_segments_are_what_the_allocator_asks_for() -> None:
    sizes = constants()

    assert segment(512, sizes) == 2 * MIB
    assert segment(MIB + 1, sizes) == 20 * MIB
    assert segment(10 * MIB, sizes) == 10 * MIB
    assert segment(10 * MIB + 1, sizes) == 12 * MIB


@pytest.mark.parametrize(
    "one", [tensor for tensor in known(PLANNED) if tensor.bytes > 20 * MIB], ids=lambda one: one.name
)
def test_every_tensor_with_a_name_is_found_by_its_printed_size(one: object) -> None:
    size = segment(one.bytes, constants())  # type: ignore[attr-defined]
    unit, name = (GIB, "GiB") if size > GIB else (MIB, "MiB")
    failure = parse(TORCH_2_9.replace("allocate 2.00 GiB", f"allocate {size / unit:.2f} {name}"))

    assert failure.requested is not None
    assert one in matches(PLANNED, failure.requested, exact=False)


def test_a_larger_batch_is_looked_for_only_where_nothing_else_is_known() -> None:
    whole = scenario(model="8b", gpu="4090", method="qlora", loss="full", seq_len=1000)
    count = 4 * 4 * 1000 * 128256

    found = matches(whole, Amount(count, count), exact=True)

    assert [(one.times, one.made_with) for one in found] == [(4, ""), (8, ""), (1, "--moments evaluation")]
    assert not any(one.times > 1 for one in matches(PLANNED, Amount(count, count), exact=True))


def test_only_what_a_scenario_makes_is_its_own() -> None:
    whole = replace(PLANNED, train=replace(PLANNED.train, loss="full", seq_len=1000))
    fused = replace(PLANNED, train=replace(PLANNED.train, loss="fused", seq_len=1000))
    count = 4 * 1000 * 128256

    assert made(whole, Amount(count, count), exact=True) == "fp32 logits (1 x 1,000 x 128,256 x 4 bytes)"
    assert made(fused, Amount(count, count), exact=True) == ""
    assert matches(fused, Amount(count, count), exact=True)[0].made_with == "--loss full"


def test_the_processors_own_memory_is_not_said_to_be_the_hosts() -> None:
    text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."

    assert told(text, "WHY004", candidate(scenario(model="0.5b", gpu="local", method="lora"))) is None
