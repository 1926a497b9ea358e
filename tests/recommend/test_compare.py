"""The methods compared, and the textbook's claims with this model's numbers."""

from dataclasses import asdict, replace

import pytest

from planner.recommend.candidates import candidate
from planner.recommend.claims import Claim
from planner.recommend.compare import Comparison, compare
from planner.recommend.request import Request
from planner.recommend.slowdown import EFFICIENCY_ELSEWHERE, efficiency, flops_per_token, ratio, traffic
from planner.result import Candidate
from planner.spec import Method
from tests.recommend.fakes import ask, card, fake_estimate, llama

# ---------------------------------------------------------------- time

# One layer, h 64, f 128, 4 heads of 16, 2 key/value heads, vocabulary 100:
# N_blk = q 64*64 + k 64*32 + v 64*32 + o 64*64 + 3 * 64*128 + two norms of 64 = 36,992; N_head = 6,400
TINY = llama(h=64, f=128, layers=1, n=4, k=2, v=100)
BLOCK, HEAD = 36_992, 6_400
# rank 16: q 128 + k 96 + v 96 + o 128 + 3 * 192 = 1,024 per unit of rank
ADAPTERS = 16 * 1024
# causal attention, S 2048, n*d 64: 2 * 2048 * 64 = 262,144 per forward of one token


def tiny(method: Method, *, checkpointing: bool = True) -> Candidate:
    return candidate(ask(TINY, settings={"gradient_checkpointing": checkpointing}), method, fake_estimate)


@pytest.mark.parametrize(
    ("method", "checkpointing", "flops"),
    [
        ("full", True, 6 * (BLOCK + HEAD) + 2 * BLOCK + 262_144 * 4.5),
        ("full", False, 6 * (BLOCK + HEAD) + 262_144 * 3.5),
        ("lora", True, 4 * (BLOCK + HEAD) + 2 * BLOCK + 8 * ADAPTERS + 262_144 * 4.5),
        ("lora", False, 4 * (BLOCK + HEAD) + 6 * ADAPTERS + 262_144 * 3.5),
        ("qlora", False, 4 * (BLOCK + HEAD) + 6 * ADAPTERS + 262_144 * 3.5),
    ],
)
def test_flops_per_token(method: Method, checkpointing: bool, flops: float) -> None:
    assert flops_per_token(tiny(method, checkpointing=checkpointing)) == flops


def test_dequantisation_moves_every_quantised_weight_once_per_pass() -> None:
    quantized = BLOCK - 128  # norms are no matrices

    assert traffic(tiny("lora")) == 0
    assert traffic(tiny("qlora")) == pytest.approx(3 * quantized * 2.53)
    assert traffic(tiny("qlora", checkpointing=False)) == pytest.approx(2 * quantized * 2.53)


def eight_b(method: Method, **settings: int) -> Candidate:
    return candidate(ask(gpu=card(24, architecture="Ampere GA102"), settings=settings), method, fake_estimate)


def test_qlora_loses_less_time_at_larger_micro_steps() -> None:
    """Dequantisation is a fixed cost per micro-step."""
    ratios = [ratio(eight_b("qlora", seq_len=s), eight_b("lora", seq_len=s)) for s in (2048, 8192, 32768)]

    highs = [found.high for found in ratios if found]
    assert highs == sorted(highs, reverse=True)
    assert highs[0] > 1.15
    assert highs[-1] < 1.05


def test_ratio_of_a_method_to_itself_is_one() -> None:
    assert ratio(eight_b("lora"), eight_b("lora")) == (1.0, 1.0)


def test_no_ratio_without_a_peak() -> None:
    dark = candidate(ask(gpu=card(24, peak_flops_per_s={})), "lora", fake_estimate)

    assert ratio(dark, dark) is None


def test_efficiency_of_an_unmeasured_chip_is_the_whole_range() -> None:
    assert efficiency(card(24, architecture="Ampere GA102")) == (0.39, 0.73)
    assert efficiency(card(24, architecture="Blackwell GB202")) == EFFICIENCY_ELSEWHERE


# ---------------------------------------------------------------- the comparison


@pytest.fixture(scope="module")
def eight() -> Comparison:
    return compare(Request(model="8b", gpu="4090"))


@pytest.fixture(scope="module")
def seventy() -> Comparison:
    return compare(Request(model="70b", gpu="a100-80gb"))


def claims(comparison: Comparison) -> dict[str, Claim]:
    """By the first two words."""
    return {" ".join(claim.claim.split()[:2]): claim for claim in comparison.claims}


def test_three_methods_in_order(eight: Comparison) -> None:
    assert [view.method for view in eight.methods] == ["full", "lora", "qlora"]
    assert all(text for view in eight.methods for text in asdict(view.prose).values())


def test_numbers_of_llama_3_1_8b(eight: Comparison) -> None:
    """41,943,040 adapter parameters of 8,030,261,248; AdamW in bf16 holds two states of 2 bytes for each weight."""
    full, lora, qlora = eight.methods

    assert full.trained_ratio == 1
    assert lora.trained_ratio == pytest.approx(41_943_040 / 8_030_261_248)
    assert full.optimizer_bytes == pytest.approx(4 * 8_030_261_248, rel=1e-4)
    assert lora.weight_bytes == pytest.approx(2 * 8_030_261_248, rel=1e-4)
    assert qlora.weight_ratio < 0.4


def test_smallest_card_is_smallest(eight: Comparison) -> None:
    """QLoRA needs no larger card than LoRA, LoRA no larger than full; each fits where it is said to."""
    cards = [view.single_card for view in eight.methods]

    assert all(way and way.candidate.verdict == "fits" for way in cards)
    memory = [way.candidate.scenario.cluster.gpu.memory_bytes for way in cards if way]
    assert memory == sorted(memory, reverse=True)


def test_cluster_is_the_fewest_of_the_cards_asked_for(seventy: Comparison) -> None:
    full, lora, qlora = seventy.methods

    assert full.single_card is None
    assert full.cluster is not None
    assert lora.cluster is not None
    assert qlora.cluster is not None
    assert full.cluster.gpus > lora.cluster.gpus > qlora.cluster.gpus == 1


def test_claims_about_8b(eight: Comparison) -> None:
    found = claims(eight)

    assert found["LoRA adds"].ruling == "confirmed"
    assert found["LoRA runs"].ruling == "confirmed"
    assert found["QLoRA's weights"].ruling == "corrected"  # 36 %: a vocabulary of 128k stays 16-bit
    assert found["full fine-tuning"].ruling == "corrected"
    assert found["full fine-tuning"].number == 1
    assert len(eight.claims) == 5


def test_claims_about_70b(seventy: Comparison) -> None:
    found = claims(seventy)

    assert found["QLoRA's weights"].ruling == "confirmed"
    assert found["QLoRA's weights"].number == pytest.approx(0.28, abs=0.005)
    assert found["LoRA runs"].ruling == "not for this model"
    assert found["full fine-tuning"].ruling == "not for this model"
    assert found["full fine-tuning"].number > 8


def test_mixture_of_experts_has_no_quarter() -> None:
    found = claims(compare(Request(model="30b-a3b", gpu="h100")))

    assert found["QLoRA's weights"].ruling == "not for this model"
    assert found["QLoRA's weights"].number > 0.9


def test_methods_that_were_named_play_no_part() -> None:
    request = Request(model="1b", gpu="4090")

    assert compare(replace(request, methods=("lora",))) == compare(request)
