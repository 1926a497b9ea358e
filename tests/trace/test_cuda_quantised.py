"""bitsandbytes as on CUDA: the dequantised copy inside a 4-bit product, the int8 path, managed states."""

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
bitsandbytes: Any = pytest.importorskip("bitsandbytes")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from planner.trace.cuda.card import Card, card_of  # noqa: E402
from planner.trace.cuda.hidden import hidden_bytes  # noqa: E402
from planner.trace.cuda.quantised import (  # noqa: E402
    Product,
    cuda_int8,
    is_fused,
    managed_states,
    states_anywhere,
)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

A100, H100 = card_of((8, 0)), card_of((9, 0))


needs_gemm = pytest.mark.skipif(
    not hasattr(torch.ops.bitsandbytes, "gemm_4bit"),
    reason="bitsandbytes before 0.50 has no 4-bit product in one operator: its dequantised copy is seen as it is made",
)


def product(m: int, *, n: int = 4096, k: int = 4096) -> Product:
    return Product(m, n, k, torch.bfloat16, 64, n * k // 64, nested=True)


@needs_gemm
@pytest.mark.parametrize("card", [A100, card_of((8, 9)), H100], ids=["A100", "RTX 4090", "H100"])
def test_training_batches_are_dequantised_and_single_tokens_are_not(card: Card) -> None:
    assert is_fused(product(1), card)
    assert not is_fused(product(2048), card)
    assert not is_fused(product(513), card)  # a weight of 4 Mi entries and more: never above 512 rows


@needs_gemm
def test_a_small_flat_weight_is_fused_up_to_1536_rows_on_an_a100() -> None:
    flat = product(1536, n=2048, k=512)

    assert is_fused(flat, A100)
    assert not is_fused(flat._replace(m=1537), A100)
    assert not is_fused(flat, H100)


def test_rows_of_scales_must_be_whole() -> None:
    assert not is_fused(product(1, k=4096 + 32), A100)


def gemm(rows: int, *, nested: bool) -> tuple[int, ...]:
    """Hidden bytes of a product with a (512, 256) weight in NF4."""
    with FakeTensorMode():
        blocks = 512 * 256 // 64
        inputs = torch.empty(rows, 256, dtype=torch.bfloat16)
        packed = torch.empty(512 * 256 // 2, 1, dtype=torch.uint8)
        scales = torch.empty(-(-blocks // 256) if nested else blocks)
        args = [inputs, packed, [512, 256], scales, 64, "nf4"]
        extra: dict[str, Any] = {"bias": None}
        if nested:
            extra |= {
                "absmax_8bit": torch.empty(blocks, dtype=torch.uint8),
                "absmax_code": torch.empty(256),
                "absmax_offset": torch.empty(()),
            }
        func = torch.ops.bitsandbytes.gemm_4bit.default
        return hidden_bytes(func, args, extra, func(*args, **extra), A100)


@needs_gemm
def test_gemm_hides_the_weight_in_16_bit() -> None:
    assert gemm(2048, nested=False) == (512 * 256 * 2,)
    # 2048 scales in fp32, and once more with their offset added
    assert gemm(2048, nested=True) == (2048 * 4, 2048 * 4, 512 * 256 * 2)
    assert gemm(1, nested=True) == ()


def test_int8_product_hides_the_int32_result() -> None:
    func = torch.ops.bitsandbytes.int8_scaled_mm.default
    with FakeTensorMode():
        rows, weight = (torch.empty(count, 64, dtype=torch.int8) for count in (32, 128))
        args = [rows, weight, torch.empty(32), torch.empty(128)]
        wide, half = ({"dtype": dtype} for dtype in (torch.bfloat16, torch.float16))

        assert hidden_bytes(func, args, wide, func(*args, **wide), A100) == (32 * 128 * 4, 32 * 128 * 2)
        assert hidden_bytes(func, args, half, func(*args, **half), A100) == (32 * 128 * 4,)


class Names(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outliers", [0, 4])
def test_int8_layers_train_as_on_cuda(outliers: int) -> None:
    with torch.device("meta"):
        layer = bitsandbytes.nn.Linear8bitLt(64, 128, bias=False, has_fp16_weights=False, threshold=6.0)
    real = bitsandbytes.matmul
    with FakeTensorMode(), cuda_int8(outliers), Names() as names:
        weight = torch.nn.Parameter(torch.empty(128, 64, dtype=torch.int8), requires_grad=False)
        weight.CB = weight.SCB = None
        layer._parameters["weight"] = weight
        layer.state.CB, layer.state.SCB = torch.empty(128, 64, dtype=torch.int8), torch.empty(128)
        inputs = torch.empty(2, 16, 64, dtype=torch.bfloat16, requires_grad=True)
        out = layer(inputs)
        assert type(out.grad_fn).__name__ == "MatMul8bitLtBackward"
        out.sum().backward()

    assert (out.shape, out.dtype) == ((2, 16, 128), torch.bfloat16)
    assert inputs.grad.shape == inputs.shape
    assert "bitsandbytes.int8_scaled_mm.default" in names.seen
    assert ("aten.addmm.default" in names.seen) == (outliers > 0)
    assert bitsandbytes.matmul is real


@pytest.mark.parametrize(("paged", "managed"), [(True, 2), (False, 0)])
def test_paged_states_of_100_000_elements_are_managed(paged: bool, managed: int) -> None:
    kind = bitsandbytes.optim.PagedAdamW32bit if paged else bitsandbytes.optim.AdamW32bit
    with states_anywhere(), FakeTensorMode():
        parameters = [torch.nn.Parameter(torch.ones(count)) for count in (100_000, 99_999)]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = kind(parameters, lr=1e-3)
        optimizer.step()

    states = managed_states(optimizer)

    assert [state.numel() for state in states] == [100_000] * managed
