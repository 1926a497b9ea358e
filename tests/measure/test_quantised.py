"""Quantised matrices that are made where they stay: packed on their device, and out of one piece of memory."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from planner.measure.step import without_kernels_hub
from planner.spec import Scenario

torch: Any = pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "bitsandbytes"):
    pytest.importorskip(library)
without_kernels_hub()

from bitsandbytes import nn as bnb  # noqa: E402

from planner.build.job import assemble  # noqa: E402
from planner.build.place import Place, device_place  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


Quant = Literal["nf4", "int8"]


def loaded(scenario: Scenario, quant: Quant, place: Place) -> list[Any]:
    """The quantised matrices of a model that was just loaded."""
    train = replace(scenario.train, method="qlora", quant=quant)
    job = assemble(replace(scenario, train=train), place, attention="sdpa")
    return [module for module in job.model.modules() if isinstance(module, bnb.Linear4bit | bnb.Linear8bitLt)]


def test_int8_is_quantised_where_moving_a_tensor_does_nothing(
    monkeypatch: pytest.MonkeyPatch, scenario: Scenario
) -> None:
    """On a GPU the weight is there already, and bitsandbytes quantises on the way from the CPU alone."""
    monkeypatch.setattr(bnb.Int8Params, "to", lambda self, *_arguments, **_keywords: self)
    matrices = loaded(scenario, "int8", device_place("cpu"))

    assert matrices
    for module in matrices:
        assert module.weight.dtype == torch.int8
        assert module.weight.CB.shape == (module.out_features, module.in_features)
        assert module.weight.SCB.shape == (module.out_features,)
        assert module.weight.CB.data_ptr() == module.weight.data_ptr()


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_all_matrices_are_made_in_the_memory_of_the_largest(scenario: Scenario, quant: Quant) -> None:
    asked: list[torch.Size] = []
    place = device_place("cpu")

    def empty(shape: torch.Size, dtype: Any) -> Any:
        asked.append(shape)
        return place.empty(shape, dtype)

    matrices = loaded(scenario, quant, place._replace(empty=empty))
    shapes = {(module.out_features, module.in_features) for module in matrices}

    assert asked[0] == (max(rows * columns for rows, columns in shapes),)
    assert not shapes & set(map(tuple, asked))
    assert len({module.weight.data_ptr() for module in matrices}) == len(matrices)
    first, second, *_ = [module.weight for module in matrices if module.out_features == matrices[0].out_features]
    assert not torch.equal(first, second)
