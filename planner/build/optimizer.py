"""Every optimizer of ours as the class that trainers make of it, with the parameter groups that transformers makes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from planner.build.installed import require
from planner.errors import UnsupportedScenario

RATE = 1e-5

DECAY = 0.0
"""TrainingArguments.weight_decay. transformers 5.23 training_args.py. Decay that is not decoupled (SGD's) would copy
every gradient."""

_TORCH: Mapping[str, Callable[[list[Any]], Any]] = {
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=RATE, fused=True),
    "adamw_foreach": lambda groups: torch.optim.AdamW(groups, lr=RATE, foreach=True),
    "adamw_loop": lambda groups: torch.optim.AdamW(groups, lr=RATE, foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=RATE, foreach=True),
}
"""torch's own. CUDA's default for ``SGD`` is foreach: torch/optim/optimizer.py, _default_to_fused_or_foreach."""

_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
    "lion": "Lion32bit",
    "lion_8bit": "Lion8bit",
}
"""What transformers' names stand for. transformers 5.23 trainer_optimizer.py, _get_bitsandbytes_optimizer."""

MUON_EXCLUDES = ("embed", "lm_head", "wte", "wpe")


def make_optimizer(name: str, named: Iterable[tuple[str, torch.nn.Parameter]], decayed: set[str]) -> Any:
    """The optimizer ``name`` over the trained ones of ``named``; ``decayed`` names those with weight decay."""
    trained = [(key, parameter) for key, parameter in named if parameter.requires_grad]
    groups = [
        {"params": [parameter for key, parameter in trained if key in decayed], "weight_decay": DECAY},
        {"params": [parameter for key, parameter in trained if key not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name in _TORCH:
        return _TORCH[name](groups)
    if name in _BITSANDBYTES:
        return _bitsandbytes(name, groups)
    if name == "adafactor":
        return _adafactor(groups)
    if name == "muon":
        return _muon(trained)
    raise UnsupportedScenario(f"the optimizer {name} cannot be built here: use --evidence closed-form")


def _bitsandbytes(name: str, groups: list[Any]) -> Any:
    require("bitsandbytes")
    from bitsandbytes import optim  # noqa: PLC0415  (only for its own optimizers)

    return getattr(optim, _BITSANDBYTES[name])(groups, lr=RATE)


def _adafactor(groups: list[Any]) -> Any:
    """Transformers' Adafactor with the Trainer's arguments. transformers 5.23 trainer_optimizer.py, _get_adafactor."""
    from transformers.optimization import Adafactor  # noqa: PLC0415

    return Adafactor(groups, lr=RATE, scale_parameter=False, relative_step=False)


def _muon(trained: list[tuple[str, torch.nn.Parameter]]) -> Any:
    """Muon for the matrices of layers, AdamW for the rest, stepped together."""
    matrices = [p for key, p in trained if p.ndim == 2 and not any(part in key for part in MUON_EXCLUDES)]
    rest = [p for key, p in trained if not any(p is one for one in matrices)]
    return Together(
        [torch.optim.Muon(matrices, lr=RATE)] + ([torch.optim.AdamW(rest, lr=RATE, foreach=True)] if rest else [])
    )


class Together:
    """Several optimizers that step as one."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    @property
    def state(self) -> dict[Any, Any]:
        """States of all parts."""
        return {key: value for part in self.parts for key, value in part.state.items()}

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()
