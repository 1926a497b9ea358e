"""Bytes that CUDA kernels take out of sight: shapes in, bytes out, with the arithmetic beside them."""

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from planner.trace.cuda.card import card_of  # noqa: E402
from planner.trace.cuda.hidden import FORMULAS, hidden_bytes, hidden_on, register  # noqa: E402
from planner.trace.cuda.reduction import Reduction, staging_bytes  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

A100 = card_of((8, 0))
aten = torch.ops.aten


def hidden(func: Any, *args: Any, **kwargs: Any) -> tuple[int, ...]:
    """What an operator hides, on fake tensors; arguments that are functions make them."""
    with FakeTensorMode():
        made = [arg() if callable(arg) else arg for arg in args]
        return hidden_bytes(func, made, kwargs, func(*made, **kwargs), A100)


def tensor(*shape: int, dtype: Any = torch.bfloat16) -> Any:
    return lambda: torch.empty(*shape, dtype=dtype)


def indices(*shape: int) -> Any:
    return lambda: torch.zeros(*shape, dtype=torch.long)


def test_operators_without_a_formula_hide_nothing() -> None:
    assert hidden(aten.add.Tensor, tensor(8), tensor(8)) == ()


def test_a_second_formula_is_an_error() -> None:
    with pytest.raises(ValueError, match="already"):
        register("aten.sum.default")(FORMULAS["aten.sum.default"])


def test_every_formula_belongs_to_an_operator() -> None:
    for name in FORMULAS:
        space, operator, overload = name.split(".")
        assert space == "bitsandbytes" or hasattr(getattr(getattr(torch.ops, space), operator), overload), name


def test_embeddings_sort_from_3073_indices_on() -> None:
    backward = aten.embedding_dense_backward.default

    assert hidden(backward, tensor(4, 768, 64), indices(4, 768), 1000, -1, False) == ()

    blocks = hidden(backward, tensor(4, 769, 64), indices(4, 769), 1000, -1, False)
    n, segments = 3076, 1000  # fewer words than indices
    parts = 307 + 1000  # one part for every 10 rows, and one for every word
    assert blocks == (8 * n, 8 * n, 8 * n, 8 * segments, 8 * segments, 8 * parts, 4 * parts * 64)


def test_softmax_backward_makes_a_product_of_all_scores() -> None:
    scores = tensor(2, 4, 32, 32, dtype=torch.float32)

    assert hidden(aten._softmax_backward_data.default, scores, scores, -1, torch.float32) == (2 * 4 * 32 * 32 * 4,)
    assert hidden(aten._log_softmax_backward_data.default, scores, scores, -1, torch.float32) == ()


def test_softmax_copies_what_is_not_contiguous() -> None:
    scores = lambda: torch.empty(8, 16).t()  # noqa: E731

    assert hidden(aten._log_softmax.default, scores, -1, False) == (8 * 16 * 4,)
    assert hidden(aten._log_softmax.default, tensor(16, 8), -1, False) == ()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4096,), ()),  # in shared memory
        ((8192,), (8 * 8192, 16 * 8192)),  # positions; cub's second keys and values
        ((2, 8192), (8 * 16384, 8 * 16384, 16 * 16384)),  # rows and places as int2, sorted and not; cub
        ((256, 8192), (8 * 256 * 8192, 16 * 256 * 8192)),
    ],
)
def test_sort(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert hidden(aten.sort.default, indices(*shape)) == expected
    assert hidden(aten.sort.stable, indices(*shape), stable=True) == expected


def test_index_put_sorts_only_to_accumulate() -> None:
    def call(accumulate: bool) -> tuple[int, ...]:
        with FakeTensorMode():
            args = [torch.empty(100, 8), [torch.zeros(50, dtype=torch.long)], torch.empty(50, 8), accumulate]
            return hidden_bytes(aten.index_put.default, args, {}, aten.index_put.default(*args), A100)

    assert call(accumulate=False) == ()
    assert sum(call(accumulate=True)) == 50 * 8 * 6  # linear, sorted, original, range, and two of cub's


def test_foreach_norm_keeps_partial_norms_for_the_largest() -> None:
    with FakeTensorMode():
        tensors = [torch.empty(65536 * 3), torch.empty(10)]
        outputs = aten._foreach_norm.Scalar(tensors, 2)

    assert hidden_bytes(aten._foreach_norm.Scalar, [tensors, 2], {}, outputs, A100) == (4 * 2 * 3,)


def test_products_copy_what_blas_cannot_read() -> None:
    strided = lambda: torch.empty(8, 16, dtype=torch.bfloat16)[:, ::2]  # noqa: E731
    column = lambda: torch.empty(8, 16, dtype=torch.bfloat16)[:, :8].t()  # noqa: E731

    assert hidden(aten.mm.default, tensor(4, 8), tensor(8, 4)) == ()
    assert hidden(aten.mm.default, strided, tensor(8, 4)) == (8 * 8 * 2,)
    assert hidden(aten.mm.default, column, tensor(8, 4)) == ()
    assert hidden(aten.bmm.default, tensor(2, 4, 8), lambda: torch.empty(2, 4, 8).bfloat16().transpose(1, 2)) == ()


def test_sums_over_tokens_stage_by_block() -> None:
    # (8192, 4096) by columns: 32 x 4 threads, 4 columns each; 32 blocks wide on 108 * 16 slots: 54 blocks an output
    blocks = (4 * 4096 * 54 * 32 * 4, 4 * 32)

    assert hidden(aten.sum.dim_IntList, tensor(8192, 4096), [0]) == blocks
    assert hidden(aten.sum.dim_IntList, tensor(4, 2048, 4096), [0, 1]) == blocks
    assert hidden(aten.mean.dim, tensor(4, 2048, 4096), [0, 1], True) == blocks


def test_sums_over_rows_need_no_staging() -> None:
    assert hidden(aten.sum.dim_IntList, tensor(8192, 4096), [1]) == ()
    assert hidden(aten.mean.dim, tensor(4, 2048, 4096, dtype=torch.float32), [-1], True) == ()


def test_a_sum_of_everything_stages_a_number_per_block() -> None:
    # 512 threads, 4 blocks on each of 108 multiprocessors
    assert hidden(aten.sum.default, tensor(8192, 4096)) == (4 * 432, 4)
    assert staging_bytes(Reduction(8192 * 4096, 1, fastest=True), A100) == (4 * 432, 4)


def test_hidden_on_binds_a_card() -> None:
    with FakeTensorMode():
        source = torch.empty(8192, 4096)
        outputs = source.sum(0)
    small = hidden_on(card_of((7, 5)))(aten.sum.dim_IntList, [source, [0]], {}, outputs)

    assert 0 < small[0] < 4 * 4096 * 54 * 32 * 4
