"""``torch.autocast("cpu")`` under CUDA's lists: dtypes on real tensors, and the cache of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from planner.trace.cuda.autocast import LOWER, NORMS, PROMOTE, WIDE_RESULT, cuda_autocast  # noqa: E402
from planner.trace.private import autocast_operators  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

WORDS = torch.zeros(4, dtype=torch.long)
PLACES = torch.zeros(4, 8, dtype=torch.long)

Call = Callable[[Any, Any], Any]

WIDENED: dict[str, Call] = {
    "softmax": lambda b, f: F.softmax(b, -1),
    "softmax, positional": lambda b, f: torch.softmax(b, -1, None),
    "log_softmax": lambda b, f: F.log_softmax(b, -1),
    "layer_norm": lambda b, f: F.layer_norm(b, (8,)),
    "group_norm": lambda b, f: F.group_norm(b, 2),
    "pow": lambda b, f: b.pow(2),
    "rsqrt": lambda b, f: b.abs().rsqrt(),
    "reciprocal": lambda b, f: b.reciprocal(),
    "exp": lambda b, f: b.exp(),
    "log": lambda b, f: b.abs().log(),
    "softplus": lambda b, f: F.softplus(b),
    "logsumexp": lambda b, f: torch.logsumexp(b, -1),
    "sum": lambda b, f: b.sum(),
    "sum of rows": lambda b, f: b.sum(-1),
    "prod": lambda b, f: b.prod(),
    "cumsum": lambda b, f: b.cumsum(0),
    "norm": lambda b, f: b.norm(),
    "norm of rows": lambda b, f: b.norm(dim=-1),
    "vector_norm": lambda b, f: torch.linalg.vector_norm(b),
    "cross_entropy": lambda b, f: F.cross_entropy(b, WORDS),
    "nll_loss": lambda b, f: F.nll_loss(b, WORDS),
    "mse_loss": lambda b, f: F.mse_loss(b, b),
    "addcmul with fp32": lambda b, f: torch.addcmul(b, b, f),
    "cat with fp32": lambda b, f: torch.cat([b, f]),
    "add fp32": lambda b, f: b + f,
}
if "aten::rms_norm" in autocast_operators("CUDA"):  # since torch 2.12 or 2.13; 2.9 and 2.11 leave it alone
    WIDENED["rms_norm"] = lambda b, f: F.rms_norm(b, (8,))
NARROWED: dict[str, Call] = {
    "matmul": lambda b, f: f @ f.t(),
    "linear": lambda b, f: F.linear(f, f),
    "einsum": lambda b, f: torch.einsum("ab,cb->ac", f, f),
    "mv": lambda b, f: torch.mv(f, f[0]),
    "baddbmm": lambda b, f: torch.baddbmm(f[None, :, :4], f[None], f[None].mT),
    "mean": lambda b, f: b.mean(),
    "silu": lambda b, f: F.silu(b),
    "gelu": lambda b, f: F.gelu(b),
    "sqrt": lambda b, f: b.abs().sqrt(),
    "cos": lambda b, f: b.cos(),
    "cat": lambda b, f: torch.cat([b, b]),
    "stack": lambda b, f: torch.stack([b, b]),
    "addcmul": lambda b, f: torch.addcmul(b, b, b),
    "scatter_add": lambda b, f: b.scatter_add(0, PLACES, b),
    "softmax in bf16": lambda b, f: F.softmax(b, -1, dtype=torch.bfloat16),
    "cumsum in bf16": lambda b, f: b.cumsum(0, dtype=torch.bfloat16),
}


def dtype_of(call: Call) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return call(torch.ones(4, 8, dtype=torch.bfloat16), torch.ones(4, 8)).dtype


@pytest.fixture(scope="module")
def dtypes() -> dict[str, Any]:
    with cuda_autocast():
        return {name: dtype_of(call) for name, call in (WIDENED | NARROWED).items()}


@pytest.mark.parametrize("name", WIDENED)
def test_cuda_computes_in_fp32(name: str, dtypes: dict[str, Any]) -> None:
    assert dtypes[name] == torch.float32


@pytest.mark.parametrize("name", NARROWED)
def test_cuda_computes_in_16_bit_or_leaves_alone(name: str, dtypes: dict[str, Any]) -> None:
    assert dtypes[name] == torch.bfloat16


def test_the_cpu_has_its_own_lists_again_afterwards() -> None:
    before = {name: dtype_of(call) for name, call in (WIDENED | NARROWED).items()}
    with cuda_autocast():
        pass

    assert {name: dtype_of(call) for name, call in (WIDENED | NARROWED).items()} == before
    assert before["softmax"] == torch.bfloat16


def test_fp64_is_left_alone() -> None:
    with cuda_autocast():
        assert dtype_of(lambda b, f: f.double().pow(2)) == torch.float64
        assert dtype_of(lambda b, f: f.double().sum()) == torch.float64


def test_nothing_happens_outside_autocast() -> None:
    with cuda_autocast():
        assert F.softmax(torch.ones(2, 2, dtype=torch.bfloat16), -1).dtype == torch.bfloat16


def test_code_that_asks_about_cuda_hears_about_the_trace() -> None:
    with cuda_autocast():
        assert not torch.is_autocast_enabled()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.is_autocast_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert not torch.is_autocast_enabled("cuda")  # as the recomputation of a checkpoint asks

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.is_autocast_enabled()


def test_the_tables_name_operators_that_cuda_treats() -> None:
    short = {name.removeprefix("aten::") for name in autocast_operators("CUDA")}

    assert WIDE_RESULT | PROMOTE | set(NORMS) | LOWER <= short


def test_the_tables_are_the_headers() -> None:
    """Every list of the installed torch's header, word for word; what stands in none is fp32."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    if not header.exists():
        pytest.skip("this torch ships no headers")
    text = header.read_text(encoding="utf-8")
    if "softmax, Dimname" in text:
        pytest.skip("this torch has named dimensions, which no model uses and 2.13 has not")

    assert listed(text, "LOWER_PRECISION_FP") | {"cudnn_convolution", "cudnn_convolution_transpose"} == LOWER
    assert listed(text, "FP32_SET_OPT_DTYPE") == WIDE_RESULT
    assert listed(text, "PROMOTE") == PROMOTE
    everything = {name.removeprefix("aten::") for name in autocast_operators("CUDA")}
    assert listed(text, "FP32") == everything - LOWER - WIDE_RESULT - PROMOTE - set(NORMS) - {"binary_cross_entropy"}


def listed(text: str, name: str) -> set[str]:
    """Operators of one macro, ``_(op)`` or ``_(op, overload)``, as ``op.overload``."""
    body = text.split(f"#define AT_FORALL_{name}(_)")[1].split("\n\n")[0]
    entries = [line.split("(")[1].split(")")[0] for line in body.splitlines()[1:] if "(" in line]
    return {".".join(part.strip() for part in entry.split(",")) for entry in entries}


class Casts(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Shapes of what is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.seen.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
@pytest.mark.parametrize(("trained", "casts"), [(True, 1), (False, 3)])
def test_weights_that_train_are_cast_once_while_autocast_lasts(trained: bool, casts: int, fake: bool) -> None:
    with FakeTensorMode() if fake else torch.enable_grad(), cuda_autocast():
        weight = torch.nn.Parameter(torch.ones(8, 8), requires_grad=trained)
        inputs = torch.ones(4, 8)
        with Casts() as seen:
            for _ in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    for _ in range(3):
                        out = F.linear(inputs, weight)
        if trained:
            out.sum().backward()
            assert weight.grad.dtype == torch.float32

    assert seen.seen.count((8, 8)) == 2 * casts


def test_gradients_pass_through_the_casts() -> None:
    source = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    with cuda_autocast(), torch.autocast("cpu", dtype=torch.bfloat16):
        F.layer_norm(source, (8,)).pow(2).sum().backward()

    assert source.grad.dtype == torch.bfloat16
