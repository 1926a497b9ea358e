"""Which candidate is recommended, with which settings, and in which order the reasons stand."""

from typing import Any

import pytest

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend import recommend
from planner.recommend.candidates import candidates
from planner.recommend.request import Ask
from planner.result import Candidate, Recommendation
from planner.spec import Scenario
from tests.recommend.fakes import ask, by_method, card, fake_estimate, llama, mixture, needs

Answer = tuple[tuple[Candidate, ...], Recommendation]


def answer(asked: Ask, estimate: Estimator = fake_estimate) -> Answer:
    found, _ = candidates(asked, estimate)
    return recommend(found, asked, estimate)


def choice(asked: Ask, estimate: Estimator = fake_estimate) -> Candidate | None:
    shown, recommendation = answer(asked, estimate)
    return None if recommendation.candidate is None else shown[recommendation.candidate]


def method(asked: Ask, estimate: Estimator) -> str | None:
    chosen = choice(asked, estimate)
    return None if chosen is None else chosen.method


@pytest.mark.parametrize(
    ("gib", "chosen"),
    [
        ({"full": 10, "lora": 10, "qlora": 10}, "lora"),
        ({"full": 200, "lora": 21, "qlora": 8}, "lora"),  # 21 * 1.1 = 23.1 <= 24: fits
        ({"full": 200, "lora": 22, "qlora": 8}, "qlora"),  # 22 * 1.1 = 24.2 > 24: tight, no margin (G2)
        ({"full": 200, "lora": 30, "qlora": 8}, "qlora"),
        ({"full": 200, "lora": 23, "qlora": 22}, "lora"),  # both tight
        ({"full": 200, "lora": 30, "qlora": 23}, "qlora"),
        ({"full": 200, "lora": 30, "qlora": 25}, None),
    ],
)
def test_lora_before_qlora_before_full(gib: dict[str, float], chosen: str | None) -> None:
    assert method(ask(), by_method(**gib)) == chosen


def test_full_before_qlora_where_the_model_is_small() -> None:
    """Rule P6: at 3B and less nothing has to be approximated."""
    named: dict[str, Any] = {"methods": ("full", "qlora"), "gpu": card(240)}
    small = llama(h=2048, f=8192, layers=16)

    assert method(ask(small, **named), by_method()) == "full"
    assert method(ask(**named), by_method()) == "qlora"


def test_full_before_qlora_where_experts_stay_16_bit() -> None:
    asked = ask(mixture(), card(240), methods=("full", "qlora"))

    assert method(asked, by_method()) == "full"


def test_open_settings_are_swept_and_the_candidate_appended() -> None:
    """LoRA is tight as asked and fits with fused kernels; that candidate is fourth and says why."""
    estimate = needs(
        lambda s: {"full": 99, "lora": 20 if s.train.kernels == "fused" else 23, "qlora": 8}[s.train.method]
    )

    shown, recommendation = answer(ask(), estimate)

    assert recommendation.candidate == 3
    assert shown[3].scenario.train.kernels == "fused"
    assert [one.method for one in shown] == ["full", "lora", "qlora", "lora"]
    assert recommendation.reasons[0].code == "FIT006"
    assert recommendation.changes[0].candidate is shown[3]
    assert recommendation.changes[0].command == recommendation.command
    assert "--kernels fused" in recommendation.changes[0].command


def test_what_the_user_sets_is_held() -> None:
    estimate = needs(
        lambda s: {"full": 99, "lora": 20 if s.train.kernels == "fused" else 23, "qlora": 8}[s.train.method]
    )

    chosen = choice(ask(settings={"kernels": "eager"}), estimate)

    assert chosen is not None
    assert (chosen.method, chosen.scenario.train.kernels) == ("qlora", "eager")


def test_sequence_and_rank_are_never_swept() -> None:
    """They change what is learned: a way out, not a recommendation."""
    estimate = needs(lambda s: s.train.seq_len / 80 * s.train.lora_rank / 16)  # 25.6 GiB as asked

    shown, recommendation = answer(ask(methods=("lora",)), estimate)

    assert len(shown) == 1
    assert recommendation.candidate is None
    assert [dict(way.settings) for way in recommendation.changes] == [
        {"seq_len": 1920},  # 24.0 GiB, the longest sixteenth that is tight
        {"lora_rank": 8},
    ]


def test_reasons_stand_in_order_deciding_first() -> None:
    _, recommendation = answer(ask(settings={"seq_len": 8192, "loss": "full"}))

    ranks = [
        0 if reason.code in ("FIT004", "FIT006", "QLT001", "QLT002") else 1 if reason.severity == "warning" else 2
        for reason in recommendation.reasons
    ]
    codes = [(rank, reason.code) for rank, reason in zip(ranks, recommendation.reasons, strict=True)]
    assert codes == sorted(codes)
    assert {reason.code for reason in recommendation.reasons} >= {"FIT001", "FIT003", "QLT002"}


def test_nothing_fits_and_nothing_helps_is_said() -> None:
    _, recommendation = answer(ask(), needs(lambda scenario: 9000))

    assert (recommendation.candidate, recommendation.changes, recommendation.rent) == (None, (), ())
    assert recommendation.reasons[0].code == "FIT004"


def test_the_same_question_has_the_same_answer() -> None:
    asked = ask(llama(h=8192, f=28672, layers=80, n=64))

    first, second = (answer(asked) for _ in range(2))

    assert first == second


def test_method_that_cannot_be_estimated_is_left_out_unless_named() -> None:
    def estimate(scenario: Scenario) -> Any:
        if scenario.train.method == "full":
            raise UnsupportedScenario("no evidence")
        return fake_estimate(scenario)

    found, missing = candidates(ask(), estimate)

    assert [one.method for one in found] == ["lora", "qlora"]
    assert missing == {"full": "no evidence"}
    with pytest.raises(UnsupportedScenario, match="no evidence"):
        candidates(ask(methods=("full", "lora")), estimate)
