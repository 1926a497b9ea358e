"""Every closed-form prediction of a fixed grid, as JSON on stdout: ``python benchmarks/predictions.py``.

``benchmarks.moved`` runs this one file against two revisions of the package, so it uses only what every revision has:
``planner.scenario``, ``planner.estimate``, ``planner.list_gpus`` and the names of the catalogue. It needs no torch.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import planner
from planner.catalog import list_models

SHORT = {"seq_len": 512, "micro_batch_size": 4}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"method": "full"},
    {"method": "lora"},
    {"method": "qlora"},
    {"method": "full", "stack": "hf", "gradient_checkpointing": False, **SHORT},
    {"method": "full", "stack": "plain", "optimizer": "adamw_8bit", "attention": "sdpa", **SHORT},
    {"method": "full", "stack": "trl", "loss": "chunked", "grad_accumulation": 4},
    {"method": "full", "stack": "hf", "gpus": 4, "sharding": "fsdp"},
    {"method": "full", "stack": "hf", "weights_dtype": "fp32", "optimizer": "adamw_foreach", "gpu": "h100-sxm"},
    {"method": "lora", "stack": "hf", "gradient_checkpointing": False, "lora_dropout": 0.05, **SHORT},
    {"method": "lora", "stack": "plain", "attention": "eager", "lora_targets": "q_proj,v_proj"},
    {"method": "lora", "stack": "trl", "kernels": "fused", "loss": "fused", **SHORT},
    {"method": "lora", "stack": "hf", "gpus": 4, "sharding": "ddp", "gpu": "rtx4090"},
    {"method": "lora", "stack": "hf", "attention": "sdpa", "gpu": "t4", **SHORT},
    {"method": "qlora", "stack": "hf", "double_quant": False, "attention": "sdpa"},
    {"method": "qlora", "stack": "hf", "gradient_checkpointing": False, "gpu": "rtx4090", **SHORT},
    {"method": "qlora", "stack": "hf", "optimizer": "paged_adamw_8bit", "quant": "int8"},
    {"method": "qlora", "stack": "trl", "gpus": 4, "sharding": "fsdp"},
    {"method": "qlora", "stack": "plain", "lora_rank": 64, "adapter_dtype": "bf16"},
)
"""Every method with every stack, optimizers, attention, losses, kernels, cards and sharding, each at least once."""
CARD = "a100-80gb-sxm"

PEAK = ("allocated_bytes", "reserved_bytes", "device_bytes", "required_bytes", "low_bytes", "high_bytes")


def models() -> tuple[str, ...]:
    """The whole catalogue of the revision that runs."""
    return tuple(row.id for row in list_models())


def collect(names: Iterable[str], settings: Iterable[Mapping[str, Any]] = SETTINGS) -> dict[str, Any]:
    """By scenario: bytes of every owner in every phase and the numbers of the peak; or why there are none."""
    several = tuple(settings)
    return {key(name, one): predicted(name, one) for name in names for one in several}


def key(model: str, settings: Mapping[str, Any]) -> str:
    """A scenario on one line.

    >>> key("gpt2", {"method": "full", "seq_len": 512})
    'gpt2 method=full seq_len=512'
    """
    return " ".join([model, *(f"{name}={value}" for name, value in settings.items())])


def predicted(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One answer as plain data."""
    try:
        found = planner.estimate(planner.scenario(**{"model": model, "gpu": CARD, **settings}))
    except planner.PlannerError as error:
        return {"refused": str(error)}
    phases = {phase: memory._asdict() for phase, memory in found.phases.items()}
    return {"phases": phases, "peak": {name: getattr(found.peak, name) for name in PEAK}}


if __name__ == "__main__":
    document = {"package": str(Path(planner.__file__).parent), "predictions": collect(sys.argv[1:] or models())}
    sys.stdout.write(json.dumps(document))
