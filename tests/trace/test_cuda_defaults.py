"""TRL's Triton head, multi-tensor defaults, fused dropout and cuBLAS's buffers under a CPU trace."""

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from planner.formulas.overhead import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_HOPPER  # noqa: E402
from planner.trace.cuda import Workspaces, card_of, cuda_defaults, triton_logprob  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

aten = torch.ops.aten


class Results(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Operators with the bytes of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
        self.seen.append((str(func), sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return out

    def named(self, name: str) -> list[int]:
        return [size for operator, size in self.seen if operator == name]


# ---------------------------------------------------------------- TRL


def test_trl_head_keeps_one_tile_and_fp32_gradients_of_hidden_states() -> None:
    kernel = pytest.importorskip("trl.kernels.chunked_logprob")
    tokens, width, vocabulary, chunk = 300, 64, 1000, 256
    with FakeTensorMode(), triton_logprob(), Results() as results:
        hidden = torch.empty(tokens, width, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(vocabulary, width, dtype=torch.bfloat16)
        labels = torch.zeros(tokens, dtype=torch.long)
        results.seen.clear()
        out = kernel.ChunkedLogProbFunction.apply(hidden, weight, None, labels, 1.0, chunk, None, 1.0, ("entropy",))
        out[0].sum().backward()

    tile = tokens * chunk * 2
    assert results.named("aten.empty.memory_format") == [tile, tile]  # forward, backward
    assert tokens * width * 4 in results.named("aten.zeros.default")
    widest = max(
        size for name, size in results.seen if "empty" not in name and ".out" not in name and "alias" not in name
    )
    assert widest <= tile  # no fp32 copies of a tile
    assert hidden.grad.shape == hidden.shape


def test_trl_is_itself_again() -> None:
    kernel = pytest.importorskip("trl.kernels.chunked_logprob")
    before = kernel._use_triton, kernel._forward_kernel

    with triton_logprob():
        assert kernel._use_triton(torch.device("cpu"))

    assert (kernel._use_triton, kernel._forward_kernel) == before


# ---------------------------------------------------------------- defaults


def trained() -> list[Any]:
    parameters = [torch.nn.Parameter(torch.empty(4, 8)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    return parameters


def test_optimizers_and_clipping_take_all_tensors_at_once() -> None:
    with FakeTensorMode(), cuda_defaults():
        parameters = trained()
        with Results() as results:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            torch.optim.SGD(parameters, lr=0.1).step()

    names = [name for name, _ in results.seen]
    assert "aten._foreach_norm.Scalar" in names
    assert "aten._foreach_add_.List" in names
    assert "aten.add_.Tensor" not in names


def test_without_it_a_trace_loops() -> None:
    with FakeTensorMode():
        parameters = trained()
        with Results() as results:
            torch.optim.SGD(parameters, lr=0.1).step()

    assert not any("_foreach" in name for name, _ in results.seen)


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
def test_dropout_keeps_a_byte_for_each_element(fake: bool) -> None:
    saved: list[Any] = []

    def keep(tensor: Any) -> Any:
        saved.append(tensor)
        return tensor

    with FakeTensorMode() if fake else torch.enable_grad(), cuda_defaults():
        source = torch.ones(4, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = torch.nn.Dropout(0.5)(source)
        out.sum().backward()

    assert [(tensor.dtype, tensor.numel()) for tensor in saved] == [(torch.bool, 32)]
    assert source.grad.shape == source.shape


def test_dropout_of_nothing_saves_nothing() -> None:
    source = torch.ones(4, requires_grad=True)

    with cuda_defaults():
        assert torch.equal(torch.nn.Dropout(0.0)(source), source)
        assert torch.equal(torch.nn.Dropout(0.5).eval()(source), source)
        assert torch.nn.Dropout(1.0)(source).sum() == 0


# ---------------------------------------------------------------- cuBLAS


@pytest.mark.parametrize(
    ("capability", "size"), [((8, 0), CUBLAS_WORKSPACE), ((9, 0), CUBLAS_WORKSPACE_HOPPER)], ids=["A100", "H100"]
)
def test_a_workspace_comes_with_the_first_product_of_each_thread(capability: tuple[int, int], size: int) -> None:
    workspaces = Workspaces(card_of(capability))

    assert workspaces.due(aten.add.Tensor, backward=False) == 0
    assert workspaces.due(aten.addmm.default, backward=False) == size
    assert workspaces.due(aten.mm.default, backward=False) == 0
    assert workspaces.due(aten.mm.default, backward=True) == size
    assert workspaces.due(aten.bmm.default, backward=True) == 0
