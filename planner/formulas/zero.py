"""What DeepSpeed's ZeRO holds on one rank: partitions, flat buffers, and what its own estimators say.

Counts of elements in, elements or bytes out. Symbols: ``N`` ranks, ``P`` parameters, ``e`` bytes per element, ``h``
hidden_size. Sources are files of DeepSpeed 0.19.8, runtime/zero, unless they say otherwise.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MASTER_BYTES = 4
"""ZeRO updates an fp32 copy of every 16-bit parameter that it trains. stage_1_and_2.py,
single_partition_of_fp32_groups; stage3.py, _create_fp32_partitions."""

NORM_BYTES = 8
"""The gradients' norm is taken of one fp64 copy after the other. utils.py, get_norm_dtype."""

ALIGNMENT = 2
"""Elements to which partitions of a flat 16-bit buffer are aligned. stage_1_and_2.py, nccl_start_alignment_factor."""


class Buckets(NamedTuple):
    """Sizes in elements, as the configuration names them.

    ``reduce``: reduce_bucket_size. ``prefetch``, ``persistence``, ``live`` and ``reuse``: stage3_prefetch_bucket_size,
    stage3_param_persistence_threshold, stage3_max_live_parameters and stage3_max_reuse_distance. ``sub_group``:
    sub_group_size. ``turns``: buckets of gradients, of which two take turns under overlap_comm in stages 1 and 2
    (stage_1_and_2.py, setup_buckets).
    """

    reduce: int
    prefetch: int
    persistence: int
    live: int = 1_000_000_000
    reuse: int = 1_000_000_000
    sub_group: int = 1_000_000_000
    turns: int = 1


DEEPSPEED_BUCKETS = Buckets(reduce=500_000_000, prefetch=50_000_000, persistence=100_000)
"""DeepSpeed's own defaults: config.py, DeepSpeedZeroConfig."""


def buckets(kind: str, *, h: int) -> Buckets:
    """Sizes under ``zero_buckets``: as transformers fills in ``auto``, or DeepSpeed's own.

    Formula:   reduce h**2, prefetch 0.9 * h**2, persistence 10 * h; the rest has no ``auto``
    Source:    transformers 5.23 integrations/deepspeed.py, trainer_config_finalize
    Valid:     a configuration that says ``auto`` there, as those in transformers' documentation do

    >>> buckets("auto", h=4096)[:3], buckets("deepspeed", h=4096)[:3]
    ((16777216, 15099494, 40960), (500000000, 50000000, 100000))
    """
    if kind == "deepspeed":
        return DEEPSPEED_BUCKETS
    return Buckets(reduce=h * h, prefetch=int(0.9 * h * h), persistence=10 * h)


# ---------------------------------------------------------------- stages 1 and 2: one flat buffer


def flat_partition(numel: int, ranks: int) -> int:
    """Elements of one rank's part of a flat buffer.

    Shapes:    all trained parameters one after another, padded
    Formula:   ceil(P / (2 N)) * 2
    Source:    stage_1_and_2.py, flatten_dense_tensors_aligned with alignment 2 * N
    Valid:     one group of parameters; Trainer's second group, of norms and biases, adds its own padding

    >>> flat_partition(10, 4)
    4
    """
    return -(-numel // (ALIGNMENT * ranks)) * ALIGNMENT


class Partition(NamedTuple):
    """What of a flat buffer's tensors touches one rank's part: their elements, and those of the largest."""

    numel: int
    largest: int


def fullest_partition(sizes: Sequence[int], ranks: int) -> Partition:
    """The rank whose gradients take most: a tensor that crosses the end of a part is kept whole on both sides.

    Shapes:    tensors in the order of the model, cut into N equal parts
    Formula:   the largest sum of the sizes of the tensors that a part touches
    Source:    stage_1_and_2.py, get_partition_info and copy_grads_in_partition (``grads_in_partition`` has room for
               every parameter in the partition, whole)
    Valid:     ``contiguous_gradients``, the default
    Excludes:  the padding of the last part

    >>> fullest_partition([100, 10, 10, 100], 2), fullest_partition([100, 10, 10, 100], 4)
    (Partition(numel=110, largest=100), Partition(numel=120, largest=100))

    A model of which nothing is trained has none:

    >>> fullest_partition([], 2)
    Partition(numel=0, largest=0)
    """
    part = flat_partition(sum(sizes), ranks)
    sums: dict[int, int] = {}
    start = 0
    for size in sizes:
        first, last = start // part, (start + size - 1) // part
        for rank in {first, last, (first + last) // 2}:  # ranks between these hold this tensor alone
            sums[rank] = sums.get(rank, 0) + size
        start += size
    return Partition(max(sums.values(), default=0), max(sizes, default=0))


# ---------------------------------------------------------------- reductions in backward


class Arrival(NamedTuple):
    """A gradient that backward has made: its tensor's place in the model, elements, and offset in a flat buffer."""

    place: int
    size: int
    start: int


def reductions(arrivals: Sequence[Arrival], *, bucket: int, ranks: int, stage: int) -> dict[int, int]:
    """Elements of whole gradients and of copies that stand beside the bucket and the partition, most by place.

    Shapes:    gradients in the order of backward; one that fits is copied into the bucket and goes, one that does not
               waits as it is for the next; a full bucket is reduced, and copied before that unless it lies in one part
    Formula:   at an arrival: waiting + arriving + copy of what is reduced
    Source:    stage_1_and_2.py, reduce_independent_p_g_buckets_and_remove_grads, average_tensor and allreduce_bucket;
               stage3.py, the same and __add_grad_to_ipg_bucket; runtime/comm/coalesced_collectives.py,
               reduce_scatter_coalesced (a single tensor that N divides is not copied)
    Valid:     stages 2 and 3 with contiguous_gradients and reduce_scatter, the defaults
    Excludes:  the bucket, and the second one of overlap_comm

    >>> reductions([Arrival(0, 90, 10), Arrival(0, 10, 0)], bucket=50, ranks=4, stage=2)
    {0: 190}
    >>> reductions([Arrival(0, 88, 10), Arrival(0, 10, 0)], bucket=50, ranks=4, stage=3)
    {0: 98}
    """
    part = flat_partition(sum(arrival.size for arrival in arrivals), ranks)
    most: dict[int, int] = {}
    pending: list[Arrival] = []
    waiting = 0
    for arrival in arrivals:
        beside = arrival.size + (waiting if waiting > bucket else 0)
        if pending and waiting + arrival.size > bucket:
            beside += _copied(pending, part, ranks, stage)
            pending, waiting = [], 0
        pending.append(arrival)
        waiting += arrival.size
        most[arrival.place] = max(most.get(arrival.place, 0), beside)
    if pending:
        beside = (waiting if waiting > bucket else 0) + _copied(pending, part, ranks, stage)
        most[pending[-1].place] = max(most[pending[-1].place], beside)
    return most


def _copied(pending: Sequence[Arrival], part: int, ranks: int, stage: int) -> int:
    """Elements of the copy that is reduced in place of the gradients."""
    size = sum(one.size for one in pending)
    if stage == 3:
        return 0 if len(pending) == 1 and size % ranks == 0 else size
    first = min(one.start for one in pending)
    last = max(one.start + one.size for one in pending) - 1
    return 0 if first // part == last // part else size


# ---------------------------------------------------------------- stage 3: every tensor by itself


def own_partitions(sizes: Iterable[int], ranks: int) -> int:
    """Elements of one rank's parts of tensors that are divided each by itself.

    Formula:   sum of ceil(size / N)
    Source:    partition_parameters.py, _aligned_size and _partition_numel
    Valid:     every rank: short last parts are padded

    >>> own_partitions([10, 3], 4)
    4
    """
    return sum(-(-size // ranks) for size in sizes)


def persistent(sizes: Iterable[int], threshold: int) -> int:
    """Elements of the tensors that stay whole on every rank besides being divided.

    Formula:   sum of the sizes that are at most the threshold
    Source:    parameter_offload.py, mark_persistent_parameters; stage3.py, _post_step gathers them again
    Valid:     stage3_model_persistence_threshold left at its default, which is no limit

    >>> persistent([4096, 40960, 40961], 40960)
    45056
    """
    return sum(size for size in sizes if size <= threshold)


# ---------------------------------------------------------------- DeepSpeed's estimators


class ModelStates(NamedTuple):
    """What DeepSpeed's estimators say that one machine and one card need, in bytes."""

    cpu: int
    gpu: int


def estimate_zero2_model_states_mem_needs(
    params: int, *, gpus_per_node: int, nodes: int = 1, cpu_offload: bool, buffer_factor: float = 1.5
) -> ModelStates:
    """DeepSpeed's estimate of ZeRO-2, as DeepSpeed computes it: to be shown beside ours, never used for it.

    Shapes:    16-bit weights 2P; of N ranks 16-bit and fp32 gradients, fp32 weights and moments 18P
    Formula:   GPU 2P + 18P/N, with offload 2P; CPU 1.5 * 4P * ranks per machine, with offload 1.5 * P * max(4N, 16)
    Source:    stage_1_and_2.py, the function of this name
    Valid:     full fine-tuning with Adam
    Excludes:  activations, buckets, the context, and whole gradients of tensors that cross partitions

    >>> estimate_zero2_model_states_mem_needs(2_851_598_336, gpus_per_node=8, cpu_offload=True)
    ModelStates(cpu=136876720128, gpu=5703196672)
    """
    ranks = gpus_per_node * nodes
    if cpu_offload:
        return ModelStates(int(params * max(4 * ranks, 16) * buffer_factor), 2 * params)
    return ModelStates(int(params * 4 * gpus_per_node * buffer_factor), 2 * params + int(18 * params / ranks))


def estimate_zero3_model_states_mem_needs(
    params: int,
    largest_layer: int,
    *,
    gpus_per_node: int,
    nodes: int = 1,
    cpu_offload: bool,
    cpu_offload_params: bool,
    zero_init: bool = True,
    buffer_factor: float = 1.5,
) -> ModelStates:
    """DeepSpeed's estimate of ZeRO-3, as DeepSpeed computes it: to be shown beside ours, never used for it.

    Shapes:    a layer's 16-bit weights and gradients 4 * largest layer; states 18P
    Formula:   GPU 4 * layer + 18P/N; with optimizer offload 4 * layer + 2P/N; with parameters too 4 * layer.
               CPU 1.5 * 18P (16P without parameters) / machines; without offload a layer for every rank; without
               zero.Init at least a whole fp32 model for every rank
    Source:    stage3.py, the function of this name
    Valid:     full fine-tuning with Adam; "layer" means a module's own parameters, so one matrix
    Excludes:  activations, buckets, live parameters up to 1e9, the context

    >>> estimate_zero3_model_states_mem_needs(
    ...     2_851_598_336, 32_899_072, gpus_per_node=8, cpu_offload=False, cpu_offload_params=False
    ... )
    ModelStates(cpu=1579155456, gpu=6547692544)
    """
    layer, ranks = 4 * largest_layer, gpus_per_node * nodes
    whole = 4 * gpus_per_node
    if not cpu_offload:
        held = largest_layer if zero_init else params
        return ModelStates(int(held * whole * buffer_factor), layer + int(18 * params / ranks))
    states = (18 if cpu_offload_params else 16) / nodes
    gpu = layer if cpu_offload_params else layer + int(2 * params / ranks)
    return ModelStates(int(params * (states if zero_init else max(whole, states)) * buffer_factor), gpu)
