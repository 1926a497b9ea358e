"""Ranks of gloo process groups, forked from one process that has loaded the libraries: that takes most of the time."""

# ruff: noqa: PLC0415  (torch is loaded by those who train, not by those who collect tests)

import os
from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory


def fork(work: Callable[[], None], groups: Iterable[int]) -> None:
    """Call ``work`` on every rank of a group of so many ranks, one group after the other."""
    import torch.multiprocessing

    load_libraries()
    for ranks in groups:
        with TemporaryDirectory() as meeting:
            torch.multiprocessing.start_processes(_rank, (work, ranks, meeting), nprocs=ranks, start_method="fork")


def load_libraries() -> None:
    """Import what a job is made of, and compute nothing: threads of torch do not survive a fork."""
    import planner.build.deepspeed
    import planner.build.job
    import planner.measure.work
    import planner.trace.run  # noqa: F401


def _rank(rank: int, work: Callable[[], None], ranks: int, meeting: str) -> None:
    import torch
    import torch.distributed as dist

    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # which libraries ask for, and nobody opens
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/meet", rank=rank, world_size=ranks)
    work()
    dist.destroy_process_group()
