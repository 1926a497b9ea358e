"""Generation: transformers' own ``generate`` with the cache that it takes by default.

A trace runs the prompt, the first token after it and the last one; between them the cache grows in one leap, layer by
layer, to what it holds before the last token.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planner.build.job import Job

RUN = 3
"""Forward passes that a trace runs at most: the prompt's, the first token's, the last token's."""


def generate(job: Job) -> None:
    """``eval_batch_size`` prompts of ``seq_len`` tokens, and ``new_tokens`` after each, greedily."""
    train = job.scenario.train
    job.model.eval()
    try:
        lengthen(job, rows=train.eval_batch_size, prompt=train.seq_len, tokens=train.new_tokens, do_sample=False)
    finally:
        job.model.train()


def lengthen(job: Job, *, rows: int, prompt: int, tokens: int, **choice: object) -> Any:
    """``rows`` prompts of so many tokens, and ``tokens`` after each; ``choice`` says how one is chosen."""
    model = job.model
    given = job.texts(prompt, rows)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with _endless(inner), _few_passes(job, inner, tokens):
        return model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            max_new_tokens=tokens,
            num_beams=1,
            use_cache=True,
            **choice,
        )


@contextmanager
def _endless(model: Any) -> Iterator[None]:
    """No sequence ends early, so that all tokens are generated."""
    with patch.object(model.generation_config, "eos_token_id", None):
        yield


@contextmanager
def _few_passes(job: Job, model: Any, tokens: int) -> Iterator[None]:
    """On fake tensors: three passes, the leap of the cache between them, and the experts' kernel that CUDA takes."""
    if job.place.real:
        yield
        return
    passes = min(tokens, RUN)
    skipped = tokens - passes
    caches: list[Any] = []
    update = model._update_model_kwargs_for_generation
    done = 0

    def remember(outputs: Any, *arguments: Any, **keywords: Any) -> Any:
        caches[:] = [outputs.get("past_key_values")]
        return update(outputs, *arguments, **keywords)

    def unfinished(*_arguments: Any, **_keywords: Any) -> bool:
        nonlocal done
        if done == passes - 1 and skipped:
            grow(caches[0], skipped, job.at_layer)
        done += 1
        return done <= passes

    with ExitStack() as stack:
        stack.enter_context(patch.object(model, "_update_model_kwargs_for_generation", remember))
        stack.enter_context(patch.object(model, "_has_unfinished_sequences", unfinished))
        if job.place.host != job.place.name:
            stack.enter_context(patch.object(model, "_optimize_model_for_decode", lambda: _experts_as_on_cuda(model)))
        yield


@contextmanager
def _experts_as_on_cuda(model: Any) -> Iterator[None]:
    """Tokens are decoded with a copy of each token's experts.

    transformers 5.23 generation/utils.py, _optimize_model_for_decode: so on every device but the CPU.
    """
    before = model.get_experts_implementation()
    switch = "grouped_mm" in before.values()
    if switch:
        model.set_experts_implementation(
            {name: "batched_mm" if kind == "grouped_mm" else kind for name, kind in before.items()}
        )
    try:
        yield
    finally:
        if switch:
            model.set_experts_implementation(before)


def grow(cache: Any, tokens: int, at_layer: Callable[[int], Any]) -> None:
    """Lengthen a ``DynamicCache`` by ``tokens`` as their passes would have left it.

    A sliding layer keeps a view of the last ``window - 1`` positions of what it last joined, which had one more.
    transformers 5.23 cache_utils.py, DynamicLayer.update and DynamicSlidingWindowLayer.update.
    """
    for number, layer in enumerate(getattr(cache, "layers", ())):
        if isinstance(getattr(layer, "keys", None), torch.Tensor):
            with at_layer(number):
                _grow_layer(layer, tokens)


def _grow_layer(layer: Any, tokens: int) -> None:
    window = getattr(layer, "sliding_window", None) if layer.is_sliding else None
    length = layer.get_seq_length() + tokens
    for name in ("keys", "values"):
        before = getattr(layer, name)
        make, shape = before.new_empty, list(before.shape)
        shape[-2] = length if window is None else min(length, window)
        del before
        setattr(layer, name, None)
        whole = make(shape)
        setattr(layer, name, whole if window is None else whole[:, :, -window + 1 :, :])
    if window is not None:
        layer.cumulative_length = length
