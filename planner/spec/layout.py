"""How the ranks of a job are arranged: which of them divide what."""

from typing import NamedTuple

from planner.spec.hardware import Cluster
from planner.spec.training import TrainSpec


class Layout(NamedTuple):
    """Sizes of the groups that a rank belongs to, ``tensor`` the innermost.

    ``tensor * context * ulysses * pipeline * replicate * data`` is the number of ranks. ``data`` ranks see different
    sequences; a sharding engine divides its states among ``shard`` ranks, which are ``data * context * ulysses``, and
    keeps ``replicate`` copies of the result. ``expert`` of the ``data`` ranks divide the experts among them.
    """

    tensor: int
    context: int
    ulysses: int
    pipeline: int
    replicate: int
    data: int
    expert: int

    @property
    def shard(self) -> int:
        """Ranks among which a sharding engine divides its states: those that hold the same part of the model.

        accelerate 1.15 parallelism_config.py, fsdp_dim_names: dp_shard and cp; DeepSpeed's sequence parallelism
        shards over all ranks too.
        """
        return self.data * self.context * self.ulysses

    @property
    def model(self) -> int:
        """Ranks that work on the same sequences."""
        return self.tensor * self.context * self.ulysses * self.pipeline

    @property
    def sequences(self) -> int:
        """Groups of ranks that see different sequences: by them a micro-batch is multiplied."""
        return self.data * self.replicate


def is_divided(train: TrainSpec) -> bool:
    """Whether several ranks work on the same sequences, or hold different experts."""
    sizes = (train.tensor_parallel, train.pipeline_parallel, train.context_parallel, train.ulysses_parallel)
    return max(*sizes, train.expert_parallel) > 1


def divides_as_megatron(train: TrainSpec) -> bool:
    """Whether layers are divided as Megatron-LM and torchtitan do, which have what Accelerate has not.

    Accelerate 1.15 has no pipeline, transformers 5.23 no sequence parallelism beside the tensor-parallel plans of its
    models, and its expert parallelism takes the place of tensor parallelism.
    """
    return train.sequence_parallel or train.pipeline_parallel > 1 or train.expert_parallel > 1


def layout_of(train: TrainSpec, cluster: Cluster) -> Layout:
    """The layout of settings on a cluster; ``data`` is what the other sizes leave.

    >>> from planner.hardware import load_gpu
    >>> layout_of(TrainSpec(method="full", sharding="hsdp"), Cluster(gpu=load_gpu("h100"), gpus=8, nodes=4)).shard
    8
    """
    model = train.tensor_parallel * train.context_parallel * train.ulysses_parallel * train.pipeline_parallel
    rest = max(cluster.world_size // model, 1)
    replicate = min(cluster.nodes, rest) if train.sharding == "hsdp" else 1
    return Layout(
        tensor=train.tensor_parallel,
        context=train.context_parallel,
        ulysses=train.ulysses_parallel,
        pipeline=train.pipeline_parallel,
        replicate=replicate,
        data=max(rest // replicate, 1),
        expert=train.expert_parallel,
    )
