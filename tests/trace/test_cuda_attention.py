"""Attention as CUDA runs it: which kernel, what it saves, what its backward takes, and what comes out."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from planner.errors import UnsupportedScenario  # noqa: E402
from planner.trace.cuda.attention import Arguments, additive, cuda_attention, sdpa  # noqa: E402
from planner.trace.cuda.backends import Backend, Call, choose_backend  # noqa: E402
from planner.trace.cuda.card import Card, card_of  # noqa: E402
from planner.trace.cuda.efficient import Heads, backward_workspace  # noqa: E402
from planner.trace.cuda.flash import Options, Sizes, flash_attention, forward_splits, package_functions  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

A100, RTX_4090, T4 = card_of((8, 0)), card_of((8, 9)), card_of((7, 5))
MIB = 2**20
CAUSAL = Arguments(is_causal=True)
GROUPED = Arguments(is_causal=True, enable_gqa=True)


class Meter(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Most bytes alive at once among the storages that appear while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.live: int = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(arg.untyped_storage()) for arg in args if isinstance(arg, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self._seen | given:
                self._watch(tensor.untyped_storage())
        return out

    def _watch(self, storage: Any) -> None:
        self._seen.add(id(storage))
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, id(storage), storage.nbytes())

    def _gone(self, number: int, size: int) -> None:
        self._seen.discard(number)
        self.live -= size


def backward_peak(out: Any, inputs: tuple[Any, ...]) -> int:
    """Most bytes that the backward of ``out`` takes at once, gradients of ``inputs`` included."""
    gradient = torch.empty_like(out)
    with Meter() as meter:
        gradients = torch.autograd.grad(out, inputs, gradient)
    assert meter.live == sum(tensor.untyped_storage().nbytes() for tensor in gradients)
    return int(meter.peak)


def qkv(
    b: int, s: int, n: int, k: int, d: int, *, dtype: Any = torch.bfloat16, grad: bool = True
) -> tuple[Any, Any, Any]:
    """Query, key, value as (b, heads, s, d) views of tensors laid out by token, as projections leave them."""
    return tuple(torch.zeros(b, s, heads, d, dtype=dtype).transpose(1, 2).requires_grad_(grad) for heads in (n, k, k))


def saved_by(call: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What a call returns, and the tensors that it saves for backward."""
    saved: list[Any] = []

    def keep(tensor: Any) -> Any:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return call(), saved


# ---------------------------------------------------------------- which kernel

Q, KV = (2, 32, 512, 128), (2, 8, 512, 128)


@pytest.mark.parametrize(
    ("call", "capability", "expected"),
    [
        (Call(Q, Q, Q, "bf16", is_causal=True), (8, 0), "flash"),
        (Call(Q, KV, KV, "bf16", is_causal=True, enable_gqa=True), (9, 0), "flash"),
        (Call(Q, KV, KV, "bf16"), (9, 0), "math"),  # shared heads without the flag: no fused kernel broadcasts
        (Call(Q, Q, Q, "bf16", mask=(2, 1, 512, 512)), (8, 0), "efficient"),
        (Call(Q, KV, KV, "bf16", mask=(2, 1, 512, 512), enable_gqa=True), (8, 0), "math"),
        (Call(Q, Q, Q, "bf16", mask=(2, 1, 512, 512), mask_requires_grad=True), (8, 0), "math"),
        (Call(Q, Q, Q, "bf16", mask=(2, 512, 512)), (8, 0), "math"),
        (Call(Q, Q, Q, "fp32"), (8, 0), "efficient"),
        (Call(Q, KV, KV, "fp32", enable_gqa=True), (8, 0), "math"),
        (Call(Q, Q, Q, "fp64"), (8, 0), "math"),
        (Call(Q, Q, Q, "fp16"), (7, 5), "efficient"),
        (Call(Q, Q, Q, "bf16"), (7, 5), "math"),
        (Call((2, 8, 64, 264), (2, 8, 64, 264), (2, 8, 64, 264), "bf16"), (8, 0), "efficient"),
        (Call((2, 8, 64, 192), (2, 8, 64, 192), (2, 8, 64, 128), "bf16"), (9, 0), "efficient"),  # latent attention
        (Call((2, 8, 64, 36), (2, 8, 64, 36), (2, 8, 64, 36), "bf16", mask=(1, 1, 64, 64)), (8, 0), "math"),
        (Call((2, 8, 64, 256), (2, 8, 64, 256), (2, 8, 64, 256), "bf16"), (8, 9), "flash"),
        (Call((2, 8, 64, 256), (2, 8, 64, 256), (2, 8, 64, 256), "bf16", dropout=0.1), (8, 9), "efficient"),
        (Call((2, 8, 64, 208), (2, 8, 64, 208), (2, 8, 64, 208), "bf16"), (8, 6), "efficient"),
        (Call((2, 8, 64, 208), (2, 8, 64, 208), (2, 8, 64, 208), "bf16", requires_grad=False), (8, 6), "flash"),
        (Call((2, 8, 1, 64), (2, 8, 64, 64), (2, 8, 64, 64), "bf16", is_causal=True), (8, 0), "efficient"),
        (Call(Q, Q, Q, "bf16", strides_ok=False), (8, 0), "math"),
    ],
)
def test_choice(call: Call, capability: tuple[int, int], expected: Backend) -> None:
    assert choose_backend(call, capability) == expected


# ---------------------------------------------------------------- flash


def test_flash_saves_its_inputs_its_output_and_a_row_per_head() -> None:
    query, key, value = qkv(2, 128, 8, 2, 64)

    out, saved = saved_by(lambda: sdpa(query, key, value, None, GROUPED, A100))

    assert out.shape == query.shape
    assert out.dtype == torch.bfloat16
    assert out.requires_grad
    assert out.transpose(1, 2).is_contiguous()  # like the query: by token
    pointers = [tensor.data_ptr() for tensor in saved]
    assert pointers[:4] == [query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()]
    assert (saved[4].shape, saved[4].dtype) == ((2, 8, 128), torch.float32)
    assert saved[5].numel() * saved[5].element_size() == 16
    assert len(saved) == 6


def test_flash_backward_takes_what_mha_bwd_takes() -> None:
    with FakeTensorMode():
        query, key, value = qkv(4, 2048, 32, 8, 128)
        out = sdpa(query, key, value, None, GROUPED, A100)
        peak = backward_peak(out, (query, key, value))

    # dq 64 + dk 16 + dv 16 + row sum 1 + dq in fp32 128 + dk and dv for 32 heads 64 + 64
    assert peak == 353 * MIB


def test_flash_backward_with_own_heads_needs_no_expanded_gradients() -> None:
    with FakeTensorMode():
        query, key, value = qkv(1, 100, 4, 4, 80)
        by_token = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        out = flash_attention(by_token[0], by_token[1], by_token[2], Options(A100))
        peak = backward_peak(out, (query, key, value))

    # three gradients, a row sum of 128 rounded rows, dq in fp32 with heads of 96
    assert peak == 3 * 100 * 4 * 80 * 2 + 4 * 128 * 4 + 128 * 4 * 96 * 4


def test_deterministic_backward_has_an_accumulator_per_wave() -> None:
    function, _ = package_functions(A100)
    with FakeTensorMode():
        query, key, value = (tensor.transpose(1, 2) for tensor in qkv(1, 128, 4, 4, 64))
        out = function(query, key, value, causal=True, deterministic=True)
        peak = backward_peak(out, (query, key, value))

    # 27 = ceil(108 multiprocessors / 4 heads)
    assert peak == 3 * 128 * 4 * 64 * 2 + 4 * 128 * 4 + 27 * 128 * 4 * 64 * 4


def test_head_sizes_are_padded_to_eight() -> None:
    query, key, value = qkv(1, 16, 2, 2, 20)

    out, saved = saved_by(lambda: sdpa(query, key, value, None, CAUSAL, A100))

    assert out.shape == (1, 2, 16, 20)
    assert [tensor.shape[-1] for tensor in saved if tensor.ndim == 4] == [24] * 4
    out.sum().backward()
    assert query.grad.shape == query.shape


def test_packed_sequences_keep_rows_without_padding() -> None:
    _, varlen = package_functions(A100)
    query, key, value = (torch.zeros(300, heads, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2))
    lengths = torch.tensor([0, 100, 300], dtype=torch.int32)

    out, saved = saved_by(lambda: varlen(query, key, value, lengths, lengths, 200, 200, causal=True))

    assert out.shape == (300, 8, 64)
    assert saved[4].shape == (8, 300)
    peak = backward_peak(out, (query, key, value))
    rows = 300 + 128 * 2
    gradients = 300 * (8 + 2 + 2) * 64 * 2
    assert peak == gradients + 4 * 8 * rows + 4 * rows * 8 * 64 + 2 * 300 * 8 * 64 * 2


@pytest.mark.parametrize(
    ("card", "dtype", "head", "reason"),
    [
        (T4, torch.float16, 64, "8.0 or newer"),
        (A100, torch.float32, 64, "fp16 and bf16 only"),
        (A100, torch.bfloat16, 288, "at most 256"),
    ],
    ids=["old card", "fp32", "wide heads"],
)
def test_the_package_refuses(card: Card, dtype: Any, head: int, reason: str) -> None:
    function, _ = package_functions(card)
    query = torch.zeros(1, 8, 2, head, dtype=dtype)

    with pytest.raises(UnsupportedScenario, match=reason):
        function(query, query, query)


def test_small_calls_split_their_keys() -> None:
    assert forward_splits(Sizes(4, 2048, 2048, 32, 8, 128), A100, dropout=0.0) == 1
    # 8 blocks on 216 slots: 16 or 32 parts of 32 key blocks use 59 % of the card, the fewest win
    assert forward_splits(Sizes(1, 64, 4096, 8, 8, 128), A100, dropout=0.0) == 16
    assert forward_splits(Sizes(1, 64, 4096, 8, 8, 128), A100, dropout=0.1) == 1


# ---------------------------------------------------------------- memory-efficient


def test_efficient_saves_a_mask_in_the_querys_dtype() -> None:
    query, key, value = qkv(2, 48, 4, 4, 64)
    mask = torch.ones(2, 1, 48, 48, dtype=torch.bool)

    out, saved = saved_by(lambda: sdpa(query, key, value, mask, Arguments(), A100))

    assert out.shape == query.shape
    assert out.dtype == torch.bfloat16
    bias = saved[3]
    assert (bias.shape, bias.dtype) == ((2, 4, 48, 48), torch.bfloat16)
    assert bias.untyped_storage().nbytes() == 2 * 48 * 48 * 2
    assert (saved[5].shape, saved[5].dtype) == ((2, 4, 64), torch.float32)  # 48 rounded to 32 rows
    out.sum().backward()
    assert key.grad.shape == key.shape


def test_masks_are_padded_to_sixteen_columns() -> None:
    query, key, value = qkv(1, 20, 2, 2, 64)
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.bfloat16)

    _, saved = saved_by(lambda: sdpa(query, key, value, mask, Arguments(), A100))

    assert saved[3].shape == (1, 2, 20, 20)
    assert saved[3].untyped_storage().nbytes() == 20 * 32 * 2


def test_efficient_backward_workspace() -> None:
    # registers hold dk and dv: dq by 128 x 128 tiles in fp32, 4 words of lock each; 2048 / 128 = 16 tiles by 1
    assert backward_workspace(Heads(1, 1, 2048, 2048, 128, 128, 2), A100) == 4 * 16 * (4 + 128 * 128)
    # 64 x 64 tiles, not in registers: 32 x 2 tiles of dq, and 32 splits of 64 keys for dk and dv of 128 each
    small = 4 * (32 * 2 * (4 + 64 * 64) + 32 * 64 * (128 + 128))
    assert backward_workspace(Heads(1, 1, 2048, 2048, 128, 128, 2), RTX_4090) == small
    # 256 heads and more leave one split
    many = 4 * 256 * (32 * 2 * (4 + 64 * 64) + 64 * (128 + 128))
    assert backward_workspace(Heads(8, 32, 2048, 2048, 128, 128, 2), RTX_4090) == many


def test_efficient_backward_in_fp32_multiplies_in_the_open() -> None:
    with FakeTensorMode():
        query, key, value = qkv(1, 64, 2, 2, 32, dtype=torch.float32)
        out = sdpa(query, key, value, None, Arguments(), A100)
        peak = backward_peak(out, (query, key, value))

    tensor = 64 * 2 * 32 * 4
    assert peak == 3 * tensor + max(tensor + 4 * 64 * 2, 4 * 64 * 2 + 4 * 2 * (4 + 64 * 64))


# ---------------------------------------------------------------- math, casts, installation


def test_math_is_torchs_own() -> None:
    query, key, value = (torch.randn(1, heads, 8, 16, requires_grad=True) for heads in (4, 2, 2))

    out = sdpa(query, key, value, None, GROUPED, A100)

    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out, expected)


def test_autocast_casts_before_the_choice() -> None:
    query, key, value = qkv(1, 16, 2, 2, 64, dtype=torch.float32)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, saved = saved_by(lambda: sdpa(query, key, value, None, CAUSAL, A100))

    assert out.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in saved[:4]} == {torch.bfloat16}
    out.float().sum().backward()
    assert query.grad.dtype == torch.float32


def test_only_masks_of_truth_values_are_copied() -> None:
    mask: Any = torch.zeros(2, 2)
    copied: Any = additive(mask > 1, torch.bfloat16)

    assert additive(mask, torch.bfloat16) is mask
    assert copied.dtype == torch.bfloat16


def test_sdpa_is_installed_and_taken_back() -> None:
    real = torch.nn.functional.scaled_dot_product_attention
    query, key, value = qkv(1, 16, 4, 2, 64)

    with cuda_attention("sdpa", Card()):
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        assert type(out.grad_fn.next_functions[0][0]).__name__ == "FlashAttentionBackward"

    assert torch.nn.functional.scaled_dot_product_attention is real


def test_eager_installs_nothing() -> None:
    real = torch.nn.functional.scaled_dot_product_attention

    with cuda_attention("eager", Card()):
        assert torch.nn.functional.scaled_dot_product_attention is real
