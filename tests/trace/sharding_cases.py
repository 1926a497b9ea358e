"""Tiny models and settings that are both trained on two real ranks and traced, and what is compared.

Run as a program it trains them on the CPU, on every rank of gloo process groups, and writes down what they hold:
``python -m tests.trace.sharding_cases FILE 2 4``, into FILE.2 and FILE.4.

The recorder of traces counts there too, on real tensors: every storage that Python's tensors own. What gloo's threads
copy to communicate, and what kernels take within a call, is neither's; the latter is held against torch's profiler on
one card, in tests/estimators/test_real_against_fake.py.
"""

# ruff: noqa: PLC0415  (torch is loaded by those who train, not by those who collect tests)

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from planner.families.build import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, Method, Scenario
from planner.stacks.resolve import resolve
from tests.forked_ranks import fork

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
    "wide": {**SIZES, "model_type": "llama", "tie_word_embeddings": False, "hidden_size": 512, "vocab_size": 4096},
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


class Case(NamedTuple):
    """One training run. ``mixed``: bf16 mixed precision on fp32 or bf16 weights, else fp32 throughout."""

    model: str
    method: Method
    mixed: bool
    sharding: str = "fsdp"
    accumulation: int = 1
    checkpointing: bool = True
    layers: int = 2
    reshard: bool = True

    @property
    def name(self) -> str:
        """For test ids and for the file of results."""
        return "-".join(map(str, self))


CASES = (
    Case("llama", "full", mixed=False),
    Case("llama", "full", mixed=True),
    Case("llama", "lora", mixed=True, checkpointing=False),
    Case("llama", "full", mixed=True, accumulation=2),
    Case("llama", "full", mixed=True, reshard=False),
    Case("qwen3", "full", mixed=True),
    Case("qwen3", "lora", mixed=False),
    Case("mixtral", "full", mixed=True),
    Case("mixtral", "lora", mixed=True),
    Case("llama", "full", mixed=True, sharding="ddp"),
    Case("llama", "lora", mixed=False, sharding="ddp"),
)
"""Mixtral only in bf16: fake tensors refuse grouped products of fp32."""

FOUR_RANKS = (
    Case("llama", "full", mixed=True),
    Case("qwen3", "lora", mixed=False),
    Case("mixtral", "full", mixed=True),
    Case("llama", "full", mixed=True, sharding="hsdp"),
    Case("llama", "lora", mixed=True, sharding="hsdp", accumulation=2),
)
"""``hsdp``: two machines of two ranks each."""

ZERO = (
    Case("llama", "full", mixed=True, sharding="zero1"),
    Case("llama", "full", mixed=True, sharding="zero2", accumulation=2),
    Case("llama", "full", mixed=True, sharding="zero3"),
    Case("llama", "lora", mixed=True, sharding="zero3"),
)


def cases(ranks: int) -> tuple[Case, ...]:
    """What so many real ranks train."""
    return (*CASES, *(ZERO if find_spec("deepspeed") else ())) if ranks == 2 else FOUR_RANKS


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
        "reshard_after_forward": case.reshard,
    }
    nodes = 2 if case.sharding == "hsdp" else max(1, ranks // 8)
    cluster = Cluster(gpu=load_gpu("h100"), gpus=ranks // nodes, nodes=nodes)
    config = CONFIGS[case.model] | {"num_hidden_layers": case.layers}
    return resolve(model_from_config(config, name=case.model), cluster, case.method, settings, "hf")


class Held(NamedTuple):
    """Bytes of one rank: parameters with buffers, gradients before they go, states, and the last step's peak."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int


def watching() -> Any:
    """A recorder that sees tensors only, and answers nothing."""
    from planner.trace.recorder import Recorder

    return Recorder(
        hidden=lambda *_: (), kept=lambda _func, **_: 0, answer=lambda *_: NotImplemented, logit_widths=frozenset()
    )


# ---------------------------------------------------------------- on a real rank


def local_bytes(tensors: Iterator[Any]) -> int:
    """Bytes of this rank's part of ``tensors``."""
    parts = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def measure(case: Case, ranks: int) -> Held:
    """Real steps under the recorder."""
    from planner.allocator.events import peaks
    from planner.build.job import assemble
    from planner.build.place import device_place
    from planner.trace.run import seed

    question = scenario(case, ranks)
    before = real_tensors()  # DeepSpeed lets go of no engine
    job = assemble(question, device_place("cpu"), attention="eager", **engine(case, question))
    recorder = watching()
    seed(recorder, job)
    counted: Counted | ByEngine = Counted(job)
    with ExitStack() as stack:
        if job.engine is not None:
            counted = ByEngine(recorder, job, stack, before)
        stack.enter_context(recorder)
        stack.enter_context(recorder.following_resizes())
        for recorder.step in range(STEPS):
            job.step(recorder.begin)
    trace = recorder.ledger.trace()
    peak = max(one.memory.total for one in peaks(trace) if one.step == STEPS - 1)
    return Held(*counted.held(trace), peak)


class Counted:
    """States of a job that torch's own optimizer steps, by their tensors."""

    def __init__(self, job: Any) -> None:
        self.job, self.gradients, self.update = job, 0, job.optimizer.step
        if job.engine is None:
            job.optimizer.step = self.step

    def step(self) -> None:
        """The update, before which gradients are whole."""
        self.gradients = local_bytes(p.grad for p in self.job.model.parameters() if p.grad is not None)
        self.update()

    def held(self, _trace: Any) -> tuple[int, int, int]:
        """Parameters, gradients, optimizer states."""
        import torch

        states = (value for state in self.job.optimizer.state.values() for value in state.values())
        optimizer = local_bytes(value for value in states if isinstance(value, torch.Tensor))
        parameters = local_bytes(iter([*self.job.model.parameters(), *self.job.model.buffers()]))
        return parameters, self.gradients, optimizer


class ByEngine:
    """States under DeepSpeed, which keeps them under many names: by the labels that a trace gives them."""

    def __init__(self, recorder: Any, job: Any, stack: ExitStack, before: list[Any]) -> None:
        from planner.trace.zero import labelled, seed_engine

        self.recorder, self.job = recorder, job
        old = {id(tensor.untyped_storage()) for tensor in before}
        seed_engine(recorder, job, [each for each in real_tensors() if id(each.untyped_storage()) not in old])
        stack.enter_context(labelled(recorder, job))

    def held(self, _trace: Any) -> tuple[int, int, int]:
        """Parameters, gradients, optimizer states."""
        from planner.trace.run import label_states

        label_states(self.recorder, self.job)
        return by_owner(self.recorder.ledger.trace())


def by_owner(trace: Any) -> tuple[int, int, int]:
    """Weights with adapters, gradients and states at the highest instant of the last update."""
    from planner.allocator.events import peaks

    memory = next(one.memory for one in peaks(trace) if one.phase == "optimizer_step" and one.step == STEPS - 1)
    return memory.weights + memory.adapters, memory.gradients, memory.optimizer


def real_tensors() -> list[Any]:
    """Every tensor with memory that something in this process refers to."""
    import torch

    gc.collect()
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return [tensor for tensor in found if tensor.device.type == "cpu" and not hasattr(tensor, "__tensor_flatten__")]


def engine(case: Case, question: Scenario) -> dict[str, Any]:
    """What ``assemble`` is given: Accelerate's own preparation, optimizer and all.

    The optimizer that FSDP2's preparation sees is thrown away.
    """
    import torch

    from planner.build.deepspeed import engine_of

    if case.sharding == "ddp":
        wrapper = torch.nn.parallel.DistributedDataParallel
        return {"after_materialising": lambda model: wrapper(model, find_unused_parameters=False)}
    if case.sharding.startswith("zero"):
        return {"around_optimizer": lambda model, optimizer: engine_of(question, model, optimizer)}

    def prepare(model: Any) -> Any:
        accelerator = fsdp_accelerator(question)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return accelerator.prepare(model, torch.optim.SGD(trained))[0]

    return {"after_materialising": prepare}


def fsdp_accelerator(question: Scenario) -> Any:
    """An ``Accelerator`` on the CPU that shards all the same; by itself it would choose DDP there."""
    from accelerate import Accelerator, ParallelismConfig
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    from planner.build.fsdp import fsdp_plugin

    autocast = question.train.autocast
    AcceleratorState._reset_state(True)
    layout = question.layout
    copies = ParallelismConfig(dp_replicate_size=layout.replicate, dp_shard_size=layout.shard)
    accelerator = Accelerator(cpu=True, mixed_precision="no" if autocast == "none" else autocast)
    if layout.replicate > 1:
        AcceleratorState._shared_state["parallelism_config"] = copies
        AcceleratorState._shared_state["device_mesh"] = copies.build_device_mesh("cpu")
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin(question.train)
    return accelerator


def main(target: Path) -> None:
    """Train every case and, on the first rank, write what it held."""
    import torch.distributed as dist

    ranks = dist.get_world_size()
    found = {case.name: measure(case, ranks) for case in cases(ranks)}
    if dist.get_rank() == 0:
        target.with_name(f"{target.name}.{ranks}").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    fork(partial(main, Path(sys.argv[1])), map(int, sys.argv[2:]))
