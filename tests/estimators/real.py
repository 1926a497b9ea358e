"""Tiny real models on the CPU: what autograd really keeps, and what the profiler really counts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from planner.families import model_from_config
from planner.hardware import load_gpu
from planner.spec import Behaviour, Cluster, ModelSpec, Scenario, TrainSpec
from planner.stacks import load_stack

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

B, S = 2, 32
CARD = load_gpu("a100-80gb")

Config = dict[str, Any]


class Kept(NamedTuple):
    """One storage that some operation saved, with the first tensor that was seen on it."""

    bytes: int
    shape: tuple[int, ...]
    dtype: str


def settings_of(config: Mapping[str, Any]) -> Any:
    """The configuration object, with every dropout switched off: on a CPU masks are no bytes but floats."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **fields)
    for name, value in settings.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(settings, name, 0.0)
    return settings


def build(settings: Any, *, weights: str = "fp32", checkpointing: bool = False) -> Any:
    """The real model in training mode."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[weights])
    model.train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def spec_of(settings: Any) -> ModelSpec:
    """Our model of the same configuration."""
    config = {**settings.to_dict(), "model_type": settings.model_type}
    return model_from_config(config, name="tiny")


def scenario(model: ModelSpec, *, stack: str | Behaviour = "plain", **settings: Any) -> Scenario:
    """A bare torch loop, eager attention, at the batch that the real model gets."""
    behaviour = load_stack(stack).behaviour if isinstance(stack, str) else stack
    defaults: dict[str, Any] = {
        "method": "full",
        "micro_batch_size": B,
        "seq_len": S,
        "attention": "eager",
        "autocast": "none",
        "weights_dtype": "fp32",
        "gradient_checkpointing": False,
    }
    train = TrainSpec(**{**defaults, **settings})
    return Scenario(model=model, train=train, cluster=Cluster(gpu=CARD), stack=behaviour)


def batch(vocabulary: int, *, b: int = B, s: int = S) -> dict[str, Any]:
    """Ids and labels of one micro-batch."""
    ids = torch.randint(3, vocabulary, (b, s))
    return {"input_ids": ids, "labels": ids.clone()}


def kept_by_forward(model: Any) -> tuple[list[Kept], Any]:
    """Distinct storages saved by one forward pass, without parameters, buffers, token ids and rotary tables."""
    shared = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    inputs = batch(model.config.get_text_config().vocab_size)
    with rotary_tables(model) as tables, saved_storages() as found:
        outputs = model(**inputs)
    shared |= {tensor.untyped_storage().data_ptr() for tensor in (*tables, *inputs.values())}
    kept = [
        Kept(tensor.untyped_storage().nbytes(), tuple(tensor.shape), str(tensor.dtype))
        for pointer, tensor in found.items()
        if pointer not in shared and not belongs_to_inputs(tensor)
    ]
    return kept, outputs


def belongs_to_inputs(tensor: Any) -> bool:
    """Labels, positions, masks and tables of positions: made once for all layers, and counted with the inputs."""
    shape = tuple(tensor.shape)
    labels = tensor.dtype == torch.int64 and shape in ((B * S,), (B, S), (1, S))
    mask = len(shape) == 4 and shape[1] == 1 and shape[2:] == (S, S)
    table = len(shape) >= 3 and shape[0] == 1 and S in shape
    return labels or mask or table


@contextmanager
def saved_storages() -> Iterator[dict[int, Any]]:
    """Every tensor that autograd saves, by the address of its storage; they are held, so that none is reused."""
    found: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


@contextmanager
def rotary_tables(model: Any) -> Iterator[list[Any]]:
    """What modules named ``rotary_emb`` return: tables that all layers share, counted with the inputs."""
    tables: list[Any] = []

    def note(_module: Any, _arguments: Any, output: Any) -> None:
        several = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else (output,)
        tables.extend(several)

    handles = [
        module.register_forward_hook(note) for name, module in model.named_modules() if name.endswith("rotary_emb")
    ]
    try:
        yield tables
    finally:
        for handle in handles:
            handle.remove()


def largest_sum(profiler: Any) -> int:
    """The highest point of the running sum of allocations and releases."""
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    level = peak = 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    return peak
