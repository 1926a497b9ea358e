"""Frozen inputs: what is trained (``ModelSpec``), how (``TrainSpec``), on what (``Cluster``).

A ``Scenario`` joins the three with the software stack that runs them; it is the only input of every
estimator. Everything is resolved: no field means "ask somebody else", so two equal scenarios give equal estimates.
"""

from planner.spec.architecture import (
    Attend,
    Attention,
    Block,
    Experts,
    Latent,
    Linear,
    Mlp,
    ModelSpec,
    Norm,
    NormKind,
    Placement,
    Rope,
    Table,
)
from planner.spec.hardware import (
    FIGURES,
    Cluster,
    Gpu,
    Price,
)
from planner.spec.scenario import (
    Origin,
    Scenario,
)
from planner.spec.training import (
    FLOAT_BYTES,
    METHODS,
    MOMENT_SETTINGS,
    MOMENTS,
    MOMENTS_OF,
    OPTIMIZERS,
    Autocast,
    Behaviour,
    Float,
    Kernels,
    Loss,
    Method,
    Moment,
    Quant,
    QuantStorage,
    Sharding,
    TrainSpec,
)

__all__ = [
    "FIGURES",
    "FLOAT_BYTES",
    "METHODS",
    "MOMENTS",
    "MOMENTS_OF",
    "MOMENT_SETTINGS",
    "OPTIMIZERS",
    "Attend",
    "Attention",
    "Autocast",
    "Behaviour",
    "Block",
    "Cluster",
    "Experts",
    "Float",
    "Gpu",
    "Kernels",
    "Latent",
    "Linear",
    "Loss",
    "Method",
    "Mlp",
    "ModelSpec",
    "Moment",
    "Norm",
    "NormKind",
    "Origin",
    "Placement",
    "Price",
    "Quant",
    "QuantStorage",
    "Rope",
    "Scenario",
    "Sharding",
    "Table",
    "TrainSpec",
]
