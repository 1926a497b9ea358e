"""What trainers of pairs do with whole logits, in our words: which tensors they make, and how long names hold them.

None of these trainers is a library of ours, or none of the release that is installed. Sources stand with the closed
forms of the same names, ``planner.formulas.pairs``.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from planner.build.trainer import Loss
from planner.spec import Pairs, Scenario

ENTROPY_ROWS = 128
BETA = 0.1

Policy = tuple[torch.Tensor, Any]
"""Summed log probabilities of each sequence, and what a trainer's variables keep until its step returns."""


def preference_loss(model: Any, reference: Any, scenario: Scenario, _device: str) -> tuple[Loss, None]:
    """The loss of pairs, as the stack's trainer makes it of whole logits; dropout is off."""
    for part in filter(None, (model, reference)):
        for module in part.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return _loss_of(model, reference, scenario), None


def _loss_of(model: Any, reference: Any, scenario: Scenario) -> Loss:
    step = _STEPS[scenario.pairs]
    names: dict[str, Any] = {}

    def refer() -> AbstractContextManager[Any]:
        return model.disable_adapter() if reference is None else nullcontext()

    def compute(called: Any, batch: dict[str, Any], _outputs: bool = False) -> Any:
        scored = {name: batch.pop(name) for name in list(batch) if name.startswith("ref_")}
        mask = batch.pop("completion_mask").bool()
        second = None if scored else called if reference is None else reference
        states = scenario.stack.pairs_with_states
        policy, given = step(called, second, refer, batch, mask, states, names)
        if given is None:
            given = torch.cat(list(scored.values()))
        ratios = policy - given
        chosen, rejected = ratios.chunk(2)
        return -functional.logsigmoid(BETA * (chosen - rejected)).mean()

    return compute


def _passed(model: Any, batch: Mapping[str, Any], states: bool = False) -> Any:
    more = {"output_hidden_states": True} if states else {}
    return model(**batch, use_cache=False, **more)


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """``torch.gather`` along the vocabulary with the backward of real tensors, which adds into zeros in place.

    torch autograd/FunctionsManual.cpp, gather_backward: of tensor subclasses, as a trace has them, it makes a copy.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits, index)
        return torch.gather(logits, -1, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, index = ctx.saved_tensors
        return torch.zeros_like(logits).scatter_add_(-1, index, grads[0]), None


def _picked(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _Gather.apply(logits, index).squeeze(-1)
    return found


def _by_row(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log probabilities of the labels, one sequence after the other."""
    index = labels.unsqueeze(-1)
    if logits.dtype == torch.float32:
        return _picked(logits, index) - torch.stack([torch.logsumexp(row, -1) for row in logits])
    found = []
    for row, places in zip(logits, index, strict=True):
        soft = functional.log_softmax(row, -1)
        found.append(_picked(soft, places))
    return torch.stack(found)


def _means(logits: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Of the logits that bear loss, of the chosen and of the rejected answers."""
    return [part[chosen].mean() for part, chosen in zip(logits.chunk(2), mask.chunk(2), strict=True)]


# ---------------------------------------------------------------- TRL before its fused head


def _rows(called: Any, second: Any, refer: Any, batch: Any, mask: Any, states: bool, _names: Any) -> Policy:
    def scored(model: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        outputs = _passed(model, batch, states)
        logits = outputs.logits
        labels, bears = torch.roll(batch["input_ids"], -1, 1), torch.roll(mask, -1, 1)
        labels[~bears] = 0
        found = _by_row(logits, labels)
        found[~bears] = 0
        return torch.roll(found, 1, 1)[:, 1:].sum(-1), _means(logits, bears)

    policy, _logged = scored(called)
    if second is None:
        return policy, None
    with torch.no_grad(), refer():
        return policy, scored(second)[0]


def _shifting(copies: bool) -> Callable[..., Policy]:
    """TRL's step from 0.29 on: outputs of both passes live until the metrics."""

    def cut(outputs: Any) -> torch.Tensor:
        found: torch.Tensor = outputs.logits[..., :-1, :]
        return found.contiguous() if copies else found

    def step(called: Any, second: Any, refer: Any, batch: Any, mask: Any, states: bool, _names: Any) -> Policy:
        labels, bears = batch["input_ids"][..., 1:], mask[..., 1:]
        outputs = _passed(called, batch, states)
        logits = cut(outputs)
        policy = _by_row(logits, labels)
        policy[~bears] = 0.0
        given = None
        if second is not None:
            with torch.no_grad(), refer():
                of_reference = _passed(second, batch)
            shifted = cut(of_reference)
            given = _by_row(shifted, labels)
            given[~bears] = 0.0
            given = given.sum(1)
        _entropy(logits.detach())
        _means(logits.detach(), bears)
        logits.detach().chunk(2)[0].argmax(-1)
        return policy.sum(1), given

    return step


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    found = []
    for part in logits.reshape(-1, logits.shape[-1]).split(ENTROPY_ROWS):
        soft = functional.log_softmax(part, -1)
        found.append(-(torch.exp(soft) * soft).sum(-1))
    return torch.cat(found)


# ---------------------------------------------------------------- the other trainers


def _log_softmax(called: Any, second: Any, refer: Any, batch: Any, mask: Any, _states: bool, _names: Any) -> Policy:
    """LLaMA-Factory's: each pass leaves the logits with its scores."""

    def scored(model: Any) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        logits = _passed(model, {name: value.clone() for name, value in batch.items()}).logits.to(torch.float32)
        return _at_once(logits, batch, mask), logits.split(len(mask) // 2)

    policy, logits = scored(called)
    if second is None:
        return policy, None
    with torch.no_grad(), refer():
        given = scored(second)
    for part in logits:
        part.mean()
    return policy, given[0]


def _at_once(logits: torch.Tensor, batch: Any, mask: torch.Tensor) -> torch.Tensor:
    index = batch["input_ids"][:, 1:].clone().unsqueeze(-1)
    return (_picked(logits[:, :-1].log_softmax(-1), index) * mask[:, 1:]).sum(-1)


def _divided(called: Any, second: Any, refer: Any, batch: Any, mask: Any, _states: bool, names: Any) -> Policy:
    """torchtune's recipes of adapters, where a name keeps the reference's logits from step to step."""

    def scored(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _passed(model, batch).logits.float()
        return _at_temperature(logits, batch["input_ids"], mask), logits[len(mask) // 2 :]

    policy, logits = scored(called)
    logits.detach().mean()
    del logits
    with torch.no_grad(), refer():
        given, names["_"] = scored(second)
    return policy, given


def _halves(called: Any, second: Any, refer: Any, batch: Any, mask: Any, _states: bool, _names: Any) -> Policy:
    """torchtune's recipe of whole models."""

    def scored(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _passed(model, batch).logits.float()
        parts = zip(logits.chunk(2), batch["input_ids"].chunk(2), mask.chunk(2), strict=True)
        return torch.cat([_at_temperature(*part) for part in parts]), logits

    policy, logits = scored(called)
    logits.detach().mean()
    del logits
    with torch.no_grad(), refer():
        given, logits = scored(second)
    del logits
    return policy, given


def _at_temperature(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    index = ids[:, 1:].clone().unsqueeze(-1)
    found = _picked(functional.log_softmax(logits[:, :-1] / 1.0, -1), index)
    return (found * mask[:, 1:]).sum(-1)


_STEPS: Mapping[Pairs, Callable[..., Policy]] = MappingProxyType(
    {
        "rows": _rows,
        "row_copies": _shifting(copies=True),
        "row_views": _shifting(copies=False),
        "log_softmax": _log_softmax,
        "divided": _divided,
        "halves": _halves,
    }
)
"""TRL 1.14's kernel runs on a GPU alone, and has none."""
