"""transformers' own models on fake tensors, with CUDA's attention and masks: which branches a step takes."""

from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from transformers import masking_utils, modeling_flash_attention_utils  # noqa: E402
from transformers.models.falcon import modeling_falcon  # noqa: E402

from planner.errors import UnsupportedScenario  # noqa: E402
from planner.trace.cuda import IMPLEMENTATIONS, Attention, Card, as_on_cuda  # noqa: E402
from planner.trace.cuda.attention import FORWARD  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

S = 96
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "head_dim": 16,
    "pad_token_id": 0,
}


class Shapes(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Shape and dtype of every tensor that an operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen.append((tuple(out.shape), out.dtype))
        return out


def fake_model(config: Any, attention: Attention) -> Any:
    """A model in bf16 whose parameters are fake; call it under the mode that it returns with."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=IMPLEMENTATIONS[attention], dtype=torch.bfloat16
        )
    with mode:
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    empty = None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype)
                    held[name] = (
                        torch.nn.Parameter(empty) if held is module._parameters and empty is not None else empty
                    )
    return model, mode


def step(config: Any, attention: Attention, *, mask: bool) -> list[tuple[tuple[int, ...], Any]]:
    """Every tensor of one forward and backward on a batch without padding."""
    with as_on_cuda(attention, Card()):
        model, mode = fake_model(config, attention)
        with mode, Shapes() as shapes:
            ids = torch.zeros(2, S, dtype=torch.long)
            extra = {"attention_mask": torch.ones(2, S, dtype=torch.long)} if mask else {}
            model(input_ids=ids, labels=ids, use_cache=False, **extra).loss.backward()
    return list(shapes.seen)


def has_masks(seen: list[tuple[tuple[int, ...], Any]]) -> bool:
    return any(shape[-2:] == (S, S) and dtype == torch.bool for shape, dtype in seen)


def repeats_keys(seen: list[tuple[tuple[int, ...], Any]]) -> bool:
    return any(shape == (2, 2, 2, S, 16) for shape, _ in seen)


LLAMA: Callable[[], Any] = lambda: transformers.LlamaConfig(**SIZES)  # noqa: E731
NARROW: Callable[[], Any] = lambda: transformers.MistralConfig(**SIZES, sliding_window=32)  # noqa: E731
WIDE: Callable[[], Any] = lambda: transformers.MistralConfig(**SIZES, sliding_window=4096)  # noqa: E731


@pytest.mark.parametrize("mask", [True, False], ids=["mask of ones", "no mask"])
@pytest.mark.parametrize(
    ("config", "attention", "masked"),
    [
        (LLAMA, "sdpa", False),
        (LLAMA, "flash", False),
        (LLAMA, "eager", True),
        (WIDE, "sdpa", False),
        (WIDE, "flash", False),
        (NARROW, "sdpa", True),  # the window is shorter than the sequence: a real run builds a mask too
        (NARROW, "flash", False),  # the window is the kernel's affair
    ],
    ids=["sdpa", "flash", "eager", "wide sdpa", "wide flash", "narrow sdpa", "narrow flash"],
)
def test_masks_exist_where_a_real_step_has_them(
    config: Callable[[], Any], attention: Attention, masked: bool, mask: bool
) -> None:
    seen = step(config(), attention, mask=mask)

    assert has_masks(seen) == masked
    assert repeats_keys(seen) == masked  # torch's fused kernels share heads only without a mask


def test_a_real_model_agrees_about_masks() -> None:
    """The same question to a real model with real tensors on the CPU, nothing of ours in place."""
    for config, masked in ((LLAMA(), False), (WIDE(), False), (NARROW(), True)):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        ids = torch.zeros(2, S, dtype=torch.long)
        with Shapes() as shapes:
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
        assert has_masks(shapes.seen) == masked


def test_everything_is_taken_back() -> None:
    names = ("find_packed_sequence_indices", "is_tracing", "fast_all")
    before = [getattr(masking_utils, name) for name in names]
    flash_mask = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"]

    with as_on_cuda("flash", Card()):
        assert [getattr(masking_utils, name) for name in names] != before

    assert [getattr(masking_utils, name) for name in names] == before
    assert masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"] is flash_mask
    assert modeling_flash_attention_utils._loaded_implementation is None


def test_models_that_cannot_have_flash_say_so_themselves() -> None:
    with as_on_cuda("flash", Card()), torch.device("meta"), pytest.raises(ValueError, match="does not support Flash"):
        transformers.AutoModelForCausalLM.from_config(
            transformers.BloomConfig(hidden_size=64, n_layer=1, n_head=4), attn_implementation="flash_attention_2"
        )


def test_kernels_of_a_models_own_are_refused() -> None:
    config = transformers.GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)

    with as_on_cuda("flash", Card()), torch.device("meta"), pytest.raises(UnsupportedScenario, match="not known"):
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation="flash_attention_2")


def test_files_that_import_flash_only_when_installed_get_it() -> None:
    with as_on_cuda("flash", Card()):
        assert hasattr(modeling_falcon, FORWARD)
