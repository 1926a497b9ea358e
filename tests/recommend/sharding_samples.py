"""Where the rules about engines, groups, offloading and numbers of cards speak, and where they are silent."""

from dataclasses import replace
from typing import Any

from planner.estimators import Estimator, timed
from planner.recommend.rules import Case
from planner.result import Estimate, Host, StepTime
from planner.spec import Scenario
from planner.units import GIB
from tests.recommend.fakes import ask, by, card, case, fake_estimate, needs

TWO = ask(gpu=card(24), gpus=2)
ENGINES = by("sharding", {"fsdp": 20, "zero3": 23, "ddp": 20})
FABRIC: dict[str, Any] = {"nvlink_bytes_per_s": 300e9}
"""Two machines of eight; a network of 10 Gb/s, and one as fast as NVLink."""
FAR = ask(gpu=card(80, network_bytes_per_s=1.25e9, **FABRIC), gpus=16, settings={"sharding": "hsdp"})
NEAR = ask(gpu=card(80, network_bytes_per_s=2400e9, **FABRIC), gpus=16, settings={"sharding": "hsdp"})
OFFLOADING = ask(gpu=card(24), gpus=2, settings={"sharding": "zero3", "offload": "optimizer"})


def step_of(scenario: Scenario, **changes: str) -> StepTime:
    changed = replace(scenario, train=replace(scenario.train, **changes))  # type: ignore[arg-type]
    step = timed(changed, fake_estimate(changed))
    assert step is not None
    return step


def hosting(gib: int, **of: int) -> Estimator:
    """An estimator with so much RAM while the model is loaded, unless ``of`` says what for."""

    def estimate(scenario: Scenario) -> Estimate:
        return replace(fake_estimate(scenario), host=Host(**(of or {"load": gib * GIB})))

    return estimate


def whole(gib: int) -> Estimator:
    """An estimator with so much of an undivided 4-bit model, which transformers puts on each card."""
    return hosting(0, whole=gib * GIB)


def offloading(scenario: Scenario) -> Estimate:
    """30 GiB on the card, 10 with its optimizer in 100 GiB of RAM."""
    away = bool(scenario.train.offload)
    made = needs(lambda _: 10 if away else 30)(scenario)
    return replace(made, host=Host(optimizer=100 * GIB)) if away else made


def wide(ranks: int) -> Case:
    """Sixteen cards in two machines, as many of them tensor-parallel as told, whose sums take three seconds of ten."""
    made = case(FAR)
    train = replace(made.train, tensor_parallel=ranks)
    step = made.subject.step
    assert step is not None
    subject = replace(
        made.subject,
        scenario=replace(made.scenario, train=train),
        step=replace(step, seconds=10.0, exchanges={"tensor": 3.0}),
    )
    return replace(made, subject=subject, chosen=subject)


def paced(made: Case, seconds: float, communicate: float) -> Case:
    """The case with a step of so many seconds, of which the links take some by themselves."""
    step = made.subject.step
    assert step is not None
    tokens = made.train.tokens * made.scenario.cluster.world_size
    parts = {**step.parts, "communicate": communicate}
    told = replace(step, seconds=seconds, tokens_per_second=tokens / seconds, parts=parts)
    subject = replace(made.subject, step=told)
    return replace(made, subject=subject, chosen=subject)


def on_one_card(made: Case) -> float:
    """Tokens per second of the case's method on one of its cards."""
    cluster = replace(made.scenario.cluster, gpus=1)
    return step_of(replace(made.scenario, cluster=cluster), sharding="none").tokens_per_second


PAIR = case(TWO)

SHARDING_SAMPLES: dict[str, tuple[Case, float, str, Case]] = {
    "SHD006": (
        case(TWO, estimate=ENGINES),
        3 * GIB,
        "zero3 would need 3.00 GiB more per card than 20.00 GiB",
        case(ask(gpu=card(24), gpus=2, settings={"sharding": "ddp"}), estimate=ENGINES),
    ),
    "SHD007": (
        case(FAR),
        step_of(case(FAR).scenario, sharding="fsdp").seconds - step_of(case(FAR).scenario).seconds,
        "hsdp shards inside each of 2 machines: fsdp among all cards would take a step of",
        case(NEAR),
    ),
    "SHD008": (
        wide(16),
        3.0,
        "tensor parallelism over 16 cards leaves the 8 that a machine joins: its sums take 3.0 s of a step of 10 s",
        wide(8),
    ),
    "SHD009": (
        paced(PAIR, 100.0, 90.0),
        2 * 2048 / 100 / on_one_card(PAIR),
        "exchanging over PCIe takes 90 % of the step: 2 cards reach 41 tokens per second",
        paced(PAIR, 100.0, 9.0),
    ),
    "SHD010": (
        case(ask(gpu=card(24), gpus=2, host_memory_bytes=64 * GIB), estimate=hosting(65)),
        65 * GIB,
        "lora needs 65.00 GiB of RAM in each machine while it loads, and 64.00 GiB may be taken",
        case(ask(gpu=card(24), gpus=2, host_memory_bytes=64 * GIB), estimate=hosting(64)),
    ),
    "SHD011": (
        case(OFFLOADING, "full", estimate=offloading),
        20 * GIB,
        "offloading optimizer to host memory spares 20.00 GiB per card",
        case(TWO, estimate=offloading),
    ),
    "SHD012": (
        case(TWO, estimate=needs(lambda one: 70 / one.cluster.world_size), chosen=False),
        3,  # 70 / 3 * 1.1 is more than 24, 70 / 4 * 1.1 is not
        "lora runs, tight, from 3 × card-24 on without offloading:",
        case(TWO, estimate=needs(lambda one: 42 / one.cluster.world_size)),
    ),
    "SHD013": (
        case(TWO, "qlora", estimate=whole(25)),
        25 * GIB,
        "puts all 25.00 GiB of quantised weights on each card before fsdp divides them, and 24.00 GiB are usable",
        case(TWO, "qlora", estimate=whole(23)),
    ),
}
