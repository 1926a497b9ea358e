"""Truncation, padding, packing: by hand, against the naive algorithm, against TRL."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.spec import Counting, Dataset, Job, Lengths
from planner.spec.packing import PACKED_TOGETHER, best_fit_decreasing, packed_rows


def lengths_of(tokens: Sequence[int]) -> Lengths:
    return Lengths(tuple(sorted(Counter(tokens).items())))


def dataset(tokens: Sequence[int]) -> Dataset:
    return Dataset(
        path="x.jsonl",
        format="jsonl",
        size_bytes=1,
        task="sft",
        shapes=(("text", len(tokens)),),
        rows=len(tokens),
        bad_rows=0,
        read_rows=len(tokens),
        read_share=1.0,
        random=True,
        faults=(),
        duplicates=0,
        lengths=lengths_of(tokens),
        answer_tokens=sum(tokens),
        supervised_tokens=sum(tokens),
        unique_tokens=sum(tokens),
        standard_error=0.0,
        counting=Counting(kind="tokenizer", name="x", template="", characters_per_token=4.0),
    )


def naive(tokens: Sequence[int], seq_len: int) -> int:
    """Best fit decreasing as textbooks have it, one sequence after the other."""
    spaces: list[int] = []
    for length in sorted(tokens, reverse=True):
        fitting = [place for place, space in enumerate(spaces) if space >= length]
        if fitting:
            spaces[min(fitting, key=lambda place: spaces[place])] -= length
        else:
            spaces.append(seq_len - length)
    return len(spaces)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=60))))
def test_packing_in_bulk_is_best_fit_decreasing(case: tuple[int, list[int]]) -> None:
    seq_len, tokens = case

    assert best_fit_decreasing(Counter(tokens).items(), seq_len=seq_len) == naive(tokens, seq_len)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 200))
def test_packing_neither_loses_tokens_nor_makes_rows(tokens: list[int], seq_len: int) -> None:
    data = dataset(tokens)
    kept = data.tokens - data.truncated(seq_len).tokens

    packed = data.packed(seq_len)

    assert -(-kept // seq_len) <= packed.rows <= len(tokens)
    assert packed.waste == pytest.approx(1 - kept / (packed.rows * seq_len))


def test_many_sequences_pack_no_better_than_full_and_no_worse_than_alone() -> None:
    draw = random.Random(1)
    short = lengths_of([1 + int(draw.lognormvariate(5, 1)) for _ in range(20_000)])
    long = lengths_of([300 + draw.randint(0, 200) for _ in range(20_000)])

    assert packed_rows(short, seq_len=512) >= -(-short.truncated(512).tokens // 512)
    assert packed_rows(long, seq_len=512) == pytest.approx(20_000, rel=0.002)
    assert packed_rows(long, seq_len=512) <= 20_000


@pytest.mark.torch
@pytest.mark.parametrize("seq_len", [512, 1024, 2048])
def test_packing_gives_the_rows_that_trl_makes(seq_len: int) -> None:
    """TRL packs each thousand rows of this very order; we draw thousands at random: within 1 %."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    draw = random.Random(0)
    tokens = [1 + int(draw.lognormvariate(5.3, 0.9)) for _ in range(5 * PACKED_TOGETHER)]
    made = datasets.Dataset.from_dict({"input_ids": [[0] * length for length in tokens]})

    reference = len(trl.pack_dataset(made, seq_len))

    assert packed_rows(lengths_of(tokens), seq_len=seq_len) == pytest.approx(reference, rel=0.01)
    few = tokens[:PACKED_TOGETHER]
    assert packed_rows(lengths_of(few), seq_len=seq_len) == len(trl.pack_dataset(made.select(range(len(few))), seq_len))


def test_truncation_and_padding_by_hand() -> None:
    """Lengths 2, 4, 10 at 5 tokens: one sequence is cut by 5. Pairs of 2, 4, 5 drawn at random: the longer is 2 in 1
    of 9, 4 in 3, 5 in 5: 39/9 for a mean of 11/3, so 1 - 33/39 of places are padding."""
    data = dataset([2, 4, 10])

    cut = data.truncated(5)

    assert (cut.sequences, cut.tokens) == (1, 5)
    assert data.padding(5, 2) == pytest.approx(1 - 33 / 39)
    assert data.padding(5, 1) == pytest.approx(0.0)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_a_suggested_length_cuts_off_at_most_one_percent(tokens: list[int]) -> None:
    data = dataset(tokens)
    suggested = data.suggested_seq_len()

    assert data.truncated(suggested).tokens <= 0.01 * data.tokens
    assert suggested == 128 or data.truncated(suggested * 2 // 3).tokens > 0.01 * data.tokens
    assert data.suggested_seq_len(limit=64) == 64


@given(st.lists(st.integers(1, 500), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_stand_in_order(tokens: list[int], share: float) -> None:
    data = dataset(tokens)

    assert sum(length <= data.quantile(share) for length in tokens) >= share * len(tokens)
    assert data.quantile(share) <= data.lengths.longest == data.quantile(1.0)


def test_a_job_carries_what_was_counted() -> None:
    job = dataset([3, 5]).job(Job(epochs=2.0, packing=True, adapters=3, keep_skills=True))

    assert (job.task, job.tokens, job.sequences, job.epochs, job.packing) == ("sft", 8, 2, 2.0, True)
    assert (job.adapters, job.keep_skills, job.new_vocabulary, job.learned_tokens) == (3, True, False, 8)
