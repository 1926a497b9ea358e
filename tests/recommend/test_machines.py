"""How many cards stand in how many machines, and which numbers of them are planned for, offered and let."""

from typing import Any

import pytest

import planner
from planner.errors import UsageError
from planner.hardware import list_gpus, load_gpu
from planner.recommend.cards import counts_of, in_one, is_let, numbers
from planner.recommend.request import Request, cluster_of
from planner.recommend.rules import find
from planner.spec import Scenario
from tests.recommend.fakes import ask, card, case, needs

GPUS = {gpu.id: gpu for gpu in list_gpus()}


@pytest.mark.parametrize(
    ("gpu", "gpus", "nodes", "network", "message"),
    [
        ("4090", 16, None, None, "--network-gbps 100, or take --gpus 8 --nodes 1"),
        ("4090", 2, 2, None, "--network-gbps 100, or take --gpus 2 --nodes 1"),
        ("gb200", 6, None, None, "machines of gb200 hold 4 cards: take --gpus 4 or 8"),
        ("h100", 12, None, None, "take --gpus 8 or 16"),
        ("h100", 9, 2, None, "take --gpus 8 or 10, or other --nodes"),
    ],
)
def test_what_fills_no_machines_is_refused_with_the_nearest(
    gpu: str, gpus: int, nodes: int | None, network: float | None, message: str
) -> None:
    request = Request(model="8b", gpu=gpu, gpus=gpus, nodes=nodes, network_gbps=network)

    with pytest.raises(UsageError, match=message):
        cluster_of(request, load_gpu(gpu))


@pytest.mark.parametrize(
    ("gpu", "gpus", "nodes", "network", "found"),
    [
        ("4090", 16, None, 100.0, (8, 2, 12.5e9)),
        ("4090", 2, 2, 25.0, (1, 2, 25e9 / 8)),
        ("h100", 32, None, None, (8, 4, 400e9)),
        ("h100", 32, 8, 400.0, (4, 8, 50e9)),
        ("gb200", 72, None, None, (4, 18, 200e9)),
        ("gh200", 2, None, None, (1, 2, 25e9)),
    ],
)
def test_cards_stand_in_full_machines_of_their_profile(
    gpu: str, gpus: int, nodes: int | None, network: float | None, found: tuple[int, int, float]
) -> None:
    cluster = cluster_of(Request(model="8b", gpu=gpu, gpus=gpus, nodes=nodes, network_gbps=network), load_gpu(gpu))

    assert (cluster.gpus, cluster.nodes, cluster.network_bytes_per_s) == found


@pytest.mark.parametrize("name", GPUS)
def test_every_number_that_is_let_can_be_planned_for_and_no_other_is(name: str) -> None:
    gpu = GPUS[name]

    for count in (1, 2, 3, 6, 8, 16, 24, 64):
        request = Request(model="8b", gpu=name, gpus=count)
        if is_let(gpu, count):
            assert cluster_of(request, gpu).world_size == count
        else:
            with pytest.raises(UsageError):
                cluster_of(request, gpu)


def test_a_network_that_the_user_has_lets_several_machines() -> None:
    consumer = GPUS["rtx4090"]

    assert counts_of(consumer, 32) == (1, 2, 4, 8)
    assert counts_of(consumer, 32, network_gbps=100) == (1, 2, 4, 8, 16, 32)
    assert cluster_of(Request(model="8b", gpu="4090", gpus=64), in_one(consumer, 64)).nodes == 1


@pytest.mark.parametrize("known", [{}, {"network_gbps": 100.0}])
def test_ways_out_of_several_machines_need_a_network(known: dict[str, Any]) -> None:
    plan = planner.plan(model="llama-3.1-405b", gpu="4090", method="qlora", **known)
    own = [way for way in plan.recommendation.rent if way.gpu == "rtx4090"]

    assert all(way.gpus <= 8 or known for way in own)
    assert bool(own) is bool(known), "405B in 4 bits asks for more than eight cards of 24 GB"


def test_fewer_machines_are_tried_one_by_one_and_as_wide_as_the_users() -> None:
    """48 cards are six machines of eight: three of these hold what two do not. Eight in four machines stay two wide."""
    fewer = find("SHD012")
    six = ask(gpu=card(80, network_bytes_per_s=400e9), gpus=48, settings={"sharding": "fsdp"})
    four = ask(gpu=card(80, network_bytes_per_s=400e9), gpus=8, nodes=4, settings={"sharding": "fsdp"})
    of_six = fewer.check(case(six, estimate=needs(lambda one: 1500 / one.cluster.world_size)))
    seen: set[tuple[int, int]] = set()

    def noting(one: Scenario) -> float:
        seen.add((one.cluster.gpus, one.cluster.nodes))
        return 70 if one.cluster.world_size == 8 else 90

    fewer.check(case(four, estimate=needs(noting)))

    assert of_six is not None
    assert of_six.number == 24
    assert seen == {(1, 1), (2, 1), (2, 2), (2, 3), (2, 4)}


def test_numbers_are_those_of_full_machines() -> None:
    one, several = numbers(GPUS["gb200"])

    assert one == (1, 2, 3, 4)
    assert several[:8] == (8, 12, 16, 20, 24, 28, 32, 48)
    assert several[-1] == 1024
    assert numbers(GPUS["rtx4090"])[1] == ()
    assert numbers(GPUS["rtx4090"], network_gbps=25)[1][0] == 16
