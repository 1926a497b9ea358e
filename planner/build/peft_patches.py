"""What of PEFT cannot run without values, and what stands in for it: the one place, tuner by tuner.

Three kinds, each with its reason and with the versions whose code was read:

- ``settled`` changes fields of a configuration wherever the job runs: initialisations that need the user's data, or
  the network, leave tensors of the same shapes as the default one does.
- ``stand_ins`` replaces functions of PEFT's modules while it puts adapters on a base without values.
- ``finish`` replaces methods of single layers on such a base, for the steps that follow.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from planner.errors import BrokenInput

VERSIONS = "peft 0.21"
"""Whose code the entries were written against; where PEFT has changed, injection fails and is refused by name."""

# ---------------------------------------------------------------- fields of the configuration

LORA_DATA_INITS = ("pissa", "olora", "eva", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` (PiSSA with any suffix) that read the base's values, activations or gradients.

A and B have the default's shapes, and what is taken from the base's weights leaves their bytes alone. EVA may move
ranks between layers (``rho`` above 1), which only data decides: here they stay equal.
peft 0.21 tuners/lora/layer.py, pissa_init to lora_ga_init.
"""

LORA_DATA_FIELDS = ("eva_config", "corda_config", "loftq_config", "lora_ga_config")


def settled(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields with what needs data or the network replaced by what needs neither, for training.

    >>> settled({"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa_niter_4"})["init_lora_weights"]
    True
    """
    found = {**fields, "inference_mode": False, "base_model_name_or_path": None, "revision": None}
    found["task_type"] = fields.get("task_type") or "CAUSAL_LM"
    init = fields.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(LORA_DATA_INITS):
        found["init_lora_weights"] = True
        found = {key: value for key, value in found.items() if key not in LORA_DATA_FIELDS}
    if fields.get("peft_type") in ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"):
        # text needs a tokenizer and a finished prompt its file; the embedding's shape needs neither
        found.update(prompt_tuning_init="RANDOM", prompt_tuning_init_text=None)
        found.pop("prompt_tuning_init_state_dict_path", None)
    return found


# ---------------------------------------------------------------- functions, while adapters are put on


class StandIn(NamedTuple):
    """For ``tuner``, ``target`` (a dotted name) is replaced by what ``make`` returns for the tuner's configuration."""

    tuner: str
    target: str
    make: Callable[[Any], Any]
    why: str


def even_clusters(_config: Any) -> Any:
    """``clustering_Z``: row ``i`` goes to cluster ``i`` modulo their number, which comes with it."""

    def cluster(rows: torch.Tensor, count: int, _iterations: int) -> tuple[torch.Tensor, int]:
        effective = min(count, rows.shape[0])
        return torch.arange(rows.shape[0]).expand(effective, -1), effective

    return cluster


def even_segments(_config: Any) -> Any:
    """``seg_locations``: the rows of each cluster that ``even_clusters`` made."""

    def locate(clusters: torch.Tensor) -> dict[int, torch.Tensor]:
        count, rows = clusters.shape
        return {number: torch.arange(number, rows, count) for number in range(count)}

    return locate


def no_weights(config: Any) -> Any:
    """``load_peft_weights``: X-LoRA's experts from their configurations alone, which must lie on this disk."""
    for name, place in (config.adapters or {}).items():
        if not (Path(str(place)) / "adapter_config.json").is_file():
            raise BrokenInput(
                f"--peft-config: no adapter_config.json of X-LoRA's {str(name)[:40]!r} in {str(place)[:80]!r}; "
                "`adapters` must be directories here that hold one"
            )
    return lambda *_args, **_kwargs: {}


STAND_INS = (
    StandIn(
        "ADAMSS", "peft.tuners.adamss.layer.clustering_Z", even_clusters, "k-means over the base's singular vectors"
    ),
    StandIn("ADAMSS", "peft.tuners.adamss.layer.seg_locations", even_segments, "the rows of every cluster"),
    StandIn("XLORA", "peft.utils.save_and_load.load_peft_weights", no_weights, "weights of experts that were trained"),
)
"""peft 0.21 tuners/adamss/utils.py, tuners/xlora/model.py."""


@contextmanager
def stand_ins(config: Any) -> Iterator[None]:
    """PEFT without the functions that need values."""
    kind = config.peft_type.value
    if kind == "SHIRA":
        config.mask_fn = None  # a random mask, whose places are counted; `finish` makes them
    with ExitStack() as stack:
        for one in STAND_INS:
            if one.tuner == kind:
                stack.enter_context(patch(one.target, one.make(config)))
        yield


@contextmanager
def importable(name: str) -> Iterator[None]:
    """A package that a configuration wants to see installed, and that a base without values never calls.

    AdaMSS: scikit-learn for its k-means. peft 0.21 tuners/adamss/config.py, AdamssConfig.__post_init__.
    """
    with patch.dict(sys.modules, {name: sys.modules.get(name) or ModuleType(name)}):
        yield


# ---------------------------------------------------------------- methods, for the steps that follow


def finish(model: Any, config: Any) -> None:
    """Replace what reads values, and what sparse tensors do, which have no storage that could be watched."""
    make = _FINISH.get(config.peft_type.value)
    if make is not None:
        for module in model.modules():
            make(module)


def _finish_shira(layer: Any) -> None:
    """Places of the trained entries, (2, entries) int32, and a dense sum in the place of ``dense += sparse``."""
    if not hasattr(layer, "shira_indices"):
        return
    for adapter, weight in layer.shira_weight.items():
        layer.shira_indices[adapter] = weight.new_empty((2, weight.numel()), dtype=torch.int32)

    def get_delta_weight(self: Any, adapter: str) -> torch.Tensor:
        values = self.shira_weight[adapter] * self.scaling[adapter]
        return _Scattered.apply(values, self.shira_indices[adapter], (self.out_features, self.in_features))

    layer.get_delta_weight = MethodType(get_delta_weight, layer)


class _Scattered(torch.autograd.Function):  # type: ignore[misc]  # torch has no types for us
    """A sparse matrix that is added to a dense one: no bytes but its places as int64, of which backward takes them."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, indices: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.places = indices.to(torch.int64)
        ctx.entries = values.shape
        return values.new_empty(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.new_empty(ctx.entries), None, None


def _finish_frod(layer: Any) -> None:
    """The sparse factor as its values, places and size."""
    if not hasattr(layer, "frod_lambda_s_values"):
        return

    def tensors(self: Any, adapter: str, *, device: Any, dtype: torch.dtype) -> Any:
        values = self.frod_lambda_s_values[adapter].to(dtype=dtype)
        lambda_l = self.frod_lambda_l[adapter].to(dtype=dtype)
        left, right = self.frod_U[adapter].to(dtype=dtype), self.frod_V[adapter].to(dtype=dtype)
        return left, right, (values, self.frod_s_indices[adapter], right.shape[0]), lambda_l

    def multiply(self: Any, rows: torch.Tensor, sparse: Any) -> torch.Tensor:
        values, places, size = sparse
        if rows.dtype in (torch.float16, torch.bfloat16):
            return rows @ _Dense.apply(values, places, size).t()
        return _SparseProduct.apply(values, places, rows)

    layer._get_frod_tensors = MethodType(tensors, layer)
    layer._sparse_activation_mm = MethodType(multiply, layer)


class _Dense(torch.autograd.Function):  # type: ignore[misc]
    """``sparse.coalesce().to_dense()``: sorted values and places live as long as the graph, beside the dense matrix."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
        ctx.kept = torch.empty_like(places), torch.empty_like(values)
        return values.new_empty((size, size))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return torch.empty_like(ctx.kept[1]), None, None


class _SparseProduct(torch.autograd.Function):  # type: ignore[misc]
    """``torch.sparse.mm(sparse, rows.t()).t()``: backward makes the dense gradient of the sparse factor."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.kept = torch.empty_like(places), torch.empty_like(values)
        ctx.save_for_backward(rows)
        return rows.new_empty((rows.shape[1], rows.shape[0])).t()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        (rows,) = ctx.saved_tensors
        of_rows = torch.empty_like(rows)
        dense = rows.new_empty((rows.shape[1], rows.shape[1]))
        values = torch.empty_like(ctx.kept[1])
        del dense
        return values, None, of_rows


def _finish_poly(router: Any) -> None:
    """Room for task number 1, which is what a number read from a fake tensor is; routing looks at no number."""
    if hasattr(router, "module_logits"):
        router.n_tasks = max(router.n_tasks, 2)


_FINISH: Mapping[str, Callable[[Any], None]] = {"SHIRA": _finish_shira, "FROD": _finish_frod, "POLY": _finish_poly}
"""peft 0.21 tuners/shira/layer.py, get_delta_weight; tuners/frod/layer.py, _get_frod_tensors and _sparse_activation_mm;
tuners/poly/router.py, PolyRouter.forward."""
