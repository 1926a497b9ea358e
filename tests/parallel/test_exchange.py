"""Bytes and numbers of collectives, against the papers' volumes and against each other."""

from typing import Any

import pytest

from planner.closed_form.exchange import model_exchanges
from planner.formulas.collectives import Exchange
from tests.parallel.samples import scenario

PLAIN: dict[str, Any] = {"gradient_checkpointing": False, "autocast": "none", "seq_len": 8192}
H, LAYERS, KV = 4096, 32, 1024  # llama-3.1-8b; 8 of 32 heads for keys and values
STREAM = 8192 * H * 2


def sent(*, gpus: int = 8, model: str = "llama-3.1-8b", **settings: Any) -> dict[tuple[str, str], Exchange]:
    """Exchanges by axis and kind."""
    found = model_exchanges(scenario(model, gpus=gpus, **(PLAIN | settings)))
    return {(exchange.axis, exchange.kind): exchange for exchange in found}


def test_nothing_is_sent_where_nothing_is_divided() -> None:
    assert sent() == {}


def test_megatron_sums_the_stream_four_times_a_layer() -> None:
    # arXiv:1909.08053, section 3: two all-reduces forward and two backward; here with the table's and the head's
    found = sent(tensor_parallel=2, pipeline_parallel=2, gpus=4, grad_accumulation=1)[("tensor", "all_reduce")]

    assert found.calls == 4 * LAYERS // 2 + 1  # of one stage, which has the table or the head
    assert found.sent == found.calls * 2 * STREAM / 2


def test_sequence_parallelism_sends_as_much_and_the_inputs_again() -> None:
    # arXiv:2205.05198, section 4.2.2: an all-gather and a reduce-scatter are an all-reduce
    plain = sent(tensor_parallel=2, pipeline_parallel=2, gpus=4, grad_accumulation=1)
    parts = sent(tensor_parallel=2, pipeline_parallel=2, gpus=4, grad_accumulation=1, sequence_parallel=True)

    gathered, scattered = parts[("tensor", "all_gather")], parts[("tensor", "reduce_scatter")]
    inputs_again = 2 * LAYERS // 2 * STREAM / 2
    assert gathered.sent + scattered.sent - inputs_again == plain[("tensor", "all_reduce")].sent


def test_ulysses_sends_what_its_paper_prints() -> None:
    # arXiv:2309.14509, section 3.2, for keys and values as wide as queries: 4Nh/P forward; here 2Nh + 2N kv, both ways
    found = sent(ulysses_parallel=8)[("ulysses", "all_to_all")]

    assert found.calls == 2 * 4 * LAYERS
    assert found.sent == 2 * LAYERS * (2 * H + 2 * KV) * 8192 / 8 * 2 * 7 / 8


def test_heads_that_do_not_suffice_are_sent_more_than_once() -> None:
    # 16 ranks, 8 heads: each is repeated before it is exchanged (deepspeed runtime/sequence_parallel/ulysses_sp.py)
    found = sent(ulysses_parallel=16, gpus=16)[("ulysses", "all_to_all")]

    assert found.sent == 2 * LAYERS * (2 * H + 2 * 2 * KV) * 8192 / 16 * 2 * 15 / 16


def test_a_ring_passes_keys_and_values_and_brings_their_gradients_home() -> None:
    found = sent(context_parallel=4, gpus=4)

    assert found[("context", "all_gather")].sent == 2 * LAYERS * 3 * 2 * KV * 8192 / 4 * 2
    assert found[("context", "send")].sent == LAYERS * 4 * 2 * KV * 8192 / 4 * 4  # fp32, four steps
    assert found[("context", "send")].hidden


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_pipeline_sends_each_micro_batch_forward_and_back(chunks: int) -> None:
    found = sent(pipeline_parallel=4, gpus=4, grad_accumulation=8, virtual_stages=chunks)[("pipeline", "send")]

    assert found.calls == 8 * 2 * chunks
    assert found.sent == found.calls * STREAM
    assert found.hidden == (chunks > 1)


def test_ends_of_a_pipeline_sum_the_gradient_of_a_tied_table() -> None:
    found = sent(model="qwen2.5-0.5b", pipeline_parallel=2, gpus=2)[("pipeline", "all_reduce")]

    assert (found.ranks, found.calls) == (2, 1)
    assert found.sent == 151936 * 896 * 2


def test_experts_take_rows_and_return_them() -> None:
    # Mixtral: 2 of 8 experts for each token; out and back, forward and backward
    found = sent(model="mixtral-8x7b", expert_parallel=8)[("expert", "all_to_all")]

    assert found.calls == 4 * 32
    assert found.sent == 4 * 32 * 2 * 8192 * 4096 * 2 * 7 / 8


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        # a layer's forward pass once more, of 2 in all, of (forward, backward) = (4, 4) and so on
        ({"ulysses_parallel": 8}, 3 / 2),
        ({"expert_parallel": 8, "model": "mixtral-8x7b"}, 3 / 2),
    ],
)
def test_checkpoints_exchange_again(layout: dict[str, Any], more: float) -> None:
    (without,) = sent(**layout).values()
    (checkpointed,) = sent(**layout, gradient_checkpointing=True).values()

    assert checkpointed.sent == more * without.sent
    assert checkpointed.calls == more * without.calls


def test_micro_batches_multiply_all() -> None:
    one, four = sent(tensor_parallel=8), sent(tensor_parallel=8, grad_accumulation=4)

    assert {key: found.sent for key, found in four.items()} == {key: 4 * found.sent for key, found in one.items()}
