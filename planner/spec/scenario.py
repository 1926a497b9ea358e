"""One complete question, and the only input of every estimator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from planner.spec.architecture import ModelSpec
from planner.spec.hardware import Cluster
from planner.spec.layout import Layout, layout_of
from planner.spec.training import Behaviour, Float, Pairs, TrainSpec

Origin = Literal["user", "stack", "model", "default", "plan"]
"""``plan``: the plan set what was left open, from the data or for speed."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One complete question: this model, trained this way, on this hardware, by this software."""

    model: ModelSpec
    train: TrainSpec
    cluster: Cluster
    stack: Behaviour
    origins: Mapping[str, Origin] = field(default_factory=dict, hash=False, compare=False)
    """Who chose each setting of ``train``: shown beside it, without influence on any number."""

    @cached_property
    def layout(self) -> Layout:
        """How the ranks are arranged."""
        return layout_of(self.train, self.cluster)

    @property
    def pairs(self) -> Pairs:
        """How pairs are scored."""
        adapted = self.stack.adapted_pairs if self.train.uses_adapters else ""
        return adapted or self.stack.pairs

    @property
    def reference_dtype(self) -> Float:
        """What a reference computes with: a second model may be loaded in 16 bits whatever the policy is."""
        train = self.train
        if train.reference != "copy" or not self.stack.narrow_reference:
            return train.weights_dtype
        return "fp16" if train.autocast == "fp16" else "bf16"

    @property
    def reduces_each(self) -> bool:
        """Whether gradients of every micro-batch are reduced, none of which is under ``no_sync``."""
        fsdp2 = self.train.shards_by_fsdp and self.stack.fsdp_version == 2
        return self.stack.no_sync == "none" or (self.stack.no_sync == "not_fsdp2" and fsdp2)
