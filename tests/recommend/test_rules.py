"""Every rule where it speaks, with its number, and where it is silent; and the registry."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from planner.errors import UnknownName
from planner.recommend.candidates import candidate
from planner.recommend.rules import FAMILIES, RULES, Case, Rule, documentation, explain, find, title
from planner.recommend.rules.act import CheckpointingSpare
from planner.recommend.rules.fit import DoesNotFit
from planner.spec import Scenario
from planner.units import GIB
from tests.recommend.fakes import ask, by, by_method, card, case, flat, llama, mixture, needs


class Sample(NamedTuple):
    """One case in which a rule speaks, what it says, and one in which it does not."""

    speaks: Case
    number: float
    words: str
    silent: Case


def changed_case() -> Case:
    """LoRA on 8-bit states, recommended in place of LoRA as asked."""
    estimate = by("optimizer", {"adamw_fused": 22, "adamw_8bit": 20})
    asked = ask(gpu=card(24))
    before = candidate(asked, "lora", estimate)
    after = candidate(asked.using("lora", {"optimizer": "adamw_8bit"}), "lora", estimate)
    return Case(ask=asked, subject=after, candidates=(before, after), chosen=after, estimate=estimate)


def _shards(scenario: Scenario) -> float:
    """40 GiB of weights over two cards, whole where they are stored as uint8 or replicated."""
    train = scenario.train
    whole = train.sharding not in ("fsdp", "zero3") or (train.method == "qlora" and train.quant_storage == "uint8")
    return 40 if whole else 20


SHARDED = needs(_shards)
TWO = ask(gpu=card(24), gpus=2)
MIXTURE = ask(mixture(), card(24))
SMALL = ask(llama(h=2048, f=8192, layers=16, v=128256), card(24))
OLD = ask(llama(v=32000), card(24))
UINT8 = ask(gpu=card(24), gpus=2, settings={"quant_storage": "uint8"})
TURING = {"supports_bf16": False, "supports_flash": False, "compute_capability": (7, 5)}

SAMPLES = {
    "ACT001": Sample(
        case(ask(settings={"loss": "full"}), estimate=by("loss", {"full": 20, "chunked": 12})),
        8 * GIB,
        "--loss chunked lowers the requirement by 8.00 GiB",
        case(ask(settings={"loss": "full"}), estimate=by("loss", {"full": 20, "chunked": 19.5})),
    ),
    "ACT002": Sample(
        case(ask(settings={"attention": "eager"}), estimate=by("attention", {"eager": 20, "flash": 14})),
        6 * GIB,
        "writes 2048 x 2048 scores per head: --attention flash lowers the requirement by 6.00 GiB",
        case(ask(settings={"attention": "sdpa"}), estimate=flat(20)),
    ),
    "ACT003": Sample(
        case(
            ask(settings={"gradient_checkpointing": False}),
            estimate=by("gradient_checkpointing", {True: 12, False: 20}),
        ),
        8 * GIB,
        "costs 8.00 GiB at the peak",
        case(estimate=flat(20)),
    ),
    "ACT004": Sample(
        case(estimate=by("gradient_checkpointing", {True: 12, False: 20})),
        8 * GIB,
        "lora still fits, at 8.00 GiB more",
        case(estimate=by("gradient_checkpointing", {True: 12, False: 22})),  # 22 * 1.1 = 24.2 > 24
    ),
    "ACT005": Sample(
        case(ask(gpu=card(24, supports_flash=False))),
        # fp32, 32 heads, 1 x 2048 x 2048 scores
        4 * 32 * 2048 * 2048,
        "every layer writes 512.00 MiB of fp32 scores",
        case(ask(gpu=card(24))),
    ),
    "FIT001": Sample(
        case(estimate=flat(30), chosen=False),
        6 * GIB,
        "lora does not fit: it needs 30.00 GiB, 6.00 GiB above the 24.00 GiB usable; the peak is in backward",
        case(estimate=flat(24)),
    ),
    "FIT002": Sample(
        case(estimate=flat(23)),
        23 * GIB * 11 // 10 - 24 * GIB,
        "lora is tight: it needs 23.00 GiB of 24.00 GiB usable, and the upper bound lies 1.30 GiB above that",
        case(estimate=flat(21)),
    ),
    "FIT003": Sample(
        case(estimate=flat(20)),
        2 * GIB,
        "lies between 18.00 GiB and 22.00 GiB, a stated width",
        case(estimate=flat(20, high_bytes=20 * GIB)),
    ),
    "FIT004": Sample(
        case(estimate=flat(900), chosen=False, ways=()),
        900 * GIB,
        "the nearest, lora, needs 900.00 GiB on a card of 24.00 GiB",
        case(estimate=flat(900), chosen=False, ways=None),
    ),
    "FIT005": Sample(
        case(ask(settings={"optimizer": "paged_adamw_8bit"}), estimate=flat(20, managed_bytes=3 * GIB)),
        3 * GIB,
        "3.00 GiB of paged_adamw_8bit states are managed memory",
        case(estimate=flat(20)),
    ),
    "FIT006": Sample(
        changed_case(),
        2 * GIB,
        "lora with --optimizer adamw_8bit: 2.00 GiB less than as asked, which turns tight into fits",
        case(estimate=flat(20)),
    ),
    "GPU001": Sample(
        case(ask(gpu=card(16, compute_capability=(7, 0))), estimate=flat(10)),
        16 * GIB,
        "compute capability 7.0, which torch wheels for CUDA 13 do not serve",
        case(ask(gpu=card(16, compute_capability=(7, 5))), estimate=flat(10)),
    ),
    "GPU002": Sample(
        case(ask(gpu=card(16, **TURING)), "qlora"),
        # 32 layers of 218,103,808 entries in half a byte, two tables of 128256 x 4096 in two
        32 * 218_103_808 // 2 + 2 * 2 * 128256 * 4096,
        "fp16 weights, autocast fp16 with a gradient scaler",
        case(estimate=flat(10)),
    ),
    "GPU003": Sample(
        case(ask(gpu=card(24, estimated=("memory_bytes", "tdp_w"))), estimate=flat(20)),
        4 * GIB,
        "memory is estimated, not measured; an error of 4.00 GiB would turn the verdict",
        case(ask(gpu=card(24, estimated=("tdp_w",))), estimate=flat(20)),
    ),
    "GPU004": Sample(
        case(ask(gpu=card(64, unified_memory=True)), estimate=flat(20)),
        44 * GIB,
        "44.00 GiB are left for loading",
        case(estimate=flat(20)),
    ),
    "QLT001": Sample(
        case(estimate=by_method(), others=("qlora",)),
        24 * GIB - 20 * GIB * 11 // 10,
        "fit with 2.00 GiB beyond the upper bound; 4-bit weights would save 10.00 GiB",
        case(method="qlora", estimate=by_method(), others=("lora",)),
    ),
    "QLT002": Sample(
        case(method="qlora", estimate=by_method(lora=30), others=("lora",)),
        30 * GIB * 11 // 10 - 24 * GIB,
        "needs 30.00 GiB: with its margin 9.00 GiB more than the 24.00 GiB usable",
        case(method="qlora", estimate=by_method(lora=20), others=("lora",)),
    ),
    "QLT003": Sample(
        case(SMALL, estimate=by_method(full=15, lora=5), others=("full",)),
        10 * GIB,
        "full fine-tuning of these 1.5B parameters fits too, at 10.00 GiB more",
        case(ask(gpu=card(240)), estimate=by_method(full=15, lora=5), others=("full",)),
    ),
    "QLT004": Sample(
        case(ask(gpu=card(240)), estimate=by_method(), others=("full",)),
        # p1 = 32 * (4096+4096 + 2*(4096+1024) + 4096+4096 + 3*(4096+14336)) = 2,621,440; 2 * 256 * p1
        2 * 256 * 2_621_440,
        "rank 256 hold about 1.34B supervised tokens",
        case(ask(gpu=card(24)), estimate=by_method(), others=("full",)),
    ),
    "QLT005": Sample(
        case(method="qlora"),
        32 * 218_103_808 + 2 * 128256 * 4096,
        "cost a model of 8.03B parameters of this generation about 5 % of validation loss",
        case(OLD, "qlora"),
    ),
    "QLT006": Sample(
        case(ask(settings={"micro_batch_size": 4, "grad_accumulation": 12})),
        1.5,
        "48 sequences per optimizer step are 1.5 times the 32",
        case(ask(settings={"micro_batch_size": 4, "grad_accumulation": 8})),
    ),
    "QLT007": Sample(
        case(ask(llama(max_position_embeddings=1500))),
        548,
        "sequences of 2048 tokens are 548 longer than the 1500 positions",
        case(ask(llama(max_position_embeddings=2048))),
    ),
    "QNT001": Sample(
        case(MIXTURE, "qlora"),
        128 * 1536 * 2048 + 128 * 2048 * 768 + 128 * 2048 + 2 * 1000 * 2048,  # experts, router, embeddings and head
        "stay bf16, as bitsandbytes skips fused experts",
        case(MIXTURE, "qlora", fused_experts=False),
    ),
    "QNT002": Sample(
        case(ask(settings={"double_quant": False}), "qlora", estimate=by("double_quant", {True: 10, False: 11})),
        1 * GIB,
        "--double-quant lowers the requirement by 1.00 GiB",
        case(method="qlora", estimate=flat(10)),
    ),
    "QNT003": Sample(
        case(method="qlora", kbit_upcast="all", estimate=needs(lambda s: 14 if s.stack.kbit_upcast == "all" else 10)),
        4 * GIB,
        "upcasts what is not quantised to fp32: 4.00 GiB",
        case(method="qlora", estimate=flat(10)),
    ),
    "QNT004": Sample(
        case(ask(llama(model_type="qwen3_5_text")), "qlora"),
        32 * 218_103_808,
        "known for larger quantisation errors",
        case(ask(llama(model_type="qwen3")), "qlora"),
    ),
    "SHD001": Sample(
        case(TWO, "qlora", estimate=SHARDED),
        20 * GIB,
        "quant storage is set to bf16: as uint8 the quantised weights would not be sharded, which costs 20.00 GiB",
        case(TWO, "lora", estimate=SHARDED),
    ),
    "SHD002": Sample(
        case(UINT8, "qlora", estimate=SHARDED),
        20 * GIB,
        "uint8 quant storage is replicated under fsdp: --quant-storage bf16 lowers the requirement by 20.00 GiB",
        case(TWO, "qlora", estimate=SHARDED),
    ),
    "SHD003": Sample(
        case(TWO, "lora"),
        # each of two cards receives the other half twice: 2 * (16,060,522,496 // 2)
        2 * (32 * 218_103_808 + 2 * 128256 * 4096),
        "0.5 s at the link's nominal 32 GB/s",
        case(ask(gpu=card(24, nvlink_bytes_per_s=3e11), gpus=2), "lora"),
    ),
    "SHD004": Sample(
        case(ask(gpu=card(24), gpus=2, settings={"sharding": "ddp"}), estimate=SHARDED),
        20 * GIB,
        "ddp keeps all weights on each of 2 cards: --sharding fsdp lowers the requirement of lora by 20.00 GiB",
        case(TWO, estimate=SHARDED),
    ),
    "SHD005": Sample(
        case(TWO, "full", estimate=by("autocast", {"bf16": 64, "none": 40})),
        24 * GIB,
        "--autocast none lowers the requirement by 24.00 GiB per card",
        case(TWO, "lora", estimate=by("autocast", {"bf16": 64, "none": 40})),
    ),
    "SPD001": Sample(
        case(ask(settings={"seq_len": 512})),
        512,
        "512 tokens per micro-step keep no GPU busy",
        case(ask(settings={"seq_len": 512, "micro_batch_size": 2})),
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_rule_speaks_with_its_number(rule: Rule) -> None:
    sample = SAMPLES[rule.code]

    reason = rule.check(sample.speaks)

    assert reason is not None
    assert reason.code == rule.code
    assert reason.number == sample.number
    assert sample.words in reason.text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_rule_is_silent_otherwise(rule: Rule) -> None:
    reason = rule.check(SAMPLES[rule.code].silent)

    assert reason is None


def test_every_rule_has_a_sample() -> None:
    assert [rule.code for rule in RULES] == sorted(SAMPLES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_documentation_has_every_section(rule: Rule) -> None:
    """The page names the code first, then why it matters, what helps, and a source."""
    text = documentation(rule)

    assert text.startswith(f"{rule.code}: ")
    assert title(rule).endswith(".")
    for section in ("Why it matters:", "What helps:", "Source:"):
        assert text.count(f"\n{section}") == 1


def test_codes_and_slugs_name_one_rule_each() -> None:
    names = [name for rule in RULES for name in (rule.code, rule.slug)]

    assert len(names) == len(set(names))
    assert {rule.code[:3] for rule in RULES} == set(FAMILIES)


def test_find_takes_code_or_slug_in_any_case() -> None:
    assert isinstance(find("fit001"), DoesNotFit)
    assert isinstance(find("Checkpointing-Spare"), CheckpointingSpare)
    assert explain("FIT001") == documentation(find("does-not-fit"))


def test_find_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean fit00"):
        find("FIT0001")


def test_severity_of_a_method_that_does_not_fit_depends_on_the_others() -> None:
    """Nothing fits: a warning. Something else was chosen: a fact."""
    alone = case(estimate=flat(30), chosen=False)
    beside = replace(alone, chosen=candidate(ask(), "qlora", flat(10)))

    found = [DoesNotFit().check(one) for one in (alone, beside)]

    assert [reason.severity for reason in found if reason] == ["warning", "info"]
