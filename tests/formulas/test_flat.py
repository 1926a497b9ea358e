"""Gathered parameters of a model whose layers are alike: walking its ends finds what walking all of it finds."""

import pytest

from planner.closed_form import flat
from planner.closed_form.estimator import estimate
from planner.planning import scenario
from planner.result import Estimate
from planner.spec import Method


def estimated(model: str, method: Method) -> Estimate:
    flat._walked.cache_clear()
    flat.flat_of.cache_clear()
    return estimate(scenario(model=model, gpu="h100", gpus=8, sharding="zero3", method=method))


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "llama-3.1-405b"])
def test_the_ends_of_a_model_tell_all_of_it(model: str, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = estimated(model, method)
    monkeypatch.setattr(flat, "_in_reach", lambda model, _pieces, _limits: model.num_hidden_layers)

    assert estimated(model, method) == ends


def test_a_walk_of_too_few_layers_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = estimated("llama-3.1-8b", "full")
    monkeypatch.setattr(flat, "_in_reach", lambda *_: 4)

    assert estimated("llama-3.1-8b", "full") != ends
