"""Tiny models under transformers' own tensor parallelism: two gloo ranks on the processor, one step of each model.

Run as a program: reads a JSON list of configs, prints one JSON list of what the first rank holds and sends.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

RANKS = 2
TOKENS = 128


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def place(tensor: torch.Tensor) -> int:
    """Which memory a tensor lies in."""
    return int(local(tensor).untyped_storage().data_ptr())


def one_step(config: dict[str, Any], folder: str) -> dict[str, Any]:
    """Parameters of this rank, bytes that autograd saves, and collectives of a forward and a backward pass."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415  (after the process group)
    from transformers.distributed import DistributedConfig  # noqa: PLC0415

    torch.manual_seed(0)
    if dist.get_rank() == 0:
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16).save_pretrained(folder)
    dist.barrier()
    model = AutoModelForCausalLM.from_pretrained(
        folder, distributed_config=DistributedConfig(tp_size=RANKS), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model.train()
    held = {place(parameter) for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if place(tensor) not in held:
            saved[place(tensor)] = local(tensor).untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, config["vocab_size"], (1, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), CommDebugMode() as forward:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    with CommDebugMode() as backward:
        loss.backward()
    return {
        "parameters": sum(local(parameter).numel() for parameter in model.parameters()),
        "gradients": sum(local(p.grad).numel() for p in model.parameters() if p.grad is not None),
        "saved": sum(saved.values()),
        "forward": {str(kind): count for kind, count in forward.get_comm_counts().items() if count},
        "backward": {str(kind): count for kind, count in backward.get_comm_counts().items() if count},
    }


def work(rank: int, meeting: str, configs: list[dict[str, Any]]) -> None:
    """One rank."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/meet", rank=rank, world_size=RANKS)
    for number, config in enumerate(configs):
        found = one_step(config, f"{meeting}/{number}")
        if rank == 0:
            Path(f"{meeting}/{number}.json").write_text(json.dumps(found))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    configs = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(work, args=(meeting, configs), nprocs=RANKS)
        results = [json.loads(Path(f"{meeting}/{number}.json").read_text()) for number in range(len(configs))]
    sys.stdout.write(json.dumps(results))
