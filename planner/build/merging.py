"""Adapters merged into their base by PEFT's own ``merge_and_unload``, and what of it fake tensors cannot do."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.build.job import Job
from planner.build.method import TROUBLE
from planner.build.place import Place
from planner.errors import PlannerError, UnsupportedScenario, first_line


def merge(job: Job) -> None:
    """Add every adapter to its matrix; the job has no adapters afterwards, though its optimizer still holds them."""
    try:
        with ExitStack() as stack:
            if not job.place.real:
                stack.enter_context(_as_on_device(job.place))
                if job.scenario.train.quantized:
                    stack.enter_context(_packed(job.place))
            job.model.merge_and_unload()
    except PlannerError:
        raise
    except TROUBLE as error:
        raise UnsupportedScenario(
            f"PEFT cannot merge {job.scenario.train.peft_type} into {job.scenario.model.name}: {first_line(error)}"
        ) from error


@contextmanager
def _as_on_device(place: Place) -> Iterator[None]:
    """16-bit adapters are multiplied as they are: PEFT makes fp32 copies of them on a CPU only.

    peft 0.21 tuners/lora/layer.py, Linear.get_delta_weight.
    """
    if place.host == place.name:
        yield
        return
    from peft.tuners.lora import layer  # noqa: PLC0415

    def get_delta_weight(self: Any, adapter: str) -> torch.Tensor:
        product = self.lora_B[adapter].weight @ self.lora_A[adapter].weight
        return layer.transpose(product, self.fan_in_fan_out) * self.scaling[adapter]

    with patch.object(layer.Linear, "get_delta_weight", get_delta_weight):
        yield


@contextmanager
def _packed(place: Place) -> Iterator[None]:
    """Fake 4-bit matrices, which are plain parameters, are unpacked and packed again by bitsandbytes' own functions.

    peft 0.21 tuners/lora/bnb.py, Linear4bit.merge; bitsandbytes 0.50 nn/modules.py, Params4bit._quantize: the merged
    matrix goes over the host, and is on the device in whole while it is packed.
    """
    import bitsandbytes  # noqa: PLC0415
    from peft.tuners.lora import bnb  # noqa: PLC0415

    functional = bitsandbytes.functional

    def unpack(weight: Any, state: Any = None) -> torch.Tensor:
        return functional.dequantize_4bit(weight.data, state)

    class Packing:
        """``Params4bit(data, ...)``, which its ``to`` makes a packed parameter."""

        def __init__(self, data: torch.Tensor, **known: Any) -> None:
            self.data, self.known = data.detach(), known

        def to(self, _device: Any) -> torch.nn.Parameter:
            old, module = self.known["quant_state"], self.known["module"]
            whole = self.data.contiguous() if place.host == place.name else self.data.clone()
            packed, state = functional.quantize_4bit(
                whole,
                blocksize=old.blocksize,
                compress_statistics=self.known["compress_statistics"],
                quant_type=self.known["quant_type"],
                quant_storage=self.known["quant_storage"],
            )
            weight = torch.nn.Parameter(packed, requires_grad=False)
            weight.quant_state, weight.quant_type = state, self.known["quant_type"]
            module.quant_state = state
            return weight

    tables = patch.dict(functional.name2qmap, clear=True)  # which would stay behind, fake
    unpacking = patch.object(bnb, "dequantize_bnb_weight", unpack)
    with tables, unpacking, patch.object(bitsandbytes.nn, "Params4bit", Packing):
        yield
