"""Hybrid shards are FSDP's: what is said of the one kind is said of the other."""

from planner.recommend.changes import Search, changes
from planner.recommend.rules import find
from planner.spec import Scenario
from tests.recommend.fakes import ask, by, card, case, needs
from tests.recommend.sharding_samples import FABRIC

MACHINES = ask(gpu=card(24, network_bytes_per_s=2400e9, **FABRIC), gpus=16, settings={"sharding": "hsdp"})


def test_wide_shards_are_told_of_hybrid_ones_too() -> None:
    reason = find("SHD005").check(case(MACHINES, "full", estimate=by("autocast", {"bf16": 64, "none": 40})))

    assert reason is not None
    assert reason.text.startswith("hsdp under bf16 autocast trains fp32 shards")


def test_words_that_are_not_divided_are_a_change_for_hybrid_shards() -> None:
    """A machine holds what it divides among its cards once the words are floats."""

    def size(scenario: Scenario) -> float:
        return 30 if scenario.train.quant_storage == "uint8" else 12

    whole = MACHINES.setting({"quant_storage": "uint8"})
    start = case(whole, "qlora", estimate=needs(size)).subject
    found = changes(whole.using("qlora", {}), start, needs(size))

    assert {"quant_storage": "bf16"} in [dict(one.settings) for one in found]
    assert Search(whole.using("qlora", {}), start, needs(size)).turns({"quant_storage": "bf16"})
