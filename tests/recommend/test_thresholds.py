"""The choice flips at the stated threshold and nowhere before, on both sides of it."""

from dataclasses import replace
from typing import Any

import pytest

import planner
from planner.recommend.candidates import candidates
from planner.recommend.choice import recommend
from planner.recommend.request import Ask
from planner.result import Plan, Threshold
from planner.spec import Job
from tests.recommend.fakes import ask, by_method, card, fake_estimate, needs


def chosen(asked: Ask, estimate: Any = fake_estimate) -> str | None:
    found, _ = candidates(asked, estimate)
    shown, advice = recommend(found, asked, estimate)
    return None if advice.candidate is None else shown[advice.candidate].method


def found(asked: Ask, quantity: str, side: str, estimate: Any = fake_estimate) -> Threshold:
    shown, _ = candidates(asked, estimate)
    _, advice = recommend(shown, asked, estimate)
    return next(one for one in advice.thresholds if (one.quantity, one.side) == (quantity, side))


def with_memory(asked: Ask, usable: int) -> Ask:
    gpu = replace(asked.cluster.gpu, memory_bytes=usable)
    return replace(asked, cluster=replace(asked.cluster, gpu=gpu))


@pytest.mark.parametrize("gib", [12, 20, 24, 48])
def test_memory_up_and_down(gib: float) -> None:
    asked = ask(gpu=card(gib))
    now = chosen(asked)
    shown, _ = candidates(asked, fake_estimate)
    _, advice = recommend(shown, asked, fake_estimate)
    sides = {one.side: one for one in advice.thresholds if one.quantity == "memory_bytes"}

    assert sides
    if above := sides.get("above"):
        assert chosen(with_memory(asked, above.value)) == above.method != now
        assert chosen(with_memory(asked, above.value - 1)) == now
    if below := sides.get("below"):
        assert chosen(with_memory(asked, below.value - 1)) == below.method != now
        assert chosen(with_memory(asked, below.value)) == now


def test_more_memory_says_how_much() -> None:
    """LoRA needs 22 GiB and 24.2 with its margin, of 24."""
    one = found(ask(), "memory_bytes", "above", by_method(full=200, lora=22, qlora=8))

    assert one.method == "lora"
    assert one.value == pytest.approx(24.2 * 2**30, rel=1e-9)
    assert "1 % more memory" in one.text


def lengths(s: Any) -> float:
    """LoRA 10 GiB and 1 for each 512 tokens; QLoRA 2 and the same."""
    return float({"full": 500, "lora": 10, "qlora": 2}[s.train.method] + s.train.seq_len / 512)


@pytest.mark.parametrize(("seq_len", "side", "method"), [(2048, "above", "qlora"), (8192, "below", "lora")])
def test_length_up_and_down(seq_len: int, side: str, method: str) -> None:
    asked = ask(settings={"seq_len": seq_len, "gradient_checkpointing": True})
    estimate = needs(lengths)
    now = chosen(asked, estimate)

    mark = found(asked, "seq_len", side, estimate)

    at = [chosen(asked.setting({"seq_len": mark.value + extra}), estimate) for extra in (0, 64)]
    assert mark.method == method
    assert at == ([now, method] if side == "above" else [method, now])


def test_tokens_beyond_which_every_weight_is_trained() -> None:
    asked = ask(gpu=card(200), job=Job(tokens=10_000_000))

    mark = found(asked, "tokens", "above")

    assert mark.method == "full"
    more = replace(asked, request=replace(asked.request, job=Job(tokens=mark.value + 1)))
    same = replace(asked, request=replace(asked.request, job=Job(tokens=mark.value)))
    assert (chosen(same), chosen(more)) == ("lora", "full")
    back = found(more, "tokens", "below")
    assert (back.value, back.method) == (mark.value, "lora")


def test_no_threshold_of_data_where_full_does_not_run() -> None:
    shown, _ = candidates(ask(), fake_estimate)
    _, advice = recommend(shown, ask(), fake_estimate)

    assert not [one for one in advice.thresholds if one.quantity == "tokens"]


def memory_of(answer: Plan, side: str) -> Threshold | None:
    marks = [one for one in answer.recommendation.thresholds if (one.quantity, one.side) == ("memory_bytes", side)]
    return marks[0] if marks else None


@pytest.mark.parametrize(("model", "gpu"), [("8b", "4090"), ("7b", "24gb"), ("14b", "4090"), ("32b", "rtxa6000")])
def test_real_models_flip_where_they_say(model: str, gpu: str) -> None:
    """With headroom for less memory: the choice stays at the mark and flips a byte below."""
    answer = planner.plan(model=model, gpu=gpu)
    below = memory_of(answer, "below")
    assert below is not None
    usable = answer.cluster.usable_bytes

    def method(headroom: int) -> str | None:
        found = planner.plan(model=model, gpu=gpu, headroom=headroom)
        index = found.recommendation.candidate
        return None if index is None else found.candidates[index].method

    index = answer.recommendation.candidate
    assert index is not None
    assert method(usable - below.value) == answer.candidates[index].method
    assert method(usable - below.value + 1) == below.method


def test_completions_set_no_shortest_length() -> None:
    """Sequences that completions alone would fill are no such job, and not a length at which another method wins."""
    found = planner.plan(
        model="1b", gpu="h100", method="full", objective="grpo", seq_len=1536, completion_len=1024, micro_batch_size=8
    )

    assert not [one for one in found.recommendation.thresholds if one.side == "below" and one.quantity == "seq_len"]
    assert not [one.text for one in found.recommendation.thresholds if "None" in one.text]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "nothing without offloading"),
        ({"offload": "none"}, "nothing"),
        ({"offload": "optimizer", "sharding": "zero3"}, "nothing with this offloading"),
    ],
    ids=str,
)
def test_words_of_nothing_say_what_is_offloaded(settings: dict[str, Any], words: str) -> None:
    """Nothing is said of offloading where the user asks for none."""
    answer = planner.plan(model="llama-2-7b", gpu="a100-80gb", gpus=8, method="full", **settings)
    below = next(one for one in answer.recommendation.thresholds if one.side == "below" and one.method is None)

    assert below.text.endswith(f": {words}")
