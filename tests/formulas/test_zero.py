"""ZeRO's formulas against DeepSpeed's printed tables and DeepSpeed's own functions."""

import pytest

from planner.formulas.states import adam_mixed_precision
from planner.formulas.zero import (
    buckets,
    estimate_zero2_model_states_mem_needs,
    estimate_zero3_model_states_mem_needs,
    flat_partition,
    fullest_partition,
    own_partitions,
)

T5_3B, T5_3B_LARGEST = 2_851_598_336, 32_899_072
"""Parameters of ``AutoModel.from_pretrained("t5-3b")``, and of its embedding, which is its largest module."""

GIB = 2**30


def printed(found: tuple[int, int]) -> tuple[str, str]:
    return f"{found[0] / GIB:.2f}GB", f"{found[1] / GIB:.2f}GB"


def test_the_documented_table_of_zero2() -> None:
    """https://deepspeed.readthedocs.io/en/latest/memory.html, t5-3b on 8 GPUs of one node."""
    found = estimate_zero2_model_states_mem_needs(T5_3B, gpus_per_node=8, cpu_offload=True)
    assert printed(found) == ("127.48GB", "5.31GB")


@pytest.mark.parametrize(
    ("parameters", "optimizer", "zero_init", "cpu", "gpu"),
    [
        (True, True, True, "71.71GB", "0.12GB"),
        (True, True, False, "127.48GB", "0.12GB"),
        (False, True, True, "63.74GB", "0.79GB"),
        (False, True, False, "127.48GB", "0.79GB"),
        (False, False, True, "1.47GB", "6.10GB"),
        (False, False, False, "127.48GB", "6.10GB"),
    ],
)
def test_the_documented_table_of_zero3(parameters: bool, optimizer: bool, zero_init: bool, cpu: str, gpu: str) -> None:
    """https://deepspeed.readthedocs.io/en/latest/memory.html, t5-3b on 8 GPUs of one node."""
    found = estimate_zero3_model_states_mem_needs(
        T5_3B,
        T5_3B_LARGEST,
        gpus_per_node=8,
        cpu_offload=optimizer,
        cpu_offload_params=parameters,
        zero_init=zero_init,
    )
    assert printed(found) == (cpu, gpu)


@pytest.mark.parametrize("params", [124_439_808, 6_053_381_344, 70_553_706_496])
@pytest.mark.parametrize(("per_node", "nodes"), [(1, 1), (4, 1), (8, 1), (8, 4), (8, 64)])
def test_the_estimators_are_deepspeeds(params: int, per_node: int, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    stage2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    layer = params // 29
    for offload in (True, False):
        two = stage2.estimate_zero2_model_states_mem_needs(params, per_node, nodes, cpu_offload=offload)
        assert estimate_zero2_model_states_mem_needs(
            params, gpus_per_node=per_node, nodes=nodes, cpu_offload=offload
        ) == tuple(two)
        for parameters in (True, False):
            for zero_init in (True, False):
                three = stage3.estimate_zero3_model_states_mem_needs(
                    params, layer, per_node, nodes, offload, parameters, zero_init
                )
                assert (
                    estimate_zero3_model_states_mem_needs(
                        params,
                        layer,
                        gpus_per_node=per_node,
                        nodes=nodes,
                        cpu_offload=offload,
                        cpu_offload_params=parameters,
                        zero_init=zero_init,
                    )
                    == tuple(three)[:2]
                )


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_figure_1_of_the_paper(stage: int, gigabytes: float) -> None:
    """Rajbhandari 2020, arXiv:1910.02054, figure 1: 7.5 billion parameters on 64 GPUs."""
    assert round(adam_mixed_precision(7_500_000_000, zero_stage=stage, world_size=64) / 1e9, 1) == gigabytes


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_partitions_cover_everything(ranks: int) -> None:
    sizes = [4001 * 256, *[65536, 16384, 16384, 65536, 256, 196608, 196608, 196608, 256] * 4, 256, 4001 * 256]
    part = flat_partition(sum(sizes), ranks)
    assert part * ranks >= sum(sizes) > (part - 2) * ranks
    assert own_partitions(sizes, ranks) * ranks >= sum(sizes)
    found = fullest_partition(sizes, ranks)
    assert part - 2 * ranks <= found.numel <= part + 2 * found.largest


@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_the_fullest_partition_is_that_of_deepspeeds_walk(ranks: int) -> None:
    """Every rank, as get_partition_info walks them."""
    sizes = [1000, 7, 130, 130, 999, 3, 2, 2500, 40]
    part = flat_partition(sum(sizes), ranks)
    held = []
    for rank in range(ranks):
        start, end, place, found = part * rank, part * (rank + 1), 0, 0
        for size in sizes:
            if start <= place < end or place < start < place + size:
                found += size
            place += size
        held.append(found)
    assert fullest_partition(sizes, ranks).numel == max(held)


def test_sizes_in_deepspeeds_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = pytest.importorskip("deepspeed.runtime.zero.config").DeepSpeedZeroConfig(stage=3)
    ours = buckets("deepspeed", h=4096)
    theirs = (
        config.reduce_bucket_size,
        config.prefetch_bucket_size,
        config.param_persistence_threshold,
        config.max_live_parameters,
        config.max_reuse_distance,
        config.sub_group_size,
    )
    assert (*ours[:-1],) == theirs
    assert config.overlap_comm
    assert not type(config)(stage=2).overlap_comm
