"""Ways out: smallest first, recomputed, and reproduced by their own commands."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.closed_form import estimate as closed_form
from planner.estimators import Estimator
from planner.planning import plan
from planner.recommend.candidates import candidate
from planner.recommend.changes import changes
from planner.recommend.offers import more_cards, other_cards, rank
from planner.recommend.request import Ask, Request, Setting, command
from planner.result import Plan, Way
from planner.spec import Method, Scenario
from planner.units import parse_bytes
from tests.recommend.fakes import ask, card, fake_estimate, llama, needs

# ---------------------------------------------------------------- commands


def parse(line: str) -> Request:
    """A command back into the request; independent of the command's own parser."""
    words = shlex.split(line)
    assert words.pop(0) == "plan"
    request: dict[str, Any] = {"methods": (), "settings": {}}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        if name in ("gradient_checkpointing", "double_quant"):
            request["settings"][name] = True
        elif name in ("no_gradient_checkpointing", "no_double_quant"):
            request["settings"][name.removeprefix("no_")] = False
        else:
            _put(request, name, words.pop(0))
    return Request(**request)


def _put(request: dict[str, Any], name: str, text: str) -> None:
    if name == "method":
        request["methods"] = (*request["methods"], text)
    elif name == "headroom":
        request["headroom_bytes"] = parse_bytes(text)
    elif name == "profiles":
        request["profiles_dir"] = Path(text)
    elif name in ("model", "gpu", "stack", "evidence"):
        request[name] = text
    elif name in ("gpus", "nodes"):
        request[name] = int(text)
    else:
        request["settings"][name] = int(text) if text.isdigit() else text


REQUESTS = [
    Request(model="70b", gpu="4090"),
    Request(model="70b", gpu="4090", gpus=2),
    Request(model="8b", gpu="4090", methods=("full",)),
    Request(model="8b", gpu="24gb", methods=("lora",), settings={"seq_len": 16384}),
    Request(model="8b", gpu="4090", settings={"seq_len": 16384, "loss": "full"}, stack="plain"),
    Request(model="8b", gpu="rtx3060-12gb", settings={"gradient_checkpointing": False}, headroom_bytes=2**30),
    Request(model="14b", gpu="t4", settings={"micro_batch_size": 4, "lora_targets": "q_proj,v_proj"}),
    Request(model="30b-a3b", gpu="4090", settings={"quant_storage": "uint8"}),
    Request(model="3b", gpu="rtx3080-10gb", methods=("full",), settings={"optimizer": "adamw_foreach"}),
]


def named(request: Request) -> str:
    return command(request).removeprefix("plan ")


@pytest.mark.parametrize("request_", REQUESTS, ids=named)
def test_command_asks_the_same(request_: Request) -> None:
    assert parse(command(request_)) == request_


@pytest.mark.parametrize("request_", REQUESTS, ids=named)
def test_every_way_is_reproduced_by_its_command(request_: Request) -> None:
    """Run as a request, each printed command gives the bytes and the verdict that stand beside it."""
    answer = plan(request_)

    for way in (*answer.recommendation.changes, *answer.recommendation.rent):
        again = plan(parse(way.command)).candidates[0]
        assert again.estimate == way.candidate.estimate
        assert again.verdict == way.candidate.verdict != "does_not_fit"
        assert again.scenario == way.candidate.scenario
        assert again.scenario.cluster.gpu.id == way.gpu


@pytest.mark.parametrize("request_", REQUESTS, ids=named)
def test_ways_keep_what_the_user_set(request_: Request) -> None:
    answer = plan(request_)

    for way in answer.recommendation.rent:
        asked = parse(way.command)
        kept = {name: value for name, value in request_.settings.items() if name not in ("sharding", "quant_storage")}
        assert kept.items() <= asked.settings.items()
        assert (asked.model, asked.stack, asked.headroom_bytes) == (
            request_.model,
            request_.stack,
            request_.headroom_bytes,
        )


def test_printed_command_runs_as_it_stands() -> None:
    """The real command, copied: same bytes, and exit code 0 because it fits."""
    way = plan(Request(model="8b", gpu="4090", methods=("full",))).recommendation.rent[0]

    line = [sys.executable, "-m", "planner", *shlex.split(way.command)[1:], "--format", "json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])

    shown = json.loads(done.stdout)["candidates"][0]
    assert shown["peak"]["required_bytes"] == way.candidate.estimate.peak.required_bytes
    assert shown["verdict"] == way.candidate.verdict


def test_command_quotes_what_a_shell_would_read() -> None:
    line = command(Request(model="./my models/a;b", gpu="4090", profiles_dir=Path("/tmp/my cards")))

    assert line == "plan --model './my models/a;b' --gpu 4090 --profiles '/tmp/my cards'"


# ---------------------------------------------------------------- 70b on a 4090


@pytest.fixture(scope="module")
def seventy() -> Plan:
    return plan(Request(model="70b", gpu="4090"))


def test_70b_on_a_4090_has_no_change_but_other_hardware(seventy: Plan) -> None:
    """37 GiB of 4-bit weights alone exceed the card: nothing short of more memory helps."""
    assert not seventy.fits
    assert seventy.recommendation.changes == ()
    assert {way.gpu for way in seventy.recommendation.rent} > {"rtx4090"}


def test_70b_on_4090s_takes_the_fewest_that_fit(seventy: Plan) -> None:
    """One card fewer does not fit, however it is sharded."""
    own = [way for way in seventy.recommendation.rent if way.gpu == "rtx4090" and way.candidate.verdict == "fits"]
    qlora = next(way for way in own if way.candidate.method == "qlora")

    assert 2 < qlora.gpus < 8
    for sharding in ("fsdp", "zero3"):
        settings = {"sharding": sharding}
        fewer = Request(model="70b", gpu="4090", gpus=qlora.gpus - 1, methods=("qlora",), settings=settings)
        assert plan(fewer).candidates[0].verdict != "fits"


def test_other_cards_are_priced_and_in_order(seventy: Plan) -> None:
    """Single cards first, each group cheapest first; prices are those of all cards together."""
    others = [way for way in seventy.recommendation.rent if way.gpu != "rtx4090"]

    assert [way.gpus > 1 for way in others] == sorted(way.gpus > 1 for way in others)
    for several in (False, True):
        prices = [way.usd_per_hour[1] for way in others if (way.gpus > 1) is several]
        assert prices == sorted(prices, key=lambda usd: usd or 0)
    for way in others:
        price = way.candidate.scenario.cluster.gpu.price
        assert price is not None
        assert price.typical_usd is not None
        assert way.usd_per_hour[1] == pytest.approx(price.typical_usd * way.gpus)


def test_the_search_asks_the_estimator_little() -> None:
    """A plan must be quick: bisection and index facts keep the count of estimates down."""
    asked = []

    def counting(scenario: Scenario) -> Any:
        asked.append(scenario)
        return closed_form(scenario)

    plan(Request(model="70b", gpu="4090"), estimator=counting)

    assert len(asked) == len(set(asked)) <= 80


# ---------------------------------------------------------------- changes on this card


def tried(asked: Ask, method: Method, estimate: Estimator) -> list[Mapping[str, Setting]]:
    start = candidate(asked, method, estimate)
    return [{k: v for k, v in way.settings.items() if k != "method"} for way in changes(asked, start, estimate)]


def test_one_change_before_two_and_neutral_before_others() -> None:
    """25 GiB of 24: the loss kernel or a shorter sequence is enough; no pair is offered."""
    estimate = needs(lambda s: 15 + (5 if s.train.loss == "full" else 0) + 5 * s.train.seq_len / 2048)

    found = tried(ask(settings={"loss": "full"}), "lora", estimate)

    assert found == [{"loss": "chunked"}, {"seq_len": 1536}]  # 15 + 5 + 5 * 1536 / 2048 = 23.75 <= 24


def test_the_smallest_move_in_bytes_comes_first() -> None:
    saved = {"eager": 0.0, "fused": 6.0}
    estimate = needs(
        lambda s: 28 - saved[s.train.kernels] - (5 if s.train.optimizer == "adamw_8bit" else 0) - _paged(s)
    )

    found = tried(ask(gpu=card(24)), "qlora", estimate)

    assert found[:2] == [{"optimizer": "adamw_8bit"}, {"kernels": "fused"}]


def _paged(scenario: Scenario) -> float:
    return 8 if scenario.train.optimizer == "paged_adamw_8bit" else 0


def test_pairs_are_offered_when_no_single_change_helps() -> None:
    def required(scenario: Scenario) -> float:
        train = scenario.train
        return 30 - 4 * (train.kernels == "fused") - 4 * (train.loss != "full")

    found = tried(ask(settings={"loss": "full"}), "lora", needs(required))

    assert found[0] == {"kernels": "fused", "loss": "chunked"} or found[0] == {"loss": "chunked", "kernels": "fused"}


def test_more_than_two_changes_only_when_pairs_do_not_help() -> None:
    def required(scenario: Scenario) -> float:
        train = scenario.train
        eight = train.optimizer in ("adamw_8bit", "paged_adamw_8bit")
        return 30 - 2.5 * ((train.kernels == "fused") + (train.loss != "full") + eight)

    found = tried(ask(settings={"loss": "full"}), "lora", needs(required))

    assert [set(one) for one in found] == [{"kernels", "loss", "optimizer"}]


def test_nothing_is_offered_when_everything_at_once_is_too_little() -> None:
    assert tried(ask(gpu=card(1)), "qlora", fake_estimate) == []


def test_micro_batch_is_traded_for_accumulation() -> None:
    estimate = needs(lambda s: 20 + 2 * s.train.micro_batch_size)

    found = tried(ask(settings={"micro_batch_size": 4, "grad_accumulation": 2}), "lora", estimate)

    assert found[0] == {"micro_batch_size": 1, "grad_accumulation": 8}


# ---------------------------------------------------------------- hardware


def test_smallest_count_is_found_by_bisection() -> None:
    """100 GiB over n cards of 24: 5 are needed for 100 * 1.1 / n <= 24, 4.17 for tight."""
    estimate = needs(lambda s: 100 / s.cluster.world_size)

    found = more_cards(ask(), "lora", estimate)

    assert [(way.gpus, way.candidate.verdict) for way in found] == [(5, "fits")]


def test_tight_is_offered_beside_fits() -> None:
    estimate = needs(lambda s: 95 / s.cluster.world_size)

    found = more_cards(ask(), "lora", estimate)

    assert [(way.gpus, way.candidate.verdict) for way in found] == [(4, "tight"), (5, "fits")]


def test_more_than_one_machine_when_eight_cards_are_too_few() -> None:
    """700 GiB: 32 cards of 24 are tight, and 32 * 24 / 1.1 = 698."""
    estimate = needs(lambda s: 700 / s.cluster.world_size)

    tight, fits = more_cards(ask(network_gbps=100.0), "lora", estimate)

    assert more_cards(ask(), "lora", estimate) == (), "nobody knows their network"
    assert (tight.gpus, fits.gpus) == (32, 40)
    assert "--gpus 40 --nodes 5 --method lora --sharding fsdp --network-gbps 100" in fits.command


def test_a_cluster_is_found_for_what_64_cards_cannot_hold() -> None:
    """2,000 GiB over cards of 24, with 10 % to spare: 2000 * 1.1 / 24 = 92 cards, so 96."""
    estimate = needs(lambda s: 2000 / s.cluster.world_size)

    found = more_cards(ask(network_gbps=100.0), "lora", estimate)

    assert [(way.gpus, way.candidate.verdict) for way in found] == [(96, "fits")]


def test_tight_is_not_offered_where_as_many_cards_fit_otherwise_sharded() -> None:
    estimate = needs(lambda s: (95 if s.train.sharding == "fsdp" else 87) / s.cluster.world_size)

    found = more_cards(ask(), "lora", estimate)

    assert [(way.gpus, way.sharding, way.candidate.verdict) for way in found] == [(4, "zero3", "fits")]


def test_a_batch_too_large_for_any_number_of_cards_is_offered_in_single_sequences() -> None:
    """64 sequences of 70B on a 4090 need more activations than the card holds, however many there are."""
    answer = plan(Request(model="70b", gpu="4090", settings={"micro_batch_size": 64}))

    own = [way for way in answer.recommendation.rent if way.gpu == "rtx4090"]
    assert own
    assert all((way.settings["micro_batch_size"], way.settings["grad_accumulation"]) == (1, 64) for way in own)
    other = [way for way in answer.recommendation.rent if way.gpu != "rtx4090"]
    assert other
    assert all("micro_batch_size" not in way.settings for way in other)


@pytest.mark.parametrize(
    "request_",
    [
        Request(model="kimi-k2", gpu="t4"),
        Request(model="deepseek-v3", gpu="4090", methods=("full",)),
        Request(model="llama-3.1-405b", gpu="h100", gpus=16, nodes=2, methods=("full",)),
        Request(model="70b", gpu="4090", settings={"micro_batch_size": 64, "seq_len": 32768}),
        Request(model="70b", gpu="4090", methods=("full",), settings={"micro_batch_size": 4096, "seq_len": 2**24}),
    ],
    ids=named,
)
def test_where_nothing_fits_something_else_always_does(request_: Request) -> None:
    answer = plan(request_)

    assert not answer.fits
    assert answer.recommendation.rent
    for way in answer.recommendation.rent:
        assert plan(parse(way.command)).candidates[0].verdict == way.candidate.verdict != "does_not_fit"
        assert way.settings.items() <= {**parse(way.command).settings, "method": way.candidate.method}.items()


def test_users_sharding_is_kept_where_it_divides_weights() -> None:
    estimate = needs(lambda s: 95 / s.cluster.world_size)

    found = more_cards(ask(gpus=2, settings={"sharding": "zero3"}), "lora", estimate)

    assert {way.sharding for way in found} == {"zero3"}


def test_uint8_storage_is_replaced_where_it_would_not_shard() -> None:
    asked = ask(llama(h=8192, f=28672, layers=80, n=64), settings={"quant_storage": "uint8"})

    found = more_cards(asked, "qlora", fake_estimate)

    assert {way.candidate.scenario.train.quant_storage for way in found} == {"bf16"}


def test_single_cards_drop_the_users_sharding() -> None:
    asked = ask(gpus=2, settings={"sharding": "ddp"}, gpu=card(12))

    found = [way for way in other_cards(asked, "lora", fake_estimate) if way.gpus == 1]

    assert found
    assert all("--sharding none" in way.command for way in found)


def test_cards_without_price_or_current_wheels_are_not_offered() -> None:
    ways: list[Way] = []
    for cards in (0.5, 1, 2, 4, 8):
        asked = ask(llama(layers=int(32 * cards)))
        ways += other_cards(asked, "lora", fake_estimate)

    gpus = {way.gpu: way.candidate.scenario.cluster.gpu for way in ways}
    assert gpus
    assert all(gpu.price for gpu in gpus.values())
    assert all(gpu.vendor == "nvidia" and (gpu.compute_capability or (0,)) >= (7, 5) for gpu in gpus.values())


def test_rank_puts_unpriced_last() -> None:
    priced = other_cards(ask(), "lora", fake_estimate)
    own = more_cards(ask(), "lora", fake_estimate)

    ranked = rank([*own, *priced])

    assert [way.usd_per_hour == (None, None) for way in ranked if way.gpus > 1][-1] is True
