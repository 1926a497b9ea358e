"""The whole answer, and the public names."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.errors import EXIT_UNSUPPORTED
from planner.estimators import remember
from planner.planning import Request, plan
from planner.result import Estimate
from planner.spec import Scenario
from planner.units import GIB
from tests.recommend.fakes import fake_estimate

PROFILES = Path(__file__).parents[1] / "hardware_profiles"


def test_three_candidates_in_order_of_training_then_the_recommended_one() -> None:
    answer = planner.plan(model="8b", gpu="4090")

    assert [one.method for one in answer.candidates] == ["full", "lora", "qlora", "lora"]
    assert answer.recommendation.candidate == 3
    assert answer.fits


def test_settings_of_the_user_are_held_and_open_ones_are_planned() -> None:
    answer = planner.plan(model="8b", gpu="4090", method="lora", micro_batch_size=2)

    asked, chosen = answer.candidates
    assert (asked.scenario.train.micro_batch_size, asked.scenario.train.grad_accumulation) == (2, 1)
    assert (chosen.scenario.train.micro_batch_size, chosen.scenario.train.grad_accumulation) == (2, 8)
    assert chosen.scenario.origins["micro_batch_size"] == "user"
    assert chosen.scenario.origins["grad_accumulation"] == "plan"


def test_what_is_said_whole_is_recommended_as_it_was_said() -> None:
    answer = planner.plan(
        model="8b", gpu="4090", method="lora", micro_batch_size=2, grad_accumulation=4, gradient_checkpointing=True
    )

    assert len(answer.candidates) == 1
    assert answer.recommendation.candidate == 0


def test_one_candidate_for_one_method() -> None:
    answer = planner.plan(model="8b", gpu="4090", method="qlora", seq_len=4096)

    assert {one.method for one in answer.candidates} == {"qlora"}
    assert {one.scenario.train.seq_len for one in answer.candidates} == {4096}
    assert {one.scenario.origins["seq_len"] for one in answer.candidates} == {"user"}


def test_several_methods_keep_the_order_given() -> None:
    answer = planner.plan(model="8b", gpu="4090", method=("qlora", "lora", "qlora"))

    assert [one.method for one in answer.candidates] == ["qlora", "lora", "lora"]


def test_notes_say_what_names_stand_for() -> None:
    answer = planner.plan(model="8b", gpu="24gb")

    assert any(note.startswith("8b -> ") for note in answer.notes)
    assert any(note.startswith("24gb -> ") for note in answer.notes)


def test_notes_say_what_nobody_has_measured() -> None:
    answer = planner.plan(model="1b", gpu="jetson-agx-orin-64gb")

    assert any("estimated, not measured: memory that torch sees" in note for note in answer.notes)


def test_a_version_newer_than_the_rules_is_said_aloud() -> None:
    newer = plan(Request(model="8b", gpu="4090", methods=("lora",), stack="hf,transformers=99"))
    known = plan(Request(model="8b", gpu="4090", methods=("lora",), stack="hf,transformers=4.48.1"))

    assert any("transformers 99 is newer than" in note for note in newer.notes)
    assert not any("newer than" in note for note in known.notes)


def test_defaults_from_two_gpus() -> None:
    one, two = (planner.plan(model="8b", gpu="4090", gpus=count).candidates[1].scenario.train for count in (1, 2))

    assert (one.sharding, two.sharding) == ("none", "fsdp")


def test_attention_is_flash_where_the_card_can() -> None:
    kinds = [planner.plan(model="1b", gpu=gpu).candidates[0].scenario.train.attention for gpu in ("4090", "t4")]

    assert kinds == ["flash", "sdpa"]


def test_flash_on_a_card_that_cannot_is_refused() -> None:
    with pytest.raises(planner.UnsupportedScenario, match="use --attention sdpa") as caught:
        planner.plan(model="1b", gpu="t4", attention="flash")

    assert caught.value.exit_code == EXIT_UNSUPPORTED


def test_headroom_lowers_what_is_usable() -> None:
    """Leave free all but what LoRA requires, and it is tight."""
    free = planner.plan(model="8b", gpu="4090")
    spare = free.cluster.usable_bytes - free.candidates[1].estimate.peak.required_bytes

    held = planner.plan(model="8b", gpu="4090", headroom=spare)

    assert held.cluster.usable_bytes == free.cluster.usable_bytes - spare
    assert (free.candidates[1].verdict, held.candidates[1].verdict) == ("fits", "tight")


def test_headroom_takes_units() -> None:
    assert planner.plan(model="1b", gpu="4090", headroom="4GiB").cluster.headroom_bytes == 4 * GIB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lorra"}, "--method 'lorra' is not one of full, lora, qlora"),
        ({"gpus": 0}, "--gpus 0 is not a whole number of 1 or more"),
        ({"nodes": -1}, "--nodes -1 is not"),
        ({"gpus": True}, "--gpus True is not"),
        ({"headroom": -1}, "negative"),
        ({"headroom": "4"}, "has no unit"),
        ({"evidence": "felt"}, "--evidence 'felt' is not one of closed-form, traced, measured"),
        ({"model": "no-such-model"}, "unknown model"),
        ({"gpu": "4900"}, "unknown gpu '4900'"),
        ({"seq_length": 5}, "unknown setting 'seq_length'; did you mean seq_len"),
        ({"seq_len": "many"}, "--seq-len 'many' is not a whole number"),
        ({"profiles_dir": "/no/such/folder"}, "is not a folder"),
    ],
)
def test_misuse_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(planner.PlannerError) as caught:
        planner.plan(**{"model": "8b", "gpu": "4090", **arguments})

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_cannot_rest_on_a_measurement() -> None:
    with pytest.raises(planner.UnsupportedScenario, match="run plan measure"):
        plan(Request(model="8b", gpu="4090", evidence="measured"))


def test_scenario_and_estimate_are_the_parts_of_a_plan() -> None:
    whole = planner.plan(model="8b", gpu="4090", method="lora", seq_len=1024)

    part = planner.scenario(model="8b", gpu="4090", method="lora", seq_len=1024)

    assert part == whole.candidates[0].scenario
    assert planner.estimate(part) == whole.candidates[0].estimate


def test_answers_are_frozen() -> None:
    answer = planner.plan(model="1b", gpu="4090")

    with pytest.raises(FrozenInstanceError):
        answer.notes = ()  # type: ignore[misc]


def test_profiles_of_the_users_own(tmp_path: Path) -> None:
    """A card from --profiles is planned on like a shipped one, and its ways keep the folder."""
    shipped = (PROFILES / "rtx4090.toml").read_text(encoding="utf-8")
    own = shipped.replace('id = "rtx4090"', 'id = "mine"')
    own = "\n".join(line for line in own.splitlines() if not line.startswith("aliases"))
    (tmp_path / "mine.toml").write_text(own, encoding="utf-8")

    answer = planner.plan(model="70b", gpu="mine", profiles_dir=tmp_path)

    assert answer.cluster.gpu.id == "mine"
    assert all(f"--profiles {tmp_path}" in way.command for way in answer.recommendation.rent)


def test_remembered_estimator_asks_once() -> None:
    asked: list[Scenario] = []

    def counting(scenario: Scenario) -> Estimate:
        asked.append(scenario)
        return fake_estimate(scenario)

    estimate = remember(counting)
    question = planner.scenario(model="1b", gpu="4090", method="lora")

    assert estimate(question) is estimate(question)
    assert len(asked) == 1


def test_public_names_are_sorted_and_load() -> None:
    assert list(planner.__all__) == sorted(planner.__all__)
    assert dir(planner) == list(planner.__all__)
    for name in planner.__all__:
        assert getattr(planner, name) is not None


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plam'"):
        planner.plam  # type: ignore[attr-defined]  # noqa: B018
