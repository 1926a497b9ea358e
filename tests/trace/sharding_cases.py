"""Tiny models and settings that are both trained on two real ranks and traced, and what is compared.

Run as a program on every rank of a gloo process group it trains them on the CPU and writes down what they hold:
``python -m torch.distributed.run --nproc-per-node 2 -m tests.trace.sharding_cases FILE``.
"""

# ruff: noqa: PLC0415  (torch is loaded by those who train, not by those who collect tests)

import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from planner.families.build import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, Method, Scenario
from planner.stacks.resolve import resolve

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4001,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
"""4001 rows do not divide by two: the first rank holds one more than the second."""

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "model_type": "llama", "tie_word_embeddings": False},
    "qwen3": {**SIZES, "model_type": "qwen3", "tie_word_embeddings": True},
    "mixtral": {
        **SIZES,
        "model_type": "mixtral",
        "tie_word_embeddings": False,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}


STEPS = 2
"""The first makes optimizer states; the second is the one that is compared."""


TRIES = 6
"""Real runs of every case. Copies that gloo's threads release late, or where the profiler does not see it, lift the
level of a run on a busy machine, and nothing lowers it: the lowest counts."""


class Case(NamedTuple):
    """One training run. ``mixed``: bf16 mixed precision on fp32 or bf16 weights, else fp32 throughout."""

    model: str
    method: Method
    mixed: bool
    sharding: str = "fsdp"
    accumulation: int = 1
    checkpointing: bool = True
    layers: int = 4

    @property
    def name(self) -> str:
        """For test ids and for the file of results."""
        return "-".join(map(str, self))


CASES = (
    Case("llama", "full", mixed=False),
    Case("llama", "full", mixed=True),
    Case("llama", "lora", mixed=False),
    Case("llama", "lora", mixed=True),
    Case("llama", "full", mixed=True, accumulation=2),
    Case("llama", "lora", mixed=True, checkpointing=False),
    Case("qwen3", "full", mixed=True),
    Case("qwen3", "lora", mixed=False),
    Case("mixtral", "full", mixed=True),
    Case("mixtral", "lora", mixed=True),
    Case("llama", "full", mixed=True, sharding="ddp"),
    Case("llama", "lora", mixed=False, sharding="ddp"),
)
"""Mixtral only in bf16: fake tensors refuse grouped products of fp32."""


def scenario(case: Case, ranks: int = 2) -> Scenario:
    """The whole question."""
    settings = {
        "seq_len": 128,
        "micro_batch_size": 2,
        "grad_accumulation": case.accumulation,
        "gradient_checkpointing": case.checkpointing,
        "weights_dtype": "bf16" if case.mixed else "fp32",
        "autocast": "bf16" if case.mixed else "none",
        "attention": "eager",
        "loss": "full",
        "optimizer": "adamw_foreach",
        "sharding": case.sharding,
    }
    per_node, nodes = (ranks, 1) if ranks <= 8 else (8, ranks // 8)
    cluster = Cluster(gpu=load_gpu("h100"), gpus=per_node, nodes=nodes)
    config = CONFIGS[case.model] | {"num_hidden_layers": case.layers}
    return resolve(model_from_config(config, name=case.model), cluster, case.method, settings, "hf")


class Held(NamedTuple):
    """Bytes of one rank: parameters with buffers, gradients before they go, states, and the last step's peak."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int


# ---------------------------------------------------------------- on a real rank


def local_bytes(tensors: Iterator[Any]) -> int:
    """Bytes of this rank's part of ``tensors``."""
    parts = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def measure(case: Case) -> Held:
    """Real steps under torch's profiler, which sees every allocation."""
    import torch

    from planner.build.job import assemble
    from planner.build.place import device_place

    question = scenario(case)
    job = assemble(question, device_place("cpu"), attention="eager", after_materialising=engine(case, question))
    gc.collect()  # what the preparation left behind
    gc.disable()
    gradients: list[int] = []
    update = job.optimizer.step

    def step() -> None:
        gradients.append(local_bytes(p.grad for p in job.model.parameters() if p.grad is not None))
        update()

    job.optimizer.step = step
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        for number in range(STEPS):
            with torch.profiler.record_function(f"step {number}"):
                job.step(lambda _phase: None)
    states = (value for state in job.optimizer.state.values() for value in state.values())
    optimizer = local_bytes(value for value in states if isinstance(value, torch.Tensor))
    parameters = local_bytes(iter([*job.model.parameters(), *job.model.buffers()]))
    return Held(parameters, gradients[-1], optimizer, parameters + highest(profile, f"step {STEPS - 1}"))


def _collect_in_host_memory() -> None:
    """Collectives work on copies that are not torch's: the profiler misses what gloo's threads release."""
    import torch.distributed as dist

    for name in ("all_gather_single", "all_gather_into_tensor", "reduce_scatter_single", "reduce_scatter_tensor"):
        if hasattr(dist, name):
            setattr(dist, name, _on_copies(getattr(dist, name)))


def _on_copies(collective: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def copy_of(tensor: Any) -> Any:
        copy = torch.frombuffer(bytearray(tensor.numel() * tensor.element_size()), dtype=tensor.dtype)
        return copy.view(tensor.shape).copy_(tensor)

    def call(**keywords: Any) -> Any:
        tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
        copies = {name: copy_of(tensor) for name, tensor in tensors.items()}
        result = collective(**{**keywords, **copies})
        for name, tensor in tensors.items():
            tensor.copy_(copies[name])
        return result

    return lambda *arguments, **keywords: call(
        **dict(zip(("output_tensor", "input_tensor"), arguments, strict=False)), **keywords
    )


def highest(profile: Any, step: str) -> int:
    """The highest level in a step of what the main thread allocated since the profile began, whoever releases it.

    What gloo's own threads copy to reduce is left out: NCCL does without.
    """
    events = list(_flat(profile.profiler.kineto_results.experimental_event_tree()))
    span = next(event for event in events if event.name == step)
    live: dict[int, int] = {}
    level = peak = 0
    memory = [event for event in events if event.name == "[memory]"]
    for event in sorted(memory, key=lambda one: one.start_time_ns):
        size, place = event.extra_fields.alloc_size, event.extra_fields.ptr
        level -= live.pop(place, 0)
        if size > 0 and event.start_tid == span.start_tid:
            live[place] = size
            level += size
        if span.start_time_ns <= event.start_time_ns <= span.end_time_ns:
            peak = max(peak, level)
    return peak


def _flat(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _flat(event.children)


def engine(case: Case, question: Scenario) -> Callable[[Any], Any]:
    """Accelerate's own preparation, optimizer and all; the optimizer that it sees is thrown away."""
    import torch

    if case.sharding == "ddp":
        return lambda model: torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)

    def prepare(model: Any) -> Any:
        accelerator = fsdp_accelerator(question)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return accelerator.prepare(model, torch.optim.SGD(trained))[0]

    return prepare


def fsdp_accelerator(question: Scenario) -> Any:
    """An ``Accelerator`` on the CPU that shards all the same; by itself it would choose DDP there."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    from planner.trace.sharded import fsdp_plugin

    autocast = question.train.autocast
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision="no" if autocast == "none" else autocast)
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin(question.train)
    return accelerator


def main(target: Path) -> None:
    """Train every case and, on the first rank, write what it held."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    _collect_in_host_memory()
    found: dict[str, Any] = {}
    for case in CASES:
        found[case.name] = min((measure(case) for _ in range(TRIES)), key=lambda held: held.peak)
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
