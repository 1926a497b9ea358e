"""Every rule where it speaks, with its number, and where it is silent; and the registry."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import planner
from planner.errors import UnknownName
from planner.recommend.candidates import candidate
from planner.recommend.rules import FAMILIES, RULES, Case, Rule, documentation, explain, find, title
from planner.recommend.rules.act import CheckpointingSpare
from planner.recommend.rules.fit import DoesNotFit
from planner.recommend.rules.spd import LaunchBound
from planner.result import TIME_PARTS, StepTime, TimeBasis
from planner.spec import Job, Lengths, Method, Scenario
from planner.units import GIB
from tests.recommend.fakes import ask, by, by_method, card, case, flat, llama, mixture, needs
from tests.recommend.sharding_samples import ENGINES, FAR, SHARDING_SAMPLES
from tests.rent.money_samples import MONEY_SAMPLES


def told(made: Case, seconds: float, **parts: float) -> Case:
    """A case whose step takes these seconds, by these parts."""
    whole = MappingProxyType({part: parts.get(part, 0.0) for part in TIME_PARTS})
    step = StepTime(
        seconds=seconds,
        low=seconds,
        high=seconds,
        tokens_per_second=made.train.tokens / seconds,
        parts=whole,
        bound=max(whole, key=lambda part: whole[part]),
        basis=TimeBasis("stated"),
    )
    subject = replace(made.subject, step=step)
    return replace(made, subject=subject, chosen=subject)


def on(job: Job, **request: Any) -> Case:
    """LoRA, or the ``method`` of ``request``, for a job."""
    method = request.pop("method", "lora")
    options = {name: request.pop(name) for name in ("estimate", "others") if name in request}
    return case(ask(request.pop("model", None), request.pop("gpu", None), job=job, **request), method, **options)


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
P1 = 2_621_440
"""Adapter parameters of the toy model per unit of rank: 32 * (2*8192 + 2*5120 + 3*18432), by d_in + d_out."""
TOTAL = 32 * 218_103_808 + 2 * 128256 * 4096
LENGTHS = Lengths(((500, 50), (1500, 50)))
"""A mean of 1000; two drawn at random are padded to 1250."""
RECOMPUTED = case(estimate=by("gradient_checkpointing", {True: 12, False: 22}))  # 22 * 1.1 = 24.2 > 24
NO_RATES = card(peak_flops_per_s={})
NATIVE = llama(native_dtype="float8_e4m3fn")
GEMMA = llama(model_type="gemma3_text")
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
        "costs 8.00 GiB at the peak and spares ",
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
    "FIT007": Sample(
        on(Job(lengths=LENGTHS), settings={"seq_len": 2048}, estimate=by("seq_len", {2048: 20, 1500: 16})),
        4 * GIB,
        "--seq-len 1500 lowers the requirement by 4.00 GiB",
        on(Job(lengths=LENGTHS), settings={"seq_len": 1500}, estimate=by("seq_len", {1500: 20})),
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
    "GPU005": Sample(
        case(ask(GEMMA, card(24, **TURING)), estimate=by("weights_dtype", {"fp16": 10, "fp32": 17})),
        7 * GIB,
        "activations of toy exceed fp16, and Card 24 has no bf16: fp32 throughout would take 7.00 GiB more",
        case(ask(GEMMA), estimate=flat(10)),
    ),
    **{code: Sample(*sample) for code, sample in MONEY_SAMPLES.items()},
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
    "QLT008": Sample(
        on(Job(tokens=2 * P1 * 16)),
        2 * P1 * 16,
        "adapters of rank 16 hold about 83.9M supervised tokens, and there are 83.9M",
        on(Job(tokens=2 * P1 * 16 + 1)),
    ),
    "QLT009": Sample(
        on(Job(tokens=2 * P1 * 16 + 5), estimate=by("lora_rank", {16: 20, 32: 21})),
        5,
        "--lora-rank 32 raises the requirement by 1.00 GiB",
        on(Job(tokens=2 * P1 * 16), estimate=by("lora_rank", {16: 20, 32: 21})),
    ),
    "QLT010": Sample(
        on(Job(tokens=2 * P1 * 256 + 7), others=("full",), estimate=by_method(full=99)),
        7,
        "and there are 1.34B: full fine-tuning would learn more, at 99.00 GiB per card",
        on(Job(tokens=2 * P1 * 256)),
    ),
    "QLT011": Sample(
        on(Job(task="cpt", tokens=1_000_000_000)),
        1_000_000_000,
        "adapters keep up with about 1B tokens of continued pretraining: beyond that, full fine-tuning",
        on(Job(task="cpt", tokens=1_000_000_001)),
    ),
    "QLT012": Sample(
        on(Job(task="rl")),
        16 * P1,
        "reinforcement learning asks for ranks of 1 to 32: rank 16 trains 41.9M parameters",
        on(Job()),
    ),
    "QLT013": Sample(
        on(Job(task="dpo"), method="full"),
        2 * TOTAL,
        "a frozen reference model of 14.96 GiB per card comes on top",
        on(Job(task="sft"), method="full"),
    ),
    "QLT014": Sample(
        on(Job(keep_skills=True)),
        16 * P1 / TOTAL,
        "they train 0.52 % as many parameters as the base has",
        on(Job()),
    ),
    "QLT015": Sample(
        on(Job(sequences=999), method="full"),
        TOTAL / 999,
        "999 examples are fewer than the 1,000 of the smallest full fine-tuning",
        on(Job(sequences=1000), method="full"),
    ),
    "QLT016": Sample(
        on(Job(sequences=99 * 16), settings={"grad_accumulation": 16}),
        99,
        "99 optimizer steps are few: 100 are the least and 1,000 the best that adapters were seen to want; at this "
        "batch that takes 2 epochs",
        on(Job(sequences=100 * 16), settings={"grad_accumulation": 16}),
    ),
    "QLT017": Sample(
        on(Job(epochs=6)),
        2,
        "6 epochs are 2 times the 3 after which repeats teach little",
        on(Job(epochs=3)),
    ),
    "QLT018": Sample(
        on(Job(lengths=LENGTHS), settings={"seq_len": 1000}),
        50 * 500,
        "sequences of up to 1500 tokens are cut at 1000: 25 % of all tokens are not learned",
        on(Job(lengths=LENGTHS), settings={"seq_len": 1485}),  # 15 of 1500 tokens, 0.75 % of all
    ),
    "QLT019": Sample(
        on(Job(adapters=10), settings={"lora_rank": 32}),
        2 * 10 * 32 * P1,
        "10 adapters of rank 32 share one base and take 1.56 GiB in 16 bits: vllm --max-loras 8 --max-lora-rank 32",
        on(Job(adapters=1), settings={"lora_rank": 32}),
    ),
    "QLT020": Sample(
        on(Job(new_vocabulary=True), estimate=by("modules_to_save", {(): 20, ("embed_tokens", "lm_head"): 33})),
        13 * GIB,
        "--modules-to-save embed_tokens,lm_head raises the requirement by 13.00 GiB",
        on(Job(), estimate=by("modules_to_save", {(): 20})),
    ),
    "QLT021": Sample(
        case(ask(settings={"lora_targets": ("q_proj", "v_proj")})),
        32 * 3 * 4096 * 14336,
        "no adapters on 5.64B of 5.64B parameters of the MLP (100 %)",
        case(ask(settings={"lora_targets": ("q_proj", "up_proj", "down_proj")})),
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
    "QNT005": Sample(
        case(ask(NATIVE)),
        # layers in 8 bits instead of 16: one byte less for each of their parameters, norms included
        32 * (218_103_808 + 2 * 4096),
        "toy is published in float8_e4m3fn, 8.46 GiB, which is not trained as it is",
        case(ask(llama(native_dtype="bfloat16"))),
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
        told(case(TWO, "lora"), 10, compute=9.5, communicate=1),
        # each of two cards receives the other half twice: 2 * (16,060,522,496 // 2)
        2 * (32 * 218_103_808 + 2 * 128256 * 4096),
        "exchanges of a whole step take 1.0 s by themselves, and the step 10 s",
        told(case(TWO, "lora"), 10, compute=9.5, communicate=0.99),
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
        "--autocast none lowers the requirement of full by 24.00 GiB per card",
        case(TWO, "lora", estimate=by("autocast", {"bf16": 64, "none": 40})),
    ),
    **{code: Sample(*sample) for code, sample in SHARDING_SAMPLES.items()},
    "SPD001": Sample(
        told(case(), 1.5, launch=1.2, compute=1.1),
        1.2,
        "starting kernels takes 1.2 s of a step of 1.5 s, computing only 1.1 s",
        told(case(), 1.5, launch=1.1, compute=1.2),
    ),
    "SPD002": Sample(
        told(case(method="qlora"), 10, compute=9, dequantise=1),
        1,
        "unpacking 4-bit weights takes 1.0 s of a step of 10 s (10 %): it is paid per micro-step, of which there are 1",
        told(case(method="qlora"), 10, compute=9, dequantise=0.99),
    ),
    "SPD003": Sample(
        told(case(method="full"), 10, compute=9, optimizer=1),
        1,
        "the update of 8.03B parameters takes 1.0 s of a step of 10 s (10 %)",
        told(case(ask(settings={"grad_accumulation": 2}), "full"), 10, compute=9, optimizer=1),
    ),
    "SPD004": Sample(
        told(case(ask(gpu=card(24, nvlink_bytes_per_s=3e11), gpus=2)), 6, compute=4, communicate=5),
        5,
        "moving weights and gradients between 2 cards would take 5.0 s of a step of 6.0 s, computing only 4.0 s",
        told(case(ask(gpu=card(24, nvlink_bytes_per_s=3e11), gpus=2)), 6, compute=5, communicate=4),
    ),
    "SPD005": Sample(
        RECOMPUTED,
        RECOMPUTED.subject.step.seconds - RECOMPUTED.step_if(gradient_checkpointing=False).seconds,  # type: ignore[union-attr]
        "without it the step needs 22.00 GiB",
        case(estimate=by("gradient_checkpointing", {True: 12, False: 20})),  # 20 * 1.1 = 22 < 24: ACT004 speaks
    ),
    "SPD006": Sample(
        on(Job(lengths=LENGTHS), settings={"micro_batch_size": 2}),
        1 - 1000 / 1250,
        "20 % of the tokens in batches of 2 are padding (1000 tokens on average, 1250 with padding)",
        on(Job(lengths=LENGTHS), settings={"micro_batch_size": 1}),
    ),
    "SPD007": Sample(
        case(estimate=flat(20, device_bytes=24 * GIB + 1)),
        1,
        "torch would take 1 B more than the 24.00 GiB usable",
        case(estimate=flat(20, device_bytes=24 * GIB)),
    ),
    "SPD008": Sample(
        case(MIXTURE, fused_experts=False),
        16,
        "transformers before 5 loops over 128 experts per layer, 16 times the 8 that a token uses",
        case(MIXTURE),
    ),
    "SPD009": Sample(
        # 4 per parameter and token: 2048 tokens of the active parameters in 3 s, of 150e12
        told(case(), 3, compute=3),
        2048 / 3 * 4 * (TOTAL + 32 * 2 * 4096 + 4096 - 128256 * 4096) / 150e12,
        "683 tokens per second use 14 % of the nominal rate of Card 24; computing itself sets the pace",
        told(case(), 2, compute=2),
    ),
    "SPD010": Sample(
        told(case(ask(settings={"optimizer": "paged_adamw_32bit"}), "full"), 10, compute=9, offload=1),
        1,
        "optimizer states take 1.0 s of a step of 10 s (10 %) to travel",
        told(case(ask(settings={"optimizer": "paged_adamw_32bit"}), "full"), 10, compute=9, offload=0.99),
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


# ---------------------------------------------------------------- what a rule says on the other side


def test_launches_are_told_by_tokens_where_no_time_is_known() -> None:
    few, enough = (case(ask(gpu=NO_RATES, settings={"seq_len": 512, "micro_batch_size": size})) for size in (1, 2))

    reason = LaunchBound().check(few)

    assert few.subject.step is None
    assert reason is not None
    assert reason.number == 512
    assert LaunchBound().check(enough) is None


def test_gathers_are_told_by_the_nominal_rate_where_no_time_is_known() -> None:
    reason = find("SHD003").check(told_nothing(case(TWO, "lora")))

    assert reason is not None
    assert "0.5 s at the link's nominal 32 GB/s" in reason.text


@pytest.mark.parametrize(
    ("code", "made", "words"),
    [
        (
            "SHD012",
            case(ask(gpu=card(24), gpus=8), estimate=needs(lambda one: 40 / one.cluster.world_size)),
            "2 of these 8 cards would hold lora as it is chosen",
        ),
        (
            "SHD007",
            case(FAR.setting({"sharding": "fsdp"}), estimate=by("sharding", {"fsdp": 20, "hsdp": 90})),
            "and 90.00 GiB per card, which these cards do not have",
        ),
        (
            "SHD007",
            case(FAR.setting({"sharding": "fsdp"}), estimate=by("sharding", {"fsdp": 20, "hsdp": 40})),
            "--sharding hsdp, which shards inside each machine only, would take a step of",
        ),
        (
            "SHD006",
            case(ask(gpu=card(24), gpus=2, settings={"sharding": "zero3"}), estimate=ENGINES),
            "fsdp would need 3.00 GiB less per card than 23.00 GiB",
        ),
    ],
)
def test_the_other_thing_that_a_rule_about_sharding_says(code: str, made: Case, words: str) -> None:
    reason = find(code).check(made)

    assert reason is not None
    assert words in reason.text


def told_nothing(made: Case) -> Case:
    subject = replace(made.subject, step=None)
    return replace(made, subject=subject, chosen=subject)


@pytest.mark.parametrize(
    ("code", "job", "method", "severity", "words"),
    [
        ("QLT010", Job(tokens=10**10), "lora", "warning", "full fine-tuning would learn more"),
        ("QLT010", Job(tokens=10**10), "full", "info", "full fine-tuning because adapters of rank 256 hold"),
        ("QLT012", Job(task="rl"), "lora", "info", "rank 16 trains"),
        ("QLT012", Job(task="rl"), "full", "warning", "this trains 8.03B parameters"),
        ("QLT013", Job(task="dpo"), "lora", "info", "its own reference model"),
        ("QLT014", Job(keep_skills=True), "full", "warning", "usually forgets more"),
        ("QLT019", Job(adapters=3), "lora", "info", "vllm --max-loras 3"),
        ("QLT019", Job(adapters=3), "full", "warning", "3 fully trained copies"),
    ],
)
def test_severity_follows_the_method(code: str, job: Job, method: Method, severity: str, words: str) -> None:
    reason = find(code).check(on(job, method=method, estimate=by_method()))

    assert reason is not None
    assert reason.severity == severity
    assert words in reason.text


def test_trained_vocabulary_is_told_with_its_cost() -> None:
    settings = {"modules_to_save": ("embed_tokens", "lm_head")}
    estimate = by("modules_to_save", {(): 20, ("embed_tokens", "lm_head"): 33})

    reason = find("QLT020").check(on(Job(new_vocabulary=True), settings=settings, estimate=estimate))

    assert reason is not None
    assert (reason.number, reason.severity) == (13 * GIB, "info")


def test_reinforcement_learning_warns_beyond_rank_32() -> None:
    for rank, severity in ((32, "info"), (64, "warning")):
        reason = find("QLT012").check(on(Job(task="rl"), settings={"lora_rank": rank}))

        assert reason is not None
        assert reason.severity == severity


def test_full_for_large_data_leaves_known_data_to_others() -> None:
    known = on(Job(tokens=10**6), gpu=card(240), estimate=by_method(), others=("full",))
    unknown = on(Job(), gpu=card(240), estimate=by_method(), others=("full",))

    assert find("QLT004").check(known) is None
    assert find("QLT004").check(unknown) is not None


def test_wide_shards_of_what_fits_anyway_are_no_news() -> None:
    wide = case(ask(gpu=card(80), gpus=2), "full", estimate=by("autocast", {"bf16": 64, "none": 40}))

    assert find("SHD005").check(replace(wide, chosen=candidate(ask(), "lora", flat(10)))) is None
    assert find("SHD005").check(wide) is not None


@pytest.mark.parametrize(("stack", "said"), [("trl", True), ("unsloth", False), ("llamafactory", False)])
def test_checkpoints_on_the_host_are_not_spared(stack: str, said: bool) -> None:
    """Unsloth and LLaMA-Factory move the inputs of recomputed layers only: without checkpoints nothing would move."""
    settings: dict[str, Any] = {"offload": ("activations",), "gradient_checkpointing": True, "micro_batch_size": 2}
    found = planner.plan(model="8b", gpu="h100", method="qlora", stack=stack, **settings)

    assert ("ACT004" in [reason.code for reason in found.recommendation.reasons]) == said
