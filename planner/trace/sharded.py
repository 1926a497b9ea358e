"""One rank of many: FSDP2 as accelerate applies it, on a process group that only pretends to communicate, and DDP.

Rank 0 is traced. torch gives it the first chunk of every tensor, which is never smaller than another's, so it is the
fullest rank; DeepSpeed's parts (``planner.trace.zero``) are equal. Whatever the engine allocates is its own code's
doing:

- ``fully_shard`` keeps a sharded parameter per tensor. Gathered copies, the buffers that they arrive in, whole
  gradients and both ends of the reduce-scatter are temporaries; what a sharded ``.grad`` holds are gradients.
- Gathered copies come and go by ``resize_`` of a storage, which the recorder follows as a release and a new block.

What CUDA does differently, and why it does not show here. FSDP2 orders its streams with events and keeps tensors alive
by references, not by ``record_stream``: the previous all-gather's output until the next one's copy-out, the previous
reduce-scatter's input until the next post-backward, a prefetched unit's output until its turn (``AllGatherState`` and
``ReduceScatterState`` in torch 2.13 distributed/fsdp/_fully_shard/_fsdp_param_group.py). On the CPU the same code runs
with ``torch.cpu.Stream`` and ``Event``, which do nothing; no branch on the device changes what is referenced, except
for CPU offload. So allocated bytes are CUDA's. Reserved bytes are not: the caching allocator has a pool for each
stream, and what copy-in and reduce-scatter allocate lies in pools of their own. NCCL's buffers lie outside it.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.device_mesh import init_device_mesh

from planner.build.deepspeed import check_engine
from planner.build.fsdp import fsdp_plugin, mixed_precision
from planner.build.job import Job
from planner.errors import UnsupportedScenario, first_line
from planner.spec import Scenario, TrainSpec
from planner.spec.layout import Layout, is_divided
from planner.trace.engine import Engine, inside
from planner.trace.fake import Answering
from planner.trace.places import layer_numbers
from planner.trace.private import (
    dtensor_shapes,
    fake_process_group,
    fsdp_communication,
    meshes_of_real_ranks,
    parts_on_demand,
)
from planner.trace.recorder import Recorder
from planner.trace.zero import zero_engine


@contextmanager
def engine(scenario: Scenario, mode: Any, rank: int = 0) -> Iterator[Engine]:
    """The scenario's engine among as many pretended ranks as it has GPUs; raise ``UnsupportedScenario`` for others."""
    train = scenario.train
    check_traceable(scenario)
    if train.sharding == "none":
        yield Engine()
        return
    with fake_process_group(scenario.cluster.world_size, rank):
        if train.sharding.startswith("zero"):
            with zero_engine(scenario, mode) as found:
                yield found
        else:
            yield _fsdp(train, scenario.layout, mode) if train.shards_by_fsdp else _ddp()


def check_traceable(scenario: Scenario) -> None:
    """Raise ``UnsupportedScenario`` for what no engine here does."""
    train, stack = scenario.train, scenario.stack
    if is_divided(train):
        raise UnsupportedScenario("a model that is divided among ranks cannot be traced: use --evidence closed-form")
    if train.offload:
        names = ",".join(train.offload)
        raise UnsupportedScenario(f"--offload {names} cannot be traced: leave it out, or use --evidence closed-form")
    if train.shards_by_fsdp and stack.fsdp_version != 2:
        raise UnsupportedScenario(
            f"stack {stack.name} uses FSDP version {stack.fsdp_version}, and only version 2 can be traced: "
            "use --evidence closed-form"
        )
    if train.shards_by_fsdp and train.quantized and train.quant == "int8":
        raise UnsupportedScenario("fully_shard takes the scales from 8-bit weights: use --quant nf4, or --sharding ddp")
    if train.sharding.startswith("zero"):
        check_engine(scenario)


# ---------------------------------------------------------------- FSDP2


def _fsdp(train: TrainSpec, layout: Layout, mode: Any) -> Engine:
    accelerator = _accelerator(train, mesh_of(layout))  # before any fake mode: a mesh computes

    def wrap(model: Any) -> Any:
        return divided(model, lambda: fsdp2_prepare_model(accelerator, model))

    def second(model: Any) -> Any:
        from trl.models.utils import prepare_fsdp  # noqa: PLC0415  (only where there is a reference)

        return divided(model, lambda: prepare_fsdp(model, accelerator))

    def divided(model: Any, divide: Callable[[], Any]) -> Any:
        with ExitStack() as stack:
            for context in (mode, Answering(), _named_as_quantised(model), parts_on_demand(), meshes_of_real_ranks()):
                stack.enter_context(context)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # accelerate tells about replicated 4-bit weights; so does the plan
            try:
                return divide()
            except (ValueError, TypeError, AttributeError, NotImplementedError, AssertionError) as error:
                raise UnsupportedScenario(
                    f"fully_shard cannot divide {type(model).__name__}: {first_line(error)}; "
                    "use --sharding ddp, or --evidence closed-form"
                ) from error

    @contextmanager
    def watched(recorder: Recorder, _job: Job) -> Iterator[None]:
        with _communication(recorder), _quantisation_restored() if train.quantized else nullcontext():
            yield

    return Engine(wrap, watched=watched, second=second)


def mesh_of(layout: Layout) -> Any:
    """The ranks that divide, and where there are copies, those that hold the same part in the dimension before.

    accelerate 1.15 parallelism_config.py, ParallelismConfig.build_device_mesh and fsdp_dim_names.
    """
    copies = {"dp_replicate": layout.replicate} if layout.replicate > 1 else {}
    sizes = {**copies, "dp_shard_cp": layout.shard}
    return init_device_mesh("cpu", (*sizes.values(),), mesh_dim_names=(*sizes,))


def _accelerator(train: TrainSpec, mesh: Any) -> Any:
    """As much of an ``Accelerator`` as ``fsdp2_prepare_model`` asks for, with the plugin that the Trainer makes."""
    plugin, names = fsdp_plugin(train), mesh.mesh_dim_names
    return SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision=mixed_precision(train),
        torch_device_mesh={names: mesh},
        parallelism_config=SimpleNamespace(fsdp_dim_names=names),
        is_main_process=False,
        device=torch.device("cpu"),
    )


@contextmanager
def _named_as_quantised(model: Any) -> Iterator[None]:
    """Accelerate knows 4-bit weights by the name of their class, which fake ones have only for its eyes.

    accelerate 1.15 utils/fsdp_utils.py, fsdp2_prepare_model: packed integers are left whole on every rank, and nothing
    is cast to fp32 on a model that has any.
    """
    packed = [parameter for parameter in model.parameters() if hasattr(parameter, "quant_state")]
    originals = [type(parameter) for parameter in packed]
    for parameter in packed:
        parameter.__class__ = type("Params4bit", (type(parameter),), {})
    try:
        yield
    finally:
        for parameter, original in zip(packed, originals, strict=True):
            parameter.__class__ = original


@contextmanager
def _quantisation_restored() -> Iterator[None]:
    """A gathered matrix gets its scales back from its module, as bitsandbytes does it, but without a new class.

    bitsandbytes 0.50 nn/modules.py, fix_4bit_weight_quant_state_from_module: it also makes a ``Params4bit`` of the same
    storage, which a fake tensor cannot become.
    """
    from bitsandbytes.nn import modules  # noqa: PLC0415  (only where it is used)

    def restore(module: Any) -> None:
        if getattr(module.weight, "quant_state", None) is None:
            module.weight.quant_state = module.quant_state

    with patch.object(modules, "fix_4bit_weight_quant_state_from_module", restore):
        yield


@contextmanager
def _communication(recorder: Recorder) -> Iterator[None]:
    """Whatever FSDP2 allocates to gather and to reduce is a temporary until it is seen to be a gradient."""
    with ExitStack() as stack:
        stack.enter_context(recorder.following_resizes())
        stack.enter_context(inside(*dtensor_shapes(), recorder.silent))
        for owner, name in fsdp_communication():
            stack.enter_context(inside(owner, name, lambda: recorder.owned("temporaries")))
        yield


# ---------------------------------------------------------------- DDP


def _ddp() -> Engine:
    """The reducer's buckets, written down: its C++ reads tensors' memory, which fake ones do not have.

    With ``gradient_as_bucket_view=False``, accelerate's default, gradients stay tensors of their own and are copied
    into flat buckets and back, so the buckets are a second copy of all gradients that stands as long as the wrapper:
    torch 2.13 csrc/distributed/c10d/reducer.cpp, Reducer::initialize_buckets and finalize_bucket_dense. After the first
    step they are rebuilt in the order in which gradients came, the old ones being released first. A bucket of 25 MiB
    may hold parts of several layers; here each layer's share is a block, so that all follow from those that ran.
    Broadcasts of buffers at the beginning of a forward pass, some kilobytes, are left out.
    """

    def seed(recorder: Recorder, job: Job) -> None:
        places = layer_numbers(job.model)
        shares: dict[int, int] = {}
        for name, parameter in job.model.named_parameters():
            if parameter.requires_grad:
                place = places(name)
                shares[place] = shares.get(place, 0) + parameter.numel() * parameter.element_size()
        for place, size in shares.items():
            recorder.ledger.allocate(size, "temporaries", "DistributedDataParallel", place)

    return Engine(seed=seed)
